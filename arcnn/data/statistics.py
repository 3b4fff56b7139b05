"""Numbers about a data set, from its internal records."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def split_summary(records: Sequence[dict]) -> dict[str, float]:
    """Counts and means of a split; crowds are left out. Rates in [0, 1]."""
    objects = [[a for a in r["annotations"] if not a["iscrowd"]] for r in records]
    rates = np.array([a["occlusion_rate"] for found in objects for a in found])
    return {
        "images": len(records),
        "objects": len(rates),
        "objects per image": round(len(rates) / max(len(records), 1), 2),
        "fully visible": round(float((rates == 0).mean()), 3) if len(rates) else 0.0,
        "occlusion rate above 0.15": round(float((rates > 0.15).mean()), 3) if len(rates) else 0.0,
        "mean occlusion rate of the occluded": round(float(rates[rates > 0].mean()), 3)
        if (rates > 0).any()
        else 0.0,
        "say who covers them": sum("occluders" in a for found in objects for a in found),
    }


def count_named_occluders(
    records: Sequence[dict], class_names: Sequence[str]
) -> pd.DataFrame | None:
    """How often an object of the row's class is named in front of one of the column's.

    Read from ``occluders``, so only where the file tells.

    Returns:
        ``(C, C)`` counts; None if no object of the records names its occluders.
    """
    counts, said = np.zeros((len(class_names), len(class_names)), dtype=int), False
    for record in records:
        classes = {a["id"]: a["category_id"] for a in record["annotations"]}
        for behind in record["annotations"]:
            said |= "occluders" in behind
            for front in behind.get("occluders", []):
                if front in classes:
                    counts[classes[front], behind["category_id"]] += 1
    names = list(class_names)
    return pd.DataFrame(counts, index=names, columns=names) if said else None
