"""The questions that the paper leaves open, as experiments: which joint, and what did it learn?"""

from arcnn.experiments.frozen import SCORES
from arcnn.experiments.order import Agreement, agreement, meetings
from arcnn.experiments.runs import (
    CONSTANT_CONTEXT,
    Collected,
    collect,
    differences,
    whole_trainings,
)
from arcnn.experiments.variants import DEFAULT, NO_BIAS, VARIANTS, Variant

__all__ = [
    "CONSTANT_CONTEXT",
    "DEFAULT",
    "NO_BIAS",
    "SCORES",
    "VARIANTS",
    "Agreement",
    "Collected",
    "Variant",
    "agreement",
    "collect",
    "differences",
    "meetings",
    "whole_trainings",
]
