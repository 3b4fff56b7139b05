"""Numbers about a data set, from its internal records: counts, rates, and who covers whom.

Crowds do not count as objects. Rates are in [0, 1]; an object counts as occluded from
:data:`arcnn.names.OCCLUSION_RATE` on, as in Table 1.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from arcnn.data.masks import area, intersection
from arcnn.errors import InputError
from arcnn.names import OCCLUSION_RATE

MIN_OVERLAP = 10  # pixels: below, masks of two objects touch rather than tell an order


def class_index(class_names: Sequence[str], class_name: str) -> int:
    """The position of a class.

    Raises:
        ValueError: the data set has no such class; names those it has.
    """
    if class_name not in class_names:
        raise InputError(
            f'class_name is "{class_name}", but the data set has the classes '
            f"{', '.join(class_names)}. Choose one of them."
        )
    return list(class_names).index(class_name)


def split_summary(records: Sequence[dict]) -> dict[str, float]:
    """Counts and means of a split."""
    objects = [a for record in records for a in _objects(record)]
    rates = np.array([a["occlusion_rate"] for a in objects])

    def mean(values: np.ndarray) -> float:
        return round(float(values.mean()), 3) if len(values) else 0.0

    return {
        "images": len(records),
        "objects": len(objects),
        "objects per image": round(len(objects) / max(len(records), 1), 2),
        "fully visible": mean(rates == 0),
        f"occlusion rate of {OCCLUSION_RATE:.2f} or more": mean(rates >= OCCLUSION_RATE),
        "mean occlusion rate of the occluded": mean(rates[rates > 0]),
        "say who covers them": sum("occluders" in a for a in objects),
    }


def objects_table(records: Sequence[dict], class_names: Sequence[str]) -> pd.DataFrame:
    """One row per object: ``image_id``, ``class``, ``occlusion_rate``, ``area`` (amodal, pixels),
    ``side`` (square root of the area, pixels) and ``image_share`` (area / image area)."""
    rows = [
        {
            "image_id": record["image_id"],
            "class": class_names[a["category_id"]],
            "occlusion_rate": a["occlusion_rate"],
            "area": (pixels := area(a["segmentation"])),
            "side": pixels**0.5,
            "image_share": pixels / (record["height"] * record["width"]),
        }
        for record in records
        for a in _objects(record)
    ]
    columns = ["image_id", "class", "occlusion_rate", "area", "side", "image_share"]
    return pd.DataFrame(rows, columns=columns)


def most_occluded_class(records: Sequence[dict], class_names: Sequence[str]) -> str:
    """The class with the most occluded objects; the first one if there are none."""
    objects = objects_table(records, class_names)
    occluded = objects[objects["occlusion_rate"] >= OCCLUSION_RATE]["class"]
    return occluded.value_counts().idxmax() if len(occluded) else class_names[0]


def count_orders(records: Sequence[dict], class_names: Sequence[str]) -> pd.DataFrame:
    """How often an object of the row's class lies in front of one of the column's, ``(C, C)``.

    Read from the masks alone, see :func:`ordered_pairs`.
    """
    pairs = ordered_pairs(records)
    return _count_pairs([(a["category_id"], b["category_id"]) for _, a, b in pairs], class_names)


def ordered_pairs(records: Sequence[dict]) -> list[tuple[dict, dict, dict]]:
    """Pairs of objects of which one covers the other: the record, the annotation of the object in
    front, and that of the one behind.

    Where two amodal masks overlap, the object that is visible there is in front. Pairs whose whole
    overlap is hidden by a third object tell nothing and are left out, and so are overlaps below
    :data:`MIN_OVERLAP`.
    """
    pairs = []
    for record in records:
        for a, b in combinations(_objects(record), 2):
            overlap = intersection(a["segmentation"], b["segmentation"])
            if area(overlap) < MIN_OVERLAP:
                continue
            visible_a, visible_b = (area(intersection(overlap, o["visible_mask"])) for o in (a, b))
            if visible_a != visible_b:
                front, behind = (a, b) if visible_a > visible_b else (b, a)
                pairs.append((record, front, behind))
    return pairs


def count_named_occluders(
    records: Sequence[dict], class_names: Sequence[str]
) -> pd.DataFrame | None:
    """How often an object of the row's class is named in front of one of the column's, ``(C, C)``.

    Read from ``occluders``; None if no object of the records has them.
    """
    if not any("occluders" in a for record in records for a in record["annotations"]):
        return None
    pairs = []
    for record in records:
        classes = {a["id"]: a["category_id"] for a in record["annotations"]}
        for behind in record["annotations"]:
            fronts = [k for k in behind.get("occluders", []) if k in classes]
            pairs += [(classes[front], behind["category_id"]) for front in fronts]
    return _count_pairs(pairs, class_names)


def _count_pairs(pairs: list[tuple[int, int]], class_names: Sequence[str]) -> pd.DataFrame:
    counts = np.zeros((len(class_names), len(class_names)), dtype=int)
    for pair in pairs:
        counts[pair] += 1
    return pd.DataFrame(counts, index=list(class_names), columns=list(class_names))


def order_probabilities(counts: pd.DataFrame) -> pd.DataFrame:
    """P(row in front of column | one covers the other) from :func:`count_orders`; NaN: no pair."""
    pairs = counts + counts.T
    return counts / pairs.where(pairs > 0)


def told_by_class(learned: pd.DataFrame, tested: pd.DataFrame) -> float:
    """How often the two classes alone tell which of two objects is in front, in [0, 1].

    The guess is the class that was in front more often among the pairs to learn from; where that
    says nothing, as for two objects of one class, it is right half of the time. NaN: no pair.
    Both from :func:`count_orders`, of images apart, as those of training and validation.

    Example: learned from 3 cats in front of books and 1 behind, tested on 8 and 2: 0.8.
    """
    ahead = learned - learned.T
    right = (1 + np.sign(ahead)) / 2 * tested
    pairs = tested.to_numpy().sum()
    return float(right.to_numpy().sum() / pairs) if pairs else float("nan")


def front_shares(counts: pd.DataFrame) -> pd.Series:
    """How often a class is the one in front, of all its meetings with other classes, in [0, 1];
    one half for a class that meets none. From :func:`count_orders`."""
    others = counts.where(~np.eye(len(counts), dtype=bool), 0)
    front, behind = others.sum(axis=1), others.sum(axis=0)
    return (front / (front + behind).where(front + behind > 0)).fillna(0.5)


def _objects(record: dict) -> list[dict]:
    return [a for a in record["annotations"] if not a["iscrowd"]]
