"""The jigsaw: visible piece + hidden piece = whole, cut out of the image."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from arcnn.evaluation import mask_iou
from arcnn.visualization.masks import Masks, crop, crop_window, draw_contour, show_image
from arcnn.visualization.style import JIGSAW_ORDER, MASK_COLORS, PAPER, PLAIN, figure_function

TITLES = {"visible": "visible piece", "occlusion": "hidden piece", "amodal": "the whole"}


def cut_out(image: np.ndarray, masks: Masks, kind: str) -> np.ndarray:
    """One piece on a plain background, uint8 ``(H, W, 3)``.

    Pixels of the visible mask show the image. Hidden ones are tinted: what the camera saw there is
    the occluder, not the object. What belongs to the whole but to neither piece (predictions do
    not always fit) is tinted in the colour of the whole.
    """
    piece = np.full(image.shape, to_rgb(PLAIN), dtype=float)
    pixels = image / 255

    def tint(mask: np.ndarray, color: str, strength: float) -> None:
        mixed = (1 - strength) * pixels + strength * np.array(to_rgb(color))
        piece[mask] = mixed[mask]

    tint(masks[kind], MASK_COLORS[kind], 0.75)
    if kind != "occlusion":
        tint(masks["visible"] & masks[kind], MASK_COLORS["visible"], 0.0)
    tint(masks["occlusion"] & masks[kind] & ~masks["visible"], MASK_COLORS["occlusion"], 0.75)
    return (255 * piece).astype(np.uint8)


def jigsaw(image: np.ndarray, masks: Masks, *, title: str = "") -> Figure:
    """Visible piece + hidden piece = the whole object, cropped to the object.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        masks: of one object.
        title: above the three panels.
    """
    return jigsaw_rows(image, {"": masks}, title=title)


@figure_function
def jigsaw_rows(
    image: np.ndarray, objects: Mapping[str, Masks | None], *, title: str = ""
) -> Figure:
    """The jigsaw of the same object as several sources see it, a row each.

    Args:
        objects: masks by row label, for instance ground truth and models. The first row is the
            reference: each later one is given its IoU with it, per piece. ``None`` is a row that
            says "not found".
    """
    given = [masks for masks in objects.values() if masks is not None]
    window = crop_window([m[kind] for m in given for kind in JIGSAW_ORDER], margin=0.06)
    image = image[window]
    aspect = image.shape[0] / image.shape[1]
    width = 9.0 if len(objects) == 1 else 7.6
    size = (width, (width / 3.4 * aspect + 0.1) * len(objects) + 0.6)
    figure = plt.figure(figsize=size, layout="compressed")
    rows = _panels(figure, [aspect] * len(objects))
    reference = None
    for (label, masks), panels in zip(objects.items(), rows, strict=True):
        panels["visible"].set_ylabel(label, fontsize=11, labelpad=8)
        if masks is None:
            for axes in panels.values():
                show_image(axes, np.full_like(image, 255))
            not_found(panels["occlusion"])
            continue
        masks = crop(masks, window)
        _draw_row(panels, image, masks, reference)
        reference = reference or masks
    for kind, axes in rows[0].items():
        axes.set_title(TITLES[kind], color=MASK_COLORS[kind])
    figure.suptitle(title, fontsize=11.5)
    return figure


def _panels(figure: Figure, aspects: list[float]) -> list[dict[str, Axes]]:
    """Rows of three axes with "+" and "=" between them; ``aspects`` are height / width."""
    grid = figure.add_gridspec(
        len(aspects), 5, width_ratios=[1, 0.1, 1, 0.1, 1], height_ratios=aspects
    )
    rows = []
    for row in range(len(aspects)):
        for column, sign in ((1, "+"), (3, "=")):
            axes = figure.add_subplot(grid[row, column])
            axes.axis("off")
            axes.text(0.5, 0.5, sign, ha="center", va="center", fontsize=22)
        rows.append(
            {kind: figure.add_subplot(grid[row, 2 * k]) for k, kind in enumerate(JIGSAW_ORDER)}
        )
    return rows


def _draw_row(
    panels: Mapping[str, Axes], image: np.ndarray, masks: Masks, reference: Masks | None
) -> None:
    """The three pieces, each with its IoU with the reference's. Empty pieces say so."""
    for kind, axes in panels.items():
        show_image(axes, cut_out(image, masks, kind))
        draw_contour(axes, masks[kind], MASK_COLORS[kind], 2.0)
        if not masks[kind].any():
            axes.text(0.5, 0.5, "nothing", transform=axes.transAxes, ha="center", va="center")
        if reference is not None:
            corner_text(axes, f"IoU {mask_iou(masks[kind], reference[kind]):.2f}")


def corner_text(axes: Axes, text: str) -> None:
    """A small text in the upper left corner, readable on any picture."""
    axes.text(
        0.025, 0.97, text, transform=axes.transAxes, ha="left", va="top", fontsize=9
    ).set_bbox(PAPER)


def not_found(axes: Axes) -> None:
    """Say that a model has no prediction for an object."""
    axes.text(
        0.5, 0.5, "not found", transform=axes.transAxes, ha="center", va="center", fontsize=11
    ).set_bbox({"facecolor": "white", "alpha": 0.9, "edgecolor": "#999999", "pad": 4})
