"""Does Figure 5 show occlusion order? Weights of the joint against what is known of the data.

Section 4.6 reads ``VW_Ti`` as "class i occludes T" and ``OW_Ti`` as "T occludes class i". Where the
true order is known, that is a hypothesis that can be tested, and it has rivals: the weights may
follow how often two classes meet, or make up for a missing bias.

Matrices have class T in row T and class i in column i, as Eq. (1) has it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from arcnn.experiments.frozen import RoIFeatures
from arcnn.modeling.mask_heads import ARCNNMaskHead


class Agreement(NamedTuple):
    """Spearman's rank correlation of weights with a truth, over pairs of different classes."""

    rho: float  # mean over seeds
    by_seed: tuple[float, ...]
    low: float  # 95 % of the permuted truths give a mean between low and high
    high: float
    p: float  # share of permuted truths with a mean at least as far from zero
    pairs: int  # cells (T, i) that took part


def agreement(
    weights: Sequence[np.ndarray],
    truth: np.ndarray,
    *,
    pairs_only: bool = False,
    shuffles: int = 5000,
) -> Agreement:
    """Do the weights of several trainings follow a known relation between classes?

    The test permutes the *names of the classes* in the truth, rows and columns alike, and not its
    cells: P(i in front of T) and P(T in front of i) stay each other's complement. All seeds see
    the same permutation, since they share the truth.

    Args:
        weights: ``(C, C)`` each, one per seed.
        truth: ``(C, C)``. Pairs with 0 both ways never meet: they are left out, and so is the
            diagonal.
        pairs_only: compare what is left when each class has its own level in the rows and in the
            columns, of weights and truth alike. A class that is in front of *everything*, and whose
            map everything weighs alike, agrees with the truth without any knowledge of pairs.
        shuffles: number of random permutations, the same ones in every call.
    """
    correlations = permuted_correlations(weights, truth, pairs_only=pairs_only, shuffles=shuffles)
    found, chance = correlations[:, 0], correlations[:, 1:].mean(0)
    low, high = np.percentile(chance, [2.5, 97.5])
    return Agreement(
        rho=float(found.mean()),
        by_seed=tuple(found.tolist()),
        low=float(low),
        high=float(high),
        p=p_value(float(found.mean()), chance),
        pairs=len(_cells(truth)[0]),
    )


def permuted_correlations(
    weights: Sequence[np.ndarray],
    truth: np.ndarray,
    *,
    pairs_only: bool = False,
    shuffles: int = 5000,
) -> np.ndarray:
    """The correlations that :func:`agreement` judges, of each seed's weights with the truth, float
    ``(seeds, 1 + shuffles)``: with the names as they are, then with permuted ones."""
    count = len(truth)
    rng = np.random.default_rng(0)
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(shuffles))]
    # Other names in the truth are the same as the old ones elsewhere in the weights.
    places = np.argsort(orders, axis=1)  # (1 + shuffles, C)
    rows, columns = _cells(truth)
    left = _beyond_classes(rows, columns, count) if pairs_only else lambda values: values
    true = left(truth[rows, columns])
    of_seeds = [left(w[places[:, rows], places[:, columns]]) for w in weights]
    return np.array([_spearman(values, true) for values in of_seeds])


def p_value(found: float, chance: np.ndarray) -> float:
    """Share of what chance gave, float ``(shuffles,)``, that is at least as far from zero. What was
    found counts among them, so that n permutations give no less than 1 / (1 + n)."""
    as_far = np.sum(np.abs(chance) >= abs(found) - 1e-12)
    return float((1 + as_far) / (1 + len(chance)))


def _cells(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs of different classes that ever meet."""
    return np.nonzero((truth + truth.T > 0) & ~np.eye(len(truth), dtype=bool))


def _beyond_classes(
    rows: np.ndarray, columns: np.ndarray, count: int
) -> Callable[[np.ndarray], np.ndarray]:
    """What cells hold beyond a level for each row and one for each column (least squares)."""
    levels = np.concatenate([np.eye(count)[rows], np.eye(count)[columns]], axis=1)
    fit = levels @ np.linalg.pinv(levels)  # symmetric: a projection
    return lambda values: np.round(values - values @ fit, 9)  # ties stay ties


def _spearman(values: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Of each row ``(..., cells)``. Zero where one of the two is constant: no order."""
    from scipy.stats import rankdata  # half a second, which every notebook would wait for

    a, b = (rankdata(each, axis=-1) - (len(true) + 1) / 2 for each in (values, true))
    norm = np.sqrt((a * a).sum(-1) * (b @ b))
    return np.divide(a @ b, norm, out=np.zeros_like(norm), where=norm > 0)


def meetings(records: Sequence[dict], num_classes: int) -> np.ndarray:
    """In how many images two classes occur together, float ``(C, C)``, symmetric."""
    present = np.zeros((len(records), num_classes))
    for k, record in enumerate(records):
        present[k, [a["category_id"] for a in record["annotations"]]] = 1
    return present.T @ present


@torch.no_grad()
def take_apart(head: ARCNNMaskHead, features: RoIFeatures) -> tuple[Tensor, Tensor]:
    """Eq. (1) at the true class, cut in two: what comes from its own two pieces and the bias, and
    what from the maps of other classes. Float ``(N, M, M)`` each; their sum is the logit."""
    vw, ow = (w.diag() for w in head.amodal_head.weights())
    bias = head.amodal_head.conv.bias
    parts = []
    for batch in features.batches():
        logits = head.layers(batch.x.float())
        pieces = [logits.visible, logits.occlusion]
        if head.joint_input == "probs":
            pieces = [piece.sigmoid() for piece in pieces]
        t = batch.classes
        pick = torch.arange(len(t))
        visible, occlusion = (piece[pick, t] for piece in pieces)
        own = vw[t, None, None] * visible + ow[t, None, None] * occlusion
        if bias is not None:
            own += bias[t, None, None]
        parts.append((own, head.amodal_head(*pieces)[pick, t] - own))
    own, context = map(torch.cat, zip(*parts, strict=True))
    return own, context


def constant_context(context: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """One number for each class in the place of its context, ``(C,)``: the mean over objects and
    pixels. Zero for a class without objects."""
    sums = torch.zeros(num_classes).index_add(0, classes, context.mean((1, 2)))
    return sums / torch.bincount(classes, minlength=num_classes).clamp(min=1)
