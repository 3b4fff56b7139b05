"""Predictions beside the ground truth: Figure 4, from the runs' ``predictions.json`` alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from pycocotools import mask as mask_util

from arcnn.data import decode_masks
from arcnn.files import run_folder
from arcnn.names import MODEL_NAMES, model_name
from arcnn.visualization.masks import (
    Masks,
    crop_window,
    draw_masks,
    load_image,
    mask_legend,
    prediction_masks,
    show_image,
)
from arcnn.visualization.pieces import corner_text, jigsaw_rows, not_found
from arcnn.visualization.style import figure_function, percent

MIN_SCORE = 0.3
MIN_IOU = 0.5  # COCO's loosest threshold


class Match(NamedTuple):
    """A prediction and the IoU of its amodal mask with that of the object it was matched to."""

    prediction: dict
    iou: float


class Example(NamedTuple):
    """An object of the ground truth and, by model, its match; ``None`` where it was not found."""

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
    """The predictions of those of ``models`` that have a run, in the paper's column order.

    Args:
        split: registered name of the split that they are of, by default ``<dataset>_val``.

    Raises:
        FileNotFoundError: none of them has; says which notebook makes them.
    """
    files = {m: run_folder(results, dataset, m, seed) / "predictions.json" for m in models}
    order = [m for m in MODEL_NAMES if m in files] + [m for m in files if m not in MODEL_NAMES]
    found = {m: json.loads(files[m].read_text()) for m in order if files[m].is_file()}
    # The files have the class ids of the annotation file, the records contiguous ones.
    metadata = MetadataCatalog.get(split or f"{dataset}_val")
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    for entry in (entry for entries in found.values() for entry in entries):
        if "category_id" in entry:
            entry["category_id"] = contiguous.get(entry["category_id"], entry["category_id"])
    if not found:
        wanted = " nor ".join(str(file) for file in files.values())
        raise FileNotFoundError(
            f"There is no {wanted}: run notebooks 04_train and 05_evaluate for at least one model "
            "first."
        )
    return found


def match_image(
    annotations: Sequence[dict],
    predictions: Sequence[dict],
    *,
    min_iou: float = MIN_IOU,
    min_score: float = MIN_SCORE,
) -> dict[int, Match]:
    """Match the predictions of one image to its objects, one to one, best overlap first.

    Args:
        annotations: of one internal record.
        predictions: of the same image.
        min_iou: least IoU of the amodal masks.
        min_score: least score, in [0, 1].

    Returns:
        Matches by position in ``annotations``; only objects of the predicted class are matched.
    """
    predictions = [p for p in predictions if p["score"] >= min_score]
    if not annotations or not predictions:
        return {}
    ious = mask_util.iou(
        [p["segmentation"] for p in predictions],
        [a["segmentation"] for a in annotations],
        [0] * len(annotations),
    )  # (predictions, objects)
    same_class = np.equal.outer(
        [p["category_id"] for p in predictions], [a["category_id"] for a in annotations]
    )
    ious = np.where(same_class, ious, 0.0)
    matches = {}
    while ious.max() >= min_iou:
        p, a = np.unravel_index(ious.argmax(), ious.shape)
        matches[int(a)] = Match(predictions[p], float(ious[p, a]))
        ious[p, :], ious[:, a] = -1, -1
    return matches


def occluded_examples(
    records: Sequence[dict],
    predictions: Mapping[str, Sequence[dict]],
    *,
    min_iou: float = MIN_IOU,
    min_score: float = MIN_SCORE,
) -> list[Example]:
    """All objects with a hidden part and what each model made of them, largest hidden part first.

    Args:
        records: internal records.
        predictions: by model, from :func:`load_predictions`.
        min_iou, min_score: see :func:`match_image`.

    Raises:
        ValueError: no object is occluded at all.
    """
    by_image: dict[str, dict[int, list[dict]]] = {model: {} for model in predictions}
    for model, found in predictions.items():
        for prediction in found:
            by_image[model].setdefault(prediction["image_id"], []).append(prediction)
    examples = []
    for record in records:
        annotations = [a for a in record["annotations"] if not a["iscrowd"]]
        matches = {
            model: match_image(
                annotations,
                found.get(record["image_id"], []),
                min_iou=min_iou,
                min_score=min_score,
            )
            for model, found in by_image.items()
        }
        for k, annotation in enumerate(annotations):
            hidden = int(mask_util.area(annotation["segmentation"])) - int(
                mask_util.area(annotation["visible_mask"])
            )
            share = hidden / (record["height"] * record["width"])
            if hidden > 0:
                own = {m: matches[m].get(k) for m in matches}
                examples.append(Example(record, annotation, own, share))
    if not examples:
        raise ValueError("no object of these records is occluded: there is nothing to compare")
    return sorted(examples, key=lambda e: e.hidden_share, reverse=True)


def choose_examples(examples: Sequence[Example], *, count: int = 4) -> list[Example]:
    """Figure 4's objects, by a rule that doesn't look at which model did well.

    The first half are those with the largest hidden part, the second half those on whose amodal
    masks the models differ most; at most one per image. Objects that all models found come first,
    since masks can only be compared where there are some; then those that fewer found.

    Args:
        examples: from :func:`occluded_examples`.
    """
    largest = sorted(examples, key=lambda e: (e.found_by(), e.hidden_share), reverse=True)
    differ = sorted(examples, key=lambda e: (e.found_by(), e.disagreement()), reverse=True)
    chosen: dict[int, Example] = {}
    for why, ranked, until in (
        ("largest hidden part", largest, (count + 1) // 2),
        ("models differ most", differ, count),
        ("largest hidden part", largest, count),
    ):
        for example in ranked:
            if len(chosen) >= until:
                break
            if why != "models differ most" or example.disagreement() > 0:
                chosen.setdefault(example.record["image_id"], example._replace(why=why))
    return list(chosen.values())


def found_rates(examples: Sequence[Example]) -> dict[str, float]:
    """Share of the objects that each model found, in [0, 1]: who was left out of the picture?"""
    models = examples[0].matches
    return {m: sum(e.matches[m] is not None for e in examples) / len(examples) for m in models}


def _row_label(example: Example, class_names: Sequence[str]) -> str:
    annotation = example.annotation
    name = class_names[annotation["category_id"]]
    label = f"{name}, {percent(annotation['occlusion_rate'])} hidden"
    return f"{label}\n({example.why})" if example.why else label


@figure_function
def figure4(examples: Sequence[Example], class_names: Sequence[str]) -> Figure:
    """The paper's Figure 4: rows are objects, columns the ground truth and the models.

    Visible and occluded parts are filled, the amodal contour is a line; the IoU of the amodal mask
    with the ground truth stands in the corner. An object that a model missed says "not found".

    Args:
        examples: from :func:`choose_examples`, one or more; all with the same models.
    """
    models = list(examples[0].matches)
    rows = []
    for example in examples:
        truth = decode_masks(example.annotation)
        found = {m: prediction_masks(k.prediction) for m, k in example.matches.items() if k}
        window = crop_window([truth["amodal"], *(m["amodal"] for m in found.values())], margin=0.2)
        rows.append((example, truth, found, window))
    aspects = [
        load_image(e.record)[w].shape[0] / load_image(e.record)[w].shape[1] for e, _, _, w in rows
    ]
    width = 10 / max(len(models) + 1, 3)
    figure, panels = plt.subplots(
        len(rows),
        len(models) + 1,
        figsize=(width * (len(models) + 1), sum(width * a + 0.08 for a in aspects) + 0.7),
        height_ratios=aspects,
        squeeze=False,
        layout="compressed",
    )
    for axes, title in zip(panels[0], ["ground truth", *map(model_name, models)], strict=True):
        axes.set_title(title)
    for line, (example, truth, found, window) in zip(panels, rows, strict=True):
        image = load_image(example.record)[window]
        draw_masks(line[0], image, [_cropped(truth, window)], alpha=0.5)
        line[0].set_ylabel(_row_label(example, class_names))
        for axes, model in zip(line[1:], models, strict=True):
            match = example.matches[model]
            if match is None:
                grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
                show_image(axes, (0.45 * grey + 0.55 * 255).astype(np.uint8))
                not_found(axes)
            else:
                draw_masks(axes, image, [_cropped(found[model], window)], alpha=0.5)
                corner_text(axes, f"IoU {match.iou:.2f}")
    mask_legend(figure)
    return figure


def _cropped(masks: Masks, window: tuple[slice, slice]) -> Masks:
    return {kind: mask[window] for kind, mask in masks.items()}


def figure4_jigsaw(example: Example, class_names: Sequence[str]) -> Figure:
    """Figure 4's second form: one object's pieces, a row for the truth and for every model.

    The IoU of each piece with that of the ground truth stands in its corner.
    """
    rows: dict[str, Masks | None] = {"ground truth": decode_masks(example.annotation)}
    for model, match in example.matches.items():
        rows[model_name(model)] = prediction_masks(match.prediction) if match else None
    title = _row_label(example, class_names).replace("\n", " ")
    return jigsaw_rows(load_image(example.record), rows, title=title)
