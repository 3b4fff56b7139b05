"""What became of single detections, if only those from a score on are taken.

AP takes all score thresholds together, here one is chosen. In COCO's matching a detection never
changes what became of those with a higher score: a threshold takes detections away, and that is
all.

Shapes: D detections.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from arcnn.evaluation.matching import Matches
from arcnn.evaluation.protocol import AT_50, PROTOCOL, Evaluation
from arcnn.names import MASK_KEYS


class Outcomes(NamedTuple):
    """Of one image, at an IoU of 0.50: predictions by falling score, and annotations."""

    true: list[dict]  # predictions that found an object that counts
    false: list[dict]  # predictions that found none
    ignored: list[dict]  # predictions that count neither way
    missed: list[dict]  # annotations that count, and that no prediction found


def image_outcomes(
    evaluation: Evaluation, predictions: Sequence[dict], record: dict, task: str, min_score: float
) -> Outcomes:
    """What a task says of every detection of an image, and which objects are left.

    Args:
        evaluation: of these ``predictions``, in this order.
        task: any but ``occlusion``, for annotations have no mask of that kind.
        min_score: of the detections that are taken, in [0, 1].

    Raises:
        KeyError: the task has no number; ``evaluation.notes`` says why.
    """
    matches, image = evaluation.matches[task], record["image_id"]
    here = np.flatnonzero(matches.image == evaluation.image_ids.index(image))
    verdicts = {
        (matches.category[d], matches.rank[d]): (matches.true[AT_50, d], matches.false[AT_50, d])
        for d in here
    }
    found = Outcomes([], [], [], _counted(record, task))
    own = [p for p in predictions if p["image_id"] == image and p["score"] >= min_score]
    ranks: Counter[int] = Counter()
    for prediction in sorted(own, key=lambda p: -p["score"]):
        category = prediction["category_id"]
        place = category, ranks[category]
        ranks[category] += 1
        if place not in verdicts:  # beyond the first 100 of its class
            continue
        true, false = verdicts[place]
        (found.true if true else found.false if false else found.ignored).append(prediction)
        if true:
            _take(found.missed, prediction, MASK_KEYS[PROTOCOL[task].kind])
    return found


def _counted(record: dict, task: str) -> list[dict]:
    """The objects that are no crowd and hidden enough, by the protocol's own comparison."""
    limit = 1 - PROTOCOL[task].rate
    objects = [a for a in record["annotations"] if not a["iscrowd"]]
    return [a for a in objects if not 1 - a["occlusion_rate"] > limit]


def _take(free: list[dict], prediction: dict, key: str) -> None:
    """Remove what a true positive has found: of the free objects of its class, the one that it
    overlaps most; of equal ones the last, as COCO does."""
    places = [k for k, a in enumerate(free) if a["category_id"] == prediction["category_id"]]
    ious = mask_util.iou([prediction[key]], [free[k][key] for k in places], [0] * len(places))[0]
    del free[max(zip(ious, places, strict=True))[1]]


def pooled_curve(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall at an IoU of 0.50, of all classes together, as detections come in by
    falling score. (AP takes each class by itself, and the mean of the classes.)

    Returns:
        Score, precision and recall, float ``(D,)`` each. Precision is NaN as long as no detection
        counts, recall where no object does.
    """
    order = np.argsort(-matches.score, kind="stable")
    true, false = (np.cumsum(each[AT_50, order]) for each in (matches.true, matches.false))
    with np.errstate(invalid="ignore"):
        return matches.score[order], true / (true + false), true / matches.positives.sum()
