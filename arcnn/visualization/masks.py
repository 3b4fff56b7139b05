"""The three masks of objects, drawn on their image.

Images are uint8 ``(H, W, 3)`` RGB. An object's masks are the dict that
:func:`arcnn.data.decode_masks` gives: ``amodal``, ``visible``, ``occlusion``, bool ``(H, W)``.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from detectron2.data.detection_utils import read_image
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from arcnn.visualization.style import (
    JIGSAW_ORDER,
    MASK_COLORS,
    figure_function,
    mask_handles,
    percent,
)

Masks = dict[str, np.ndarray]
Window = tuple[slice, slice]


def load_image(record: dict) -> np.ndarray:
    """The image of an internal record.

    Raises:
        FileNotFoundError: the image file is missing.
    """
    return read_image(record["file_name"], format="RGB")


def crop_window(masks: Sequence[np.ndarray], margin: float = 0.15) -> Window:
    """The part of the image around some masks, as slices of rows and columns.

    Args:
        masks: bool ``(H, W)`` each; together they must not be empty.
        margin: on every side, as a share of the longer side of their box.

    Raises:
        ValueError: nothing to look at.
    """
    together = np.logical_or.reduce(list(masks))
    rows, columns = np.flatnonzero(together.any(1)), np.flatnonzero(together.any(0))
    if not len(rows):
        raise ValueError("the masks are empty: there is nothing to crop to")
    extra = 2 + round(margin * max(np.ptp(rows), np.ptp(columns)))
    return (
        slice(max(rows[0] - extra, 0), min(rows[-1] + extra + 1, together.shape[0])),
        slice(max(columns[0] - extra, 0), min(columns[-1] + extra + 1, together.shape[1])),
    )


def crop(masks: Masks, window: Window) -> Masks:
    """The masks inside a window."""
    return {kind: mask[window] for kind, mask in masks.items()}


def show_image(axes: Axes, image: np.ndarray) -> None:
    """The image alone, without ticks and frame."""
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_contour(axes: Axes, mask: np.ndarray, color: str, width: float = 2.0) -> None:
    """The outline of a bool mask ``(H, W)``, closed also along the image border."""
    if not mask.any():
        return
    height, width_px = mask.shape
    axes.contour(
        np.arange(-1, width_px + 1),
        np.arange(-1, height + 1),
        np.pad(mask.astype(float), 1),
        levels=[0.5],
        colors=[color],
        linewidths=width,
        path_effects=[patheffects.withStroke(linewidth=width + 1.4, foreground="white")],
    )


def draw_masks(
    axes: Axes,
    image: np.ndarray,
    objects: Sequence[Masks],
    *,
    labels: Sequence[str] = (),
    alpha: float = 0.5,
    line_width: float = 2.0,
) -> None:
    """The image with visible and occluded parts filled and the amodal contour as a line.

    Where one object lies in front of another, the hidden part of the one behind is shown.

    Args:
        labels: one text per object, written at the centre of its visible part.
        alpha: opacity of the fillings in [0, 1].
    """
    show_image(axes, image)
    overlay = np.zeros((*image.shape[:2], 4))
    for kind in ("visible", "occlusion"):  # the hidden parts last: they are what it is about
        for masks in objects:
            overlay[masks[kind]] = (*to_rgb(MASK_COLORS[kind]), alpha)
    axes.imshow(overlay)
    for masks in objects:
        draw_contour(axes, masks["amodal"], MASK_COLORS["amodal"], line_width)
    for masks, label in zip(objects, labels, strict=bool(labels)):
        part = masks["visible"] if masks["visible"].any() else masks["amodal"]
        if part.any():
            y, x = (np.median(k) for k in np.nonzero(part))
            x = np.clip(x, 0.1 * part.shape[1], 0.9 * part.shape[1])  # a whole word, if possible
            axes.text(x, y, label, color="white", ha="center", va="center", clip_on=True).set(
                fontsize=8,
                fontweight="bold",
                path_effects=[patheffects.withStroke(linewidth=2.2, foreground="#222222")],
            )
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))


def mask_legend(figure: Figure) -> None:
    """One legend of the mask kinds, below the whole figure."""
    figure.legend(handles=mask_handles(), loc="outside lower center", ncols=3)


@figure_function
def show_masks(
    image: np.ndarray,
    objects: Sequence[Masks],
    *,
    labels: Sequence[str] = (),
) -> Figure:
    """One image with the masks of some or all of its objects, and the legend.

    Args:
        labels: one text per object.
    """
    height = 6 * image.shape[0] / image.shape[1] + 0.6
    figure, axes = plt.subplots(figsize=(6, height), layout="compressed")
    draw_masks(axes, image, objects, labels=labels)
    mask_legend(figure)
    return figure


@figure_function
def mask_kinds(image: np.ndarray, masks: Masks, name: str = "object") -> Figure:
    """The image and, side by side, the three masks of one object as plain black-and-white maps."""
    height = 2.5 * image.shape[0] / image.shape[1] + 0.6
    figure, panels = plt.subplots(1, 4, figsize=(10, height), layout="compressed")
    show_image(panels[0], image)
    panels[0].set_title(f"the {name} in its image")
    total = masks["amodal"].sum()
    for axes, kind in zip(panels[1:], JIGSAW_ORDER, strict=True):
        color = np.array(to_rgb(MASK_COLORS[kind]))
        show_image(axes, np.where(masks[kind][..., None], color, 0.94))
        share = masks[kind].sum() / max(total, 1)
        axes.set_title(f"{kind} mask\n{masks[kind].sum():,} pixels, {percent(share)}")
    return figure


@figure_function
def figure1(image: np.ndarray, masks: Masks, name: str = "object") -> Figure:
    """The paper's Figure 1: an occluded object, and the whole that we perceive all the same."""
    window = crop_window([masks["amodal"]], margin=0.3)
    masks, image = crop(masks, window), image[window]
    size = (9.2, 4.6 * image.shape[0] / image.shape[1] + 0.7)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="compressed")
    show_image(left, image)
    left.set_title("what the eye gets")
    # Everything but the object fades, so that only its shape speaks.
    faded = (0.3 * image.mean(axis=2, keepdims=True) + 0.7 * 255).astype(np.uint8)
    faded = np.where(masks["visible"][..., None], image, faded)
    show_image(right, faded)
    hidden = np.zeros((*image.shape[:2], 4))
    hidden[masks["occlusion"]] = (*to_rgb(MASK_COLORS["occlusion"]), 0.55)
    right.imshow(hidden)
    draw_contour(right, masks["amodal"], MASK_COLORS["amodal"], 2.6)
    right.set_title(f"what the mind sees: the whole {name}")
    figure.legend(handles=mask_handles()[1:], loc="outside lower center", ncols=2)
    return figure
