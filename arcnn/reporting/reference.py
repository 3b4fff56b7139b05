"""Reference results: the small files of one run, kept in git, to look at and to compare with."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from arcnn.paths import ROOT

REFERENCE = ROOT / "results" / "reference"
KEPT = (
    "table1.*",
    "figure*.png",
    "ablation.*",
    "occlusion_order.png",
    "records/0[678]_*.json",
    "records/1[12]_*.json",
    "runs/*/*/seed*/metrics.json",
    "runs/*/*/seed*/record.json",
)
MAX_BYTES = 1_000_000
# Points of AP or IoU. Two trainings of one model differ by up to two; another number of threads,
# or another processor, is another training.
TOLERANCE = 3.0


def keep(results: Path, reference: Path) -> list[Path]:
    """Copy the files worth keeping, in the place of those of an earlier run; pictures with 256
    colours, which makes them a third as large.

    Raises:
        FileNotFoundError: the results have no Table 1.
        ValueError: a file is too large to be kept in git.
    """
    if not (results / "table1.csv").is_file():
        raise FileNotFoundError(f"{results / 'table1.csv'} is not there: `make reproduce` first")
    files = sorted({file for pattern in KEPT for file in results.glob(pattern)})
    beside = reference.with_name(reference.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    for file in files:
        copy = beside / file.relative_to(results)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            picture = Image.open(file).convert("RGB")
            picture.quantize(256, kmeans=1).save(copy, optimize=True)
        else:
            shutil.copyfile(file, copy)
        if copy.stat().st_size > MAX_BYTES:
            shutil.rmtree(beside)
            raise ValueError(f"{file} would take more than {MAX_BYTES} bytes in git, too many")
    shutil.rmtree(reference, ignore_errors=True)
    beside.rename(reference)
    return [reference / file.relative_to(results) for file in files]


def compare(
    table: pd.DataFrame, reference: Path, *, keys: Sequence[str], value: str
) -> pd.DataFrame | None:
    """A table beside the reference's, with the same rows.

    Args:
        table: of this run.
        reference: the CSV file of the reference run.
        keys: the columns that name a row.
        value: the column with the number, percent.

    Returns:
        The keys, ``ours``, ``reference``, ``deviation`` in points and ``within`` the
        :data:`TOLERANCE`; ``None`` if there is no reference or it shares no row.
    """
    if not reference.is_file():
        return None
    both = table[[*keys, value]].merge(
        pd.read_csv(reference)[[*keys, value]], on=list(keys), suffixes=("_ours", "_reference")
    )
    both = both.set_axis([*keys, "ours", "reference"], axis="columns").dropna()
    both["deviation"] = both.ours - both.reference
    both["within"] = both.deviation.abs() <= TOLERANCE
    return None if both.empty else both
