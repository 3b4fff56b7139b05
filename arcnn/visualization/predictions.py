"""Predictions in their images: Figure 4 beside the ground truth, and single detections."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcnn.data import decode_masks
from arcnn.evaluation import Detection, Example, prediction_masks
from arcnn.names import model_name
from arcnn.visualization.masks import (
    Masks,
    crop,
    crop_window,
    draw_masks,
    load_image,
    mask_legend,
    show_image,
)
from arcnn.visualization.pieces import corner_text, jigsaw_rows, not_found
from arcnn.visualization.style import figure_function, percent


@figure_function
def figure4(examples: Sequence[Example], class_names: Sequence[str]) -> Figure:
    """The paper's Figure 4: rows are objects, columns the ground truth and the models.

    Visible and occluded parts are filled, the amodal contour is a line; the IoU of the amodal mask
    with the ground truth stands in the corner. An object that a model missed says "not found".

    Args:
        examples: from :func:`arcnn.evaluation.choose_examples`, one or more; all with the same
            models.
    """
    models = list(examples[0].matches)
    masks = [_masks_of(example) for example in examples]
    images, cropped = [], []
    for example, by_column in zip(examples, masks, strict=True):
        window = crop_window([m["amodal"] for m in by_column if m], margin=0.2)
        images.append(load_image(example.record)[window])
        cropped.append([crop(m, window) if m else None for m in by_column])
    aspects = [image.shape[0] / image.shape[1] for image in images]
    width = 10 / max(len(models) + 1, 3)
    figure, panels = plt.subplots(
        len(examples),
        len(models) + 1,
        figsize=(width * (len(models) + 1), sum(width * a + 0.08 for a in aspects) + 0.7),
        height_ratios=aspects,
        squeeze=False,
        layout="compressed",
    )
    for axes, title in zip(panels[0], ["ground truth", *map(model_name, models)], strict=True):
        axes.set_title(title)
    for row, example, image, by_column in zip(panels, examples, images, cropped, strict=True):
        row[0].set_ylabel(_row_label(example, class_names))
        for axes, of_model in zip(row, by_column, strict=True):
            _draw_or_say_missing(axes, image, of_model)
        for axes, match in zip(row[1:], example.matches.values(), strict=True):
            if match:
                corner_text(axes, f"IoU {match.iou:.2f}")
    mask_legend(figure)
    return figure


def _masks_of(example: Example) -> list[Masks | None]:
    """Of the ground truth and of every model; ``None`` where it missed the object."""
    matches = example.matches.values()
    predicted = [prediction_masks(m.prediction) if m else None for m in matches]
    return [decode_masks(example.annotation), *predicted]


def _draw_or_say_missing(axes: Axes, image: np.ndarray, masks: Masks | None) -> None:
    if masks is not None:
        draw_masks(axes, image, [masks], alpha=0.5)
    else:
        grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
        show_image(axes, (0.45 * grey + 0.55 * 255).astype(np.uint8))
        not_found(axes)


def _row_label(example: Example, class_names: Sequence[str]) -> str:
    annotation = example.annotation
    name = class_names[annotation["category_id"]]
    label = f"{name}, {percent(annotation['occlusion_rate'])} hidden"
    return f"{label}\n({example.why})" if example.why else label


def figure4_jigsaw(example: Example, class_names: Sequence[str]) -> Figure:
    """Figure 4's second form: one object's pieces, a row for the truth and for every model.

    The IoU of each piece with that of the ground truth stands in its corner.
    """
    labels = ["ground truth", *map(model_name, example.matches)]
    rows = dict(zip(labels, _masks_of(example), strict=True))
    title = _row_label(example, class_names).replace("\n", " ")
    return jigsaw_rows(load_image(example.record), rows, title=title)


@figure_function
def draw_detections(chosen: Sequence[Detection], class_names: Sequence[str]) -> Figure:
    """A row of detections, each in its image.

    Args:
        chosen: for instance from :func:`arcnn.evaluation.best_and_worst`.
    """
    figure, panels = plt.subplots(1, max(len(chosen), 1), figsize=(12, 2.5), squeeze=False)
    for axes in panels[0, len(chosen) :]:
        axes.set_axis_off()
    for axes, (iou, record, prediction) in zip(panels[0], chosen, strict=False):
        draw_masks(axes, load_image(record), [prediction_masks(prediction)], alpha=0.5)
        axes.set_title(f"{class_names[prediction['category_id']]}, IoU {iou:.2f}")
    return figure
