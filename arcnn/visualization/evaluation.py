"""What an evaluation's numbers mean: bars, curves, and the best and worst detections."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from arcnn.evaluation.matching import IOU_THRESHOLDS, RECALL_LEVELS
from arcnn.evaluation.protocol import OCCLUSION_LEVELS, TASKS, Evaluation
from arcnn.names import OCCLUSION_RATE
from arcnn.visualization.masks import draw_masks, load_image, prediction_masks
from arcnn.visualization.predictions import match_image
from arcnn.visualization.style import MASK_COLORS, figure_function

TASK_COLORS = dict(
    zip(TASKS, (MASK_COLORS[k] for k in ("amodal", "visible", "occlusion")), strict=True)
)
STRENGTHS = {"AP50": 0.35, "AP": 1.0, "AP75": 0.65}  # opacity


@figure_function
def ap_bars(metrics: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """AP50, AP and AP75 of the paper's three tasks.

    Args:
        metrics: from :func:`arcnn.evaluation.evaluate`.
    """
    figure, axes = plt.subplots(figsize=(6.5, 2.4))
    for row, task in enumerate(TASKS):
        for shift, (name, alpha) in zip((-0.27, 0, 0.27), STRENGTHS.items(), strict=True):
            value = metrics[task][name]
            shown = float("nan") if value is None else value
            axes.barh(row + shift, shown, 0.25, color=TASK_COLORS[task], alpha=alpha)
            text = name if value is None else f"{name} {value:.1f}"
            axes.text((value or 0) + 1, row + shift, text, va="center", fontsize=8)
    axes.set_yticks(range(len(TASKS)), TASKS)
    axes.set(xlim=(0, 110), ylim=(len(TASKS) - 0.5, -0.5), xlabel="percent")
    axes.tick_params(axis="y", length=0)
    return figure


@figure_function
def precision_recall(evaluation: Evaluation, iou: float = 0.5) -> Figure:
    """Precision against recall, the mean over classes, one curve per task of the paper.

    Args:
        evaluation: with the paper's tasks.
        iou: the threshold, one of COCO's ten.
    """
    level = int(np.abs(IOU_THRESHOLDS - iou).argmin())
    figure, axes = plt.subplots(figsize=(4.8, 3.4))
    for task, color in TASK_COLORS.items():
        if task in evaluation.notes:
            continue
        curves = [evaluation.matches[task].curves(c) for c in range(evaluation.num_classes)]
        mean = np.mean([c.precision[level] for c in curves if c], axis=0)
        axes.plot(RECALL_LEVELS, mean, color=color, lw=2, label=task)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
    axes.set_title(f"IoU {iou:.2f}, mean of classes")
    axes.legend(loc="lower left")
    return figure


@figure_function
def ap_by_occlusion(metrics: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """AP of the occluded protocol at rising rates, and the two other readings beside it."""
    rows = {f"occluded, rate ≥ {rate:.2f}": task for task, rate in OCCLUSION_LEVELS.items()}
    rows |= {f"strict, rate ≥ {OCCLUSION_RATE:.2f}": "occluded_strict"}
    rows |= {"the occlusion mask itself": "occlusion"}
    values = [metrics[task]["AP"] for task in rows.values()]
    figure, axes = plt.subplots(figsize=(6.5, 2.2))
    alphas = [1.0, 0.75, 0.5, 0.25, 0.25]
    for y, (value, alpha) in enumerate(zip(values, alphas, strict=True)):
        axes.barh(y, value or 0, 0.65, color=MASK_COLORS["occlusion"], alpha=alpha)
        axes.text((value or 0) + 1, y, "–" if value is None else f"{value:.1f}", va="center")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlim=(0, 108), ylim=(len(rows) - 0.5, -0.5), xlabel="AP, percent")
    axes.tick_params(axis="y", length=0)
    return figure


class Detection(NamedTuple):
    """A detection and the object that it was matched to."""

    iou: float  # of the amodal masks
    record: dict
    prediction: dict


def best_and_worst(
    records: Sequence[dict], predictions: Sequence[dict], *, count: int = 3
) -> list[Detection]:
    """The detections of occluded objects that overlap them most, and least, best first.

    Args:
        records: internal records.
        predictions: with contiguous class ids; matched as in :func:`match_image`.
        count: of each kind.
    """
    by_image: dict[int, list[dict]] = {}
    for prediction in predictions:
        by_image.setdefault(prediction["image_id"], []).append(prediction)
    found = []
    for record in records:
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        for k, match in match_image(objects, by_image.get(record["image_id"], [])).items():
            if objects[k]["occlusion_rate"] >= OCCLUSION_RATE:
                found.append(Detection(match.iou, record, match.prediction))
    found.sort(key=lambda detection: detection.iou, reverse=True)
    return found if len(found) <= 2 * count else found[:count] + found[-count:]


@figure_function
def detections(chosen: Sequence[Detection], class_names: Sequence[str]) -> Figure:
    """A row of detections, each in its image."""
    figure, panels = plt.subplots(1, max(len(chosen), 1), figsize=(12, 2.5), squeeze=False)
    for axes in panels[0, len(chosen) :]:
        axes.set_axis_off()
    for axes, (iou, record, prediction) in zip(panels[0], chosen, strict=False):
        draw_masks(axes, load_image(record), [prediction_masks(prediction)], alpha=0.5)
        axes.set_title(f"{class_names[prediction['category_id']]}, IoU {iou:.2f}")
    return figure
