"""The ablation of the joint, and the tests of what Figure 5 shows."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arcnn.experiments import DEFAULT, VARIANTS, Agreement
from arcnn.names import model_name
from arcnn.visualization.style import (
    INK,
    MASK_COLORS,
    draw_grid,
    figure_function,
    model_style,
    name_rows,
)


def _group(variant: str) -> str:
    """The title under which a variant stands."""
    joint, *parts = variant.split("-")
    if "long" in parts:
        return "trained four times as long"
    if joint in ("full", "own"):
        return f"Eq. (1) on {'logits' if 'logits' in parts else 'probabilities'}"
    return {"add": "sum of the pieces", "orcnn": "subtraction"}[joint]


def _label(variant: str) -> str:
    words = {"full": "all classes", "own": "own class", "nobias": "no bias"}
    words |= {"normal": "start 0", "identity": "start identity", "orcnn": "ORCNN"}
    words |= {"detach": "pieces detached", "two_losses": "without its third loss"}
    sums = {"logits": "sum of logits", "probs": "sum of probabilities", "noisy_or": "noisy or"}
    joint, *parts = variant.removesuffix("-long").split("-")
    if joint == "add":
        parts[0] = sums[parts[0]]
    else:
        parts = [joint, *(p for p in parts if p not in ("logits", "probs"))]
    return ", ".join(words.get(p, p) for p in parts)


@figure_function
def ablation(table: pd.DataFrame, by_run: Mapping[tuple[str, int], float], score: str) -> Figure:
    """Every variant's score: small dots are trainings, the large one is their mean.

    The difference from the reference stands at the right with its 95 % interval, in bold where the
    interval does not span zero.

    Args:
        table: from :func:`arcnn.experiments.differences`.
        by_run: the score by (variant, seed), percent.
        score: its name, for the axis.
    """
    groups: dict[str, list[str]] = {}
    for variant in table.sort_values("score", ascending=False).index:
        groups.setdefault(_group(variant), []).append(variant)
    height = sum(len(members) + 1.3 for members in groups.values())
    figure, axes = plt.subplots(figsize=(10, 0.26 * height + 0.9))
    beside = axes.get_yaxis_transform()
    y, ticks = 0.0, {}
    for title in sorted(groups, key=lambda title: (title.startswith("trained"), title)):
        members = groups[title]
        reference = DEFAULT if not title.startswith("trained") else f"{DEFAULT}-long"
        if reference in table.index:
            span = [y + 0.5, y + len(members) + 0.5]
            axes.plot([table.score[reference]] * 2, span, color=INK, linewidth=1, linestyle=":")
        axes.text(0, y, title, transform=beside, fontweight="bold", va="center")
        for variant in members:
            y += 1
            ticks[y] = _label(variant)
            style, row = model_style(VARIANTS[variant].model), table.loc[variant]
            runs = [value for (v, _), value in by_run.items() if v == variant]
            axes.plot(runs, [y] * len(runs), "|", color=style["color"], markersize=9, alpha=0.7)
            axes.plot(row.score, y, linestyle="none", markersize=7, **style)
            text = axes.text(1.01, y, "reference", transform=beside, va="center", fontsize=8.5)
            if variant != reference:
                text.set_text(_interval(row))
            if row.low > 0 or row.high < 0:
                text.set_fontweight("bold")
        y += 1.3
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(y - 0.6, -0.8)
    axes.tick_params(axis="y", length=0)
    draw_grid(axes, "x")
    axes.set_xlabel(f"mean IoU, percent: {score}")
    models = dict.fromkeys(VARIANTS[v].model for v in table.index)
    handles = [
        Line2D([], [], linestyle="none", label=model_name(m), **model_style(m)) for m in models
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _interval(row: pd.Series) -> str:
    if pd.isna(row.difference):
        return ""
    return f"{row.difference:+.1f}  [{row.low:+.1f}, {row.high:+.1f}]"


@figure_function
def agreements(tests: Mapping[str, Agreement]) -> Figure:
    """Rank correlations beside what chance gives: the grey bar holds 95 % of permuted truths.

    Args:
        tests: by the sentence that is tested.
    """
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(tests) + 1.2))
    for y, test in enumerate(tests.values()):
        axes.barh(y, test.high - test.low, left=test.low, height=0.6, color="#DDDDDD")
        axes.plot(test.by_seed, [y] * len(test.by_seed), "|", color=INK, markersize=10, alpha=0.7)
        outside = not test.low <= test.rho <= test.high
        face = MASK_COLORS["amodal"] if outside else "white"
        axes.plot(test.rho, y, "o", color=MASK_COLORS["amodal"], markerfacecolor=face, markersize=8)
        note, beside = f"{test.rho:+.2f}, p = {test.p:.3f}", axes.get_yaxis_transform()
        axes.text(1.01, y, note, va="center", transform=beside, fontsize=8.5)
    axes.axvline(0, color=INK, linewidth=1)
    name_rows(axes, list(tests))
    axes.set(xlim=(-1, 1), xlabel="Spearman's rank correlation")
    return figure
