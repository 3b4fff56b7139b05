"""What the paper prints (arXiv 2107.07464): Table 1, in percent, and the settings behind it."""

from typing import NamedTuple

import pandas as pd

from arcnn.names import TABLE_1


class Row(NamedTuple):
    dataset: str
    model: str
    values: tuple[float, float, float, float, float]  # in the order of names.TABLE_1
    quoted: bool = False  # the paper quotes the number from another paper


PUBLISHED = (
    Row("kins", "orcnn", (30.57, 19.88, 30.95, 20.6, 36.15)),
    Row("kins", "vrs_sp", (32.08, 20.9, 29.88, 19.88, 37.4), quoted=True),
    Row("kins", "arcnn_add", (30.2, 19.75, 30.89, 20.61, 36.27)),
    Row("kins", "arcnn", (32.94, 20.96, 30.68, 20.56, 38.71)),
    Row("cocoa_cls", "orcnn", (30.75, 32.55, 34.8, 36.78, 18.9)),
    Row("cocoa_cls", "vrs_sp", (35.41, 37.11, 34.58, 36.42, 22.17), quoted=True),
    Row("cocoa_cls", "arcnn_add", (32.26, 34.06, 35.46, 37.25, 19.32)),
    Row("cocoa_cls", "arcnn", (36.29, 37.39, 35.48, 36.69, 20.84)),
)

# Section 4.2.
SETTINGS: dict[str, dict[str, float]] = {
    "kins": {
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.BASE_LR": 0.0025,
        "SOLVER.MAX_ITER": 48000,
    },
    "cocoa_cls": {
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 0.0005,
        "SOLVER.MAX_ITER": 10000,
    },
}
# Images of the published files. The paper prints 2,476 for COCOA-cls' training: a misprint.
IMAGES = {
    "kins": {"train": 7474, "val": 7517},
    "cocoa_cls": {"train": 2276, "val": 1223},
}


def paper_table() -> pd.DataFrame:
    """The published numbers: index (dataset, model), the five columns, and ``quoted`` (bool)."""
    rows = [
        {"dataset": r.dataset, "model": r.model, **dict(zip(TABLE_1, r.values, strict=True))}
        | {"quoted": r.quoted}
        for r in PUBLISHED
    ]
    return pd.DataFrame(rows).set_index(["dataset", "model"])
