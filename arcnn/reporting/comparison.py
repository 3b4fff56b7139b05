"""This run beside the reference results that are kept in git."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

# Points of AP or IoU. Two trainings of one model differ by up to two; another number of threads,
# or another processor, is another training.
TOLERANCE = 3.0


def compare(
    table: pd.DataFrame, reference: Path, *, keys: Sequence[str], value: str
) -> pd.DataFrame | None:
    """A table beside the CSV file of a reference run: the rows that both have.

    Args:
        keys: the columns that name a row.
        value: the column with the number, percent.

    Returns:
        The keys, ``ours``, ``reference``, ``deviation`` in points and ``within`` the
        :data:`TOLERANCE`; ``None`` if there is no reference or it shares no row.
    """
    if not reference.is_file():
        return None
    ours, theirs = (t[[*keys, value]] for t in (table, pd.read_csv(reference)))
    both = ours.merge(theirs, on=list(keys))
    both = both.set_axis([*keys, "ours", "reference"], axis="columns").dropna()
    both["deviation"] = both.ours - both.reference
    both["within"] = both.deviation.abs() <= TOLERANCE
    return None if both.empty else both
