"""Figures: masks, the jigsaw, the paper's figures, data sets and learning curves.

Every figure function returns a matplotlib ``Figure``, drawn in one style.
"""

from arcnn.visualization.architecture import figure2, figure3
from arcnn.visualization.curves import learning_curves
from arcnn.visualization.datasets import (
    count_orders,
    front_shares,
    image_grid,
    instances_per_class,
    most_occluded_class,
    object_sizes,
    objects_table,
    occlusion_rates,
    order_probabilities,
    who_covers_whom,
)
from arcnn.visualization.evaluation import (
    ap_bars,
    ap_by_occlusion,
    best_and_worst,
    detections,
    precision_recall,
)
from arcnn.visualization.experiments import ablation, agreements
from arcnn.visualization.jigsaw import cut_out, jigsaw, jigsaw_rows, mask_iou
from arcnn.visualization.masks import (
    draw_masks,
    figure1,
    find_scene,
    load_image,
    mask_kinds,
    prediction_masks,
    scene_maps,
    scene_masks,
    show_masks,
)
from arcnn.visualization.predictions import (
    Example,
    choose_examples,
    figure4,
    figure4_jigsaw,
    found_rates,
    load_predictions,
    match_image,
    occluded_examples,
)
from arcnn.visualization.style import (
    MASK_COLORS,
    MODEL_COLORS,
    MODEL_MARKERS,
    MODEL_NAMES,
    save,
)
from arcnn.visualization.tables import table1_picture
from arcnn.visualization.weights import (
    class_index,
    figure5,
    weight_matrices,
    weights_table,
)

__all__ = [
    "MASK_COLORS",
    "MODEL_COLORS",
    "MODEL_MARKERS",
    "MODEL_NAMES",
    "Example",
    "ablation",
    "agreements",
    "ap_bars",
    "ap_by_occlusion",
    "best_and_worst",
    "choose_examples",
    "class_index",
    "count_orders",
    "cut_out",
    "detections",
    "draw_masks",
    "figure1",
    "figure2",
    "figure3",
    "figure4",
    "figure4_jigsaw",
    "figure5",
    "find_scene",
    "found_rates",
    "front_shares",
    "image_grid",
    "instances_per_class",
    "jigsaw",
    "jigsaw_rows",
    "learning_curves",
    "load_image",
    "load_predictions",
    "mask_iou",
    "mask_kinds",
    "match_image",
    "most_occluded_class",
    "object_sizes",
    "objects_table",
    "occlusion_rates",
    "occluded_examples",
    "order_probabilities",
    "precision_recall",
    "prediction_masks",
    "save",
    "scene_maps",
    "scene_masks",
    "show_masks",
    "table1_picture",
    "weight_matrices",
    "weights_table",
    "who_covers_whom",
]
