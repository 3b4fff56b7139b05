"""The protocol: by hand, against pycocotools, on real records, and on bad input."""

import contextlib
import copy
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import coco_dataset, peer_evaluate
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval

from arcnn.data import decode_masks, load_annotations
from arcnn.evaluation import (
    ALL_TASKS,
    DEFAULT_TASKS,
    METRICS,
    TASKS,
    AmodalEvaluator,
    Evaluation,
    PredictionError,
    best_and_worst,
    check_predictions,
    choose_examples,
    evaluate,
    evaluator,
    found_rates,
    image_draws,
    intervals,
    load_predictions,
    mask_iou,
    match_image,
    mean_of_trainings,
    occluded_examples,
    predict,
    predict_and_evaluate,
    prediction_masks,
    protocol,
    protocol_version,
    to_results,
)
from arcnn.evaluation.matching import COUNTED, IGNORED, Items, Pairs, match
from arcnn.files import run_folder
from arcnn.names import MASK_KEYS, MASK_KINDS, TABLE_1
from arcnn.workshop.score import main, read_results

SIZE = (40, 40)


def rle(mask: np.ndarray) -> dict:
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def an_object(box: tuple, hidden: float = 0.0, category: int = 0, iscrowd: int = 0) -> dict:
    """A rectangle whose left part, this share of it, is hidden."""
    x, y, w, h = box
    amodal = rectangle(*box)
    visible = amodal & ~rectangle(x, y, round(w * hidden), h)
    return {
        "category_id": category,
        "segmentation": rle(amodal),
        "visible_mask": rle(visible),
        "occlusion_rate": 1 - visible.sum() / max(amodal.sum(), 1),
        "iscrowd": iscrowd,
    }


def a_record(*objects: dict, image_id: int = 7) -> dict:
    height, width = SIZE
    return {
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": list(objects),
    }


def detected(box: tuple, hidden: float = 0.0, score: float = 0.5, image_id: int = 7, category=0):
    masks = an_object(box, hidden)
    amodal, visible = (
        mask_util.decode(masks[k]).astype(bool) for k in ("segmentation", "visible_mask")
    )
    return {
        "image_id": image_id,
        "category_id": category,
        "score": score,
        "segmentation": rle(amodal),
        "visible_mask": rle(visible),
        "occlusion_mask": rle(amodal & ~visible),
    }


BOXES = [(0, 0, 10, 10), (12, 0, 10, 10), (24, 0, 10, 10)]
ONE_HIDDEN = a_record(an_object(BOXES[0], 0.3), an_object(BOXES[1]), an_object(BOXES[2]))
PERFECT = [detected(BOXES[0], 0.3), detected(BOXES[1], score=0.6), detected(BOXES[2], score=0.7)]


# --- by hand ------------------------------------------------------------------------------------
def test_perfect_predictions_score_100_everywhere():
    metrics = evaluate([ONE_HIDDEN], PERFECT, 1, tasks=ALL_TASKS)
    assert set(metrics) == set(ALL_TASKS)
    for task in set(ALL_TASKS) - {"occluded@0.40", "occluded_strict"}:
        assert metrics[task]["AP"] == pytest.approx(100), task
    # One detection per image and class finds one of three objects.
    assert metrics["amodal"]["AR@1"] == pytest.approx(100 / 3)
    assert metrics["amodal"]["AR@10"] == pytest.approx(100)


@pytest.mark.parametrize(("hidden", "expected"), [(0.0, 100), (0.5, 50)])
def test_false_positive_counts_in_the_occluded_protocol_if_it_claims_to_be_occluded(
    hidden: float, expected: float
):
    """The example of the protocol: one occluded object of three, one more detection on top."""
    extra = detected((0, 25, 10, 10), hidden, score=0.9)
    assert evaluate([ONE_HIDDEN], [*PERFECT, extra], 1)["occluded"]["AP"] == pytest.approx(expected)


def test_an_empty_amodal_mask_counts_as_false_positive():
    empty = PERFECT[0] | {"score": 0.9}
    empty |= {k: rle(np.zeros(SIZE)) for k in ("segmentation", "visible_mask", "occlusion_mask")}
    assert evaluate([ONE_HIDDEN], [*PERFECT, empty], 1)["occluded"]["AP"] == pytest.approx(50)


def test_strict_protocol_counts_detections_of_unoccluded_objects():
    # The two detections of unoccluded objects come first: precision 1/3 at full recall.
    strict = evaluate([ONE_HIDDEN], PERFECT, 1)["occluded_strict"]
    assert strict["AP"] == pytest.approx(100 / 3)


def test_occluded_levels_take_objects_of_their_rate():
    metrics = evaluate([ONE_HIDDEN], PERFECT, 1)  # the hidden one has a rate of 0.3
    assert metrics["occluded@0.25"]["AP"] == pytest.approx(100)
    assert metrics["occluded@0.40"]["AP"] is None
    assert "0.40" in metrics["occluded@0.40"]["note"]


def test_amodal_without_visible_part_loses_visible_and_occlusion_only():
    blind = [p | {"visible_mask": p["segmentation"]} for p in PERFECT]
    blind = [p | {"occlusion_mask": rle(np.zeros(SIZE))} for p in blind]
    metrics = evaluate([ONE_HIDDEN], blind, 1)
    assert metrics["amodal"]["AP"] == pytest.approx(100)
    assert metrics["visible"]["AP"] < 90
    assert metrics["occlusion"]["AP"] == 0


def test_mean_is_over_classes_that_have_objects():
    record = a_record(an_object(BOXES[0]), an_object(BOXES[1], category=2))
    metrics = evaluate([record], [detected(BOXES[0])], 3, class_names=["cup", "fork", "plate"])
    classes = metrics["amodal"]["per_class"]
    assert classes["cup"]["AP"] == pytest.approx(100)
    assert classes["fork"]["AP"] is None
    assert classes["plate"]["AP"] == 0
    assert metrics["amodal"]["AP"] == pytest.approx(50)


def test_size_splits():
    metrics = evaluate([ONE_HIDDEN], PERFECT, 1)["amodal"]
    assert metrics["APs"] == pytest.approx(100)
    assert metrics["APm"] is None and metrics["APl"] is None


def test_detections_in_a_crowd_are_ignored():
    record = a_record(an_object(BOXES[0]), an_object((0, 20, 40, 20), iscrowd=1))
    inside = [detected((x, 22, 6, 6), score=0.9) for x in (2, 12, 22)]
    assert evaluate([record], [detected(BOXES[0]), *inside], 1)["amodal"]["AP"] == pytest.approx(
        100
    )


# --- against others -----------------------------------------------------------------------------
def random_case(seed: int, images: int = 6, classes: int = 3) -> tuple[list, list]:
    """Objects and detections at random, with tied scores, empty masks, crowds, and empty images."""
    rng = np.random.default_rng(seed)
    records, predictions = [], []
    for image_id in rng.permutation(100)[:images].tolist():
        objects = []
        for _ in range(rng.integers(0, 6)):
            box = (*rng.integers(0, 25, 2).tolist(), *rng.integers(4, 16, 2).tolist())
            category, hidden = int(rng.integers(classes)), float(rng.choice([0, 0.1, 0.3, 0.6]))
            objects.append(an_object(box, hidden, category, int(rng.random() < 0.1)))
            for _ in range(rng.integers(0, 4)):
                moved = tuple(int(v + rng.integers(-1, 2)) for v in box)
                predictions.append(
                    detected(
                        (max(moved[0], 0), max(moved[1], 0), *moved[2:]),
                        float(rng.choice([0, 0.1, 0.3, 0.6])),
                        float(rng.integers(10)) / 10,
                        image_id,
                        category if rng.random() < 0.8 else int(rng.integers(classes)),
                    )
                )
        records.append(a_record(*objects, image_id=image_id))
    for p in predictions[:: max(len(predictions) // 3, 1)]:
        p |= {k: rle(np.zeros(SIZE)) for k in ("segmentation", "visible_mask", "occlusion_mask")}
    return records, predictions


def assert_same(metrics: dict, records: list, predictions: list, num_classes: int) -> None:
    for task in TASKS:
        expected = peer_evaluate(records, predictions, num_classes, task)
        for metric in METRICS:
            ours = metrics[task][metric]
            if expected[metric] is None:
                assert ours is None
            else:
                assert ours == pytest.approx(expected[metric], abs=1e-9), (task, metric)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools(seed: int):
    records, predictions = random_case(seed)
    assert_same(evaluate(records, predictions, 3), records, predictions, 3)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("seed", range(6))
def test_named_extras_are_pycocotools_too(seed: int):
    """Other occlusion rates, the strict reading, and COCO's sizes."""
    records, predictions = random_case(seed)
    metrics = evaluate(records, predictions, 3)

    def same(task: str, expected: dict) -> None:
        ours = {metric: metrics[task][metric] for metric in METRICS}
        assert ours == pytest.approx(expected, abs=1e-9), task

    def kept(annotation: dict) -> bool:
        return 1 - annotation["occlusion_rate"] <= 0.85

    for rate in (0.25, 0.40):
        expected = peer_evaluate(records, predictions, 3, "occluded", rate)
        same(f"occluded@{rate:.2f}", expected)
    only_occluded = [
        r | {"annotations": [a for a in r["annotations"] if a["iscrowd"] or kept(a)]}
        for r in records
    ]
    same("occluded_strict", peer_evaluate(only_occluded, predictions, 3, "amodal"))


@pytest.mark.parametrize("seed", range(3))
def test_size_splits_are_those_of_pycocotools(seed: int, monkeypatch):
    records, predictions = random_case(seed)
    sizes = {"s": (0, 60), "m": (60, 120), "l": (120, 1e5)}  # the objects here are small
    monkeypatch.setattr(protocol, "SIZES", sizes)
    metrics = evaluate(records, predictions, 3)["amodal"]
    entries = [
        a | {"image_id": r["image_id"], "area": int(mask_util.area(a["segmentation"]))}
        for r in records
        for a in r["annotations"]
    ]
    claims = [
        p | {"area": int(mask_util.area(p["segmentation"])), "iscrowd": 0} for p in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, claimed = (coco_dataset(records, side, 3) for side in (entries, claims))
        stock = COCOeval(truth, claimed, "segm")
        stock.params.areaRng = [[0, 1e10], *map(list, sizes.values())]
        stock.evaluate()
        stock.accumulate()
        stock.summarize()
    expected = dict(
        zip(
            ["APs", "APm", "APl", "ARs", "ARm", "ARl"],
            [*stock.stats[3:6], *stock.stats[9:12]],
            strict=True,
        )
    )
    for name, value in expected.items():
        assert (metrics[name] is None and value == -1) or metrics[name] == pytest.approx(
            100 * value
        )


def test_the_worked_example_of_the_matching():
    """The second detection's candidates overlap by 0.55, 0.60 and 0.90; the second object is taken
    and the third one ignored."""
    same = np.zeros(2, int)
    detections = Items.grouped(same, same, 1, score=np.array([0.9, 0.8]))
    ious = [0.95, 0.55, 0.60, 0.90]
    pairs = Pairs(np.array([0, 1, 1, 1]), np.array([1, 0, 1, 2]), np.array(ious))
    state = np.array([[COUNTED, COUNTED, IGNORED]], dtype=np.int8)
    true, ignored = match(pairs, detections, state, np.zeros(3, dtype=bool))
    assert true[0, 0].tolist() == [True, True] and not ignored[0, 0].any()  # at an IoU of 0.5
    # Above 0.55, the ignored object is all that is left.
    assert true[0, 2].tolist() == [True, False] and ignored[0, 2].tolist() == [False, True]


def test_more_than_100_detections_of_a_class():
    rng = np.random.default_rng(0)
    record = a_record(an_object(BOXES[0]), an_object(BOXES[1], 0.5))
    predictions = [
        detected(BOXES[k % 2], 0.5, score) for k, score in enumerate(rng.random(130).tolist())
    ]
    assert_same(evaluate([record], predictions, 1), [record], predictions, 1)


def test_occlusion_task_is_plain_coco_on_hidden_parts():
    """Where all are occluded and say so, nothing is ignored: stock AP of the hidden parts."""
    rng = np.random.default_rng(3)
    boxes = [(0, 0, 12, 12), (14, 0, 14, 10), (0, 20, 10, 16), (20, 20, 16, 16)]
    record = a_record(*(an_object(box, 0.5) for box in boxes))
    predictions = [
        detected((x, y, w + int(rng.integers(-2, 3)), h), 0.5, float(rng.random()))
        for x, y, w, h in boxes * 3
    ]
    swapped = [
        a | {"segmentation": rle(decode_masks(a)["occlusion"])} for a in record["annotations"]
    ]
    hidden = [p | {"segmentation": p["occlusion_mask"]} for p in predictions]
    expected = peer_evaluate([record | {"annotations": swapped}], hidden, 1, "amodal")
    ours = evaluate([record], predictions, 1)["occlusion"]
    assert 0 < expected["AP"] < 100
    assert {m: ours[m] for m in METRICS} == pytest.approx(expected, abs=1e-9)


def test_boundary_equal_to_faster_coco_eval():
    from faster_coco_eval import COCO, COCOeval_faster

    boxes = [(0, 0, 12, 12), (14, 0, 14, 10), (0, 20, 10, 16), (20, 20, 14, 16)]
    records = [a_record(*(an_object(box, category=k % 3) for k, box in enumerate(boxes)))]
    predictions = [
        detected((x, y, w + grown, h), 0.0, 0.9 - 0.1 * k, category=k % 3)
        for k, ((x, y, w, h), grown) in enumerate(zip(boxes, (0, 1, 2, 1), strict=True))
    ]
    images = [{"id": r["image_id"], "height": SIZE[0], "width": SIZE[1]} for r in records]
    categories = [{"id": k, "name": str(k)} for k in range(3)]

    def coco(entries: list[dict]) -> COCO:
        entries = [
            e | {"id": n, "area": 1.0, "bbox": mask_util.toBbox(e["segmentation"]).tolist()}
            for n, e in enumerate(entries, start=1)
        ]
        return COCO({"images": images, "categories": categories, "annotations": entries})

    truths = [a | {"image_id": r["image_id"]} for r in records for a in r["annotations"]]
    claims = [p | {"iscrowd": 0} for p in predictions]
    theirs = COCOeval_faster(coco(truths), coco(claims), "boundary", print_function=lambda *_: None)
    theirs.run()
    ours = evaluate(records, predictions, 3, tasks=["amodal_boundary"])["amodal_boundary"]
    assert 0 < ours["AP"] < 100
    assert ours["AP"] == pytest.approx(100 * theirs.stats[0], abs=1e-9)


def real_case(folder, seed: int = 0) -> tuple:
    """Real records, and predictions that are their masks moved a little."""
    file = folder / "cocoa_cls_val100_records" / "COCO_amodal_val2014_with_classes.json"
    truth = load_annotations(file, folder)
    truth = truth._replace(records=truth.records[:25])
    rng = np.random.default_rng(seed)
    predictions = []
    for record in truth.records:
        for annotation in record["annotations"]:
            masks = decode_masks(annotation)
            for _ in range(2):
                shift = tuple(rng.integers(-8, 9, 2).tolist())
                amodal, visible = (np.roll(masks[k], shift, (0, 1)) for k in ("amodal", "visible"))
                predictions.append(
                    {
                        "image_id": record["image_id"],
                        "category_id": annotation["category_id"],
                        "score": float(rng.random()),
                        "segmentation": rle(amodal),
                        "visible_mask": rle(visible),
                        "occlusion_mask": rle(amodal & ~visible),
                    }
                )
    return file, truth, predictions


def test_equal_to_pycocotools_on_real_records(real_data):
    _, truth, predictions = real_case(real_data)
    classes = len(truth.class_names)
    metrics = evaluate(truth.records, predictions, classes)
    assert 5 < metrics["amodal"]["AP"] < 95
    assert_same(metrics, truth.records, predictions, classes)


# --- properties ---------------------------------------------------------------------------------
def numbers(metrics: dict) -> dict:
    return {f"{t} {m}": metrics[t][m] for t in metrics for m in METRICS}


def distinct_scores(predictions: list, seed: int) -> list:
    scores = np.random.default_rng(seed).permutation(len(predictions)) / max(len(predictions), 1)
    return [p | {"score": float(s)} for p, s in zip(predictions, scores, strict=True)]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_and_ids_do_not_matter(seed: int):
    records, predictions = random_case(seed, images=4)
    predictions = distinct_scores(predictions, seed)
    expected = numbers(evaluate(records, predictions, 3))
    rng = np.random.default_rng(seed)
    rename = {r["image_id"]: int(k) for r, k in zip(records, rng.permutation(1000), strict=False)}
    records = [
        records[k] | {"image_id": rename[records[k]["image_id"]]} for k in rng.permutation(4)
    ]
    order = rng.permutation(len(predictions))
    predictions = [predictions[k] | {"image_id": rename[predictions[k]["image_id"]]} for k in order]
    assert numbers(evaluate(records, predictions, 3)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), pick=st.integers(0, 100))
def test_a_detection_of_lowest_score_never_lowers_recall(seed: int, pick: int):
    records, predictions = random_case(seed, images=4)
    if not predictions:
        return
    before = numbers(evaluate(records, predictions, 3))
    last = predictions[pick % len(predictions)] | {"score": -1.0}
    after = numbers(evaluate(records, [*predictions, last], 3))
    for name, value in before.items():
        if "AR@" in name and value is not None:
            assert after[name] >= value - 1e-9, name


# --- uncertainty --------------------------------------------------------------------------------
def test_weights_count_images_as_often_as_they_are_drawn():
    records, predictions = random_case(5)
    predictions = distinct_scores(predictions, 5)
    evaluation = Evaluation(records, predictions, 3)
    weights = np.array([2.0, 0, 1, 1, 0, 2])
    chosen = [(i, int(w)) for i, w in zip(evaluation.image_ids, weights, strict=True)]
    copies = [(i, 1000 * k + i) for i, w in chosen for k in range(w)]
    by_id = {r["image_id"]: r for r in records}
    again = Evaluation(
        [by_id[old] | {"image_id": new} for old, new in copies],
        [p | {"image_id": new} for old, new in copies for p in predictions if p["image_id"] == old],
        3,
    )
    for task in TASKS:
        ours, expected = evaluation.metric(task, weights), again.metric(task)
        for metric in ("AR@1", "AR@10", "AR@100"):
            assert ours[metric] == pytest.approx(expected[metric], abs=1e-9)
        # Copies of an image tie with each other, so that curves differ by a step here and there.
        assert ours["AP"] == pytest.approx(expected["AP"], abs=8)


AP = {"AP of the whole": ("amodal", "AP")}


def test_bootstrap_intervals():
    records, predictions = random_case(2, images=20)
    evaluation = Evaluation(records, predictions, 3)
    draws = image_draws(evaluation, AP, samples=60)
    interval = intervals(draws)["AP of the whole"]
    assert interval.value == pytest.approx(evaluation.metric("amodal")["AP"])
    assert interval.low < interval.value < interval.high
    pd.testing.assert_frame_equal(image_draws(evaluation, AP, samples=60), draws)


def test_numbers_are_found_by_name_whatever_the_order_of_the_columns():
    """Every interval stays with its metric when the table's columns are put in another order."""
    records, predictions = random_case(2, images=20)
    evaluation = Evaluation(records, predictions, 3)
    backwards = dict(reversed(TABLE_1.items()))
    draws = image_draws(evaluation, backwards, samples=20)
    assert list(draws.columns) == list(backwards)
    for name, (task, metric) in TABLE_1.items():
        assert draws[name].iloc[0] == pytest.approx(evaluation.metric(task)[metric])
    assert len({*draws.iloc[0]}) == len(TABLE_1)  # a swap would be seen
    forwards = image_draws(evaluation, samples=20)
    assert intervals(draws) == intervals(forwards)
    pd.testing.assert_frame_equal(
        mean_of_trainings([forwards, draws]), mean_of_trainings([forwards, forwards])
    )


def test_a_metric_that_no_task_has_is_refused():
    evaluation = Evaluation([ONE_HIDDEN], PERFECT, 1)
    with pytest.raises(KeyError, match="AR"):
        image_draws(evaluation, {"amodal AR": ("amodal", "AR")}, samples=0)


def test_two_models_are_compared_on_the_same_draws():
    records, predictions = random_case(2, images=20)
    metrics = TABLE_1 | {"AR": ("amodal", "AR@100")}
    first, same, half = (
        image_draws(Evaluation(records, chosen, 3), metrics, samples=60)
        for chosen in (predictions, predictions, predictions[::2])
    )
    nothing = intervals(first - same)
    assert set(nothing) == set(metrics) and set(nothing.values()) == {(0.0, 0.0, 0.0)}
    assert intervals(first - half)["AR"].low > 0


def test_bootstrap_where_there_is_no_number():
    record = a_record(an_object(BOXES[0]))
    bounds = intervals(image_draws(Evaluation([record], [detected(BOXES[0])], 1), samples=5))
    assert bounds["occluded AP"] is None
    assert bounds["amodal AP"].value == pytest.approx(100)


# --- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "no such image"),
        ({"category_id": 1}, "class 1 is not one of 0 to 0"),
        ({"category_id": "cup"}, "class 'cup'"),
        ({"score": float("nan")}, "score is nan"),
        ({"score": None}, "score is None"),
        ({"score": float("inf")}, "score is inf"),
        ({"score": 10**400}, "not a finite number"),
        ({"image_id": [7]}, "no such image"),
        ({"segmentation": {"size": 40, "counts": "0"}}, "size 40"),
        ({"segmentation": None}, "no segmentation"),
        ({"segmentation": rle(np.zeros((4, 5)))}, "size"),
        ({"visible_mask": rle(np.zeros((40, 41)))}, r"visible_mask: RLE of size \[40, 41\]"),
        ({"occlusion_mask": [[0, 0, 5, 0, 5, 5]]}, "occlusion_mask: no RLE"),
        ({"segmentation": {"size": [40, 40], "counts": "h"}}, "segmentation: broken counts"),
        ({"segmentation": {"size": [40, 40], "counts": ""}}, "segmentation: broken counts"),
        ({"segmentation": {"size": [40, 40], "counts": [1600]}}, "compressed RLE"),
    ],
)
def test_bad_predictions_are_named(change: dict, message: str):
    with pytest.raises(PredictionError, match=message) as error:
        evaluate([ONE_HIDDEN], [PERFECT[0], PERFECT[1] | change], 1)
    assert "prediction 1" in str(error.value)


def test_missing_visible_masks_leave_the_amodal_numbers():
    predictions = copy.deepcopy(PERFECT)
    del predictions[1]["visible_mask"]
    metrics = evaluate([ONE_HIDDEN], predictions, 1)
    assert metrics["amodal"]["AP"] == pytest.approx(100)
    assert metrics["occluded_strict"]["AP"] is not None
    for task in ("visible", "occluded", "occlusion"):
        assert metrics[task]["AP"] is None
        assert "1 of 3 predictions have no visible_mask" in metrics[task]["note"]


def test_missing_occlusion_masks_leave_the_rest():
    predictions = [{k: v for k, v in p.items() if k != "occlusion_mask"} for p in PERFECT]
    metrics = evaluate([ONE_HIDDEN], predictions, 1)
    assert metrics["occluded"]["AP"] == pytest.approx(100)
    assert "occlusion_mask" in metrics["occlusion"]["note"]
    assert set(check_predictions([ONE_HIDDEN], predictions, 1)) == {"occlusion"}


def test_no_predictions_score_0():
    metrics = evaluate([ONE_HIDDEN], [], 1, tasks=ALL_TASKS)
    assert metrics["amodal"]["AP"] == metrics["visible"]["AP"] == metrics["occluded"]["AP"] == 0
    assert metrics["amodal"]["AR@100"] == 0


def test_no_objects_at_all():
    metrics = evaluate([a_record()], [detected(BOXES[0])], 1)
    assert metrics["amodal"]["AP"] is None
    assert metrics["amodal"]["note"] == "the ground truth has no object"


def test_unknown_task_and_repeated_image():
    with pytest.raises(ValueError, match="unknown tasks"):
        evaluate([ONE_HIDDEN], [], 1, tasks=["modal"])
    with pytest.raises(ValueError, match="twice"):
        evaluate([ONE_HIDDEN, ONE_HIDDEN], [], 1)


# --- the command --------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path, tabletop_root):
    truth_file = next(tabletop_root.rglob("tabletop_val.json"))
    truth = load_annotations(truth_file, truth_file.parent)
    predictions = [
        {
            "image_id": r["image_id"],
            "category_id": a["category_id"],
            "score": 0.9,
            **{key: rle(decode_masks(a)[kind]) for kind, key in MASK_KEYS.items()},
        }
        for r in truth.records
        for a in r["annotations"]
    ]
    p = tmp_path / "P.json"
    p.write_text(json.dumps(to_results(predictions, truth.category_ids)))
    out = tmp_path / "metrics.json"
    call = ["--ground-truth", str(truth_file), "--predictions", str(p), "--output", str(out)]
    return truth, predictions, p, out, call


def test_command(files, capsys):
    truth, predictions, p, out, call = files
    assert main([*call, "--boundary", "--bootstrap", "5"]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["amodal"]["AP"] == pytest.approx(100)
    assert metrics["amodal"]["interval_95"]["AP"] == pytest.approx([100, 100])
    assert set(metrics["amodal"]["per_class"]) == set(truth.class_names)
    assert "amodal_boundary" in capsys.readouterr().out
    assert read_results(p, truth) == predictions


def test_command_reads_uncompressed_runs(files):
    truth, predictions, p, out, call = files
    entry = to_results(predictions, truth.category_ids)[0]
    height, width = entry["segmentation"]["size"]
    entry["segmentation"] = {"size": [height, width], "counts": [height * width]}
    p.write_text(json.dumps([entry]))
    assert main(call) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 1, ', "not complete JSON"),
        ('{"annotations": []}', "not a COCO result list"),
        ('[{"image_id": 1, "category_id": 999, "score": 1}]', "no class 999"),
        ('[{"image_id": [1], "category_id": 1, "score": 1}]', "no such image"),
    ],
)
def test_command_writes_nothing_on_bad_input(files, capsys, text: str, message: str):
    _, _, p, out, call = files
    out.write_text("before")
    p.write_text(text)
    assert main(call) == 1
    assert message in capsys.readouterr().err
    assert out.read_text() == "before"


def test_command_wants_masks_as_rle_and_a_number_of_draws(files, capsys):
    truth, predictions, p, out, call = files
    entry = to_results(predictions, truth.category_ids)[0]
    for mask, message in (
        ([[0, 0, 5, 0, 5, 5]], "polygons won't do"),
        (entry["segmentation"] | {"size": None}, "prediction 0"),
    ):
        p.write_text(json.dumps([entry | {"segmentation": mask}]))
        assert main(call) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*call, "--bootstrap", "-1"])
    assert main([*call[2:], "--ground-truth", "nowhere.json"]) == 1
    assert "there is no ground truth nowhere.json" in capsys.readouterr().err
    assert not out.exists()


def test_command_counts_the_runs_of_every_mask(files, capsys):
    """pycocotools itself reads an RLE with runs missing or too many as noise."""
    truth, predictions, p, out, call = files
    entries = to_results(predictions, truth.category_ids)
    height, width = entries[3]["visible_mask"]["size"]
    other = np.zeros((height - 1, width))
    entries[3]["visible_mask"]["counts"] = rle(other)["counts"]
    p.write_text(json.dumps(entries))
    assert main(call) == 1
    message = capsys.readouterr().err
    assert "prediction 3 (image" in message and "visible_mask: broken counts" in message
    assert f"{height * width - width} pixels instead of {height * width}" in message


def _evaluate_in_process(rank: int, store: str, records: list, outputs: list) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    evaluator = AmodalEvaluator(records, 3)
    evaluator.reset()
    mine = range(rank, len(records), 2)  # as detectron2's inference sampler deals images out
    evaluator.process(
        [{"image_id": records[k]["image_id"]} for k in mine], [outputs[k] for k in mine]
    )
    metrics = evaluator.evaluate()
    if rank == 0:
        torch.save(metrics, f"{store}.metrics")
    else:
        assert metrics == {}
    torch.distributed.destroy_process_group()


def test_evaluator_gathers_what_several_processes_found(tmp_path):
    """Every object is found, half of them by either process."""
    records, _ = random_case(5, images=6)
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for record in records:
        objects = record["annotations"]
        boxes = np.array([mask_util.toBbox(a["segmentation"]) for a in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())
        instances.scores = torch.rand(len(objects), generator=generator)
        instances.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.long)
        for kind in MASK_KINDS:
            instances.set(f"pred_{kind}_masks", torch.ones(len(objects), 28, 28))
        outputs.append({"instances": instances})
    alone = AmodalEvaluator(records, 3)
    alone.process([{"image_id": r["image_id"]} for r in records], outputs)
    expected = alone.evaluate()
    assert expected["amodal"]["AR@100"] > 90
    store = tmp_path / "store"
    torch.multiprocessing.start_processes(
        _evaluate_in_process, (str(store), records, outputs), nprocs=2, start_method="spawn"
    )
    assert torch.load(f"{store}.metrics", weights_only=True) == expected


def test_metrics_file_is_whole_or_absent(files, monkeypatch):
    *_, out, call = files

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main(call) == 1
    assert list(out.parent.glob("metrics*")) == []


def test_the_paper_calls_an_object_occluded_from_a_rate_of_fifteen_percent() -> None:
    """The number itself, not the constant: rates of 0.14 and 0.16 on either side of it."""

    def rows(count: int) -> dict:
        return rle(np.arange(100)[:, None].repeat(100, axis=1) < count)

    def image(image_id: int, hidden: int) -> tuple[dict, dict]:
        masks = {"segmentation": rows(100), "visible_mask": rows(100 - hidden)}
        annotation = {"id": image_id, "category_id": 0, "bbox": [0, 0, 100, 100], "iscrowd": 0}
        record = {"file_name": "", "image_id": image_id, "height": 100, "width": 100}
        record["annotations"] = [annotation | masks | {"occlusion_rate": hidden / 100}]
        prediction = {"image_id": image_id, "category_id": 0, "score": 0.9, **masks}
        return record, prediction | {"occlusion_mask": rows(0)}

    below, above = image(1, 14), image(2, 16)
    assert evaluate([below[0]], [below[1]], 1)["occluded"]["AP"] is None
    assert evaluate([below[0], above[0]], [above[1]], 1)["occluded"]["AP"] == pytest.approx(100)
    assert evaluate([below[0], above[0]], [below[1]], 1)["occluded"]["AP"] == 0


# --- inference ----------------------------------------------------------------------------------
class Guess(torch.nn.Module):
    """A model that sees one object, the same in every image."""

    def forward(self, inputs: list[dict]) -> list[dict]:
        outputs = []
        for example in inputs:
            instances = Instances((example["height"], example["width"]))
            instances.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 60.0]]))
            instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
            for kind in MASK_KINDS:
                instances.set(f"pred_{kind}_masks", torch.ones(1, 28, 28))
            outputs.append({"instances": instances})
        return outputs


def test_prediction_scores_nothing(tiny_config, monkeypatch):
    """Who scores with other tasks does not wait for the default ones."""
    cfg = tiny_config()
    metrics, expected = predict_and_evaluate(cfg, Guess())
    assert len(expected) == 4 and set(metrics) == set(DEFAULT_TASKS)

    def score(*_: object, **__: object) -> None:
        raise AssertionError("scored")

    monkeypatch.setattr(evaluator, "evaluate", score)
    assert predict(cfg, Guess()) == expected
    with pytest.raises(AssertionError, match="scored"):
        predict_and_evaluate(cfg, Guess())


# --- the version of the protocol ----------------------------------------------------------------
@pytest.mark.parametrize("edited", protocol.SOURCES, ids=lambda path: path.stem)
def test_an_edited_protocol_is_another_protocol(edited, tmp_path, monkeypatch):
    before = protocol_version()
    assert re.fullmatch("[0-9a-f]{12}", before) and before == protocol_version()
    copy = tmp_path / edited.name
    copy.write_text(edited.read_text())
    sources = [copy if source == edited else source for source in protocol.SOURCES]
    monkeypatch.setattr(protocol, "SOURCES", sources)
    assert protocol_version() == before  # the text counts, not where it lies
    copy.write_text(edited.read_text().replace("0", "1", 1))
    assert protocol_version() != before


def test_the_version_covers_what_decides_a_number():
    names = {source.stem for source in protocol.SOURCES}
    assert names == {
        "protocol",
        "matching",
        "masks",
        "predictions",
        "uncertainty",
        "evaluator",
        "names",
    }
    assert all(source.is_file() for source in protocol.SOURCES)


# --- single objects -----------------------------------------------------------------------------
BACK, FRONT = (2, 2, 24, 24), (14, 14, 20, 20)  # two objects, the first one partly hidden
PAIR = a_record(an_object(BACK, 0.5, category=1), an_object(FRONT), image_id=1)


def moved(box: tuple, dx: int, *arguments: object, **options: object) -> dict:
    x, y, w, h = box
    return detected((x + dx, y, w, h), *arguments, image_id=1, **options)


def test_objects_are_matched_one_to_one_by_class_score_and_overlap():
    exact = detected(BACK, 0.5, score=0.4, image_id=1, category=1)
    shifted = moved(BACK, 3, category=1)
    other_class = moved(FRONT, 0, category=2)
    unsure = moved(FRONT, 0, score=0.1)
    elsewhere = moved((0, 0, 3, 3), 0)
    matches = match_image(PAIR["annotations"], [shifted, exact, other_class, unsure, elsewhere])
    assert list(matches) == [0]
    assert matches[0].prediction is exact and matches[0].iou == 1
    assert match_image(PAIR["annotations"], []) == {}


def test_examples_follow_the_stated_rule():
    small = an_object((28, 2, 10, 10), 0.5, category=2)
    record = PAIR | {"annotations": [*PAIR["annotations"], small]}
    images = [record] + [record | {"image_id": k, "annotations": [small]} for k in (2, 3)]
    exact = detected((28, 2, 10, 10), 0.5, category=2)
    shifted = detected((29, 2, 10, 10), 0.5, category=2)
    predictions = {
        "orcnn": [exact | {"image_id": k} for k in (1, 2, 3)],
        "arcnn": [exact | {"image_id": k} for k in (1, 2)] + [shifted | {"image_id": 3}],
    }
    examples = occluded_examples(images, predictions)
    assert examples[0].annotation is PAIR["annotations"][0]  # the largest, though nobody found it
    chosen = choose_examples(examples, count=2)
    # Found by both come first; of those, image 3 is the one where the two differ.
    assert [e.record["image_id"] for e in chosen] == [1, 3]
    assert [e.why for e in chosen] == ["largest hidden part", "models differ most"]
    assert chosen[0].annotation is small and chosen[0].disagreement() == 0
    assert chosen[1].disagreement() > 0
    everyone = choose_examples(examples, count=9)
    assert sorted(e.record["image_id"] for e in everyone) == [1, 2, 3]  # one per image
    assert found_rates(examples) == {"orcnn": 0.75, "arcnn": 0.75}


def test_without_predictions_the_largest_hidden_part_is_chosen():
    (example,) = choose_examples(occluded_examples([PAIR], {}))
    assert example.annotation is PAIR["annotations"][0]  # the other one is not occluded
    with pytest.raises(ValueError, match="nothing to compare"):
        occluded_examples([a_record(an_object(FRONT))], {})


def test_best_and_worst_are_the_ends_of_the_list():
    shifts = [moved(BACK, k, category=1) | {"image_id": k} for k in range(8)]
    unoccluded = [detected(FRONT, image_id=k) for k in range(8)]
    images = [PAIR | {"image_id": k} for k in range(8)]
    chosen = best_and_worst(images, shifts + unoccluded, count=2)
    assert [d.record["image_id"] for d in chosen] == [0, 1, 6, 7]
    assert chosen[0].iou == 1 > chosen[-1].iou
    assert len(best_and_worst(images, shifts, count=4)) == 8


def test_predictions_are_read_from_the_runs_that_exist(tmp_path):
    models = ("arcnn", "arcnn_add", "orcnn")
    with pytest.raises(FileNotFoundError, match="05_evaluate"):
        load_predictions(tmp_path, "tabletop", models)
    for model in ("arcnn", "orcnn"):
        run = run_folder(tmp_path, "tabletop", model, 0)
        run.mkdir(parents=True)
        (run / "predictions.json").write_text(json.dumps([{"category_id": 1}]))
    by_model = load_predictions(tmp_path, "tabletop", models)
    assert list(by_model) == ["orcnn", "arcnn"]  # the paper's order


def test_the_masks_of_a_prediction_and_their_overlap():
    masks = prediction_masks(detected(BACK, 0.5))
    assert set(masks) == set(MASK_KINDS)
    assert (masks["amodal"] == (masks["visible"] | masks["occlusion"])).all()
    assert mask_iou(masks["amodal"], masks["visible"]) == pytest.approx(0.5)
    assert mask_iou(masks["visible"], masks["occlusion"]) == 0
    nothing = np.zeros(SIZE, dtype=bool)
    assert mask_iou(nothing, nothing) == 1
