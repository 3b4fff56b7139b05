"""Figures: masks, the jigsaw, the paper's figures, data sets and learning curves.

Every figure function returns a matplotlib ``Figure``, drawn in one style.
"""

import lazy_loader

# Importing a part brings what that part needs, and no more.
PARTS = {
    "architecture": "figure2 figure3",
    "curves": "learning_curves",
    "datasets": (
        "count_orders front_shares image_grid instances_per_class most_occluded_class "
        "object_sizes objects_table occlusion_rates order_probabilities who_covers_whom"
    ),
    "evaluation": "ap_bars ap_by_occlusion best_and_worst detections precision_recall",
    "experiments": "ablation agreements",
    "pieces": "cut_out jigsaw jigsaw_rows mask_iou",
    "masks": (
        "draw_masks figure1 find_scene load_image mask_kinds prediction_masks scene_maps "
        "scene_masks show_masks"
    ),
    "predictions": (
        "Example choose_examples figure4 figure4_jigsaw found_rates load_predictions match_image "
        "occluded_examples"
    ),
    "style": "MASK_COLORS MODEL_COLORS MODEL_MARKERS save",
    "tables": "table1_picture",
    "weights": "class_index figure5 weight_matrices weights_table",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
