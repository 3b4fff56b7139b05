"""What an evaluation's numbers mean: bars and curves.

``metrics`` are those of :func:`arcnn.evaluation.evaluate`: by task and name, percent or ``None``.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pycocotools import mask as mask_util

from arcnn.evaluation.matching import RECALL_LEVELS
from arcnn.evaluation.outcomes import image_outcomes, pooled_curve
from arcnn.evaluation.protocol import OCCLUSION_LEVELS, PROTOCOL, TASKS, Evaluation
from arcnn.names import MASK_KEYS, OCCLUSION_RATE
from arcnn.visualization.masks import draw_contour, fade, load_image, show_image
from arcnn.visualization.style import (
    INK,
    MASK_COLORS,
    PAPER,
    TASK_COLORS,
    TASK_LINES,
    figure_function,
)

STRENGTHS = {"AP50": 0.35, "AP": 1.0, "AP75": 0.65}  # opacity
Metrics = Mapping[str, Mapping[str, float | None]]
# No mask kind's colours, and told apart by their lines in grey too.
OUTCOME_LOOKS = {
    "true": ("true positives", "#222222", "-"),
    "false": ("false positives", "#CC3377", "--"),
    "ignored": ("ignored", "#777777", ":"),
    "missed": ("missed objects", "#6A3D9A", "-."),
}


@figure_function
def ap_bars(metrics: Metrics) -> Figure:
    """AP50, AP and AP75 of the paper's three tasks."""
    figure, axes = plt.subplots(figsize=(6.5, 2.4))
    for shift, (name, alpha) in zip((-0.27, 0, 0.27), STRENGTHS.items(), strict=True):
        values = [metrics[task][name] for task in TASKS]
        lengths, look = [value or 0 for value in values], {"alpha": alpha, "height": 0.25}
        bars = axes.barh(np.arange(3) + shift, lengths, color=list(TASK_COLORS.values()), **look)
        texts = [name if value is None else f"{name} {value:.1f}" for value in values]
        axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_yticks(range(3), TASKS)
    axes.invert_yaxis()
    axes.set(xlim=(0, 110), xlabel="percent")
    return figure


def mean_precision(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Precision at COCO's 101 recall levels and an IoU of 0.50, mean over classes, by task."""
    means = {}
    for task in TASKS:
        if task not in evaluation.notes:
            curves = [evaluation.matches[task].curves(c) for c in range(evaluation.num_classes)]
            means[task] = np.mean([c.precision[0] for c in curves if c], axis=0)  # 0: IoU 0.50
    return means


@figure_function
def precision_recall(evaluation: Evaluation) -> Figure:
    """:func:`mean_precision` against recall, a curve per task."""
    figure, axes = plt.subplots(figsize=(4.8, 3.4))
    for task, mean in mean_precision(evaluation).items():
        look = {"color": TASK_COLORS[task], "linestyle": TASK_LINES[task]}
        axes.plot(RECALL_LEVELS, mean, lw=2, label=task, **look)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
    axes.set_title("IoU 0.50, mean of classes")
    axes.legend(loc="lower left")
    return figure


@figure_function
def ap_by_occlusion(metrics: Metrics) -> Figure:
    """AP of the occluded protocol at rising rates, and the two other readings beside it."""
    rows = {f"occluded, rate ≥ {rate:.2f}": task for task, rate in OCCLUSION_LEVELS.items()}
    rows |= {f"strict, rate ≥ {OCCLUSION_RATE:.2f}": "occluded_strict"}
    rows |= {"the occlusion mask itself": "occlusion"}
    values = [metrics[task]["AP"] for task in rows.values()]
    colors = [(MASK_COLORS["occlusion"], alpha) for alpha in (1.0, 0.75, 0.5, 0.25, 0.25)]
    figure, axes = plt.subplots(figsize=(6.5, 2.2))
    bars = axes.barh(list(rows), [value or 0 for value in values], 0.65, color=colors)
    texts = ["–" if value is None else f"{value:.1f}" for value in values]
    axes.bar_label(bars, texts, padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, 108), xlabel="AP, percent")
    return figure


@figure_function
def at_score(
    evaluation: Evaluation,
    predictions: Sequence[dict],
    record: dict,
    threshold: float = 0.5,
    task: str = "amodal",
) -> Figure:
    """One score threshold: its place on the curve of precision and recall, and one image's
    detections, true, false, ignored or lacking, at an IoU of 0.50.

    Args:
        evaluation: of these ``predictions``.
        record: the image's.
        threshold: of the scores, in [0, 1].
        task: any with a number but ``occlusion``.
    """
    score, precision, recall = pooled_curve(evaluation.matches[task])
    places = [["curve", "true", "false"], ["curve", "ignored", "missed"]]
    figure, panels = plt.subplot_mosaic(places, figsize=(9.4, 5.4), width_ratios=[1.4, 1, 1])
    axes = panels["curve"]
    axes.plot(recall, precision, color=TASK_COLORS.get(task, INK), lw=2)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
    axes.grid()
    said = "no detection"
    if taken := int(np.sum(score >= threshold)):
        place = recall[taken - 1], precision[taken - 1]
        axes.plot(*place, "o", color=INK, markersize=10, markerfacecolor="white", mew=2)
        said = "{} detections, precision {:.2f}, recall {:.2f}".format(taken, *reversed(place))
    axes.set_title(f"{task}, score {threshold:.2f} or more:\n{said}")
    image = fade(load_image(record), 0.6)
    outcomes = image_outcomes(evaluation, predictions, record, task, threshold)
    for kind, entries in outcomes._asdict().items():
        name, color, line = OUTCOME_LOOKS[kind]
        show_image(panels[kind], image)
        panels[kind].set_title(f"{name}: {len(entries)}", color=color)
        for entry in entries:
            mask = mask_util.decode(entry[MASK_KEYS[PROTOCOL[task].kind]]).astype(bool)
            said = evaluation.class_names[entry["category_id"]]
            said += f" {entry['score']:.2f}" if "score" in entry else ""
            draw_contour(panels[kind], mask, color, 1.6, line)
            _name_at_top(panels[kind], mask, said, color)
        panels[kind].set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    return figure


def _name_at_top(axes: Axes, mask: np.ndarray, text: str, color: str) -> None:
    """A word at the top of an outline, inside the image."""
    if mask.any():
        y, x = (k[0] for k in np.nonzero(mask))
        x = np.clip(x, 0.2 * mask.shape[1], 0.8 * mask.shape[1])
        look = {"color": color, "fontsize": 7.5, "ha": "center", "va": "center"}
        axes.text(x, max(y, 0.05 * mask.shape[0]), text, bbox=PAPER | {"pad": 0.8}, **look)
