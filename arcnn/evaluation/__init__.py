"""The paper's measurements: AP and AR of amodal and visible masks, AP of occluded objects."""

from arcnn.evaluation.evaluator import AmodalEvaluator, detections, predict_and_evaluate
from arcnn.evaluation.masks import encode_mask_kinds, encode_masks
from arcnn.evaluation.predictions import (
    PredictionError,
    check_predictions,
    read_results,
    to_results,
)
from arcnn.evaluation.protocol import (
    ALL_TASKS,
    DEFAULT_TASKS,
    METRICS,
    TASKS,
    Evaluation,
    evaluate,
    visible_fraction,
)
from arcnn.evaluation.uncertainty import (
    Interval,
    bootstrap,
    image_draws,
    intervals,
    mean_of_trainings,
    paired_bootstrap,
)

__all__ = [
    "ALL_TASKS",
    "DEFAULT_TASKS",
    "METRICS",
    "TASKS",
    "AmodalEvaluator",
    "Evaluation",
    "Interval",
    "PredictionError",
    "bootstrap",
    "check_predictions",
    "detections",
    "encode_mask_kinds",
    "encode_masks",
    "evaluate",
    "image_draws",
    "intervals",
    "mean_of_trainings",
    "paired_bootstrap",
    "predict_and_evaluate",
    "read_results",
    "to_results",
    "visible_fraction",
]
