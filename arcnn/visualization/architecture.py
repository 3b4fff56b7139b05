"""The amodal mask head as a diagram, drawn from the maps of one RoI: Figure 3."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from arcnn.visualization.style import INK, MASK_COLORS, figure_function

MAPS_SHOWN = 4  # of the C maps of a kind
ARROW = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
JOINT = {"facecolor": "#FFF1B8", "edgecolor": INK, "linewidth": 2.2}


@figure_function
def figure3(
    visible: np.ndarray,
    occlusion: np.ndarray,
    amodal: np.ndarray,
    class_names: Sequence[str],
    target: int,
) -> Figure:
    """The paper's Figure 3: C visible and C occlusion maps, a 1x1 convolution, C amodal maps.

    Args:
        visible, occlusion, amodal: maps of one RoI, float ``(C, M, M)`` in [0, 1].
        class_names: C of them.
        target: T, the class of the object; its maps come first, and its amodal map is the result.
            Beside it the :data:`MAPS_SHOWN` - 1 with the most visible in them are drawn.
    """
    others = [k for k in np.argsort(-visible.mean(axis=(1, 2)), kind="stable") if k != target]
    kept = [target, *others[: MAPS_SHOWN - 1]]
    figure = plt.figure(figsize=(10, 1.25 * len(kept) + 0.9))
    grid = figure.add_gridspec(len(kept), 4, width_ratios=[1, 1, 2.6, 1])
    joint = figure.add_subplot(grid[:, 2])
    joint.axis("off")
    joint.set_title(r"$AM_T=\sum_i\; VW_{Ti}\cdot VM_i + OW_{Ti}\cdot OM_i$", fontsize=11)
    joint.add_patch(plt.Rectangle((0.25, 0.36), 0.5, 0.28, **JOINT))
    joint.text(0.5, 0.5, "concatenate,\n1×1 conv\n2C → C", ha="center", va="center")
    columns = {"visible": (0, "VM", visible), "occlusion": (1, "OM", occlusion)}
    columns |= {"amodal": (3, "AM", amodal)}
    for row, k in enumerate(kept):
        own = k == target
        y = 1 - (row + 0.5) / len(kept)  # of this row, in the joint's axes
        near = 0.5 + 0.25 * (y - 0.5)
        for start, end in (((0, y), (0.25, near)), ((0.75, near), (1, y))):
            joint.annotate("", xy=end, xytext=start, arrowprops=ARROW)
        for kind, (column, symbol, maps) in columns.items():
            axes = figure.add_subplot(grid[row, column])
            shades = LinearSegmentedColormap.from_list(kind, ["#FFFFFF", MASK_COLORS[kind]])
            axes.imshow(maps[k], shades, vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=MASK_COLORS[kind], lw=2.4 if own else 1.0)
            if own:
                shape = "×".join(map(str, maps.shape))
                axes.set_title(f"{symbol}\n{shape}", color=MASK_COLORS[kind], fontsize=9)
            if row == len(kept) - 1 and len(kept) < len(class_names):
                axes.set_xlabel("⋮", fontsize=14)
            if kind == "visible":
                look = {"rotation": 0, "ha": "right", "va": "center"}
                axes.set_ylabel(class_names[k], fontweight="bold" if own else "normal", **look)
            if kind == "amodal" and own:
                note = f"the box head says\n{class_names[k]}: this\nis the output"
                axes.text(1.1, 0.5, note, transform=axes.transAxes, va="center", fontsize=8.5)
    return figure
