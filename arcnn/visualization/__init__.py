"""Figures: masks, the jigsaw, the paper's figures, data sets and learning curves.

Every figure function returns a matplotlib ``Figure``, drawn in one style. The numbers in them are
made where their subject lives: ``arcnn.evaluation``, ``arcnn.data`` and ``arcnn.data.tabletop``.
"""

import lazy_loader

# Importing a part brings what that part needs, and no more.
PARTS = {
    "architecture": "figure3",
    "curves": "learning_curves",
    "datasets": (
        "compare_rates compare_sizes image_grid instances_per_class object_sizes occlusion_rates"
    ),
    "draws": "STEPS bootstrap",
    "evaluation": "ap_bars ap_by_occlusion at_score mean_precision precision_recall",
    "experiments": "ablation agreements permutations score_by_cost",
    "film": "film_at film_strip live training_now",
    "masks": "figure1 load_image mask_kinds show_masks show_pictures",
    "matrices": "figure5 weight_matrices weights_table who_covers_whom",
    "pieces": "jigsaw jigsaw_rows",
    "predictions": "draw_detections figure4 figure4_jigsaw",
    "style": "percent save",
    "widgets": "READINGS explore hidden_at muted or_gate",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
