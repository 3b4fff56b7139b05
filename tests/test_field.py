"""The contract of a mask head, and what all heads of the field share."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools import mask as mask_util
from torch import Tensor, nn
from torch.nn import functional as F

import arcnn.modeling as modeling
from arcnn import get_config
from arcnn.config import models_of
from arcnn.data import AmodalDatasetMapper, decode_masks, split_records
from arcnn.errors import InputError
from arcnn.evaluation import evaluate, mask_iou, predict
from arcnn.experiments.cost import costs, operations, read_costs
from arcnn.experiments.given_boxes import given_boxes, region_logits, soft_masks
from arcnn.initial_weights import TRUNK, load_initial_weights, load_start
from arcnn.modeling import amodal_head
from arcnn.names import MASK_KINDS
from arcnn.training import train
from arcnn.weights import Checkpointer, TrainedModel, load_trained

NAMES = {"Tensor": Tensor, "nn": nn, "F": F, "CfgNode": CfgNode, "ShapeSpec": ShapeSpec}
NAMES |= {"configurable": configurable, "ROI_MASK_HEAD_REGISTRY": ROI_MASK_HEAD_REGISTRY}
FIELD = sorted(set(models_of("tabletop")) - {"arcnn", "arcnn_add", "orcnn", "pieces"})


@pytest.fixture
def two_looks(monkeypatch: pytest.MonkeyPatch) -> type:
    """The head of the contract's own page."""
    monkeypatch.setattr(ROI_MASK_HEAD_REGISTRY, "_obj_map", dict(ROI_MASK_HEAD_REGISTRY._obj_map))
    example = re.search(r"::\n\n(    @ROI.*?)\n\n(?=\S)", amodal_head.__doc__, re.DOTALL)[1]
    names = NAMES | {name: getattr(modeling, name) for name in modeling.__all__}
    exec(textwrap.dedent(example), names)
    return names["TwoLooksMaskHead"]


def test_the_documented_head_trains_and_is_measured(two_looks: type, tiny_config) -> None:
    """A fourth party's file alone: nothing of the kit is touched, no name of it is known here."""
    options = ("MODEL.ROI_MASK_HEAD.NAME", "TwoLooksMaskHead", "SOLVER.MAX_ITER", 2)
    options += ("MODEL.HEAD.FIRST_LOSS_WEIGHT", 0.25, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    cfg = tiny_config("mask_rcnn", *options)
    train(cfg)
    again = load_trained(Path(cfg.OUTPUT_DIR).parent)
    assert again.model.roi_heads.mask_head.weight == 0.25
    predictions = predict(*again)
    assert predictions and "segmentation" in predictions[0]
    assert "visible_mask" not in predictions[0] and "occlusion_mask" not in predictions[0]
    metrics = evaluate(split_records(cfg, "val"), predictions, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    assert metrics["amodal"]["AP"] is not None
    assert metrics["visible"]["AP"] is None and "no visible_mask" in metrics["visible"]["note"]


def test_a_head_option_is_checked_by_name_and_type(two_looks: type) -> None:
    named = ["MODEL.ROI_MASK_HEAD.NAME", "TwoLooksMaskHead"]
    with pytest.raises(ValueError, match=r"MODEL.HEAD.FIRST_WEIGHT .* has is FIRST_LOSS_WEIGHT"):
        get_config("tabletop", "arcnn", options=["MODEL.HEAD.FIRST_WEIGHT", 1.0, *named])
    with pytest.raises(ValueError, match="FIRST_LOSS_WEIGHT"):
        get_config("tabletop", "arcnn", options=["MODEL.HEAD.FIRST_LOSS_WEIGHT", "much", *named])
    with pytest.raises(ValueError, match="no option of ARCNNMaskHead; it has none"):
        get_config("tabletop", "arcnn", options=["MODEL.HEAD.FIRST_LOSS_WEIGHT", 1.0])
    with pytest.raises(ValueError, match=r'"ThreeLooks"; there are .*ARCNNMaskHead.*belongs into'):
        get_config("tabletop", "arcnn", options=["MODEL.ROI_MASK_HEAD.NAME", "ThreeLooks"])


def test_options_of_heads_are_no_settings_of_those_without(tiny_config) -> None:
    """A new head changes nothing in the configurations, and so the records, of the others."""
    assert dict(tiny_config("arcnn").MODEL.HEAD) == {}


@pytest.mark.parametrize("model", FIELD)
def test_a_step_reaches_every_weight_of_the_head(model: str, tiny_config) -> None:
    cfg = tiny_config(model)
    records = split_records(cfg, "train")
    amodal_head.mask_head_class(cfg).prepare(cfg, records)
    network = build_model(cfg).train()
    mapper = AmodalDatasetMapper(cfg, is_train=True)
    batch = [mapper(record) for record in records[:2]]
    with EventStorage():
        losses = network(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    learned = [(k, w) for k, w in network.roi_heads.named_parameters() if w.requires_grad]
    assert not [name for name, weight in learned if weight.grad is None]


@pytest.mark.parametrize("model", FIELD)
def test_a_trained_model_opens_from_its_run_and_draws_in_given_boxes(
    model: str, tiny_config
) -> None:
    cfg = tiny_config(model, "SOLVER.MAX_ITER", 1)
    train(cfg)
    trained = load_trained(Path(cfg.OUTPUT_DIR).parent)
    table = given_boxes(*trained)
    records = split_records(cfg, "val")
    assert len(table) == sum(len(r["annotations"]) for r in records)
    assert table.amodal.between(0, 100).all()
    assert table.image.tolist() == [r["image_id"] for r in records for _ in r["annotations"]]


class Oracle(nn.Module):
    """A model that draws the truth, read from the records, or nothing of the hidden part."""

    def __init__(self, records: list[dict]) -> None:
        super().__init__()
        self.by_image = {r["image_id"]: r["annotations"] for r in records}

    def inference(self, examples: list[dict], found: list[Instances]) -> list[dict]:
        (example,), (given,) = examples, found
        objects = [self.by_image[example["image_id"]][k] for k in given.place.tolist()]
        scale = example["width"] / example["image"].shape[2]
        boxes = given.pred_boxes.tensor * scale
        truth = [a["bbox"] for a in objects]
        torch.testing.assert_close(boxes, torch.tensor(truth), atol=1e-3, rtol=0)
        answer = Instances((example["height"], example["width"]))
        answer.pred_boxes, answer.place = Boxes(boxes), given.place
        answer.pred_classes, answer.scores = given.pred_classes, given.scores
        # Boxes are all that this oracle knows of a mask.
        answer.pred_amodal_masks = torch.ones(len(given), 28, 28)
        return [{"instances": answer}]


def test_objects_are_given_where_they_are_and_scored_where_there_is_a_mask(tiny_config) -> None:
    cfg = tiny_config("mask_rcnn")
    records = split_records(cfg, "val")
    table = given_boxes(cfg, Oracle(records))
    assert table.visible.isna().all() and table.occlusion.isna().all()
    annotations = [a for r in records for a in r["annotations"]]
    for iou, a in zip(table.amodal, annotations, strict=True):
        x0, y0, x1, y1 = a["bbox"]
        share = 100 * mask_util.area(a["segmentation"]) / ((x1 - x0) * (y1 - y0))
        assert iou == pytest.approx(share, abs=6)  # a box of whole pixels around the object


def test_a_model_of_ones_own_lies_outside_the_kit(tmp_path: Path) -> None:
    """One file and its YAML, in a folder of one's own; no file of the kit is touched."""
    example = re.search(r"::\n\n(    @ROI.*?)\n\n(?=\S)", amodal_head.__doc__, re.DOTALL)[1]
    imports = """
        from detectron2.config import CfgNode, configurable
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
        from torch import Tensor, nn
        from torch.nn import functional as F
        from arcnn.modeling import AmodalMaskHead, MaskLogits, RoIs
        from arcnn.modeling import mask_loss, own_class, piece_head
    """
    (tmp_path / "two_looks.py").write_text(textwrap.dedent(imports) + textwrap.dedent(example))
    (tmp_path / "two_looks.yaml").write_text(
        "VERSION: 2\nMODEL:\n  ROI_MASK_HEAD:\n    NAME: TwoLooksMaskHead\n"
    )
    (tmp_path / "two_looks.tabletop.yaml").write_text(
        "VERSION: 2\nMODEL:\n  HEAD:\n    FIRST_LOSS_WEIGHT: 0.25\n"
    )
    look = (
        "from arcnn import get_config; from arcnn.config import models_of; "
        "from detectron2.modeling import build_model; "
        "cfg = get_config('tabletop', 'two_looks', device='cpu'); "
        "print(type(build_model(cfg).roi_heads.mask_head).__name__, dict(cfg.MODEL.HEAD))"
    )

    def run() -> subprocess.CompletedProcess:
        env = os.environ | {"ARCNN_MODELS": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True)

    done = run()
    assert done.stdout.strip() == "TwoLooksMaskHead {'FIRST_LOSS_WEIGHT': 0.25}", done.stderr
    (tmp_path / "arcnn.yaml").write_text("VERSION: 2\n")
    assert "arcnn.yaml: the kit has a arcnn; rename it" in run().stderr


def test_soft_masks_are_those_of_the_given_boxes_before_the_cut(tiny_config) -> None:
    cfg = tiny_config("arcnn")
    network = build_model(cfg).eval()
    for weight in network.roi_heads.mask_head.parameters():
        nn.init.normal_(weight, std=0.3)  # else all its maps are one half
    records = split_records(cfg, "val")
    objects = [(record, a) for record in records for a in record["annotations"]]
    table = given_boxes(cfg, network)
    place, (record, annotation) = max(enumerate(objects), key=lambda k: k[1][1]["category_id"])
    soft = soft_masks(cfg, network, record, annotation)
    assert set(soft) == set(MASK_KINDS)
    assert all(mask.shape == (record["height"], record["width"]) for mask in soft.values())
    drawn = soft["amodal"] >= 0.5
    iou = 100 * mask_iou(drawn, decode_masks(annotation)["amodal"])
    assert iou == pytest.approx(table.amodal[place], abs=2)  # 8 bits round at the edge
    joint, category = network.roi_heads.mask_head.amodal_head.conv, annotation["category_id"]
    nn.init.zeros_(joint.weight)
    nn.init.constant_(joint.bias, -5)
    assert category > 0 and not (soft_masks(cfg, network, record, annotation)["amodal"] > 0.5).any()
    joint.bias.data[category] = 5  # of the true class alone
    assert (soft_masks(cfg, network, record, annotation)["amodal"] > 0.5).any()


def test_the_logits_of_a_region_join_to_its_whole(tiny_config) -> None:
    cfg = tiny_config("arcnn")
    network = build_model(cfg).eval()
    record = split_records(cfg, "val")[0]
    maps = region_logits(cfg, network, record, record["annotations"][0])
    joint = network.roi_heads.mask_head.amodal_head
    pieces = (torch.from_numpy(maps[kind])[None] for kind in ("visible", "occlusion"))
    with torch.no_grad():
        whole = joint(*pieces)[0].numpy()
    np.testing.assert_allclose(whole, maps["amodal"], atol=1e-6)


COSTS = "model,parameters,in use,operations,image,seconds,training step\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not whole"),
        ("\0\xff\n", "is not whole"),
        (f"{COSTS}arcnn,1,1,1,1,1,text\n", "training step is not all numbers"),
        (f"{COSTS}arcnn,1,1,-1,1,1,1\n", "operations is not all between"),
        (f"{COSTS}arcnn,1,1,1,1,1,inf\n", "training step is not all between"),
        (f"{COSTS}arcnn,1,1,1,1,1,\n", "has no row for each model"),
        (COSTS + 2 * "arcnn,1,1,1,1,1,1\n", "has no row for each model"),
    ],
)
def test_damaged_costs_are_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "cost.csv").write_bytes(text.encode("latin"))
    with pytest.raises(InputError, match=rf"cost.csv .*{said}.*: delete it, and `make reproduce`"):
        read_costs(tmp_path)


def test_costs_of_another_version_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cost.csv is not there: `make reproduce`"):
        read_costs(tmp_path)
    (tmp_path / "cost.csv").write_text("model,seconds\narcnn,1\n")
    with pytest.raises(
        ValueError, match=r"cost.csv is not whole .it has no parameters, .*: delete it, and"
    ):
        read_costs(tmp_path)


def test_costs_are_multiples_of_the_reference(tiny_config) -> None:
    models = {}
    for name in ("mask_rcnn", "orcnn"):
        cfg = tiny_config(name, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32, run=name)
        models[name] = TrainedModel(cfg, build_model(cfg))
    table = costs(models, "mask_rcnn", rounds=2)
    assert table.parameters["orcnn"] == pytest.approx(2 * table.parameters["mask_rcnn"])
    assert table.operations["orcnn"] == pytest.approx(2 * table.operations["mask_rcnn"])
    # 4 convolutions 3x3 (the first one from 16 channels), a deconvolution 2x2 and a predictor of
    # ten classes, on 14x14 and 28x28 cells, for ten objects.
    convs = 14 * 14 * 9 * 32 * (16 + 3 * 32)
    rest = 28 * 28 * 32 * (32 + 10)
    assert table.operations["mask_rcnn"] == pytest.approx(10 * (convs + rest) / 1e9, rel=1e-6)
    assert (table[["training step", "image", "seconds"]] > 0).all(axis=None)
    assert table["in use"].tolist() == table.parameters.tolist()


@pytest.mark.parametrize("model", FIELD)
def test_operations_and_weights_in_use_are_counted(model: str, tiny_config) -> None:
    cfg = tiny_config(model)
    network = build_model(cfg)
    counted, used = operations(network)
    heads = network.roi_heads
    assert (
        0
        < used
        <= sum(w.numel() for w in heads.mask_head.parameters())
        + sum(w.numel() for w in heads.box_head.parameters() if model == "asn")
    )
    assert counted >= sum(w.numel() for w in heads.mask_head.parameters() if w.dim() == 4)
    if model == "aisformer":  # whose encoder torch would else run as one opaque operation
        tokens, width, wide = 14 * 14, 16, 8 * 16
        encoder = tokens * (4 * width**2 + 2 * width * wide) + 2 * tokens**2 * width
        assert counted > 10 * encoder


def test_what_is_drawn_alone_takes_fewer_weights(tiny_config) -> None:
    """VRS&SP's second classifier only learns, by default."""
    network = build_model(tiny_config("vrs_sp"))
    head = network.roi_heads.mask_head
    head.prior.counts += 1  # one shape of each class
    learning = sum(w.numel() for w in (*head.box_head.parameters(), *head.classifier.parameters()))
    total = sum(w.numel() for w in head.parameters())
    assert operations(network)[1] == total - learning


def test_zhus_stand_in_is_an_option(tiny_config) -> None:
    """One mask for all classes: the nearest to AmodalMask (Zhu et al. 2017) among RoI heads."""
    cfg = tiny_config("mask_rcnn", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    network = build_model(cfg).train()
    mapper = AmodalDatasetMapper(cfg, is_train=True)
    with EventStorage():
        losses = network([mapper(record) for record in split_records(cfg, "train")[:2]])
    assert torch.isfinite(losses["loss_amodal_mask"])
    assert network.roi_heads.mask_head.layers(torch.zeros(1, 16, 14, 14)).amodal.shape[1] == 1


@pytest.mark.parametrize("model", ["arcnn", *FIELD])
def test_fresh_heads_on_the_published_trunk(model: str, tiny_config) -> None:
    """What a mask head calls its own is new, and nothing else is."""
    tiny_config()  # registers the data, whose classes the start is checked against
    start, kept = "arcnn://data/start/tabletop.safetensors", load_start("tabletop", device="cpu")
    cfg = get_config("tabletop", model, options=["MODEL.WEIGHTS", start + TRUNK], device="cpu")
    network = build_model(cfg)
    load_initial_weights(cfg, Checkpointer(network))
    own, published = amodal_head.mask_head_class(cfg).OWN_PARTS, kept.model.state_dict()
    for name, weight in network.state_dict().items():
        if not name.startswith(own):
            assert torch.equal(weight, published[name]), name
        elif name in published and weight.dim() > 1 and weight.shape == published[name].shape:
            assert not torch.equal(weight, published[name]), name
