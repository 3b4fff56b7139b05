"""Learning curves from the training log."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from arcnn.errors import InputError
from arcnn.names import model_name
from arcnn.visualization.style import figure_function, model_style

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
        logs: from :func:`arcnn.logbook.read_log`, by model ("arcnn", "arcnn_add", "orcnn").

    Raises:
        ValueError: no log holds a loss (the training was interrupted before its first line).
    """
    logged = {name for log in logs.values() for name in log}
    new = sorted(name for name in logged - LOSSES.keys() if name.startswith("loss_"))
    present = [name for name in LOSSES if name in logged] + new  # a new head's by their own names
    if not present:
        raise InputError("the training logs hold no losses yet")
    columns = min(4, len(present))
    rows = math.ceil(len(present) / columns)
    size = (2.6 * columns, 2.1 * rows + 0.5)
    figure, panels = plt.subplots(rows, columns, figsize=size, sharex=True, squeeze=False)
    for axes in panels.flat[len(present) :]:
        axes.axis("off")
    for axes, loss in zip(panels.flat, present, strict=False):
        for model, log in logs.items():
            if loss in log:
                color = model_style(model)["color"]
                axes.plot(log[loss].dropna(), color=color, lw=1.8, label=model_name(model))
        axes.set(title=LOSSES.get(loss, loss), ylim=(0, None))  # each with a scale of its own
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("iteration")
        axes.grid(axis="y")
    if len(logs) > 1:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(logs))
    return figure
