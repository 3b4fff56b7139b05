"""The protocol: by hand, against pycocotools, on real records, and on bad input."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer_evaluate
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.cocoeval import Params

from arcnn.data import decode_masks, load_annotations, split_records
from arcnn.data.masks import encode
from arcnn.evaluation import (
    ALL_TASKS,
    METRICS,
    TASKS,
    Evaluation,
    PredictionError,
    best_and_worst,
    choose_examples,
    evaluate,
    found_rates,
    ignored_shares,
    image_draws,
    image_outcomes,
    intervals,
    load_predictions,
    mask_iou,
    mean_of_trainings,
    occluded_examples,
    piece_table,
    pooled_curve,
    predict,
    prediction_masks,
    protocol,
    protocol_version,
    to_results,
)
from arcnn.evaluation.examples import match_image
from arcnn.evaluation.matching import (
    COUNTED,
    IGNORED,
    MAX_DETECTIONS,
    Items,
    Pairs,
    match,
)
from arcnn.files import run_folder
from arcnn.names import MASK_KEYS, MASK_KINDS, MODEL_NAMES, TABLE_1
from arcnn.predict import predict_image
from arcnn.workshop.own_data.score import main, read_results

SIZE = (40, 40)


def rle(mask: np.ndarray) -> dict:
    return encode(np.asarray(mask, dtype=bool)[None])[0]


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
    size = dict(zip(("height", "width"), SIZE, strict=True))
    return {"image_id": image_id, **size, "annotations": list(objects)}


def detected(box: tuple, hidden: float = 0.0, score: float = 0.5, image_id: int = 7, category=0):
    drawn = an_object(box, hidden)
    return {
        "image_id": image_id,
        "category_id": category,
        "score": score,
        "segmentation": drawn["segmentation"],
        "visible_mask": drawn["visible_mask"],
        "occlusion_mask": rle(decode_masks(drawn)["occlusion"]),
    }


BOXES = [(0, 0, 10, 10), (12, 0, 10, 10), (24, 0, 10, 10)]
ONE_HIDDEN = a_record(an_object(BOXES[0], 0.3), an_object(BOXES[1]), an_object(BOXES[2]))
PERFECT = [detected(BOXES[0], 0.3), detected(BOXES[1], score=0.6), detected(BOXES[2], score=0.7)]
FALSE_POSITIVES = [  # box, share that it claims to be hidden, occluded AP
    ((0, 25, 10, 10), 0.0, 100),
    ((0, 25, 10, 10), 0.5, 50),
    ((0, 25, 0, 0), 0.0, 50),  # an empty mask has no visible fraction
]


# --- by hand ------------------------------------------------------------------------------------
def test_perfect_predictions_by_hand():
    metrics = evaluate([ONE_HIDDEN], PERFECT, 1)
    assert tuple(metrics) == ALL_TASKS
    for task in ("amodal", "visible", "occluded", "occluded@0.25", "occlusion"):
        assert metrics[task]["AP"] == pytest.approx(100), task
    # The hidden object has a rate of 0.3.
    assert metrics["occluded@0.40"]["AP"] is None and "0.40" in metrics["occluded@0.40"]["note"]
    # The two detections of unoccluded objects come first: precision 1/3 at full recall.
    assert metrics["occluded_strict"]["AP"] == pytest.approx(100 / 3)
    amodal = metrics["amodal"]
    # One detection per image and class finds one of three objects.
    assert amodal["AR@1"] == pytest.approx(100 / 3) and amodal["AR@10"] == pytest.approx(100)
    assert amodal["APs"] == pytest.approx(100) and amodal["APm"] is amodal["APl"] is None


@pytest.mark.parametrize(("box", "hidden", "expected"), FALSE_POSITIVES)
def test_false_positive_counts_in_the_occluded_protocol_unless_it_claims_to_be_visible(
    box: tuple, hidden: float, expected: float
):
    """The example of the protocol: one occluded object of three, one more detection on top."""
    extra = detected(box, hidden, score=0.9)
    assert evaluate([ONE_HIDDEN], [*PERFECT, extra], 1)["occluded"]["AP"] == pytest.approx(expected)


def test_mean_is_over_classes_that_have_objects():
    record = a_record(an_object(BOXES[0]), an_object(BOXES[1], category=2))
    metrics = evaluate([record], [detected(BOXES[0])], 3, class_names=["cup", "fork", "plate"])
    classes = metrics["amodal"]["per_class"]
    assert classes["cup"]["AP"] == pytest.approx(100)
    assert classes["fork"]["AP"] is None
    assert classes["plate"]["AP"] == 0
    assert metrics["amodal"]["AP"] == pytest.approx(50)
    assert "note" not in metrics["amodal"]  # which would say that there is no object


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


def assert_same(metrics: dict, expected: dict, task: str) -> None:
    for metric, value in expected.items():
        assert metrics[task][metric] == pytest.approx(value, abs=1e-9), (task, metric)


def assert_same_as_peer(records: list, predictions: list, num_classes: int) -> dict:
    metrics = evaluate(records, predictions, num_classes)
    for task in TASKS:
        assert_same(metrics, peer_evaluate(records, predictions, num_classes, task), task)
    return metrics


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools(seed: int, monkeypatch):
    """The paper's tasks, and what stands beside them: other rates, the strict reading, sizes."""
    records, predictions = random_case(seed)
    sizes = {"s": (0, 60), "m": (60, 120), "l": (120, 1e5)}  # the objects here are small
    monkeypatch.setattr(protocol, "SIZES", sizes)
    metrics = assert_same_as_peer(records, predictions, 3)
    for rate in (0.25, 0.40):
        expected = peer_evaluate(records, predictions, 3, "occluded", rate=rate)
        assert_same(metrics, expected, f"occluded@{rate:.2f}")

    def stays(annotation: dict) -> bool:
        return annotation["iscrowd"] or 1 - annotation["occlusion_rate"] <= 0.85

    occluded = [r | {"annotations": list(filter(stays, r["annotations"]))} for r in records]
    expected = peer_evaluate(occluded, predictions, 3, "amodal")
    assert_same(metrics, expected, "occluded_strict")
    for task, (size, limits) in itertools.product(("amodal", "visible"), sizes.items()):
        expected = peer_evaluate(records, predictions, 3, task, areas=limits)
        of_size = {f"AP{size}": expected["AP"], f"AR{size}": expected["AR@100"]}
        assert_same(metrics, of_size, task)


@pytest.mark.parametrize("task", ["amodal", "visible", "occluded", "occluded_strict"])
def test_outcomes_of_single_detections_are_those_that_the_numbers_come_from(task: str):
    for seed in range(8):
        records, predictions = random_case(seed)
        evaluation = Evaluation(records, predictions, 3)
        matches = evaluation.matches[task]
        for score in (0.0, 0.4):
            taken = matches.score >= score
            outcomes = [
                image_outcomes(evaluation, predictions, record, task, score) for record in records
            ]
            true, false, ignored, missed = (sum(map(len, k)) for k in zip(*outcomes, strict=True))
            assert true == (matches.true[0] & taken).sum()
            assert false == (matches.false[0] & taken).sum()
            assert ignored == taken.sum() - true - false
            assert missed == matches.positives.sum() - true
            for outcome, record in zip(outcomes, records, strict=True):
                assert all(entry["image_id"] == record["image_id"] for entry in outcome.true)
        scores, precision, recall = pooled_curve(matches)
        last = (scores >= 0.4).sum() - 1
        assert precision[last] == pytest.approx(true / (true + false))
        assert recall[last] == pytest.approx(true / matches.positives.sum())


def test_a_true_positive_takes_the_object_that_it_overlaps_most():
    near, far = an_object((10, 10, 20, 20)), an_object((13, 10, 20, 20))
    found = [detected((12, 10, 20, 20), score=0.9)]
    record = a_record(near, far)
    left = image_outcomes(Evaluation([record], found, 1), found, record, "amodal", 0.5).missed
    assert left == [near]


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
    assert_same_as_peer([record], predictions, 1)


@pytest.mark.parametrize(("before", "recall"), [(9, 100), (99, 100), (100, 0)])
def test_a_hundred_detections_of_an_image_and_class_count_and_no_more(before: int, recall: int):
    record, miss = a_record(an_object(BOXES[0])), detected((0, 25, 10, 10), score=0.9)
    found = [*[miss] * before, detected(BOXES[0], score=0.1)]
    metrics = evaluate([record], found, 1, tasks=["amodal"])["amodal"]
    assert metrics["AR@100"] == pytest.approx(recall)
    assert metrics["AR@10"] == pytest.approx(100 if before < 10 else 0)
    assert metrics["AP"] == pytest.approx(recall / (before + 1))


def test_areas_of_more_masks_than_pycocotools_takes_at_once() -> None:
    widths = [k % 39 + 1 for k in range(600)]
    assert protocol._areas([rle(rectangle(0, 0, w, 1)) for w in widths]).tolist() == widths


def test_a_hidden_part_of_one_pixel_is_found() -> None:
    box = (3, 3, 2, 1)
    record = a_record(an_object(box, 0.5))
    assert evaluate([record], [detected(box, 0.5)], 1)["occlusion"]["AP"] == pytest.approx(100)


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
    assert 0 < expected["AP"] < 100
    assert_same(evaluate([record], predictions, 1), expected, "occlusion")


def test_equal_to_pycocotools_on_real_records(real_data):
    """Real records, and predictions that are their masks moved a little."""
    file = real_data / "cocoa_cls_val100_records" / "COCO_amodal_val2014_with_classes.json"
    truth = load_annotations(file, real_data)
    records, rng, predictions = truth.records[:25], np.random.default_rng(0), []
    for record, annotation in ((r, a) for r in records for a in r["annotations"]):
        masks = decode_masks(annotation)
        for _ in range(2):
            shift = tuple(rng.integers(-8, 9, 2).tolist())
            amodal, visible = (np.roll(masks[k], shift, (0, 1)) for k in ("amodal", "visible"))
            moved = {"segmentation": rle(amodal), "visible_mask": rle(visible)}
            found = {"image_id": record["image_id"], "category_id": annotation["category_id"]}
            predictions.append(found | moved | {"score": float(rng.random())})
    metrics = assert_same_as_peer(records, predictions, len(truth.class_names))
    assert 5 < metrics["amodal"]["AP"] < 95


def test_the_settings_are_cocos() -> None:
    """Three hand-written lines, against the ones in pycocotools."""
    params = Params("segm")
    limits = {name[0]: tuple(r) for name, r in zip(params.areaRngLbl, params.areaRng, strict=True)}
    assert limits.pop("a") and limits == protocol.SIZES
    assert list(MAX_DETECTIONS) == params.maxDets
    assert TASKS == ("amodal", "visible", "occluded")


def test_precision_ends_where_pycocotools_ends() -> None:
    """1 / (1 + 2^-52), which is not quite 1."""
    one = Evaluation([a_record(an_object(BOXES[0]))], [detected(BOXES[0])], 1)
    curves = one.matches["amodal"].curves(0)
    assert set(curves.precision.flat) == {1 / (1 + np.spacing(1))} != {1.0}


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


AP = {"AP of the amodal mask": ("amodal", "AP")}


def test_bootstrap_intervals():
    records, predictions = random_case(2, images=20)
    evaluation = Evaluation(records, predictions, 3)
    draws = image_draws(evaluation, AP, samples=60)
    interval = intervals(draws)["AP of the amodal mask"]
    assert interval.value == pytest.approx(evaluation.metric("amodal")["AP"])
    assert interval.low < interval.value < interval.high
    pd.testing.assert_frame_equal(image_draws(evaluation, AP, samples=60), draws)
    with pytest.raises(KeyError, match="AR"):
        image_draws(evaluation, {"amodal AR": ("amodal", "AR")}, samples=0)


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


@pytest.mark.parametrize(
    ("key", "lost"),
    [
        ("visible_mask", {"visible", "occluded", "occluded@0.25", "occluded@0.40", "occlusion"}),
        ("occlusion_mask", {"occlusion"}),
    ],
)
def test_a_missing_mask_costs_the_tasks_that_need_it_and_no_other(key: str, lost: set):
    lacking = [{k: v for k, v in PERFECT[1].items() if k != key}, PERFECT[0], PERFECT[2]]
    metrics = evaluate([ONE_HIDDEN], lacking, 1)
    for task in lost:
        assert metrics[task]["AP"] is None
        assert f"1 of 3 predictions have no {key}" in metrics[task]["note"]
    for task in {"amodal", "visible", "occluded", "occluded_strict"} - lost:
        assert metrics[task]["AP"] is not None


def test_no_predictions_and_no_objects():
    metrics = evaluate([ONE_HIDDEN], [], 1)
    assert metrics["amodal"]["AP"] == metrics["visible"]["AP"] == metrics["occluded"]["AP"] == 0
    assert metrics["amodal"]["AR@100"] == 0
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


def test_command(files):
    truth, predictions, p, out, call = files
    assert main([*call, "--bootstrap", "5"]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["amodal"]["AP"] == pytest.approx(100)
    assert metrics["amodal"]["interval_95"]["AP"] == pytest.approx([100, 100])
    assert set(metrics["amodal"]["per_class"]) == set(truth.class_names)
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
        ('[{"image_id": 1, ', "is not whole"),
        ('{"annotations": []}', "not a COCO result list"),
        ('[{"image_id": 1, "category_id": 999, "score": 1}]', "no class 999"),
        ('[{"image_id": [1], "category_id": 1, "score": 1}]', "no such image"),
        ('[{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 5]]}]', "polygons won't do"),
        ('[{"image_id": 1, "category_id": 1, "segmentation": {"size": null}}]', "prediction 0"),
    ],
)
def test_command_writes_nothing_on_bad_input(files, capsys, text: str, message: str):
    _, _, p, out, call = files
    out.write_text("before")
    p.write_text(text)
    assert main(call) == 1
    assert message in capsys.readouterr().err
    assert out.read_text() == "before"


def test_command_wants_a_ground_truth_and_a_number_of_draws(files, capsys):
    call, out = files[-1], files[-2]
    for draws in ("-1", "1000000000"):
        with pytest.raises(SystemExit):
            main([*call, "--bootstrap", draws])
    assert main([*call[2:], "--ground-truth", "nowhere.json"]) == 1
    assert "there is no ground truth nowhere.json" in capsys.readouterr().err
    for read in (call[1], call[3]):
        before = Path(read).read_bytes()
        assert main([*call[:4], "--output", read]) == 1
        assert f"{read} is read, and would be lost" in capsys.readouterr().err
        assert Path(read).read_bytes() == before
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


def test_the_paper_calls_an_object_occluded_from_a_rate_of_fifteen_percent() -> None:
    """The number itself, not the constant: rates of 0.139 and 0.167 on either side of it."""
    box, (less, more) = (0, 0, 36, 10), (5 / 36, 6 / 36)
    below, above = (a_record(an_object(box, h), image_id=k) for k, h in enumerate((less, more)))
    found_below, found_above = (detected(box, h, image_id=k) for k, h in enumerate((less, more)))
    assert evaluate([below], [found_below], 1)["occluded"]["AP"] is None
    assert evaluate([below, above], [found_above], 1)["occluded"]["AP"] == pytest.approx(100)
    assert evaluate([below, above], [found_below], 1)["occluded"]["AP"] == 0


# --- inference ----------------------------------------------------------------------------------
class Guess(torch.nn.Module):
    """A model that sees one object, the same in every image."""

    modes: list[bool] = []

    def forward(self, inputs: list[dict]) -> list[dict]:
        self.modes = [*self.modes, self.training or torch.is_grad_enabled()]
        outputs = []
        for example in inputs:
            instances = Instances((example["height"], example["width"]))
            instances.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 60.0]]))
            instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
            for kind in MASK_KINDS:
                instances.set(f"pred_{kind}_masks", torch.ones(1, 28, 28))
            outputs.append({"instances": instances})
        return outputs


def test_predictions_are_those_of_the_test_split(tiny_config):
    cfg = tiny_config()
    model = Guess().train()
    predictions = predict(cfg, model)
    assert [p["image_id"] for p in predictions] == [
        r["image_id"] for r in split_records(cfg, "val")
    ]
    assert model.modes == [False] * 4 and model.training


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
    assert [record["image_id"] for record, _ in chosen] == [0, 1, 6, 7]
    assert chosen[0][1].iou == 1 > chosen[-1][1].iou
    assert len(best_and_worst(images, shifts, count=4)) == 8


def test_pieces_are_scored_on_the_hidden_objects_that_each_model_found():
    exact, piece = detected(BACK, 0.5, image_id=1, category=1), MASK_KEYS["occlusion"]
    nothing = exact | {piece: detected((0, 0, 0, 0), image_id=1)["segmentation"]}
    bare = {key: value for key, value in exact.items() if key != piece}
    models = {"all": [exact], "nothing": [nothing], "bare": [bare], "missed": []}
    table = piece_table(occluded_examples([PAIR], models)).set_index("model")
    assert list(table.index) == ["all", "nothing", "bare"]
    assert (table[["amodal", "visible"]] == 1).all(axis=None)
    assert table["occlusion"].fillna(-1).tolist() == [1, 0, -1]
    assert table["empty"].tolist() == [False, True, True]
    assert (table["hidden pixels"] == 24 * 12).all() and (table["rate"] == 0.5).all()
    slightly = a_record(an_object(BACK, 0.1, category=1), image_id=1)  # below Table 1's rate
    (found,) = occluded_examples([slightly], {"all": [exact]})
    assert found.matches["all"] and piece_table([found]).empty


def test_what_the_occluded_protocol_leaves_out_is_counted():
    unsure = detected(BACK, 0.1, image_id=1, category=1)
    visible_only = detected(BACK, 0.5, image_id=1, category=1)
    assert ignored_shares([PAIR], [visible_only, unsure, unsure, unsure]) == (0.5, 0.75)
    assert ignored_shares([], []) == (0, 0)


def test_predictions_are_read_from_the_runs_that_exist(tmp_path):
    models = ("arcnn", "arcnn_add", "orcnn")
    with pytest.raises(FileNotFoundError, match="05_evaluate"):
        load_predictions(tmp_path, "tabletop", models)
    for model in ("arcnn", "orcnn"):
        run = run_folder(tmp_path, "tabletop", model, 0)
        run.mkdir(parents=True)
        (run / "predictions.json").write_text(json.dumps([detected(BACK, 0.5)]))
    by_model = load_predictions(tmp_path, "tabletop", models)
    assert list(by_model) == ["orcnn", "arcnn"]  # the paper's order
    for old in ('[{"category_id": 1}]', '{"images": []}', "[[1]]", "5", "[{", "[" * 100_000):
        (run / "predictions.json").write_text(old)
        with pytest.raises(ValueError, match=r"orcnn.*predictions.json.*run notebook 05_evaluate"):
            load_predictions(tmp_path, "tabletop", models)


RLE_OF_BACK = detected(BACK, 0.5)["segmentation"]
HUGE = {"size": [20_000, 20_000], "counts": [400_000_000]}


@pytest.mark.parametrize(
    "change",
    [
        {"segmentation": RLE_OF_BACK | {"counts": counts}}
        for counts in (*("", "oooooo7", "0" * 9, "o", "\ud800"), [1], [-1, 7], 5, None, ["a"])
    ]
    + [
        {"segmentation": RLE_OF_BACK | {"size": size}}
        for size in (None, [], [-1, -1], "ab", [1.5, 2], [True, 1], [0, 0], [[1], [2]])
    ]
    + [{"segmentation": mask} for mask in (None, [[0, 0, 9, 0, 9, 9]], 5, {})]
    + [dict.fromkeys(MASK_KEYS.values(), HUGE)]
    + [{"occlusion_mask": None}, {"visible_mask": {"size": [1, 1], "counts": "10"}}]
    + [{"category_id": [1]}, {"image_id": {}}, {"score": "a"}, {"score": None}],
    ids=str,
)
def test_predictions_that_somebody_sent_are_checked_where_they_are_read(change, tmp_path):
    file = run_folder(tmp_path, "tabletop", "orcnn", 0) / "predictions.json"
    file.parent.mkdir(parents=True)
    sound = detected(BACK, 0.5)
    file.write_text(json.dumps([sound, sound | change]))
    with pytest.raises(ValueError, match=r"predictions.json is .* \(entry 1: .*: run notebook 05"):
        load_predictions(tmp_path, "tabletop", ["orcnn"])


def test_a_mask_of_no_pixels_in_a_run_is_written_anew_and_another_size_matches_nothing(tmp_path):
    file = run_folder(tmp_path, "tabletop", "orcnn", 0) / "predictions.json"
    file.parent.mkdir(parents=True)
    height, width = SIZE
    smaller = {"size": [1, 1], "counts": "01"}
    listed = {"size": [*SIZE], "counts": [0, 1] + [0, 0] * 3 + [0, height * width - 1]}
    entries = [
        detected(BACK, 0.5) | dict.fromkeys(MASK_KEYS.values(), m) for m in (smaller, listed)
    ]
    file.write_text(json.dumps(entries))
    (found,) = load_predictions(tmp_path, "tabletop", ["orcnn"]).values()
    assert mask_util.decode(found[1]["segmentation"]).all()
    assert match_image(PAIR["annotations"], found[:1]) == {}


def test_the_masks_of_a_prediction_and_their_overlap():
    masks = prediction_masks(detected(BACK, 0.5))
    assert set(masks) == set(MASK_KINDS)
    assert (masks["amodal"] == (masks["visible"] | masks["occlusion"])).all()
    assert mask_iou(masks["amodal"], masks["visible"]) == pytest.approx(0.5)
    assert mask_iou(masks["visible"], masks["occlusion"]) == 0
    nothing = np.zeros(SIZE, dtype=bool)
    assert mask_iou(nothing, nothing) == 1


def test_another_name_for_a_model_is_the_same_protocol(monkeypatch):
    before = protocol_version()
    monkeypatch.setitem(MODEL_NAMES, "new", "New")
    assert protocol_version() == before
    monkeypatch.setattr(protocol, "OCCLUSION_RATE", 0.2)
    assert protocol_version() != before


def test_the_version_covers_what_decides_a_number():
    named = {"protocol", "matching", "masks", "predictions", "uncertainty", "evaluator"}
    assert {source.stem for source in protocol.SOURCES} == named
    assert all(source.is_file() for source in protocol.SOURCES)


def test_an_image_of_ones_own_is_seen_as_one_of_the_data_set(tiny_config):
    cfg = tiny_config("arcnn", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    network = build_model(cfg).eval()
    record = split_records(cfg, "val")[0]
    image = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    of_image = [p | {"image_id": 0} for p in predict(cfg, network)
                if p["image_id"] == record["image_id"]]  # fmt: skip
    assert of_image and predict_image(cfg, network, image) == of_image
    larger = np.asarray(Image.fromarray(image).resize((400, 300)))
    assert all(p["segmentation"]["size"] == [300, 400] for p in predict_image(cfg, network, larger))
