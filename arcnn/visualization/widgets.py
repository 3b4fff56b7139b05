"""Figures to move: what one learns by changing a number and looking again.

Each is a figure function like any other, so that a page shows it once; :func:`explore` adds the
sliders where somebody is there to move them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from arcnn.evaluation import mask_iou
from arcnn.files import IN_BATCH
from arcnn.names import model_name
from arcnn.visualization.masks import Masks, crop, draw_contour, fade, show_image
from arcnn.visualization.pieces import corner_text
from arcnn.visualization.style import INK, MASK_COLORS, figure_function, mask_rgb

SURE = 10.0  # a confident logit
CORNERS = {"visible": (SURE, -SURE), "hidden": (-SURE, SURE), "background": (-SURE, -SURE)}


NO_SLIDERS = (
    "Here would be sliders or menus that redraw the figure above. They need a running notebook in "
    "JupyterLab with ipywidgets: `make lab` opens one."
)


def somebody_looks() -> bool:
    """Whether this kernel belongs to a notebook that is open: in JupyterLab and its kin, in VS Code
    or in Colab. Whoever only executes a notebook cannot move anything, and may wait for ever."""
    open_in = ("JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD", "COLAB_RELEASE_TAG")
    return IN_BATCH not in os.environ and any(name in os.environ for name in open_in)


def explore(draw: Callable[..., Figure], **controls: Any) -> None:
    """Sliders, menus and boxes for the keyword arguments of a figure function; nothing in a batch
    run, where nobody could move them, and a sentence where they cannot be shown.

    Args:
        draw: what it returns is shown, and what it prints may not be.
        controls: as of ipywidgets' ``interactive``; a list of int is a slider from one to the next,
            beginning at the first.
    """
    if IN_BATCH in os.environ:
        return
    if not somebody_looks():
        print(NO_SLIDERS)
        return
    try:
        from ipywidgets import SelectionSlider, interactive
    except ImportError:
        print(NO_SLIDERS)
        return
    for name, values in controls.items():
        if isinstance(values, list) and isinstance(values[0], int):
            controls[name] = SelectionSlider(options=values, description=name)
    # A viewer that has no widgets shows the text, which would be a list of Python objects.
    moved = interactive(draw, {"auto_display": True}, **controls)
    display(moved._repr_mimebundle_() | {"text/plain": NO_SLIDERS}, raw=True)


# The readings of Eq. (1) that notebook 03 compares: the whole's logit, of those of the two pieces.
READINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sum of logits": lambda v, o: v + o,
    "own class, no bias": lambda v, o: 3 * v + 3 * o,
    "own class, bias 10": lambda v, o: v + o + 10,
    "all classes, no bias": lambda v, o: v + o - 9 * (-SURE / 9),  # nine others say "no"
    "probabilities, no bias": lambda v, o: 10 * _sigmoid(v) + 10 * _sigmoid(o),
    "noisy or": lambda v, o: np.log(np.exp(v) + np.exp(o) + np.exp(v + o)),
}
WEIGHTS = "these weights"


@figure_function
def or_gate(
    visible: float = 1.0, occlusion: float = 1.0, bias: float = 0.0, reading: str = WEIGHTS
) -> Figure:
    """What a joint of the own class's two pieces makes of their logits, Eq. (1) with C = 1.

    Args:
        visible, occlusion, bias: VW, OW and b.
        reading: one of :data:`READINGS`, in the place of the three.
    """

    def weighted(v: np.ndarray, o: np.ndarray) -> np.ndarray:
        return visible * v + occlusion * o + bias

    joint = READINGS.get(reading, weighted)
    logits = np.linspace(-1.3 * SURE, 1.3 * SURE, 131)
    v, o = np.meshgrid(logits, logits)
    figure, axes = plt.subplots(figsize=(4.6, 3.9))
    whole = LinearSegmentedColormap.from_list("whole", ["white", MASK_COLORS["amodal"]])
    ends = (logits[0], logits[-1])
    shown = axes.imshow(
        _sigmoid(joint(v, o)),
        extent=(*ends, *ends), origin="lower", cmap=whole, vmin=0, vmax=1,
    )  # fmt: skip
    figure.colorbar(shown, label="probability of the whole")
    right = 0
    for name, (x, y) in CORNERS.items():
        p = float(_sigmoid(joint(x, y)))
        good = p > 0.9 if name != "background" else p < 0.1
        right += good
        axes.plot(x, y, "o", color=INK, mfc="white" if good else INK)
        axes.annotate(f"{name}: {p:.2f}", (x, y), (0, 7), textcoords="offset points", ha="center",
                      fontsize=8.5)  # fmt: skip
    axes.set(xlabel="logit of the visible map", ylabel="logit of the occlusion map")
    verdict = "an OR gate" if right == len(CORNERS) else f"{right} of {len(CORNERS)} right"
    weights = f"VW {visible:+.1f}, OW {occlusion:+.1f}, bias {bias:+.1f}"
    axes.set_title(f"{reading if joint is not weighted else weights}: {verdict}")
    return figure


@figure_function
def hidden_at(
    image: np.ndarray,
    truth: Masks,
    soft: Mapping[str, Mapping[str, np.ndarray]],
    threshold: float = 0.5,
) -> Figure:
    """The hidden piece of one object as each model draws it, from a probability on.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        truth: the object's masks.
        soft: by model, from ``soft_masks`` of the experiments; one without a hidden piece is
            left out.
        threshold: in [0, 1].
    """
    drawn = {
        model: {"occlusion": masks["occlusion"] >= threshold}
        for model, masks in soft.items()
        if "occlusion" in masks
    }
    image, (true, *pieces) = crop(image, [truth, *drawn.values()], margin=0.1)
    width = 2.8 * min(image.shape[1] / image.shape[0], 1.3)
    size = (max(width, 1.8) * max(len(pieces), 1), 3.4)
    panels = max(len(pieces), 1)
    figure, panels = plt.subplots(1, panels, figsize=size, squeeze=False, layout="compressed")
    for axes in panels[0, len(pieces) :]:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no hidden piece is predicted", ha="center", va="center")
    for axes, model, masks in zip(panels[0], drawn, pieces, strict=False):
        picture = fade(image, 0.5).astype(float)
        tint = np.array(mask_rgb("occlusion"))
        picture[masks["occlusion"]] = 0.35 * picture[masks["occlusion"]] + 0.65 * tint
        show_image(axes, picture.astype(np.uint8))
        draw_contour(axes, true["occlusion"], MASK_COLORS["occlusion"])
        corner_text(axes, f"IoU {mask_iou(masks['occlusion'], true['occlusion']):.2f}")
        axes.set_title(model_name(model))
    figure.suptitle(f"hidden piece from a probability of {threshold:.2f}; the line is the truth")
    return figure


@figure_function
def muted(
    pieces: Mapping[str, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray, float],
    class_names: Sequence[str],
    target: int,
    mute: str = "nothing",
    visible: float = 1.0,
    hidden: float = 1.0,
) -> Figure:
    """Eq. (1) with some of its weights set to zero, or turned up: who draws the whole?

    Args:
        pieces: logits of one region, float ``(C, M, M)``, of ``visible`` and ``occlusion``.
        weights: rows VW_T and OW_T, float ``(C,)``, and the bias of class T.
        class_names: C names.
        target: T.
        mute: "nothing", "all OW", "all context" (every class but T), or a class.
        visible, hidden: what the own class's two weights, VW_TT and OW_TT, are multiplied by.
    """
    vw, ow, bias = weights[0].copy(), weights[1].copy(), weights[2]
    others = np.arange(len(class_names)) != target
    vw[target], ow[target] = visible * vw[target], hidden * ow[target]
    if mute == "all OW":
        ow[:] = 0
    elif mute == "all context":
        vw[others], ow[others] = 0, 0
    elif mute != "nothing":
        vw[class_names.index(mute)], ow[class_names.index(mute)] = 0, 0

    def joined(vw: np.ndarray, ow: np.ndarray) -> np.ndarray:
        maps = np.tensordot(vw, pieces["visible"], 1) + np.tensordot(ow, pieces["occlusion"], 1)
        return _sigmoid(maps + bias)

    before, after = joined(weights[0], weights[1]), joined(vw, ow)
    turned = "" if visible == hidden == 1 else f"\nown VW × {visible:.1f}, OW × {hidden:.1f}"
    panels = {
        "visible map": ("visible", _sigmoid(pieces["visible"][target])),
        "occlusion map": ("occlusion", _sigmoid(pieces["occlusion"][target])),
        "the whole": ("amodal", before),
        f"muted: {mute}{turned}": ("amodal", after),
    }
    figure, row = plt.subplots(1, 4, figsize=(9.2, 2.7))
    for axes, (title, (kind, probs)) in zip(row, panels.items(), strict=True):
        colors = LinearSegmentedColormap.from_list(kind, ["white", MASK_COLORS[kind]])
        axes.imshow(probs, cmap=colors, vmin=0, vmax=1)
        if (probs >= 0.5).any() and (probs < 0.5).any():
            axes.contour(probs, [0.5], colors=INK, linewidths=1)
        axes.set(title=title, xticks=[], yticks=[])
    same = mask_iou(before >= 0.5, after >= 0.5)
    figure.suptitle(
        f"{class_names[target]}: with and without, the wholes have an IoU of {same:.2f}"
    )
    return figure


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
