"""Looking at a data set: its images, classes, sizes, occlusion rates, and who covers whom.

All of it reads internal records (:mod:`arcnn.data.annotations`), so it serves every data set.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pycocotools import mask as mask_util

from arcnn.data import decode_masks
from arcnn.names import OCCLUSION_RATE
from arcnn.visualization.masks import draw_masks, load_image, mask_legend
from arcnn.visualization.style import INK, MASK_COLORS, figure_function, percent


def objects_table(records: Sequence[dict], class_names: Sequence[str]) -> pd.DataFrame:
    """One row per object: ``image_id``, ``class``, ``occlusion_rate``, ``area`` (amodal, pixels),
    ``side`` (square root of the area, pixels) and ``image_share`` (area / image area)."""
    rows = [
        {
            "image_id": record["image_id"],
            "class": class_names[a["category_id"]],
            "occlusion_rate": a["occlusion_rate"],
            "area": int(mask_util.area(a["segmentation"])),
            "pixels": record["height"] * record["width"],
        }
        for record in records
        for a in record["annotations"]
        if not a["iscrowd"]
    ]
    table = pd.DataFrame(rows, columns=["image_id", "class", "occlusion_rate", "area", "pixels"])
    side, share = np.sqrt(table["area"]), table["area"] / table["pixels"]
    return table.drop(columns="pixels").assign(side=side, image_share=share)


def most_occluded_class(records: Sequence[dict], class_names: Sequence[str]) -> str:
    """The class with the most objects that count as occluded in Table 1; the first one if none."""
    objects = objects_table(records, class_names)
    occluded = objects[objects["occlusion_rate"] >= OCCLUSION_RATE]["class"]
    return occluded.value_counts().idxmax() if len(occluded) else class_names[0]


@figure_function
def image_grid(
    records: Sequence[dict], class_names: Sequence[str], *, columns: int | None = None
) -> Figure:
    """Images with the masks and class names of their objects.

    Args:
        records: those to show; every one is.
        columns: of the grid; by default as many as the images' shape suggests.

    Raises:
        FileNotFoundError: an image is missing.
    """
    aspect = float(np.median([r["height"] / r["width"] for r in records]))
    columns = columns or (4 if aspect > 0.9 else 3 if aspect > 0.5 else 2)
    columns = min(columns, len(records))
    rows = math.ceil(len(records) / columns)
    size = (10.0, rows * (10.0 / columns * aspect + 0.08) + 0.4)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    for axes in panels.flat:
        axes.axis("off")
    for axes, record in zip(panels.flat, records, strict=False):
        annotations = record["annotations"]
        draw_masks(
            axes,
            load_image(record),
            [decode_masks(a) for a in annotations],
            labels=[class_names[a["category_id"]] for a in annotations],
            alpha=0.4,
            line_width=1.4,
        )
    mask_legend(figure)
    return figure


@figure_function
def occlusion_rates(table: pd.DataFrame) -> Figure:
    """How occluded the objects are: all of them, and those with any occlusion by rate.

    Args:
        table: from :func:`objects_table`.
    """
    rates = table["occlusion_rate"]
    groups = {
        "fully visible": (rates == 0).mean(),
        f"below {percent(OCCLUSION_RATE)}": ((rates > 0) & (rates < OCCLUSION_RATE)).mean(),
        f"{percent(OCCLUSION_RATE)} or more": (rates >= OCCLUSION_RATE).mean(),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=[1, 2])
    colors = [MASK_COLORS["visible"], "#E8A27A", MASK_COLORS["occlusion"]]
    bars = left.bar(list(groups), [100 * share for share in groups.values()], color=colors)
    left.bar_label(bars, fmt="%.0f %%", padding=2)
    left.set(ylabel="share of objects [%]", title="occlusion rate of all objects")
    left.margins(y=0.12)
    right.hist(rates[rates > 0], bins=np.arange(0, 1.0001, 0.05), color=MASK_COLORS["occlusion"])
    right.margins(y=0.3)
    right.axvline(OCCLUSION_RATE, color=INK, linestyle="--", linewidth=1.2)
    right.text(
        OCCLUSION_RATE + 0.012,
        0.96,
        "right of here an object counts\nas occluded in Table 1",
        transform=right.get_xaxis_transform(),
        va="top",
        fontsize=9,
    )
    right.set(
        xlim=(0, 1),
        xlabel="occlusion rate = 1 − |visible| / |amodal|",
        ylabel="objects",
        title="objects with any occlusion",
    )
    return figure


@figure_function
def instances_per_class(
    table: pd.DataFrame, class_names: Sequence[str], *, at_most: int = 40
) -> Figure:
    """Objects per class, most frequent first, occluded ones (15 % or more) apart.

    Args:
        table: from :func:`objects_table`.
        class_names: C of them, also those without objects.
        at_most: how many classes to show; those without objects are only counted.
    """
    counts = (
        table.assign(occluded=table["occlusion_rate"] >= OCCLUSION_RATE)
        .groupby(["class", "occluded"])
        .size()
        .unstack(fill_value=0)
        .reindex(index=list(class_names), columns=[False, True], fill_value=0)
    )
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    counts = counts[counts.sum(axis=1) > 0]
    shown = counts.head(at_most)
    figure, axes = plt.subplots(figsize=(10, 0.24 * len(shown) + 1.2))
    axes.barh(
        shown.index, shown[False], color=MASK_COLORS["visible"], label="less than 15 % hidden"
    )
    axes.barh(
        shown.index,
        shown[True],
        left=shown[False],
        color=MASK_COLORS["occlusion"],
        label="15 % or more hidden",
    )
    for y, total in enumerate(shown.sum(axis=1)):
        axes.text(total, y, f" {total:,}", va="center", fontsize=8.5)
    axes.invert_yaxis()
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("objects")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    notes = []
    if len(shown) < len(counts):
        notes.append(f"the {len(shown)} most frequent classes")
    if len(counts) < len(class_names):
        notes.append(f"{len(class_names) - len(counts)} of {len(class_names)} have no object here")
    axes.set_title("; ".join(notes))
    axes.legend(loc="lower right")
    return figure


@figure_function
def object_sizes(table: pd.DataFrame) -> Figure:
    """How large the objects are, with COCO's limits of small, medium and large.

    Args:
        table: from :func:`objects_table`.
    """
    figure, axes = plt.subplots(figsize=(10, 3))
    axes.hist(table["side"], bins=40, color="#7A8794")
    for limit, name in ((32, "small | medium"), (96, "medium | large")):
        if limit < axes.get_xlim()[1]:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1.2)
            axes.text(
                limit, 1.02, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=9
            )
    axes.set(xlabel="square root of the amodal area [pixels]", ylabel="objects")
    axes.set_xlim(left=0)
    return figure


def count_orders(
    records: Sequence[dict], class_names: Sequence[str], *, min_pixels: int = 10
) -> pd.DataFrame:
    """How often an object of the row's class lies in front of one of the column's.

    Read from the masks alone: where two amodal masks overlap, the object that is visible there is
    in front. Pairs whose whole overlap is hidden by a third object tell nothing and are left out,
    and so are overlaps below ``min_pixels`` pixels.
    """
    counts = np.zeros((len(class_names), len(class_names)), dtype=int)
    for record in records:
        for a, b in combinations([a for a in record["annotations"] if not a["iscrowd"]], 2):
            overlap = mask_util.merge([a["segmentation"], b["segmentation"]], intersect=True)
            if mask_util.area(overlap) < min_pixels:
                continue
            seen_a, seen_b = (
                int(mask_util.area(mask_util.merge([overlap, o["visible_mask"]], intersect=True)))
                for o in (a, b)
            )
            if seen_a != seen_b:
                front, behind = (a, b) if seen_a > seen_b else (b, a)
                counts[front["category_id"], behind["category_id"]] += 1
    return pd.DataFrame(counts, index=list(class_names), columns=list(class_names))


def order_probabilities(counts: pd.DataFrame) -> pd.DataFrame:
    """P(row in front of column | one covers the other) from :func:`count_orders`; NaN: no pair."""
    pairs = counts + counts.T
    return counts / pairs.where(pairs > 0)


def front_shares(counts: pd.DataFrame) -> pd.Series:
    """How often a class is the one in front, of all its meetings with other classes, in [0, 1];
    one half for a class that meets none. From :func:`count_orders`."""
    others = counts.where(~np.eye(len(counts), dtype=bool), 0)
    front, behind = others.sum(axis=1), others.sum(axis=0)
    return (front / (front + behind).where(front + behind > 0)).fillna(0.5)


@figure_function
def who_covers_whom(
    tables: dict[str, pd.DataFrame], *, counts: pd.DataFrame | None = None
) -> Figure:
    """Heat maps of P(row in front of column), one per entry of ``tables``.

    Args:
        tables: ``(C, C)`` frames with values in [0, 1] by title; NaN cells stay empty. At most the
            20 classes that take part in the most pairs are shown, and of more than 20 none without.
        counts: :func:`count_orders`; written under the percentages of the last table.
    """
    first = next(iter(tables.values()))
    names = list(first.index)
    if counts is not None and len(names) > 20:
        busy = (counts.sum(axis=0) + counts.sum(axis=1)).sort_values(ascending=False)
        busy = busy[busy > 0].index[:20]
        names = [name for name in names if name in busy]
    side = 5.0 if len(tables) > 1 else 7.0
    small = len(names) > 12 or len(tables) > 1
    figure, panels = plt.subplots(
        1, len(tables), figsize=(side * len(tables), side + 0.6), squeeze=False
    )
    for k, (axes, (title, table)) in enumerate(zip(panels[0], tables.items(), strict=True)):
        table = table.loc[names, names]
        texts = np.full(table.shape, "", dtype=object)
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            if not np.isnan(value):
                texts[i, j] = f"{value:.0%}".replace("%", "")
                if counts is not None and k == len(tables) - 1:
                    pairs = counts.loc[names[i], names[j]] + counts.loc[names[j], names[i]]
                    texts[i, j] += f"\n({pairs})"
        sns.heatmap(
            table,
            ax=axes,
            vmin=0,
            vmax=1,
            cmap=sns.light_palette(MASK_COLORS["occlusion"], as_cmap=True),
            annot=texts,
            fmt="",
            annot_kws={"fontsize": 7 if small else 8.5},
            square=True,
            linewidths=0.5,
            linecolor="white",
            cbar=False,
        )
        axes.set(title=title, xlabel="behind", ylabel="in front" if k == 0 else "")
        axes.tick_params(length=0, labelsize=9)
        axes.tick_params(axis="x", rotation=90)
        axes.tick_params(axis="y", rotation=0)
    return figure
