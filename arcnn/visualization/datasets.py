"""Looking at a data set: its images, classes, sizes and occlusion rates.

The numbers come from :mod:`arcnn.data.statistics`; ``table`` is its ``objects_table``.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arcnn.data import decode_masks
from arcnn.data.rates import BINS, RateDistribution
from arcnn.names import OCCLUSION_RATE
from arcnn.visualization.masks import load_image, show_pictures
from arcnn.visualization.style import (
    HIDDEN_HATCH,
    INK,
    MASK_COLORS,
    figure_function,
    percent,
)

LINES = ("-o", "--s", ":^", "-.D", "-v", "--x")  # of data sets, told apart without colours
COCO_SIZES = {32: "small | medium", 96: "medium | large"}  # square root of the area, pixels


@figure_function
def image_grid(records: Sequence[dict], class_names: Sequence[str], *, title: str = "") -> Figure:
    """Images with the masks and class names of their objects; the title alone where there is none.

    Raises:
        FileNotFoundError: an image is missing.
    """
    if not records:
        figure, axes = plt.subplots(figsize=(10, 0.5))
        axes.axis("off")  # Jupyter shows no figure without axes
        figure.suptitle(title)
        return figure
    pictures = [
        (
            load_image(record),
            [decode_masks(a) for a in record["annotations"]],
            [class_names[a["category_id"]] for a in record["annotations"]],
        )
        for record in records
    ]
    return show_pictures(pictures, title=title)


@figure_function
def occlusion_rates(table: pd.DataFrame) -> Figure:
    """How occluded the objects are: all of them, and those with any occlusion by rate."""
    rates = table["occlusion_rate"]
    none, counts_as = (rates == 0).mean(), (rates >= OCCLUSION_RATE).mean()
    limit = percent(OCCLUSION_RATE)
    names = ["fully visible", f"below {limit}", f"{limit} or more"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=[1, 2])
    colors = [MASK_COLORS["visible"], "#E8A27A", MASK_COLORS["occlusion"]]
    bars = left.bar(names, 100 * np.array([none, 1 - none - counts_as, counts_as]), color=colors)
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
        class_names: C of them, also those without objects, which are only counted.
    """
    limit = percent(OCCLUSION_RATE)
    words = [f"less than {limit} hidden", f"{limit} or more hidden"]
    counts = pd.crosstab(table["class"], table["occlusion_rate"] >= OCCLUSION_RATE)
    counts = counts.reindex(columns=[False, True], fill_value=0).set_axis(words, axis=1)
    counts = counts.sort_values(words, key=lambda _: counts.sum(axis=1), kind="stable")
    colors = [MASK_COLORS["visible"], MASK_COLORS["occlusion"]]
    size = (10, 0.24 * len(counts) + 1.2)
    axes = counts.plot.barh(stacked=True, color=colors, width=0.8, figsize=size, ylabel="")
    for bar in axes.containers[-1]:
        bar.set(hatch=HIDDEN_HATCH, edgecolor="white", linewidth=0)
    axes.legend()
    totals = [f"{total:,}" for total in counts.sum(axis=1)]
    axes.bar_label(axes.containers[-1], totals, padding=2, fontsize=8.5)
    axes.set_xlabel("objects")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if without := len(class_names) - len(counts):
        axes.set_title(f"{without} of {len(class_names)} have no object here")
    return axes.figure


@figure_function
def object_sizes(table: pd.DataFrame) -> Figure:
    """How large the objects are, with COCO's limits of small, medium and large."""
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
def compare_rates(rates: Mapping[str, RateDistribution]) -> Figure:
    """How much of the objects is hidden, data set by data set: the share hidden by more than that.

    Args:
        rates: by name, at most :data:`LINES` of them.
    """
    figure, axes = plt.subplots(figsize=(8, 3.4))
    edges = np.linspace(0, 1, BINS + 1)
    for (name, found), line in zip(rates.items(), LINES, strict=False):
        more = np.clip(1 - found.visible - np.cumsum([0, *found.shares]), 0, 1)
        axes.plot(edges, 100 * more, line, color=INK, label=name, markersize=5)
    axes.axvline(OCCLUSION_RATE, color=MASK_COLORS["occlusion"], linewidth=1)
    axes.set(xlim=(0, 1), xlabel="occlusion rate", ylabel="objects hidden by more [%]")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


@figure_function
def compare_sizes(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """How large the objects are for their image, data set by data set: the share that is smaller.

    Args:
        tables: by name, at most :data:`LINES` of them.
    """
    figure, axes = plt.subplots(figsize=(8, 3.4))
    for (name, table), line in zip(tables.items(), LINES, strict=False):
        shares = np.sort(table["image_share"])
        smaller = 100 * np.arange(1, len(shares) + 1) / len(shares)
        every = max(len(shares) // 10, 1)
        axes.plot(100 * shares, smaller, line, color=INK, label=name, markevery=every, markersize=5)
    axes.set(xscale="log", xlim=(0.01, 100), ylim=(0, 100), ylabel="objects that are smaller [%]")
    axes.set(xlabel="amodal area, share of the image [%]")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
    return figure
