"""Table 1 as a picture."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from arcnn.names import TABLE_1, dataset_title
from arcnn.reporting.table import OTHERWISE, table_lines
from arcnn.visualization.style import INK, TASK_COLORS, figure_function, model_style

PALE = "#888888"


@figure_function
def table1_picture(table: pd.DataFrame) -> Figure:
    """The paper's layout: the paper's numbers in grey, ours in black.

    Saved as SVG or PDF, every number of ours is a link to its record.

    Args:
        table: from :func:`arcnn.reporting.table`.
    """
    blocks = [(d, table_lines(rows)) for d, rows in table.groupby("dataset", sort=False)]
    height = sum(len(lines) + 2 for _, lines in blocks) + 0.5
    height += 0.8 * sum(source == OTHERWISE for _, lines in blocks for _, source, *_ in lines)
    figure, axes = plt.subplots(figsize=(10, 0.27 * height))
    axes.set(xlim=(0, 10), ylim=(height, 0))
    axes.set_axis_off()
    right = [3.6 + 1.45 * k for k in range(len(TABLE_1))]
    y = 0.5
    for dataset, lines in blocks:
        axes.text(0, y, dataset_title(dataset), fontweight="bold", va="center")
        y += 1
        for x, (column, (task, _)) in zip(right, TABLE_1.items(), strict=True):
            axes.text(x, y, column, ha="right", va="center", color=TASK_COLORS[task], fontsize=9)
        axes.text(10, y, "seeds", ha="right", va="center", fontsize=9)
        axes.axhline(y + 0.5, color=INK, linewidth=1)
        previous = ""
        for model, source, cells, first in lines:
            y += 1
            color = INK if source.startswith("ours") else PALE
            if model != previous:
                axes.plot(0.06, y, linestyle="none", markersize=6, **model_style(first.model))
                axes.text(0.2, y, model, va="center")
            previous = model
            axes.text(1.35, y, source, va="center", color=color, fontsize=9)
            for x, (text, link) in zip(right, cells, strict=True):
                axes.text(x, y, text, ha="right", va="center", color=color, fontsize=9, url=link)
            if source.startswith("ours"):
                axes.text(10, y, str(first.seeds), ha="right", va="center", fontsize=9)
        y += 1
        axes.axhline(y - 0.45, color=INK, linewidth=0.6)
        others = {m: first for m, source, _, first in lines if source == OTHERWISE}
        for model, first in others.items():
            note = f"{model}: not the paper's settings ({first.departures})"
            axes.text(0, y, note, va="center", fontsize=6.5, color=PALE)
            y += 0.7
        y += 0.3 if others else 0
    return figure
