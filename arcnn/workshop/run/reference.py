"""``make reference``: keep the small files of one run in git, to look at and to compare with."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from arcnn.experiments.runs import HEAD
from arcnn.files import REFERENCE
from arcnn.published import VARIANT
from arcnn.workshop.run.targets import on_results

KEPT = (
    "table1.*",
    "figure*.png",
    "ablation.*",
    "occlusion_order.png",
    "records/0[678]_*.json",
    "records/1[123]_*.json",
    "cost.csv",
    "field*.png",
    # Runs, and the ablation's whole networks.
    *(
        f"{folder}runs/*/*/seed*/{file}"
        for folder in ("", "networks/*/")
        for file in ("metrics.json", "draws.csv", "record.json", "train/config.yaml")
        + ("given_boxes.csv",)
    ),
    # Notebooks 11 and 12 run on these; the heads are those of the published models.
    "ablation/*/*/seed*/objects.csv",
    "ablation/*/*/seed*/record.json",
    *(f"ablation/*/{variant}/seed0/{HEAD}" for variant in VARIANT.values()),
)
MAX_BYTES = 1_000_000


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


def make(results: Path) -> str:
    reference = REFERENCE / results.name
    return f"{len(keep(results, reference))} files in {reference}"


def main(arguments: Sequence[str] | None = None) -> int:
    return on_results("reference", __doc__, make, arguments)


if __name__ == "__main__":
    sys.exit(main())
