"""A training as a film: what the model drew of the same objects, earlier and later."""

import os
import sys
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcnn.evaluation import mask_iou
from arcnn.files import IN_BATCH
from arcnn.film import Film, Filmed
from arcnn.names import MASK_KINDS
from arcnn.visualization.curves import LOSSES
from arcnn.visualization.masks import Masks, draw_masks
from arcnn.visualization.pieces import corner_text
from arcnn.visualization.style import MASK_COLORS, figure_function, mask_legend


def draw_frame(axes: Axes, filmed: Filmed, frame: int) -> None:
    """What was drawn of an object in one frame, with the IoU of its whole with the true one."""
    masks = filmed.frames[frame]
    draw_masks(axes, filmed.image, [_all_kinds(masks)], line_width=1.6)
    corner_text(axes, f"{mask_iou(masks['amodal'], filmed.truth['amodal']):.2f}")


@figure_function
def film_strip(film: Film) -> Figure:
    """All frames: a row for each object, a column for each moment, and the truth behind them.

    The number in a corner is the IoU of the whole with the true one.
    """
    columns = len(film.iterations) + 1
    shapes = [filmed.image.shape for filmed in film.objects]
    width = min(1.5, 12 / columns)
    heights = [width * min(height / side, 1.6) for height, side, _ in shapes]
    figure, rows = plt.subplots(
        len(film.objects), columns, figsize=(width * columns, sum(heights) + 0.8),
        height_ratios=heights, squeeze=False, layout="compressed",
    )  # fmt: skip
    for row, filmed in zip(rows, film.objects, strict=True):
        for frame, axes in enumerate(row[:-1]):
            draw_frame(axes, filmed, frame)
        draw_masks(row[-1], filmed.image, [filmed.truth], line_width=1.6)
        row[0].set_ylabel(filmed.name)
    for axes, iteration in zip(rows[0], film.iterations, strict=False):
        axes.set_title(f"step {iteration:,}", fontsize=9)
    rows[0, -1].set_title("the truth", fontsize=9)
    mask_legend(figure)
    return figure


@figure_function
def training_now(log: pd.DataFrame, film: Film) -> Figure:
    """A training that goes on: the losses of the masks so far, and what it draws now.

    Args:
        log: from :func:`arcnn.logbook.read_log`; may be empty.
        film: its last frame is shown.
    """
    figure, panels = plt.subplots(
        1, 1 + len(film.objects), figsize=(9, 2.4), dpi=80,
        width_ratios=[1.5] + [1] * len(film.objects), squeeze=False, layout="compressed",
    )  # fmt: skip
    (losses, *pictures) = panels[0]
    for kind in MASK_KINDS:
        if (name := f"loss_{kind}_mask") in log:
            losses.plot(log[name].dropna(), color=MASK_COLORS[kind], label=LOSSES[name])
    losses.set(title=f"step {film.iterations[-1]:,}", xlabel="iteration", ylabel="loss")
    losses.set_ylim(bottom=0)
    if losses.lines:
        losses.legend(loc="upper right")
    for axes, filmed in zip(pictures, film.objects, strict=True):
        draw_frame(axes, filmed, -1)
        axes.set_title(filmed.name)
    return figure


def film_at(log: pd.DataFrame, film: Film, step: int) -> Figure:
    """:func:`training_now` as it was at one of a film's moments, on the axes of the whole training.

    Args:
        log: from :func:`arcnn.logbook.read_log`, whole; may be empty.
        step: one of the film's iterations.

    Raises:
        ValueError: no frame was taken then.
    """
    frames = film.iterations.index(step) + 1
    objects = [filmed._replace(frames=filmed.frames[:frames]) for filmed in film.objects]
    figure = training_now(log[log.index < step], Film(film.iterations[:frames], objects))
    losses = log.filter(regex="^loss_.*_mask$")
    highest = 1.05 * losses.max().max() if losses.size else 1
    figure.axes[0].set(xlim=(0, film.iterations[-1]), ylim=(0, highest))
    return figure


def live() -> Callable[[pd.DataFrame, Film], None] | None:
    """For :func:`arcnn.training.train`: draws :func:`training_now` in the place where it drew it
    before. None where nobody looks on: in a batch run, or without a notebook."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    if IN_BATCH in os.environ or kernel is None:
        return None
    from IPython.display import display

    handle = None

    def show(log: pd.DataFrame, film: Film) -> None:
        nonlocal handle
        figure = training_now(log, film)
        if handle is None:
            handle = display(figure, display_id=True)
        else:
            handle.update(figure)

    return show


def _all_kinds(masks: Masks) -> Masks:
    """A model that does not predict a piece has drawn nothing of it."""
    nothing = np.zeros_like(masks["amodal"])
    return {kind: masks.get(kind, nothing) for kind in MASK_KINDS}
