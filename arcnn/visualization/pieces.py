"""The jigsaw: visible piece + hidden piece = whole, cut out of the image."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from arcnn.evaluation import mask_iou
from arcnn.visualization.masks import Masks, crop, draw_contour, show_image
from arcnn.visualization.style import MASK_COLORS, PAPER, figure_function

TITLES = {"visible": "visible piece", "occlusion": "hidden piece", "amodal": "the whole"}
PLAIN = "#EFEFEF"  # background of the pieces
FRAMED = {"facecolor": "white", "alpha": 0.9, "edgecolor": "#999999", "pad": 4}


def cut_out(image: np.ndarray, masks: Masks, kind: str) -> np.ndarray:
    """One piece on a plain background, uint8 ``(H, W, 3)``.

    Pixels of the visible mask show the image. Hidden ones are tinted: what the camera saw there is
    the occluder, not the object. What belongs to the whole but to neither piece (predictions do
    not always fit) is tinted in the colour of the whole.
    """
    piece = np.full(image.shape, to_rgb(PLAIN), dtype=float)
    pixels = image / 255
    for tinted in (kind, "occlusion"):
        if tinted not in masks:
            continue
        part = masks[tinted] & masks[kind]
        piece[part] = (0.25 * pixels + 0.75 * np.array(to_rgb(MASK_COLORS[tinted])))[part]
    if kind != "occlusion" and "visible" in masks:
        seen = masks["visible"] & masks[kind]
        piece[seen] = pixels[seen]
    return (255 * piece).astype(np.uint8)


def jigsaw(image: np.ndarray, masks: Masks, *, title: str = "") -> Figure:
    """Visible piece + hidden piece = the whole of one object: :func:`jigsaw_rows` with one row."""
    return jigsaw_rows(image, {"": masks}, title=title)


@figure_function
def jigsaw_rows(
    image: np.ndarray, objects: Mapping[str, Masks | None], *, title: str = ""
) -> Figure:
    """The jigsaw of the same object as several sources see it, a row each, cropped to it.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        objects: masks by row label, for instance ground truth and models. The first row is the
            reference: each later one is given its IoU with it, per piece. ``None`` is a row that
            says "not found", a piece that is not there says "not predicted".
        title: above all panels.
    """
    image, rows = crop(image, list(objects.values()), margin=0.06)
    width = 9.0 if len(rows) == 1 else 7.6
    height = width / 3.4 * image.shape[0] / image.shape[1] + 0.1
    figure, panels = plt.subplots(
        len(rows),
        5,
        figsize=(width, height * len(rows) + 0.6),
        width_ratios=[1, 0.1, 1, 0.1, 1],
        squeeze=False,
        layout="compressed",
    )
    reference = None
    for row, label, masks in zip(panels, objects, rows, strict=True):
        row[0].set_ylabel(label, fontsize=11, labelpad=8)
        for axes, sign in zip(row[1::2], "+=", strict=True):
            axes.axis("off")
            axes.text(0.5, 0.5, sign, ha="center", va="center", fontsize=22)
        for axes, kind in zip(row[::2], MASK_COLORS, strict=True):
            _draw_piece(axes, image, masks, kind, reference)
        if masks is None:
            not_found(row[2])
        reference = reference or masks
    for axes, (kind, color) in zip(panels[0, ::2], MASK_COLORS.items(), strict=True):
        axes.set_title(TITLES[kind], color=color)
    figure.suptitle(title, fontsize=11.5)
    return figure


def _draw_piece(
    axes: Axes, image: np.ndarray, masks: Masks | None, kind: str, reference: Masks | None
) -> None:
    """A piece with its IoU with the reference's. An empty one says so."""
    if masks is None:
        show_image(axes, np.full_like(image, 255))
        return
    if kind not in masks:
        show_image(axes, np.full_like(image, 255))
        axes.text(0.5, 0.5, "not predicted", transform=axes.transAxes, ha="center", va="center")
        return
    show_image(axes, cut_out(image, masks, kind))
    draw_contour(axes, masks[kind], MASK_COLORS[kind])
    if not masks[kind].any():
        axes.text(0.5, 0.5, "nothing", transform=axes.transAxes, ha="center", va="center")
    if reference is not None:
        corner_text(axes, f"IoU {mask_iou(masks[kind], reference[kind]):.2f}")


def corner_text(axes: Axes, text: str) -> None:
    """A small text in the upper left corner, readable on any picture."""
    axes.text(0.025, 0.97, text, transform=axes.transAxes, va="top", fontsize=9, bbox=PAPER)


def not_found(axes: Axes) -> None:
    """Say that a model has no prediction for an object."""
    place = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, "not found", fontsize=11, bbox=FRAMED, **place)
