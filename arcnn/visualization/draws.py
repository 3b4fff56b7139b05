"""What chance gives, as it is drawn: a histogram that grows, and what it says after each draw."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcnn.evaluation import intervals
from arcnn.visualization.style import INK, figure_function

STEPS = [1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]  # a slider's
DRAWN = "#BBBBBB"


def growing(
    drawn: np.ndarray,
    count: int,
    says: Callable[[int], tuple[float, ...]],
    far: np.ndarray | None = None,
) -> tuple[Figure, Axes, Axes, np.ndarray, np.ndarray]:
    """The first ``count`` draws as a histogram, on axes wide enough for all of them.

    Args:
        drawn: float ``(N,)``.
        says: what is made of the first n draws: K numbers.
        far: bool ``(N,)``, draws that are marked.

    Returns:
        The figure, the histogram's axes, and empty axes for what is made of the draws; numbers of
        draws n, int ``(M,)``, rising to ``count``, and what is said after each, float ``(M, K)``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), width_ratios=[1.5, 1])
    bins = np.linspace(drawn.min(), drawn.max() + 1e-9, 41)
    left.hist(drawn[:count], bins, color=DRAWN)
    if far is not None:
        left.hist(drawn[:count][far[:count]], bins, color=INK)
    left.plot(drawn[count - 1], 0, "^", color=INK, clip_on=False, label="the last one drawn")
    left.set(ylim=(0, max(5, left.get_ylim()[1])), ylabel="draws")
    numbers = np.unique(np.geomspace(1, count, 60).round().astype(int))
    right.set(xscale="log", xlim=(0.9, 1.1 * len(drawn)), xlabel="draws")
    ticks = [tick for tick in (1, 10, 100, 1000, 10000) if tick <= len(drawn)]
    right.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    right.xaxis.minorticks_off()  # they cost as much time as the rest
    return figure, left, right, numbers, np.array([says(n) for n in numbers])


@figure_function
def bootstrap(draws: pd.Series, count: int, name: str) -> Figure:
    """A number over the first draws of the images, its 95 % interval as it stands after them, and
    as it stood before.

    Args:
        draws: from :func:`arcnn.evaluation.image_draws` or the difference of two, ``(1 + N,)``: the
            number itself, then N draws.
        count: draws to show, 1 to N.
        name: of the number.
    """
    draws = draws.dropna().reset_index(drop=True)  # a draw without the number tells nothing
    count = min(count, len(draws) - 1)

    def says(n: int) -> tuple[float, ...]:
        return intervals(draws[: 1 + n].to_frame())[draws.name]

    figure, left, right, numbers, said = growing(draws[1:].to_numpy(), count, says)
    value, low, high = said[-1]
    after = f"after {count:,} of {len(draws) - 1:,} draws"
    left.axvspan(low, high, color="#0072B2", alpha=0.15, lw=0, label="95 % of the draws")
    left.axvline(value, color=INK, lw=2, label="all images once")
    left.axvline(0, color=INK, lw=1, ls=":")
    left.set(xlabel="points")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    right.fill_between(numbers, said[:, 1], said[:, 2], color="#0072B2", alpha=0.15, lw=0)
    right.plot(numbers, said[:, 1:], color=INK, lw=1)
    right.axhline(0, color=INK, lw=1, ls=":")
    right.set(title="the interval so far")
    figure.suptitle(f"{name}: {value:+.1f} [{low:+.1f}, {high:+.1f}] {after}")
    return figure
