"""How sure a number is: bootstrap over images.

The images of the ground truth are drawn anew, with replacement, and the metric is taken again. Two
models are compared on the same draws, since what is hard in an image is hard for both. The spread
between training runs comes on top: it needs several seeds, and no test set can show it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from arcnn.evaluation.protocol import Evaluation

Metric = tuple[str, str]  # task and metric: ("amodal", "AP")
TABLE_1: tuple[Metric, ...] = (
    ("amodal", "AP"),
    ("amodal", "AR@1"),
    ("visible", "AP"),
    ("visible", "AR@1"),
    ("occluded", "AP"),
)


class Interval(NamedTuple):
    """A number with its percentile interval, in percent (points, for a difference)."""

    value: float
    low: float
    high: float


def bootstrap(
    evaluation: Evaluation,
    metrics: Sequence[Metric] = TABLE_1,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[Metric, Interval | None]:
    """Percentile intervals of any metrics over draws of the images.

    Args:
        samples: number of draws.
        confidence: of the interval, in (0, 1).
        seed: of the draws.

    Returns:
        ``None`` where the metric itself is None. Draws in which it is None, for want of objects,
        are left out.
    """
    draws = _draws(len(evaluation.image_ids), samples, seed)
    return _intervals([evaluation], draws, metrics, confidence)


def paired_bootstrap(
    first: Evaluation,
    second: Evaluation,
    metrics: Sequence[Metric] = TABLE_1,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[Metric, Interval | None]:
    """Intervals of the differences ``first - second``, both models taken on the same draws.

    Raises:
        ValueError: they were evaluated on different images.
    """
    if first.image_ids != second.image_ids:
        raise ValueError(
            "the two evaluations are of different images; evaluate both on the same ground truth"
        )
    draws = _draws(len(first.image_ids), samples, seed)
    return _intervals([first, second], draws, metrics, confidence)


def _draws(num_images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image was drawn, float ``(N,)``, ``samples`` times."""
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        drawn = generator.integers(num_images, size=num_images)
        yield np.bincount(drawn, minlength=num_images).astype(float)


def _intervals(
    evaluations: Sequence[Evaluation],
    draws: Iterator[np.ndarray],
    metrics: Sequence[Metric],
    confidence: float,
) -> dict[Metric, Interval | None]:
    def difference(weights: np.ndarray | None) -> list[float]:
        numbers = [{t: e.metric(t, weights) for t in tasks} for e in evaluations]
        signs = (1, -1)
        return [
            sum(s * _nan(n[task][name]) for s, n in zip(signs, numbers, strict=False))
            for task, name in scored
        ]

    scored = [m for m in metrics if all(m[0] in e.matches for e in evaluations)]
    tasks = dict.fromkeys(task for task, _ in scored)
    values = difference(None)
    table = np.array([difference(weights) for weights in draws]).reshape(-1, len(scored))
    tail = 50 * (1 - confidence)
    intervals: dict[Metric, Interval | None] = dict.fromkeys(metrics)
    for metric, value, column in zip(scored, values, table.T, strict=True):
        if not np.isnan(value):
            low, high = np.nanpercentile(column, [tail, 100 - tail])
            intervals[metric] = Interval(float(value), float(low), float(high))
    return intervals


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
