"""Looking at a data set: its images, classes, sizes, occlusion rates, and who covers whom.

The numbers come from :mod:`arcnn.data.statistics`.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arcnn.data import decode_masks
from arcnn.names import OCCLUSION_RATE
from arcnn.visualization.masks import draw_masks, load_image, mask_legend
from arcnn.visualization.style import INK, MASK_COLORS, figure_function, percent, tidy_heat_map

MOST_CLASSES = 40  # in a bar chart
MOST_PAIRED = 20  # classes in a heat map of pairs
COCO_SIZES = {32: "small | medium", 96: "medium | large"}  # square root of the area, pixels


@figure_function
def image_grid(records: Sequence[dict], class_names: Sequence[str]) -> Figure:
    """Images with the masks and class names of their objects.

    Args:
        records: those to show; every one is.

    Raises:
        FileNotFoundError: an image is missing.
    """
    aspect = float(np.median([r["height"] / r["width"] for r in records]))
    columns = min(4 if aspect > 0.9 else 3 if aspect > 0.5 else 2, len(records))
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
        table: from :func:`arcnn.data.statistics.objects_table`.
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
    note = "right of here an object counts\nas occluded in Table 1"
    place = right.get_xaxis_transform()
    right.text(OCCLUSION_RATE + 0.012, 0.96, note, transform=place, va="top", fontsize=9)
    right.set(xlim=(0, 1), ylabel="objects", title="objects with any occlusion")
    right.set_xlabel("occlusion rate = 1 − |visible| / |amodal|")
    return figure


@figure_function
def instances_per_class(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Objects per class, most frequent first, occluded ones apart.

    Args:
        table: from :func:`arcnn.data.statistics.objects_table`.
        class_names: C of them, also those without objects, which are only counted.
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
    shown = counts.head(MOST_CLASSES)
    figure, axes = plt.subplots(figsize=(10, 0.24 * len(shown) + 1.2))
    start = np.zeros(len(shown))
    for occluded, kind, words in (
        (False, "visible", f"less than {percent(OCCLUSION_RATE)} hidden"),
        (True, "occlusion", f"{percent(OCCLUSION_RATE)} or more hidden"),
    ):
        axes.barh(shown.index, shown[occluded], left=start, color=MASK_COLORS[kind], label=words)
        start = start + shown[occluded]
    for y, total in enumerate(shown.sum(axis=1)):
        axes.text(total, y, f" {total:,}", va="center", fontsize=8.5)
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
        table: from :func:`arcnn.data.statistics.objects_table`.
    """
    figure, axes = plt.subplots(figsize=(10, 3))
    axes.hist(table["side"], bins=40, color="#7A8794")
    for limit, name in COCO_SIZES.items():
        if limit < axes.get_xlim()[1]:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1.2)
            place = axes.get_xaxis_transform()
            axes.text(limit, 1.02, name, transform=place, ha="center", fontsize=9)
    axes.set(xlabel="square root of the amodal area [pixels]", ylabel="objects")
    axes.set_xlim(left=0)
    return figure


@figure_function
def who_covers_whom(
    tables: Mapping[str, pd.DataFrame], *, counts: pd.DataFrame | None = None
) -> Figure:
    """Heat maps of P(row in front of column), one per entry of ``tables``.

    Args:
        tables: ``(C, C)`` frames with values in [0, 1] by title; NaN cells stay empty.
        counts: :func:`arcnn.data.statistics.count_orders`; written under the percentages of the
            last table. Of more classes than :data:`MOST_PAIRED`, those that take part in the most
            pairs are shown.
    """
    names = list(next(iter(tables.values())).index)
    pairs = None if counts is None else counts + counts.T
    if counts is not None and len(names) > MOST_PAIRED:
        busy = (counts.sum(axis=0) + counts.sum(axis=1)).sort_values(ascending=False)
        busy = busy[busy > 0].index[:MOST_PAIRED]
        names = [name for name in names if name in busy]
    side = 5.0 if len(tables) > 1 else 7.0
    small = len(names) > 12 or len(tables) > 1
    figure, panels = plt.subplots(
        1, len(tables), figsize=(side * len(tables), side + 0.6), squeeze=False
    )
    for k, (axes, (title, table)) in enumerate(zip(panels[0], tables.items(), strict=True)):
        table = table.loc[names, names]
        last = k == len(tables) - 1
        sns.heatmap(
            table,
            ax=axes,
            vmin=0,
            vmax=1,
            cmap=sns.light_palette(MASK_COLORS["occlusion"], as_cmap=True),
            annot=_cell_texts(table, pairs if last else None),
            fmt="",
            annot_kws={"fontsize": 7 if small else 8.5},
            square=True,
            linewidths=0.5,
            linecolor="white",
            cbar=False,
        )
        axes.set(title=title, xlabel="behind", ylabel="in front" if k == 0 else "")
        tidy_heat_map(axes, 9)
    return figure


def _cell_texts(table: pd.DataFrame, pairs: pd.DataFrame | None) -> np.ndarray:
    """Percentages, with the number of pairs below; nothing where there is no pair."""
    texts = np.full(table.shape, "", dtype=object)
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        if not np.isnan(value):
            texts[i, j] = f"{100 * value:.0f}"
            if pairs is not None:
                texts[i, j] += f"\n({pairs.loc[table.index[i], table.columns[j]]})"
    return texts
