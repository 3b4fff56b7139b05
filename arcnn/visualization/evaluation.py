"""What an evaluation's numbers mean: bars and curves.

``metrics`` are those of :func:`arcnn.evaluation.evaluate`: by task and name, percent or ``None``.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from arcnn.evaluation.matching import RECALL_LEVELS
from arcnn.evaluation.protocol import OCCLUSION_LEVELS, TASKS, Evaluation
from arcnn.names import OCCLUSION_RATE
from arcnn.visualization.style import MASK_COLORS, TASK_COLORS, TASK_LINES, figure_function

STRENGTHS = {"AP50": 0.35, "AP": 1.0, "AP75": 0.65}  # opacity
Metrics = Mapping[str, Mapping[str, float | None]]


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
