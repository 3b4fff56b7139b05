"""The three masks of objects, drawn on their image.

Images are uint8 ``(H, W, 3)`` RGB. An object's masks are the dict that
:func:`arcnn.data.decode_masks` gives: ``amodal``, ``visible``, ``occlusion``, bool ``(H, W)``.
"""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from detectron2.data.detection_utils import read_image
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from arcnn.visualization.style import (
    HIDDEN_HATCH,
    INK,
    MASK_COLORS,
    figure_function,
    mask_legend,
    percent,
)

Masks = dict[str, np.ndarray]


def load_image(record: dict) -> np.ndarray:
    """The image of an internal record.

    Raises:
        FileNotFoundError: the image file is missing.
    """
    return read_image(record["file_name"], format="RGB")


def crop(
    image: np.ndarray, objects: Sequence[Masks | None], margin: float
) -> tuple[np.ndarray, list[Masks | None]]:
    """The part of an image around some objects, and their masks in it.

    Args:
        objects: ``None``, where a model found nothing, stays ``None``.
        margin: on every side, as a share of the longer side of their box.

    Raises:
        ValueError: all masks are empty.
    """
    together = np.logical_or.reduce([m for masks in objects if masks for m in masks.values()])
    if not together.any():
        raise ValueError("the masks are empty: there is nothing to crop to")
    places = np.nonzero(together)
    extra = 2 + round(margin * max(np.ptp(k) for k in places))
    window = tuple(slice(max(k.min() - extra, 0), k.max() + extra + 1) for k in places)
    cut = [masks and {kind: mask[window] for kind, mask in masks.items()} for masks in objects]
    return image[window], cut


def show_image(axes: Axes, image: np.ndarray) -> None:
    """The image alone, without ticks and frame."""
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def fade(image: np.ndarray, kept: float) -> np.ndarray:
    """In grey, and so pale that a share ``kept`` of the contrast is left."""
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return (kept * grey + (1 - kept) * 255).astype(np.uint8)


def fill(
    axes: Axes, image: np.ndarray, objects: Sequence[Masks], kinds: Sequence[str], alpha: float
) -> None:
    """Masks as flat colours over an image, hidden parts hatched; later kinds cover earlier ones."""
    overlay = np.zeros((*image.shape[:2], 4))
    for kind in kinds:
        for masks in objects:
            overlay[masks[kind]] = (*to_rgb(MASK_COLORS[kind]), alpha)
    axes.imshow(overlay)
    hidden = np.logical_or.reduce([masks["occlusion"] for masks in objects])
    if "occlusion" in kinds and hidden.any():
        with plt.rc_context({"hatch.color": (INK, 0.45), "hatch.linewidth": 0.7}):
            axes.contourf(hidden, levels=[0.5, 1.5], colors="none", hatches=[HIDDEN_HATCH])


def draw_contour(
    axes: Axes, mask: np.ndarray, color: str, width: float = 2.0, line: str = "solid"
) -> None:
    """The outline of a bool mask ``(H, W)``, closed also along the image border."""
    if mask.any():
        axes.contour(
            np.arange(-1, mask.shape[1] + 1),
            np.arange(-1, mask.shape[0] + 1),
            np.pad(mask.astype(float), 1),
            levels=[0.5],
            colors=[color],
            linewidths=width,
            linestyles=line,
            path_effects=[withStroke(linewidth=width + 1.4, foreground="white")],
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
        labels: one text per object, written on its visible part, near the middle.
        alpha: opacity of the fillings in [0, 1].
    """
    show_image(axes, image)
    fill(axes, image, objects, ("visible", "occlusion"), alpha)
    for masks in objects:
        draw_contour(axes, masks["amodal"], MASK_COLORS["amodal"], line_width)
    look = {"color": "white", "ha": "center", "va": "center", "fontsize": 8, "fontweight": "bold"}
    look["path_effects"] = [withStroke(linewidth=2.2, foreground="#222222")]
    for masks, label in zip(objects, labels, strict=bool(labels)):
        part = masks["visible"] if masks["visible"].any() else masks["amodal"]
        if part.any():
            pixels = np.argwhere(part)  # a ring has its middle outside
            y, x = pixels[np.abs(pixels - np.median(pixels, axis=0)).sum(axis=1).argmin()]
            x = np.clip(x, 0.1 * part.shape[1], 0.9 * part.shape[1])  # a whole word, if possible
            axes.text(x, y, label, clip_on=True, **look)
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))


@figure_function
def show_masks(
    image: np.ndarray, objects: Sequence[Masks], *, labels: Sequence[str] = ()
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
def show_pictures(
    pictures: Sequence[tuple[np.ndarray, Sequence[Masks], Sequence[str]]], *, title: str = ""
) -> Figure:
    """A grid of images with the masks of their objects.

    Args:
        pictures: one or more; an image uint8 ``(H, W, 3)`` RGB, its objects, a text for each.
    """
    aspect = float(np.median([image.shape[0] / image.shape[1] for image, _, _ in pictures]))
    columns = min(4 if aspect > 0.9 else 3 if aspect > 0.5 else 2, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    size = (10.0, rows * (10.0 / columns * aspect + 0.08) + 0.4)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    for axes in panels.flat:
        axes.axis("off")
    for axes, (image, objects, labels) in zip(panels.flat, pictures, strict=False):
        draw_masks(axes, image, objects, labels=labels, alpha=0.4, line_width=1.4)
    mask_legend(figure)
    figure.suptitle(title)
    return figure


@figure_function
def mask_kinds(image: np.ndarray, masks: Masks, name: str) -> Figure:
    """The image and, side by side, the three masks of one object as plain maps."""
    height = 2.5 * image.shape[0] / image.shape[1] + 0.6
    figure, panels = plt.subplots(1, 4, figsize=(10, height), layout="compressed")
    show_image(panels[0], image)
    panels[0].set_title(f"the {name} in its image")
    total = masks["amodal"].sum()
    for axes, (kind, color) in zip(panels[1:], MASK_COLORS.items(), strict=True):
        show_image(axes, np.where(masks[kind][..., None], to_rgb(color), 0.94))
        pixels = masks[kind].sum()
        axes.set_title(f"{kind} mask\n{pixels:,} pixels, {percent(pixels / max(total, 1))}")
    return figure


@figure_function
def figure1(image: np.ndarray, masks: Masks, name: str) -> Figure:
    """The paper's Figure 1: an occluded object, and the whole that we perceive all the same."""
    image, (masks,) = crop(image, [masks], margin=0.3)
    size = (9.2, 4.6 * image.shape[0] / image.shape[1] + 0.7)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="compressed")
    show_image(left, image)
    left.set_title("what the eye gets")
    # Everything but the object fades, so that only its shape speaks.
    show_image(right, np.where(masks["visible"][..., None], image, fade(image, 0.3)))
    fill(right, image, [masks], ["occlusion"], 0.55)
    draw_contour(right, masks["amodal"], MASK_COLORS["amodal"], 2.6)
    right.set_title(f"what the mind sees: the whole {name}")
    mask_legend(figure, ("occlusion", "amodal"))
    return figure
