"""Drawn diagrams: the architecture (Figure 2) and the amodal mask head (Figure 3)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle

from arcnn.visualization.style import INK, JIGSAW_ORDER, MASK_COLORS, figure_function

NEUTRAL, OUTLINE = "#E4E7EB", "#8A919B"
DIFFERS = "#FFF1B8"  # what tells a model from the other two
MAP = 2.3  # side of a map in Figure 3, in the units of its drawing
MAPS_SHOWN = 4  # of the C maps of a kind in Figure 3
Point = tuple[float, float]


def _box(
    axes: Axes, centre: Point, size: Point, text: str, face: str = NEUTRAL, edge: str = OUTLINE
) -> None:
    corner = centre[0] - size[0] / 2, centre[1] - size[1] / 2
    frame = FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.12")
    frame.set(facecolor=face, edgecolor=edge, linewidth=1.3 if edge == OUTLINE else 2.2)
    axes.add_patch(frame)
    axes.text(*centre, text, ha="center", va="center", fontsize=8.5)


def _arrow(axes: Axes, start: Point, end: Point) -> None:
    look = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=look)


def _canvas(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")


def _trunk(axes: Axes) -> None:
    """The network from image to masks, left to right; the mask heads are ARCNN's."""
    _canvas(axes, 20, 6.4)
    blue, orange, green = (MASK_COLORS[kind] for kind in JIGSAW_ORDER)
    _box(axes, (1.1, 4.0), (1.8, 1.2), "image")
    _box(axes, (3.5, 4.0), (2.0, 1.2), "ResNet\nbackbone")
    _box(axes, (5.9, 4.0), (1.8, 1.2), "FPN")
    _box(axes, (8.9, 4.0), (2.2, 1.2), "RoIAlign")
    _box(axes, (7.3, 1.5), (2.6, 1.1), "RPN: proposals\n(amodal boxes)")
    _box(axes, (12.4, 5.6), (3.2, 1.0), "visible mask head", edge=blue)
    _box(axes, (12.4, 4.0), (3.2, 1.0), "occlusion mask head", edge=orange)
    _box(axes, (12.4, 1.5), (3.2, 1.0), "box head")
    joint = "amodal mask head\n1×1 conv\nEq. (1)"
    _box(axes, (16.2, 4.8), (3.0, 1.6), joint, face=DIFFERS, edge=green)
    for x0, y0, x1, y1 in (
        (2.0, 4.0, 2.5, 4.0),
        (4.5, 4.0, 5.0, 4.0),
        (6.8, 4.0, 7.8, 4.0),
        (6.3, 3.4, 6.9, 2.05),
        (7.9, 2.05, 8.6, 3.4),
        (10.0, 4.0, 10.8, 5.6),
        (10.0, 4.0, 10.8, 4.0),
        (10.0, 4.0, 10.8, 1.5),
        (14.0, 5.6, 14.7, 5.15),
        (14.0, 4.0, 14.7, 4.45),
        (14.0, 1.5, 15.0, 1.5),
        (17.7, 4.8, 18.3, 4.8),
    ):
        _arrow(axes, (x0, y0), (x1, y1))
    axes.text(15.15, 1.5, "class, amodal box", va="center", fontsize=9)
    axes.text(15.15, 0.95, r"$L_{cls}$, $L_{box}$", va="center", fontsize=9, color="#666666")
    axes.text(12.4, 6.32, r"VM, $L_{VM}$", color=blue, ha="center", va="center", fontsize=9)
    axes.text(12.4, 3.28, r"OM, $L_{OM}$", color=orange, ha="center", va="center", fontsize=9)
    axes.text(18.45, 4.8, "AM\n" + r"$L_{AM}$", color=green, va="center", fontsize=9.5)


PIECES = ("visible", "occlusion")
MASK_COLUMNS = (  # model, its two heads, joint, what the joint makes, note
    ("ARCNN", PIECES, "1×1 conv\n2C → C", "amodal", "learned joint, all classes"),
    ("ARCNN-add", PIECES, "+", "amodal", "plain sum, own class"),
    (
        "ORCNN",
        ("visible", "amodal"),
        "−",
        "occlusion",
        "the whole is predicted,\nthe rest subtracted",
    ),
)


def _heads(axes: Axes, name: str, heads: tuple, joint: str, result: str, note: str) -> None:
    """One model's way from RoI features to three masks, top to bottom."""
    _canvas(axes, 8, 8.8)
    axes.text(4, 8.45, name, ha="center", va="center", fontsize=12, fontweight="bold")
    _box(axes, (4, 7.4), (3.4, 0.9), "RoI features")
    for x, kind in zip((2, 6), heads, strict=True):
        face = NEUTRAL if kind in PIECES else DIFFERS
        _arrow(axes, (4 + (x - 4) * 0.4, 6.95), (x, 6.25))
        _box(axes, (x, 5.7), (3.5, 1.1), f"{kind}\nmask head", face, MASK_COLORS[kind])
        _arrow(axes, (x, 5.15), (4 + (x - 4) * 0.28, 4.05))
    if len(joint) == 1:
        axes.add_patch(Circle((4, 3.45), 0.6, facecolor=DIFFERS, edgecolor=INK, linewidth=1.6))
        axes.text(4, 3.45, joint, ha="center", va="center", fontsize=16)
    else:
        _box(axes, (4, 3.45), (2.6, 1.15), joint, face=DIFFERS, edge=INK)
    _arrow(axes, (4, 2.85), (4, 2.15))
    _box(axes, (4, 1.65), (3.3, 0.95), f"{result} mask", "white", MASK_COLORS[result])
    axes.text(4, 0.55, note, ha="center", va="center", fontsize=9, style="italic")


@figure_function
def figure2() -> Figure:
    """The paper's Figure 2: ARCNN's architecture, and the mask heads of the three models.

    Yellow marks what tells the models apart; everything else is the same.
    """
    figure = plt.figure(figsize=(10, 7.0))
    grid = figure.add_gridspec(2, 3, height_ratios=[3.2, 3.9])
    _trunk(figure.add_subplot(grid[0, :]))
    for k, column in enumerate(MASK_COLUMNS):
        _heads(figure.add_subplot(grid[1, k]), *column)
    key = Patch(facecolor=DIFFERS, edgecolor=INK, label="what tells the models apart")
    figure.legend(handles=[key], loc="outside lower center")
    return figure


def _map(axes: Axes, corner: Point, values: np.ndarray, kind: str, own: bool) -> None:
    """One map as a picture of side :data:`MAP`, in the colour of its kind."""
    x, y = corner
    color = MASK_COLORS[kind]
    shades = LinearSegmentedColormap.from_list(kind, ["#FFFFFF", color])
    extent = (x, x + MAP, y, y + MAP)
    axes.imshow(values, shades, extent=extent, vmin=0, vmax=1, interpolation="nearest")
    frame = Rectangle(corner, MAP, MAP, fill=False, edgecolor=color, zorder=5)
    frame.set_linewidth(2.4 if own else 1.0)
    axes.add_patch(frame)


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
    count, height, width = visible.shape
    step = MAP + 0.35
    top = step * len(kept) + 0.6  # of the first row of maps
    figure, axes = plt.subplots(figsize=(10, 0.46 * (top + 1.9)))
    columns = {"visible": (2.6, visible, "VM"), "occlusion": (5.6, occlusion, "OM")}
    columns["amodal"] = (15.6, amodal, "AM")
    axes.add_patch(Rectangle((0, top - step - 0.1), 21, step + 0.1, color="#F1F1F1", zorder=0))
    middle = top - step * len(kept) / 2
    _box(axes, (11.9, middle), (3.0, 2.4), "concatenate,\n1×1 conv\n2C → C", face=DIFFERS, edge=INK)
    for row, k in enumerate(kept):
        y = top - step * (row + 1) + 0.1
        own = row == 0
        weight = "bold" if own else "normal"
        axes.text(2.3, y + MAP / 2, class_names[k], ha="right", va="center", fontweight=weight)
        for kind, (x, maps, _) in columns.items():
            _map(axes, (x, y), maps[k], kind, own)
        spread = middle + 0.25 * (y + MAP / 2 - middle)
        _arrow(axes, (8.2, y + MAP / 2), (10.4, spread))
        _arrow(axes, (13.4, spread), (15.4, y + MAP / 2))
    for kind, (x, _, symbol) in columns.items():
        text = f"{symbol}\n{count}×{height}×{width}"
        color = MASK_COLORS[kind]
        axes.text(x + MAP / 2, top + 0.15, text, color=color, ha="center", va="bottom", fontsize=9)
        if len(kept) < count:
            axes.text(x + MAP / 2, 0.45, "⋮", ha="center", va="center", fontsize=14)
    name = class_names[target]
    note = f"the box head says\n{name}: this\nis the output"
    axes.text(15.6 + MAP + 0.3, top - step / 2 + 0.05, note, va="center", fontsize=8.5)
    equation = r"$AM_T=\sum_i\; VW_{Ti}\cdot VM_i + OW_{Ti}\cdot OM_i$"
    axes.text(11.9, top + 0.2, equation, ha="center", va="bottom", fontsize=11)
    _canvas(axes, 21, top + 1.5)
    return figure
