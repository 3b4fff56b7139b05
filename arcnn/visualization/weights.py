"""The weights of the amodal mask head, Eq. (1), by class: Figure 5."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from arcnn.visualization.style import INK, MASK_COLORS, PAPER, figure_function, tidy_heat_map

DOMINANT = 2.5  # own-class weights this many times larger than all others leave the scale
SERIES = {  # symbol of Eq. (1), mask kind that it weighs
    "VW": "visible",
    "OW": "occlusion",
}


def _numpy(matrix: Tensor) -> np.ndarray:
    return matrix.detach().cpu().numpy()


def weights_table(vw: Tensor, ow: Tensor, class_names: Sequence[str], target: int) -> pd.DataFrame:
    """Row T of ``VW`` and ``OW``, by class i, and their difference.

    Args:
        vw, ow: float ``(C, C)`` from :meth:`arcnn.modeling.JigsawConv.weights`; row T, column i.
        target: T.
    """
    table = pd.DataFrame(
        {"VW": _numpy(vw)[target], "OW": _numpy(ow)[target]}, index=list(class_names)
    )
    return table.assign(difference=table["VW"] - table["OW"])


@figure_function
def figure5(vw: Tensor, ow: Tensor, class_names: Sequence[str], target: int) -> Figure:
    """The paper's Figure 5: ``VW_Ti`` and ``OW_Ti`` of one class T against all classes i.

    The class's own two weights join its own two pieces and are often far larger than the rest.
    Then the axis follows the rest, and the own weights are written out in the grey band.

    Args:
        vw, ow: float ``(C, C)``; row T, column i.
        target: T.
    """
    table = weights_table(vw, ow, class_names, target)
    count = len(table)
    others = table.drop(index=class_names[target])[["VW", "OW"]].abs().to_numpy()
    reach = float(others.max()) if others.size else 0.0
    own = table.iloc[target]
    outside = count > 1 and max(abs(own["VW"]), abs(own["OW"])) > DOMINANT * reach
    limit = 1.25 * (reach if outside else float(table[["VW", "OW"]].abs().max().max())) or 1.0

    figure, axes = plt.subplots(figsize=(10 if count <= 40 else 13, 4.4))
    axes.axvspan(target - 0.45, target + 0.45, color="#ECECEC", zorder=0)
    axes.axhline(0, color=INK, linewidth=1)
    x = np.arange(count)
    for (symbol, kind), shift, marker in zip(SERIES.items(), (-0.14, 0.14), "os", strict=True):
        axes.vlines(x + shift, 0, table[symbol], color=MASK_COLORS[kind], linewidth=1.6, alpha=0.6)
        axes.plot(
            x + shift,
            table[symbol],
            linestyle="none",
            marker=marker,
            markersize=7 if count <= 40 else 4,
            color=MASK_COLORS[kind],
            label=f"${symbol}_{{Ti}}$ of the {kind} map of class $i$",
        )
    if outside:
        axes.text(
            target,
            0.98,
            f"own class\nVW {own['VW']:+.3g}\nOW {own['OW']:+.3g}",
            transform=axes.get_xaxis_transform(),
            ha="left" if target < count / 12 else "right" if target > count * 11 / 12 else "center",
            va="top",
            fontsize=8,
        ).set_bbox(PAPER)
    axes.set(xlim=(-0.7, count - 0.3), ylim=(-limit, limit), ylabel="weight")
    axes.set_xticks(x, list(class_names), rotation=45 if count <= 40 else 90)
    if count <= 40:
        plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    else:
        axes.tick_params(axis="x", labelsize=7)
    axes.set_title(f"weights of the amodal map of T = {class_names[target]}, by class i")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@figure_function
def weight_matrices(
    vw: Tensor,
    ow: Tensor,
    class_names: Sequence[str],
    target: int | None = None,
    order: Sequence[int] | None = None,
) -> Figure:
    """All of ``VW`` and ``OW``: heat maps on one scale centred on zero, row T, column i.

    Where the own-class weights on the diagonal are far larger than the rest, the scale follows the
    rest, and the diagonal lies beyond it.

    Args:
        vw, ow: float ``(C, C)``.
        target: a row to frame.
        order: of the classes along both axes, as indices; the data set's own by default.
    """
    count = len(class_names)
    order = list(range(count) if order is None else order)
    vw, ow = (w[order][:, order] for w in (vw, ow))
    class_names = [class_names[i] for i in order]
    target = None if target is None else order.index(target)
    both = np.abs([_numpy(vw), _numpy(ow)])
    context = float((both * (1 - np.eye(count))).max())
    beyond = context > 0 and float(both.max()) > DOMINANT * context
    limit = context if beyond else float(both.max()) or 1.0
    small = count > 25
    figure, panels = plt.subplots(1, 2, figsize=(10, 5.4) if not small else (14, 7.6), sharey=True)
    for axes, (symbol, kind), matrix in zip(panels, SERIES.items(), (vw, ow), strict=True):
        image = sns.heatmap(
            pd.DataFrame(_numpy(matrix), index=list(class_names), columns=list(class_names)),
            ax=axes,
            cmap="vlag",
            vmin=-limit,
            vmax=limit,
            square=True,
            cbar=False,
            xticklabels=True,
            yticklabels=True,
        ).collections[0]
        axes.set(xlabel="class i", ylabel="class T" if symbol == "VW" else "")
        axes.set_title(f"${symbol}_{{Ti}}$: weight of the {kind} map", color=MASK_COLORS[kind])
        tidy_heat_map(axes, 5.5 if small else 9)
        if target is not None:
            frame = {"fill": False, "edgecolor": INK, "linewidth": 1.6}
            axes.add_patch(plt.Rectangle((0, target), count, 1, **frame))
    label = "weight (own class, on the diagonal: beyond the scale)" if beyond else "weight"
    figure.colorbar(
        image,
        ax=panels,
        location="right",
        shrink=0.8,
        label=label,
        extend="both" if beyond else "neither",
    )
    return figure
