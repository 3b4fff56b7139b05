"""This run beside the reference results that are kept in git: within what their trainings gave?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

TRUST = 0.95  # of the intervals


def compare(
    table: pd.DataFrame, reference: Path, *, keys: Sequence[str], value: str
) -> pd.DataFrame | None:
    """A table beside the CSV file of reference runs: the rows that both have.

    Two trainings of one model differ by luck. How much, the reference's trainings tell: their
    spread gives the interval in which the mean of as many trainings as here lies in 95 of 100 cases
    (Student's t, with one degree of freedom less than the reference has trainings).

    Args:
        table: with columns ``seeds`` and, over these, the mean ``value``; as has the reference,
            and ``spread``, its standard deviation.
        keys: the columns that name a row.
        value: the column with the number, percent.

    Returns:
        The keys, ``ours``, ``reference``, ``low`` and ``high`` and ``within`` (bool) them, without
        the rows that the reference has one training of; ``None`` if there is no reference or no
        such row.
    """
    if not reference.is_file():
        return None
    theirs = pd.read_csv(reference).query("seeds > 1")
    both = table.merge(theirs, on=list(keys), suffixes=("", "_theirs")).dropna(subset=[value])
    if both.empty:
        return None
    count = both["seeds_theirs"]
    reach = stats.t.ppf((1 + TRUST) / 2, count - 1) * both["spread_theirs"]
    reach *= np.sqrt(1 / both["seeds"] + 1 / count)
    ours, mean = both[value], both[f"{value}_theirs"]
    numbers = {"ours": ours, "reference": mean, "low": mean - reach, "high": mean + reach}
    return both[list(keys)].assign(**numbers, within=(ours - mean).abs() <= reach)
