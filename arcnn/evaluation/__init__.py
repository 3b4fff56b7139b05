"""The paper's measurements: AP and AR of amodal and visible masks, AP of occluded objects."""

import lazy_loader

# Importing a part brings what that part needs, and no more.
PARTS = {
    "evaluator": "predict",
    "examples": (
        "Example Match best_and_worst choose_examples found_rates ignored_shares load_predictions "
        "mask_iou occluded_examples piece_ious piece_table prediction_masks"
    ),
    "outcomes": "Outcomes image_outcomes pooled_curve",
    "predictions": "PredictionError to_results",
    "together": "predict_together",
    "protocol": "ALL_TASKS METRICS TASKS Evaluation evaluate protocol_version visible_fraction",
    "uncertainty": "image_draws intervals mean_of_trainings",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
