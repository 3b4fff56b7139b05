"""How sure a number is: bootstrap over images.

The images of the ground truth are drawn anew, with replacement, and the metric is taken again:
``intervals(image_draws(evaluation))``. Two models, evaluated on the same images, are compared on
the same draws, since what is hard in an image is hard for both: ``intervals(image_draws(one) -
image_draws(other))``. The spread between training runs comes on top: it needs several seeds, and no
test set can show it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from arcnn.evaluation.protocol import Evaluation
from arcnn.names import TABLE_1


class Interval(NamedTuple):
    """A number with its 95 % percentile interval, in percent (points, for a difference)."""

    value: float
    low: float
    high: float


def image_draws(
    evaluation: Evaluation,
    metrics: Mapping[str, tuple[str, str]] = TABLE_1,
    *,
    samples: int = 1000,
) -> pd.DataFrame:
    """Metrics over draws of the images; as many images are always drawn alike.

    Args:
        metrics: column name -> (task, metric).

    Returns:
        Percent, one column per metric, by its name. Row 0 has all images once, the ``samples``
        others a draw each. NaN where there is no number.

    Raises:
        KeyError: a task has no such metric.
    """
    count = len(evaluation.image_ids)
    tasks = {task for task, _ in metrics.values() if task in evaluation.matches}
    generator = np.random.default_rng(0)
    rows = []
    for number in range(samples + 1):
        drawn = generator.integers(count, size=count) if number else np.arange(count)
        weights = np.bincount(drawn, minlength=count).astype(float)
        scores = {task: evaluation.metric(task, weights) for task in tasks}
        rows.append(
            {
                name: scores[task][metric] if task in tasks else None
                for name, (task, metric) in metrics.items()
            }
        )
    return pd.DataFrame(rows, columns=list(metrics), dtype=float)


def mean_of_trainings(draws: Sequence[pd.DataFrame], *, seed: int = 0) -> pd.DataFrame:
    """:func:`image_draws` of one model's trainings, averaged; the trainings are drawn anew too.

    With few trainings their spread is only roughly in the result; with one it isn't at all.
    """
    columns = draws[0].columns
    values = np.stack([d[columns].to_numpy() for d in draws])  # (trainings, 1 + samples, metrics)
    generator = np.random.default_rng(seed)
    picked = generator.integers(len(draws), size=(values.shape[1], len(draws)))
    picked[0] = np.arange(len(draws))
    means = values[picked, np.arange(values.shape[1])[:, None]].mean(axis=1)
    return pd.DataFrame(means, columns=columns)


def intervals(draws: pd.DataFrame) -> dict[str, Interval | None]:
    """95 % intervals, by column, of :func:`image_draws` or of the difference of two; ``None`` where
    the metric itself has no number."""
    by_name: dict[str, Interval | None] = dict.fromkeys(draws.columns)
    for name, column in draws.items():
        value, drawn = column.iloc[0], column.iloc[1:].dropna()
        if not np.isnan(value):
            low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (value, value)
            by_name[name] = Interval(float(value), float(low), float(high))
    return by_name
