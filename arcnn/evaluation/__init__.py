"""The paper's measurements: AP and AR of amodal and visible masks, AP of occluded objects."""

from arcnn.evaluation.evaluator import AmodalEvaluator, detections, predict_and_evaluate
from arcnn.evaluation.masks import encode_masks
from arcnn.evaluation.protocol import TASKS, evaluate, visible_fraction

__all__ = [
    "TASKS",
    "AmodalEvaluator",
    "detections",
    "encode_masks",
    "evaluate",
    "predict_and_evaluate",
    "visible_fraction",
]
