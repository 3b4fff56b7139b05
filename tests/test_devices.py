"""The way from an image to masks on each device that is there: a CPU always, a GPU where there is
one."""

from pathlib import Path

import pytest
import torch

from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.evaluation import Evaluation, predict
from arcnn.logbook import read_log, read_sessions
from arcnn.modeling import mask_targets
from arcnn.names import MASK_KEYS
from arcnn.training import precision, train
from arcnn.weights import load_trained

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])


def on(device: str, cfg, *options: object):
    """The same configuration on a device."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.merge_from_list(list(options))
    cfg.freeze()
    return cfg


@DEVICES
@pytest.mark.parametrize("amp", [True, False])
def test_a_training_and_its_predictions(device: str, amp: bool, tiny_config) -> None:
    cfg = on(device, tiny_config(), "SOLVER.AMP.ENABLED", amp)
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    train(cfg)
    if device == "cuda":  # a notebook lives on: the training's memory is free again
        assert torch.cuda.memory_allocated() <= held
    if amp and device == "cuda":
        assert precision(cfg) == torch.float16
    (session,) = read_sessions(cfg.OUTPUT_DIR)
    assert f"torch.{session['precision']}" == str(precision(cfg))
    log = read_log(cfg.OUTPUT_DIR)
    assert len(log) and log.filter(like="loss").notna().all(axis=None)

    cfg, model = load_trained(Path(cfg.OUTPUT_DIR).parent, device=device)
    assert {weight.device.type for weight in model.parameters()} == {device}
    predictions = predict(cfg, model)
    assert predictions and all(set(MASK_KEYS.values()) < set(p) for p in predictions)
    metrics = Evaluation(split_records(cfg, "val"), predictions, 10).metrics()
    assert all(0 <= metrics[task]["AP"] <= 100 for task in ("amodal", "visible"))


@GPU
def test_targets_on_a_gpu_are_those_on_a_cpu(tiny_config) -> None:
    cfg = tiny_config()
    instances = AmodalDatasetMapper(cfg)(split_records(cfg, "train")[0])["instances"]
    instances.proposal_boxes = instances.gt_boxes
    expected, found = (mask_targets([i], 28) for i in (instances, instances.to("cuda")))
    for kind in ("amodal", "visible", "occlusion"):
        differ = getattr(found, kind).cpu() != getattr(expected, kind)
        assert differ.float().mean() < 1e-3, kind  # a sample on an edge
