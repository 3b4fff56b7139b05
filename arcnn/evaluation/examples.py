"""Single objects and what the models made of them: matching, and the choice of what is shown.

Here an object is matched to at most one detection, by its amodal mask, for a look at both side by
side. AP and AR come from COCO's matching instead (:mod:`arcnn.evaluation.matching`).
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util

from arcnn.data.image_files import MAX_PIXELS
from arcnn.errors import InputError, MissingError
from arcnn.evaluation.predictions import check_mask
from arcnn.evaluation.protocol import visible_fraction
from arcnn.files import is_finite, is_whole, read_json, run_folder
from arcnn.names import MASK_KEYS, MASK_KINDS, MODEL_NAMES, OCCLUSION_RATE

NEEDED = ("image_id", "category_id", "score", MASK_KEYS["amodal"])  # in every entry
MIN_SCORE = 0.3  # of a detection that is shown
MIN_IOU = 0.5  # of a match; COCO's loosest threshold


class Match(NamedTuple):
    """A prediction and the IoU of its amodal mask with that of the object it was matched to."""

    prediction: dict
    iou: float


class Example(NamedTuple):
    """An object of the ground truth and, by model, its match; ``None`` where it was missed."""

    record: dict
    annotation: dict
    matches: dict[str, Match | None]
    hidden_share: float  # hidden area as a share of the image, in [0, 1]
    why: str = ""  # it was chosen

    def found_by(self) -> int:
        """How many models found it."""
        return sum(match is not None for match in self.matches.values())

    def disagreement(self) -> float:
        """1 - mean IoU of the amodal masks between two models that found it; 0 below two."""
        masks = [m.prediction["segmentation"] for m in self.matches.values() if m]
        if len(masks) < 2:
            return 0.0
        ious = mask_util.iou(masks, masks, [0] * len(masks))
        return float(1 - ious[np.triu_indices(len(masks), k=1)].mean())


def load_predictions(
    results: Path, dataset: str, models: Sequence[str], seed: int = 0, *, split: str = ""
) -> dict[str, list[dict]]:
    """Of those of ``models`` that have a run in ``results``, the predictions with contiguous class
    ids, in the paper's column order.

    Args:
        split: registered name of the split that they are of, by default ``<dataset>_val``.

    Raises:
        FileNotFoundError: no model has a run; says which notebook makes them.
        ValueError: a file of another version, or cut off.
    """
    files = {m: run_folder(results, dataset, m, seed) / "predictions.json" for m in models}
    order = [m for m in MODEL_NAMES if m in files] + [m for m in files if m not in MODEL_NAMES]
    by_model = {m: _read_predictions(files[m]) for m in order if files[m].is_file()}
    if not by_model:
        raise MissingError(
            f"There is no {' nor '.join(map(str, files.values()))}: run notebooks 04_train and "
            "05_evaluate for at least one model first."
        )
    # The files have the class ids of the annotation file, the records contiguous ones.
    metadata = MetadataCatalog.get(split or f"{dataset}_val")
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    for entry in itertools.chain(*by_model.values()):
        entry["category_id"] = contiguous.get(entry["category_id"], entry["category_id"])
    return by_model


def _read_predictions(file: Path) -> list[dict]:
    cure = "run notebook 05_evaluate for it again."
    entries = read_json(file, cure, {"type": "array"})
    for n, entry in enumerate(entries):
        try:
            _check_entry(entry)
        except (ValueError, TypeError, LookupError) as error:
            why = f"entry {n}: {error!s:.200}"
            raise InputError(f"{file} is not what the kit writes ({why}): {cure}") from error
    return entries


def _check_entry(entry: dict) -> None:
    """Look at a prediction; at its masks too, if it may be shown: that takes a while.

    All have one size; if it is not their image's, they match nothing there.
    """
    if missing := [key for key in NEEDED if key not in entry]:
        raise ValueError(f"no {', '.join(missing)}")
    image, category, score, amodal = (entry[key] for key in NEEDED)
    if not (isinstance(image, int | str) and is_whole(category) and is_finite(score)):
        raise ValueError("an image, class or score that is none")
    if score >= MIN_SCORE:
        height, width = map(operator.index, amodal["size"])
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ValueError(f"a mask of {height} x {width} pixels")
        for key in entry.keys() & MASK_KEYS.values():
            entry[key] = check_mask(entry[key], key, [height, width])


def prediction_masks(prediction: dict) -> dict[str, np.ndarray]:
    """The three masks of a prediction by kind, bool ``(H, W)`` each; empty where it has none."""
    masks = {
        k: mask_util.decode(prediction[key]) for k, key in MASK_KEYS.items() if key in prediction
    }
    return {k: masks.get(k, 0 * masks["amodal"]).astype(bool) for k in MASK_KEYS}


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 if both are empty."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def match_image(annotations: Sequence[dict], predictions: Sequence[dict]) -> dict[int, Match]:
    """Match the predictions of one image to its objects, one to one, best overlap first: those with
    a score of :data:`MIN_SCORE` to objects of their class, at an IoU of :data:`MIN_IOU` or more.

    Returns:
        Matches by position in ``annotations``.
    """
    predictions = [p for p in predictions if p["score"] >= MIN_SCORE]
    if not annotations or not predictions:
        return {}
    ious = mask_util.iou(
        [p["segmentation"] for p in predictions],
        [a["segmentation"] for a in annotations],
        [0] * len(annotations),
    )  # (predictions, objects)
    classes = ([entry["category_id"] for entry in side] for side in (predictions, annotations))
    ious = np.where(np.equal.outer(*classes), ious, 0.0)
    matches = {}
    while ious.max() >= MIN_IOU:
        p, a = np.unravel_index(ious.argmax(), ious.shape)
        matches[int(a)] = Match(predictions[p], float(ious[p, a]))
        ious[p, :], ious[:, a] = -1, -1
    return matches


def occluded_examples(
    records: Sequence[dict], predictions: Mapping[str, Sequence[dict]]
) -> list[Example]:
    """All objects with a hidden part and what each model made of them, largest hidden part first.

    Raises:
        ValueError: no object is occluded at all.
    """
    found = {model: _matched(records, entries) for model, entries in predictions.items()}
    examples = []
    for n, record in enumerate(records):
        for k, annotation in enumerate(_objects(record)):
            amodal, visible = (annotation[MASK_KEYS[kind]] for kind in ("amodal", "visible"))
            hidden = int(mask_util.area(amodal)) - int(mask_util.area(visible))
            if hidden > 0:
                share = hidden / (record["height"] * record["width"])
                matches = {model: by_object.get((n, k)) for model, by_object in found.items()}
                examples.append(Example(record, annotation, matches, share))
    if not examples:
        raise InputError("no object of these records is occluded: there is nothing to compare")
    return sorted(examples, key=lambda e: e.hidden_share, reverse=True)


def choose_examples(examples: Sequence[Example], *, count: int = 4) -> list[Example]:
    """Figure 4's objects, by a rule that doesn't look at which model did well.

    The first half are those with the largest hidden part, the second half those on whose amodal
    masks the models differ most; at most one per image. Objects that all models found come first,
    since masks can only be compared where there are some; then those that fewer found.
    """
    largest = sorted(examples, key=lambda e: (e.found_by(), e.hidden_share), reverse=True)
    differ = sorted(examples, key=lambda e: (e.found_by(), e.disagreement()), reverse=True)
    differ = [e for e in differ if e.disagreement() > 0]
    chosen: dict[int, Example] = {}
    for why, ranked, until in (
        ("largest hidden part", largest, (count + 1) // 2),
        ("models differ most", differ, count),
        ("largest hidden part", largest, count),
    ):
        for example in ranked:
            if len(chosen) >= until:
                break
            chosen.setdefault(example.record["image_id"], example._replace(why=why))
    return list(chosen.values())


def piece_ious(prediction: dict, annotation: dict) -> dict[str, float]:
    """IoU of the three masks with an object's, by kind, in [0, 1]; NaN where the object has no such
    part or the prediction no such mask."""
    amodal, visible = (
        mask_util.decode(annotation[MASK_KEYS[kind]]).astype(bool) for kind in MASK_KINDS[:2]
    )
    true = {"amodal": amodal, "visible": visible, "occlusion": amodal & ~visible}
    return {
        kind: mask_iou(mask_util.decode(prediction[MASK_KEYS[kind]]).astype(bool), mask)
        if MASK_KEYS[kind] in prediction and mask.any()
        else np.nan
        for kind, mask in true.items()
    }


def piece_table(examples: Sequence[Example]) -> pd.DataFrame:
    """The objects hidden by :data:`OCCLUSION_RATE` or more that a model found, a row for each and
    each model: ``model``, ``rate``, IoU of the three masks by kind, ``hidden pixels`` of the object
    and whether the hidden piece that was predicted is ``empty``."""
    rows = []
    for example in examples:
        a, (height, width) = example.annotation, example.annotation["segmentation"]["size"]
        hidden = round(example.hidden_share * height * width)
        for model, match in example.matches.items():
            if match is None or a["occlusion_rate"] < OCCLUSION_RATE:
                continue
            piece = match.prediction.get(MASK_KEYS["occlusion"])
            empty = piece is None or not mask_util.area(piece)
            row = {"model": model, "rate": a["occlusion_rate"], "hidden pixels": hidden}
            rows.append(row | {"empty": bool(empty)} | piece_ious(match.prediction, a))
    return pd.DataFrame(rows, columns=["model", "rate", "hidden pixels", "empty", *MASK_KINDS])


def ignored_shares(records: Sequence[dict], predictions: Sequence[dict]) -> tuple[float, float]:
    """What the occluded protocol leaves out: the share, in [0, 1], of the objects that are hidden
    by less than :data:`OCCLUSION_RATE`, and of the predictions with a visible mask that claim to
    be, and are ignored if they match nothing."""
    rates = [a["occlusion_rate"] for r in records for a in r["annotations"]]
    claims = [1 - visible_fraction(p) for p in predictions if MASK_KEYS["visible"] in p]
    few, forgiven = (np.less(k, OCCLUSION_RATE) for k in (rates, claims))
    return float(few.mean()) if few.size else 0.0, float(forgiven.mean()) if forgiven.size else 0.0


def found_rates(examples: Sequence[Example]) -> dict[str, float]:
    """Share of the objects that each model found, in [0, 1]: who was left out of the picture?"""
    models = examples[0].matches
    return {m: sum(e.matches[m] is not None for e in examples) / len(examples) for m in models}


def best_and_worst(
    records: Sequence[dict], predictions: Sequence[dict], *, count: int = 3
) -> list[tuple[dict, Match]]:
    """Of one model, the matches of occluded objects that overlap them most, and least, ``count`` of
    each kind, best first; each with its record."""
    found = [
        (records[n], match)
        for (n, k), match in _matched(records, predictions).items()
        if _objects(records[n])[k]["occlusion_rate"] >= OCCLUSION_RATE
    ]
    found.sort(key=lambda pair: pair[1].iou, reverse=True)
    return found if len(found) <= 2 * count else found[:count] + found[-count:]


def _matched(records: Sequence[dict], predictions: Sequence[dict]) -> dict[tuple[int, int], Match]:
    """:func:`match_image` of all images; by position of the record, and in its objects."""
    by_image: dict[int, list[dict]] = {}
    for prediction in predictions:
        by_image.setdefault(prediction["image_id"], []).append(prediction)
    return {
        (n, k): match
        for n, record in enumerate(records)
        for k, match in match_image(_objects(record), by_image.get(record["image_id"], [])).items()
    }


def _objects(record: dict) -> list[dict]:
    return [a for a in record["annotations"] if not a["iscrowd"]]
