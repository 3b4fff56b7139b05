"""Drawn diagrams: the architecture (Figure 2) and the amodal mask head (Figure 3)."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle

from arcnn.visualization.style import INK, MASK_COLORS, figure_function

NEUTRAL, OUTLINE = "#E4E7EB", "#8A919B"
DIFFERS = "#FFF1B8"  # what tells a model from the other two
MAP = 2.3  # side of a map in Figure 3, in the units of its drawing
MAPS_SHOWN = 4  # of the C maps of a kind in Figure 3
Point = tuple[float, float]


def _say(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 9} | look)


def _box(
    axes: Axes, centre: Point, size: Point, text: str, face: str = NEUTRAL, edge: str = OUTLINE
) -> FancyBboxPatch:
    corner = centre[0] - size[0] / 2, centre[1] - size[1] / 2
    frame = FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.12")
    frame.set(facecolor=face, edgecolor=edge, linewidth=1.3 if edge == OUTLINE else 2.2)
    _say(axes, *centre, text, fontsize=8.5)
    return axes.add_patch(frame)


def _arrow(axes: Axes, start: Point, end: Point, **clips: Patch) -> None:
    """From point to point, or the part of it outside ``patchA``, at its start, and ``patchB``."""
    look = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=look | clips)


def _canvas(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")


ARROWS = "image>ResNet ResNet>FPN FPN>RoIAlign FPN>RPN: RPN:>RoIAlign RoIAlign>visible"
ARROWS += " RoIAlign>occlusion RoIAlign>box visible>amodal occlusion>amodal"


def _trunk(axes: Axes) -> None:
    """The network from image to masks, left to right; the mask heads are ARCNN's."""
    _canvas(axes, 20, 6.4)
    blue, orange, green = MASK_COLORS.values()
    boxes = {}
    for centre, size, text, *look in (
        ((1.1, 4.0), (1.8, 1.2), "image"),
        ((3.5, 4.0), (2.0, 1.2), "ResNet\nbackbone"),
        ((5.9, 4.0), (1.8, 1.2), "FPN"),
        ((8.9, 4.0), (2.2, 1.2), "RoIAlign"),
        ((7.3, 1.5), (2.6, 1.1), "RPN: proposals\n(amodal boxes)"),
        ((12.4, 5.6), (3.2, 1.0), "visible mask head", NEUTRAL, blue),
        ((12.4, 4.0), (3.2, 1.0), "occlusion mask head", NEUTRAL, orange),
        ((12.4, 1.5), (3.2, 1.0), "box head"),
        ((16.2, 4.8), (3.0, 1.6), "amodal mask head\n1×1 conv\nEq. (1)", DIFFERS, green),
    ):
        boxes[text.split()[0]] = centre, _box(axes, centre, size, text, *look)
    for arrow in ARROWS.split():
        (start, a), (end, b) = (boxes[name] for name in arrow.split(">"))
        _arrow(axes, start, end, patchA=a, patchB=b)
    _arrow(axes, (14.0, 1.5), (15.0, 1.5))
    _arrow(axes, (17.7, 4.8), (18.3, 4.8))
    _say(axes, 15.15, 1.5, "class, amodal box", ha="left")
    _say(axes, 15.15, 0.95, r"$L_{cls}$, $L_{box}$", ha="left", color="#666666")
    _say(axes, 12.4, 6.32, r"VM, $L_{VM}$", color=blue)
    _say(axes, 12.4, 3.28, r"OM, $L_{OM}$", color=orange)
    _say(axes, 18.45, 4.8, "AM\n" + r"$L_{AM}$", color=green, ha="left", fontsize=9.5)


PIECES = ("visible", "occlusion")
WHOLE_FIRST = "the whole is predicted,\nthe rest subtracted"
MASK_COLUMNS = (  # model, its two heads, joint, what the joint makes, note
    ("ARCNN", PIECES, "1×1 conv\n2C → C", "amodal", "learned joint, all classes"),
    ("ARCNN-add", PIECES, "+", "amodal", "plain sum, own class"),
    ("ORCNN", ("visible", "amodal"), "−", "occlusion", WHOLE_FIRST),
)


def _heads(axes: Axes, name: str, heads: tuple, joint: str, result: str, note: str) -> None:
    """One model's way from RoI features to three masks, top to bottom."""
    _canvas(axes, 8, 8.8)
    _say(axes, 4, 8.45, name, fontsize=12, fontweight="bold")
    _box(axes, (4, 7.4), (3.4, 0.9), "RoI features")
    for x, kind in zip((2, 6), heads, strict=True):
        face = NEUTRAL if kind in PIECES else DIFFERS
        _arrow(axes, (4 + (x - 4) * 0.4, 6.95), (x, 6.25))
        _box(axes, (x, 5.7), (3.5, 1.1), f"{kind}\nmask head", face, MASK_COLORS[kind])
        _arrow(axes, (x, 5.15), (4 + (x - 4) * 0.28, 4.05))
    if len(joint) == 1:
        axes.add_patch(Circle((4, 3.45), 0.6, facecolor=DIFFERS, edgecolor=INK, linewidth=1.6))
        _say(axes, 4, 3.45, joint, fontsize=16)
    else:
        _box(axes, (4, 3.45), (2.6, 1.15), joint, face=DIFFERS, edge=INK)
    _arrow(axes, (4, 2.85), (4, 2.15))
    _box(axes, (4, 1.65), (3.3, 0.95), f"{result} mask", "white", MASK_COLORS[result])
    _say(axes, 4, 0.55, note, style="italic")


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
    look = {"edgecolor": color, "linewidth": 2.4 if own else 1.0, "zorder": 5}
    axes.add_patch(Rectangle(corner, MAP, MAP, fill=False, **look))


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
    columns |= {"amodal": (15.6, amodal, "AM")}
    axes.add_patch(Rectangle((0, top - step - 0.1), 21, step + 0.1, color="#F1F1F1", zorder=0))
    middle = top - step * len(kept) / 2
    _box(axes, (11.9, middle), (3.0, 2.4), "concatenate,\n1×1 conv\n2C → C", face=DIFFERS, edge=INK)
    for row, k in enumerate(kept):
        y = top - step * (row + 1) + 0.1
        own = row == 0
        weight = "bold" if own else "normal"
        _say(axes, 2.3, y + MAP / 2, class_names[k], ha="right", fontsize=10, fontweight=weight)
        for kind, (x, maps, _) in columns.items():
            _map(axes, (x, y), maps[k], kind, own)
        spread = middle + 0.25 * (y + MAP / 2 - middle)
        _arrow(axes, (8.2, y + MAP / 2), (10.4, spread))
        _arrow(axes, (13.4, spread), (15.4, y + MAP / 2))
    for kind, (x, _, symbol) in columns.items():
        text = f"{symbol}\n{count}×{height}×{width}"
        _say(axes, x + MAP / 2, top + 0.15, text, color=MASK_COLORS[kind], va="bottom")
        if len(kept) < count:
            _say(axes, x + MAP / 2, 0.45, "⋮", fontsize=14)
    note = f"the box head says\n{class_names[target]}: this\nis the output"
    _say(axes, 15.9 + MAP, top - step / 2 + 0.05, note, ha="left", fontsize=8.5)
    equation = r"$AM_T=\sum_i\; VW_{Ti}\cdot VM_i + OW_{Ti}\cdot OM_i$"
    _say(axes, 11.9, top + 0.2, equation, va="bottom", fontsize=11)
    _canvas(axes, 21, top + 1.5)
    return figure
