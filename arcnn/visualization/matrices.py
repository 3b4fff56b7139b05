"""Matrices over classes: the weights of Eq. (1), as in Figure 5, and who covers whom.

``vw`` and ``ow`` are float ``(C, C)``, from :meth:`arcnn.modeling.JigsawConv.weights`: row T is the
class whose amodal map is made, column i the class whose map is weighed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from arcnn.visualization.style import INK, MASK_COLORS, figure_function

DOMINANT = 2.5  # own-class weights this many times larger than all others leave the scale
MOST_PAIRED = 20  # classes in a heat map of pairs
SERIES = {"VW": "visible", "OW": "occlusion"}  # symbol of Eq. (1), mask kind that it weighs


def weights_table(vw: Tensor, ow: Tensor, class_names: Sequence[str], target: int) -> pd.DataFrame:
    """Row T = ``target`` of ``VW`` and ``OW``, by class i, and their difference."""
    rows = {"VW": vw[target].detach().cpu().numpy(), "OW": ow[target].detach().cpu().numpy()}
    return pd.DataFrame(rows, index=list(class_names)).assign(difference=lambda t: t.VW - t.OW)


def _scale(weights: np.ndarray, own: np.ndarray) -> tuple[float, bool]:
    """The largest absolute weight to show, and whether those of ``own`` (bool) lie beyond it."""
    largest, context = float(weights.max()), float((weights * ~own).max())
    beyond = 0 < DOMINANT * context < largest
    return (context if beyond else largest) or 1.0, beyond


@figure_function
def figure5(vw: Tensor, ow: Tensor, class_names: Sequence[str], target: int) -> Figure:
    """The paper's Figure 5: ``VW_Ti`` and ``OW_Ti`` of one class T = ``target`` by class i.

    The class's own two weights join its own two pieces and are often far larger than the rest.
    Then the axis follows the rest, and the title says how large the own weights are.
    """
    table = weights_table(vw, ow, class_names, target)[list(SERIES)]
    count = len(table)
    few, x = count <= 40, np.arange(count)
    limit, outside = _scale(table.abs().to_numpy(), (x == target)[:, None])
    limit *= 1.25
    figure, axes = plt.subplots(figsize=(10 if few else 13, 4.4))
    axes.axvspan(target - 0.45, target + 0.45, color="#ECECEC", zorder=0)
    axes.axhline(0, color=INK, linewidth=1)
    for (symbol, kind), shift, marker in zip(SERIES.items(), (-0.14, 0.14), "os", strict=True):
        at, weights, color = x + shift, table[symbol], MASK_COLORS[kind]
        axes.vlines(at, 0, weights, color=color, linewidth=1.6, alpha=0.6)
        label = f"${symbol}_{{Ti}}$ of the {kind} map of class $i$"
        axes.plot(at, weights, marker, markersize=7 if few else 4, color=color, label=label)
    axes.set(xlim=(-0.7, count - 0.3), ylim=(-limit, limit), ylabel="weight")
    axes.set_xticks(x, list(class_names), rotation=90, fontsize=10 if few else 7)
    title = f"weights of the amodal map of T = {class_names[target]}, by class i"
    if outside:
        own = "VW {:+.3g}, OW {:+.3g}".format(*table.iloc[target])
        title += f"\nown class, grey, beyond the scale: {own}"
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@figure_function
def weight_matrices(
    vw: Tensor,
    ow: Tensor,
    class_names: Sequence[str],
    target: int,
    order: Sequence[int] | None = None,
) -> Figure:
    """All of ``VW`` and ``OW``: heat maps on one scale centred on zero, row T, column i.

    Where the own-class weights on the diagonal are far larger than the rest, the scale follows the
    rest, and the diagonal lies beyond it.

    Args:
        target: the row to frame.
        order: of the classes along both axes, as indices; the data set's own by default.
    """
    count = len(class_names)
    order = list(range(count) if order is None else order)
    names = [class_names[i] for i in order]
    matrices = [w.detach().cpu().numpy()[np.ix_(order, order)] for w in (vw, ow)]
    limit, beyond = _scale(np.abs(matrices), np.eye(count, dtype=bool))
    small = count > 25
    figure, panels = plt.subplots(1, 2, figsize=(14, 7.6) if small else (10, 5.4), sharey=True)
    for axes, (symbol, kind), matrix in zip(panels, SERIES.items(), matrices, strict=True):
        table = pd.DataFrame(matrix, names, names)
        look = {"cmap": "vlag", "xticklabels": True, "yticklabels": True}
        heat_map(axes, table, 5.5 if small else 9, vmin=-limit, vmax=limit, **look)
        y, x = np.nonzero(matrix < 0)  # the sign, for those who see no red and blue
        axes.scatter(x + 0.5, y + 0.5, 12 if small else 40, INK, marker="_", linewidths=0.9)
        axes.set(xlabel="class i", ylabel="class T" if symbol == "VW" else "")
        axes.set_title(f"${symbol}_{{Ti}}$: weight of the {kind} map", color=MASK_COLORS[kind])
        frame = (0, order.index(target)), count, 1
        axes.add_patch(plt.Rectangle(*frame, fill=False, edgecolor=INK, linewidth=1.6))
    bar = figure.colorbar(
        axes.collections[0], ax=panels, shrink=0.8, extend="both" if beyond else "neither"
    )
    own = beyond * "; own class, on the diagonal: beyond the scale"
    bar.set_label("weight (dash: below 0)" + own)
    return figure


@figure_function
def who_covers_whom(tables: Mapping[str, pd.DataFrame], *, counts: pd.DataFrame) -> Figure:
    """Heat maps of P(row in front of column), one per entry of ``tables``.

    Args:
        tables: ``(C, C)`` frames with values in [0, 1] by title; NaN cells stay empty.
        counts: :func:`arcnn.data.statistics.count_orders`; the pairs are written under the
            percentages of the last table. Of more classes than :data:`MOST_PAIRED`, those that take
            part in the most pairs are shown.
    """
    pairs = counts + counts.T
    names = list(counts.index)
    if len(names) > MOST_PAIRED:
        busy = pairs.sum().sort_values(ascending=False)
        busy = busy[busy > 0].index[:MOST_PAIRED]
        names = [name for name in names if name in busy]
    side = 5.0 if len(tables) > 1 else 7.0
    small = len(names) > 12 or len(tables) > 1
    size = (side * len(tables), side + 0.6)
    figure, panels = plt.subplots(1, len(tables), figsize=size, squeeze=False)
    for axes, (title, table) in zip(panels[0], tables.items(), strict=True):
        table = table.loc[names, names]
        texts = table.map(lambda p: "" if np.isnan(p) else f"{100 * p:.0f}")
        if axes is panels[0, -1]:
            texts += ("\n(" + pairs.loc[names, names].astype(str) + ")").where(table.notna(), "")
        look = {"cmap": sns.light_palette(MASK_COLORS["occlusion"], as_cmap=True)}
        look |= {"annot": texts, "fmt": "", "annot_kws": {"fontsize": 7 if small else 8.5}}
        heat_map(axes, table, 9, vmin=0, vmax=1, linewidths=0.5, linecolor="white", **look)
        axes.set(title=title, xlabel="behind", ylabel="in front" if axes is panels[0, 0] else "")
    return figure


def heat_map(axes: Axes, table: pd.DataFrame, label_size: float, **look: Any) -> None:
    """Square cells, with class names upright on the left and turned below."""
    sns.heatmap(table, ax=axes, square=True, cbar=False, **look)
    axes.tick_params(length=0, labelsize=label_size)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)
