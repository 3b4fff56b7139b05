"""The ablation of the joint, and the tests of what Figure 5 shows."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arcnn.experiments import DEFAULT, VARIANTS, Agreement, p_value
from arcnn.names import model_name
from arcnn.visualization.draws import growing
from arcnn.visualization.style import INK, MASK_COLORS, figure_function, model_style

LONG = "trained twice as long"
WORDS = {
    "full": "all classes",
    "own": "own class",
    "nobias": "no bias",
    "normal": "start 0",
    "identity": "start identity",
    "orcnn": "ORCNN",
    "detach": "pieces detached",
    "two_losses": "without its third loss",
}
SUMS = {"logits": "sum of logits", "probs": "sum of probabilities", "noisy_or": "noisy or"}


def _title_and_label(variant: str) -> tuple[str, str]:
    """Of the group in which a variant stands, and of its row."""
    joint, *parts = variant.removesuffix("-long").split("-")
    if joint == "add":
        title, parts = "sum of the pieces", [SUMS[parts[0]], *parts[1:]]
    elif joint == "orcnn":
        title, parts = "subtraction", [joint, *parts]
    else:
        title = f"Eq. (1) on {'logits' if 'logits' in parts else 'probabilities'}"
        parts = [joint, *(p for p in parts if p not in SUMS)]
    label = ", ".join(WORDS.get(p, p) for p in parts)
    return (LONG if variant.endswith("-long") else title), label


@figure_function
def ablation(table: pd.DataFrame, by_run: Mapping[tuple[str, int], float], score: str) -> Figure:
    """Every variant's score: small dots are trainings, the large one is their mean.

    The difference from the reference stands at the right with its 95 % interval, in bold where the
    interval does not span zero.

    Args:
        table: from :func:`arcnn.experiments.head_differences`.
        by_run: the score by (variant, seed), percent.
        score: its name, for the axis.
    """
    groups = table.sort_values("score", ascending=False).groupby(lambda v: _title_and_label(v)[0])
    height = len(table) + 1.3 * groups.ngroups
    figure, axes = plt.subplots(figsize=(10, 0.26 * height + 0.9))
    beside = axes.get_yaxis_transform()
    y, ticks = 0.0, {}
    for title, members in groups:
        reference = f"{DEFAULT}-long" if title == LONG else DEFAULT
        if reference in table.index:
            span = y + 0.5, y + len(members) + 0.5
            axes.vlines(table.score[reference], *span, color=INK, linewidth=1, linestyle=":")
        axes.text(0, y, title, transform=beside, fontweight="bold", va="center")
        for variant, row in members.iterrows():
            y += 1
            ticks[y] = _title_and_label(variant)[1]
            style = model_style(VARIANTS[variant].model)
            runs = [value for (v, _), value in by_run.items() if v == variant]
            axes.plot(runs, [y] * len(runs), "|", color=style["color"], markersize=9, alpha=0.7)
            axes.plot(row.score, y, linestyle="none", markersize=7, **style)
            note = f"{row.difference:+.1f}  [{row.low:+.1f}, {row.high:+.1f}]"
            if pd.isna(row.difference):
                note = "reference" if variant == reference else ""
            weight = "bold" if row.low > 0 or row.high < 0 else "normal"
            place = {"transform": beside, "va": "center", "fontsize": 8.5}
            axes.text(1.01, y, note, fontweight=weight, **place)
        y += 1.3
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set(ylim=(y - 0.6, -0.8), xlabel=f"mean IoU, percent: {score}")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    models = {VARIANTS[v].model: None for v in table.index}
    keys = [Line2D([], [], linestyle="none", label=model_name(m), **model_style(m)) for m in models]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


@figure_function
def score_by_cost(table: pd.DataFrame, cost: pd.Series, score: str, of: str) -> Figure:
    """What a model gets for what it costs; bars are the standard deviation over its trainings.

    Args:
        table: by model, with columns ``score`` (percent) and ``spread``.
        cost: by model, as multiples of the cheapest one or of a reference.
        score, of: names of the two, for the axes.
    """
    figure, axes = plt.subplots(figsize=(8, 4.6))
    for model, row in table.dropna(subset=["score"]).iterrows():
        style, place = model_style(model), (cost[model], row.score)
        axes.errorbar(*place, yerr=row.spread, markersize=9, elinewidth=1, **style)
        axes.annotate(model_name(model), place, xytext=(8, 5), textcoords="offset points")
    axes.set(xscale="log", xlabel=of, ylabel=f"mean IoU, percent: {score}")
    ticks = [t for t in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12) if cost.min() / 1.3 < t < cost.max() * 1.3]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid()
    return figure


@figure_function
def agreements(tests: Mapping[str, Agreement]) -> Figure:
    """Rank correlations beside what chance gives: the grey bar holds 95 % of permuted truths.

    Args:
        tests: by the sentence that is tested.
    """
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(tests) + 1.2))
    green, beside = MASK_COLORS["amodal"], axes.get_yaxis_transform()
    for y, (sentence, test) in enumerate(tests.items()):
        axes.barh(sentence, test.high - test.low, left=test.low, height=0.6, color="#DDDDDD")
        axes.plot(test.by_seed, [y] * len(test.by_seed), "|", color=INK, markersize=10, alpha=0.7)
        face = "white" if test.low <= test.rho <= test.high else green
        axes.plot(test.rho, y, "o", color=green, markerfacecolor=face, markersize=8)
        note = f"{test.rho:+.2f}, p = {test.p:.3f}"
        axes.text(1.01, y, note, va="center", transform=beside, fontsize=8.5)
    axes.axvline(0, color=INK, linewidth=1)
    axes.invert_yaxis()
    axes.set(xlim=(-1, 1), xlabel="Spearman's rank correlation")
    return figure


@figure_function
def permutations(correlations: np.ndarray, count: int, sentence: str) -> Figure:
    """What the first permutations of the class names give, the correlation that was found, and the
    p-value as it stands.

    Args:
        correlations: from :func:`arcnn.experiments.permuted_correlations`, ``(seeds, 1 + N)``.
        count: permutations to show, 1 to N.
        sentence: that is tested.
    """
    found, chance = float(correlations[:, 0].mean()), correlations[:, 1:].mean(0)
    far = np.abs(chance) >= abs(found)
    figure, left, right, numbers, said = growing(
        chance, count, lambda n: (p_value(found, chance[:n]),), far
    )
    green, p = MASK_COLORS["amodal"], said[-1, 0]
    left.axvline(found, color=green, lw=2.5, label=f"found: {found:+.2f}")
    left.axvline(-found, color=green, lw=1.5, ls="--", label="as far on the other side")
    left.set(xlim=(-1, 1), xlabel="Spearman's rank correlation")
    right.plot(numbers, said[:, 0], color=green, lw=2)
    right.plot(numbers, 1 / (1 + numbers), color=INK, lw=1, ls=":", label="the smallest possible")
    right.set(yscale="log", ylim=(0.5 / (1 + len(chance)), 1.2), title="p so far")
    right.set_yticks(ticks := [1, 0.1, 0.01, 0.001], [f"{tick:g}" for tick in ticks])
    right.yaxis.minorticks_off()
    right.legend(loc="lower left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    as_far = round(p * (1 + count)) - 1
    figure.suptitle(f"{sentence}: {as_far:,} of {count:,} permutations as far, p = {p:.4f}")
    return figure
