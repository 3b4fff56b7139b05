"""Learning curves from the training log."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from arcnn.names import model_name
from arcnn.visualization.style import draw_grid, figure_function, model_style

LOSSES = {  # the log's names, in the order of Eq. (2), then the RPN's own two
    "total_loss": "total",
    "loss_box_reg": r"$L_{box}$",
    "loss_cls": r"$L_{cls}$",
    "loss_amodal_mask": r"$L_{AM}$",
    "loss_visible_mask": r"$L_{VM}$",
    "loss_occlusion_mask": r"$L_{OM}$",
    "loss_rpn_cls": "RPN: object or not",
    "loss_rpn_loc": "RPN: box",
}


@figure_function
def learning_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Every loss in a panel of its own, by iteration.

    Args:
        logs: from :func:`arcnn.training.read_log`, by model ("arcnn", "arcnn_add", "orcnn").

    Raises:
        ValueError: no log holds a loss (the training was interrupted before its first line).
    """
    present = [
        *[name for name in LOSSES if any(name in log for log in logs.values())],
        # A new head's losses, by their own names.
        *sorted(
            {c for log in logs.values() for c in log if c.startswith("loss_") and c not in LOSSES}
        ),
    ]
    if not present:
        raise ValueError("the training logs hold no losses yet")
    columns = min(4, len(present))
    rows = math.ceil(len(present) / columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.1 * rows + 0.5), sharex=True, squeeze=False
    )
    for axes in panels.flat[len(present) :]:
        axes.axis("off")
    for axes, loss in zip(panels.flat, present, strict=False):
        for model, log in logs.items():
            if loss in log:
                values = log[loss].dropna()
                color = model_style(model)["color"]
                axes.plot(values.index, values, color=color, lw=1.8, label=model_name(model))
        axes.set_title(LOSSES.get(loss, loss))
        axes.set_ylim(bottom=0)
        draw_grid(axes, "y")
    for axes in panels[-1]:
        axes.set_xlabel("iteration")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if len(logs) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(logs))
    return figure
