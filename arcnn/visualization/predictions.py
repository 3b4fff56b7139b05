"""Predictions in their images: Figure 4 beside the ground truth, and single detections."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from arcnn.data import decode_masks
from arcnn.evaluation import Example, Match, prediction_masks
from arcnn.names import MASK_KEYS, model_name
from arcnn.visualization.masks import Masks, crop, draw_masks, fade, load_image, show_image
from arcnn.visualization.pieces import corner_text, jigsaw_rows, not_found
from arcnn.visualization.style import figure_function, mask_legend, percent


@figure_function
def figure4(examples: Sequence[Example], class_names: Sequence[str]) -> Figure:
    """The paper's Figure 4: rows are objects, columns the ground truth and the models.

    Visible and occluded parts are filled, the amodal contour is a line; the IoU of the amodal mask
    with the ground truth stands in the corner. An object that a model missed says "not found".

    Args:
        examples: from :func:`arcnn.evaluation.choose_examples`, one or more; all with the same
            models.
    """
    drawn = [crop(load_image(e.record), list(_masks(e).values()), margin=0.2) for e in examples]
    titles = ["ground truth", *map(model_name, examples[0].matches)]
    aspects = [image.shape[0] / image.shape[1] for image, _ in drawn]
    width = max(10 / max(len(titles), 3), 1.3)
    figure, panels = plt.subplots(
        len(examples),
        len(titles),
        figsize=(width * len(titles), sum(width * a + 0.08 for a in aspects) + 0.7),
        height_ratios=aspects,
        squeeze=False,
        layout="compressed",
    )
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    for row, example, (image, objects) in zip(panels, examples, drawn, strict=True):
        label = _row_label(example, class_names)
        if width < 1.5:  # inches
            row[0].set_ylabel(label.replace(", ", ",\n"), fontsize=7.5)
        else:
            row[0].set_ylabel(label)
        for axes, masks in zip(row, objects, strict=True):
            if masks:
                draw_masks(axes, image, [masks])
            else:
                show_image(axes, fade(image, 0.45))
                not_found(axes)
        for axes, match in zip(row[1:], example.matches.values(), strict=True):
            if match:
                corner_text(axes, f"IoU {match.iou:.2f}")
    mask_legend(figure)
    return figure


def _masks(example: Example) -> dict[str, Masks | None]:
    """Of the ground truth and of every model, by title; ``None`` where it missed the object."""
    return {"ground truth": decode_masks(example.annotation)} | {
        model_name(model): match and prediction_masks(match.prediction)
        for model, match in example.matches.items()
    }


def _row_label(example: Example, class_names: Sequence[str]) -> str:
    annotation = example.annotation
    name = class_names[annotation["category_id"]]
    label = f"{name}, {percent(annotation['occlusion_rate'])} hidden"
    return f"{label}\n({example.why})" if example.why else label


def figure4_jigsaw(example: Example, class_names: Sequence[str]) -> Figure:
    """Figure 4's second form: one object's pieces, a row for the truth and for every model.

    The IoU of each piece with that of the ground truth stands in its corner.
    """
    title, rows = _row_label(example, class_names).replace("\n", " "), _masks(example)
    for model, match in example.matches.items():
        if match:  # without the pieces that it does not predict
            predicted = [kind for kind, key in MASK_KEYS.items() if key in match.prediction]
            rows[model_name(model)] = {kind: rows[model_name(model)][kind] for kind in predicted}
    return jigsaw_rows(load_image(example.record), rows, title=title)


@figure_function
def draw_detections(chosen: Sequence[tuple[dict, Match]], class_names: Sequence[str]) -> Figure:
    """A row of detections, each in the image of its record.

    Args:
        chosen: for instance from :func:`arcnn.evaluation.best_and_worst`.
    """
    figure, panels = plt.subplots(1, max(len(chosen), 1), figsize=(12, 2.5), squeeze=False)
    for axes in panels[0, len(chosen) :]:
        axes.set_axis_off()
    for axes, (record, (prediction, iou)) in zip(panels[0], chosen, strict=False):
        draw_masks(axes, load_image(record), [prediction_masks(prediction)])
        axes.set_title(f"{class_names[prediction['category_id']]}, IoU {iou:.2f}")
    return figure
