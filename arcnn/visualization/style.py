"""One look for all figures: a colour per mask kind, a colour and a marker per model.

The mask colours are Okabe and Ito's; the model colours differ from them and from each other in
lightness too, so that both sets survive colour blindness and grey print.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from arcnn.files import write_atomically

# In the order of the jigsaw: piece + piece = whole.
MASK_COLORS = {"visible": "#0072B2", "occlusion": "#D55E00", "amodal": "#009E73"}
MASK_NAMES = {"visible": "visible", "occlusion": "occlusion (hidden)", "amodal": "amodal (whole)"}
TASK_COLORS = {  # the paper's tasks in the colours of the masks that they are about
    "amodal": MASK_COLORS["amodal"],
    "visible": MASK_COLORS["visible"],
    "occluded": MASK_COLORS["occlusion"],
}
# In grey, blue and orange are nearly one: lines differ in their dashes too, areas in hatching.
TASK_LINES = {"amodal": "-", "visible": "--", "occluded": ":"}
HIDDEN_HATCH = "////"

MODEL_STYLES = {
    "orcnn": {"color": "#7F7F7F", "marker": "s"},
    "arcnn_add": {"color": "#DDAA33", "marker": "^"},
    "arcnn": {"color": "#882255", "marker": "o"},
    "mask_rcnn": {"color": "#222222", "marker": "P"},
    "sln": {"color": "#88CCEE", "marker": "v"},
    "asn": {"color": "#CC6677", "marker": "D"},
    "vrs_sp": {"color": "#332288", "marker": "X"},
    "bcnet": {"color": "#117733", "marker": "p"},
    "aisformer": {"color": "#AA4499", "marker": "*"},
}

INK = "#333333"
PAPER = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.8}  # behind a text

INKED = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
STYLE = dict.fromkeys(INKED, INK) | {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}

P = ParamSpec("P")


def figure_function(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the kit's style, and hand the figure over closed.

    Closed means: as the last value of a notebook cell it shows once, not a second time through
    pyplot; ``figure.savefig`` works as ever.
    """

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return styled


def save(figure: Figure, path: Path) -> None:
    """Write a picture in one piece (:func:`arcnn.files.write_atomically`), as its suffix says."""
    kind = path.suffix.removeprefix(".")
    write_atomically(
        path, lambda partial: figure.savefig(partial, format=kind, bbox_inches="tight")
    )


def percent(rate: float) -> str:
    """A rate in [0, 1] as text, for instance "37 %"."""
    return f"{100 * rate:.0f} %"


def mask_rgb(kind: str) -> tuple[int, ...]:
    """A mask kind's colour, three numbers from 0 to 255."""
    return tuple(round(255 * part) for part in to_rgb(MASK_COLORS[kind]))


def mask_legend(figure: Figure, kinds: Sequence[str] = tuple(MASK_COLORS)) -> None:
    """One legend below the whole figure: parts are filled, the amodal mask is a line."""
    handles = [
        Line2D([], [], color=MASK_COLORS[kind], lw=2.2, label=MASK_NAMES[kind])
        if kind == "amodal"
        else Patch(
            facecolor=(MASK_COLORS[kind], 0.6),
            edgecolor=(INK, 0.45),
            linewidth=0,
            hatch=HIDDEN_HATCH if kind == "occlusion" else None,
            label=MASK_NAMES[kind],
        )
        for kind in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds))


def model_style(model: str) -> dict[str, str]:
    """``color`` and ``marker`` of a model; black crosses for one that the kit does not know."""
    return MODEL_STYLES.get(model, {"color": "#000000", "marker": "x"})
