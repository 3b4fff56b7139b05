"""The paper's own path on a CPU: its configurations, shortened by options alone, from files in the
real formats: weights in MSRA's and in the model zoo's naming, KINS of 2019 and of 2020, COCOA-cls.

All of it is made: random weights, ellipses for cars.
"""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from made import KINS_CATEGORIES, KINS_SIZE, write_made_kins
from PIL import Image

from arcnn.config import get_config
from arcnn.data import register_dataset, split_records
from arcnn.evaluation import Evaluation, predict
from arcnn.initial_weights import initial_weights, load_initial_weights
from arcnn.training import train
from arcnn.weights import Checkpointer, load_trained

BACKBONE = "backbone.bottom_up."
SHORT = [
    *("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", [96], "INPUT.MIN_SIZE_TEST", 96, "SOLVER.AMP.ENABLED", False),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "TEST.DETECTIONS_PER_IMAGE", 5),
]
CLASSES = {"kins": [], "cocoa_cls": ["MODEL.ROI_HEADS.NUM_CLASSES", 8]}  # the made file's


def caffe2_name(key: str) -> str:
    """What MSRA's file calls a weight of detectron2's ResNet, without the statistics of its norms,
    which are folded into scale and shift."""
    key = key.replace(".norm.weight", "_bn_s").replace(".norm.bias", "_bn_b")
    key = key.replace(".weight", "_w")
    key = key.replace("stem.conv1_bn", "res_conv1_bn").replace("stem.conv1", "conv1")
    key = key.replace(".shortcut", "_branch1")
    key = re.sub(r"\.conv([123])", lambda m: "_branch2" + "abc"[int(m[1]) - 1], key)
    return re.sub(r"^(res\d)\.(\d)", r"\1_\2", key)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from, in the formats in which they are fetched."""
    cache = tmp_path_factory.mktemp("cache")
    torch.manual_seed(0)
    detector = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    detector.MODEL.DEVICE, detector.MODEL.WEIGHTS = "cpu", ""
    state = {key: value.numpy() for key, value in build_model(detector).state_dict().items()}
    zoo = {"model": state, "__author__": "made for a test"}
    bottom = {key.removeprefix(BACKBONE): v for key, v in state.items() if BACKBONE in key}
    msra = {caffe2_name(key): v for key, v in bottom.items() if "running" not in key}
    msra |= {"fc1000_w": np.zeros((1000, 2048), np.float32), "fc1000_b": np.zeros(1000, np.float32)}
    for name, content in (
        ("ImageNetPretrained/MSRA/R-50.pkl", msra),
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl", zoo),
    ):
        file = cache / "detectron2" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps(content))
    return cache


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each data set."""
    root = tmp_path_factory.mktemp("data")
    for split, images, name in (
        ("train", "training/image_2", "update_train_2020.json"),
        ("val", "testing/image_2", "update_test_2020.json"),
    ):
        folder = root / "kins" / images
        folder.mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", KINS_SIZE[::-1], (60 * k, 90, 120)).save(folder / f"{k:06d}.png")
        write_made_kins(root / "kins" / name, 2020, images=4)
        cocoa = json.loads(write_made_kins(root / "made.json", 2019, images=4).read_text())
        for annotation in cocoa["annotations"]:
            annotation["visible_mask"] = annotation.pop("inmodal_seg")
        cocoa["categories"] = KINS_CATEGORIES
        file = root / "cocoa_cls" / f"COCO_amodal_{split}2014_with_classes.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(cocoa))
        (root / "cocoa_cls" / f"{split}2014").symlink_to(folder)
    return root


@pytest.fixture(autouse=True)
def _cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(cache))
    monkeypatch.setattr("arcnn.weight_files.ZOO", {})  # these are none of the zoo's
    for handler in PathManager._path_handlers.values():  # which remember where files were
        if hasattr(handler, "cache_map"):
            monkeypatch.setattr(handler, "cache_map", {})


@pytest.mark.parametrize("dataset", ["kins", "cocoa_cls"])
def test_every_weight_of_the_backbone_comes_from_the_file(dataset: str, data: Path) -> None:
    register_dataset(dataset, data)
    cfg = get_config(dataset, "arcnn", options=CLASSES[dataset], device="cpu")
    model = build_model(cfg)
    said = load_initial_weights(cfg, Checkpointer(model, ""))
    with open(initial_weights(cfg), "rb") as file:
        there = pickle.load(file)
    if dataset == "cocoa_cls":
        there = there["model"]
    learned = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(BACKBONE) and "running" not in key and "num_batches" not in key
    }
    # 53 convolutions, each with a scale and a shift.
    assert len(learned) == 3 * 53
    for key, value in learned.items():
        name = key if dataset == "cocoa_cls" else caffe2_name(key.removeprefix(BACKBONE))
        assert np.array_equal(value.numpy(), there.pop(name)), key
    if dataset == "kins":
        assert set(there) == {"fc1000_w", "fc1000_b"}
        assert said.startswith("Started from detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    else:  # FPN, RPN and boxes come along; what is left are last layers of 80 classes
        state = model.state_dict()
        taken = [k for k, v in there.items() if np.array_equal(state[k].numpy(), v)]
        left = set(there) - set(taken)
        assert all("predictor" in key for key in left), left


@pytest.mark.parametrize("dataset", ["kins", "cocoa_cls"])
@pytest.mark.parametrize("model", ["arcnn", "orcnn"])
def test_a_training_and_its_evaluation_run(
    dataset: str, model: str, data: Path, tmp_path: Path
) -> None:
    register_dataset(dataset, data)
    options = [*SHORT, *CLASSES[dataset]]
    place = {"device": "cpu", "output_dir": tmp_path / "train"}
    cfg = get_config(dataset, model, options=options, **place)
    assert train(cfg).start.startswith("Started from detectron2://")
    cfg, trained = load_trained(tmp_path, device="cpu")
    predictions = predict(cfg, trained)
    metrics = Evaluation(
        split_records(cfg, "val"), predictions, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    ).metrics()
    assert {"amodal", "visible", "occluded"} <= set(metrics)
