"""What is the same to the last bit, as results/README.md says; data: test_tabletop.py."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from arcnn.data import load_annotations
from arcnn.data.masks import encode
from arcnn.data.tabletop import TABLETOP_CLASSES, draw_scene, make_tabletop
from arcnn.evaluation import Evaluation, predict
from arcnn.files import compact_json
from arcnn.names import MASK_KEYS
from arcnn.training import train
from arcnn.weights import load_trained

DIGEST = "57bacacbdebc284598a9614651d8cd377f08d279a8706318475530b22c6d2f46"


def test_a_training_in_float32_and_its_predictions_repeat_themselves(tiny_config) -> None:
    # In bfloat16, where the CPU has it: test_training.py.
    found = []
    for run in ("first", "again"):
        options = ["SOLVER.MAX_ITER", 2, "SOLVER.AMP.ENABLED", False]
        weights = Path(train(tiny_config("arcnn", *options, run=run)).weights)
        cfg, model = load_trained(weights.parents[1], device="cpu")
        found.append((model.state_dict(), predict(cfg, model)))
    (first, seen), (again, seen_again) = found
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert seen == seen_again


def test_an_evaluation_gives_the_same_numbers_everywhere(tmp_path: Path) -> None:
    make_tabletop(tmp_path, train_images=1, val_images=4, image_size=96, workers=1)
    folder = tmp_path / "tabletop"
    truth = load_annotations(folder / "tabletop_val.json", folder / "val")
    predictions = []
    for k in range(4):  # the truth, moved by more and more pixels
        scene = draw_scene(0, "val", k, 96)
        kinds = (scene.amodal_masks, scene.visible_masks, scene.occlusion_masks)
        for i, number in enumerate(scene.class_ids):
            masks = encode(np.stack([np.roll(masks[i], i, axis=1) for masks in kinds]))
            found = {"image_id": k + 1, "category_id": int(number), "score": 0.9 - i / 16}
            predictions.append(found | dict(zip(MASK_KEYS.values(), masks, strict=True)))
    metrics = Evaluation(truth.records, predictions, len(TABLETOP_CLASSES)).metrics()
    assert 20 < metrics["amodal"]["AP"] < 90
    text = compact_json(metrics)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGEST
