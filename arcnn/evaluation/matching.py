"""COCO's matching of detections to objects, and the average precision that follows from it.

The rules are pycocotools' (``COCOeval.evaluateImg`` and ``accumulate``), and so are the numbers, to
the last digits. Three things are different: the IoUs are computed once for all ways of counting
("layers": area ranges, occlusion levels); all images are matched at once, in numpy; and the matches
are kept, so that precision can be taken again with images weighted (:mod:`uncertainty`).

Shapes: N images, C classes, D detections, G objects, P pairs, L layers, T IoU thresholds, R recall
levels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import Params

IOU_THRESHOLDS = Params("segm").iouThrs  # (T,)
RECALL_LEVELS = Params("segm").recThrs  # (R,)
MAX_DETECTIONS = (1, 10, 100)  # per image and class

COUNTED, IGNORED, REMOVED = 0, 1, 2  # what an object is in a layer


class Items(NamedTuple):
    """Detections or objects, grouped by image and class (the order of their ``group``)."""

    index: np.ndarray  # int (D,) position in the list that they come from
    image: np.ndarray  # int (D,) in [0, N)
    category: np.ndarray  # int (D,) in [0, C)
    group: np.ndarray  # int (D,) image * C + category, ascending
    rank: np.ndarray  # int (D,) within the group; detections by descending score

    @classmethod
    def grouped(
        cls, image: np.ndarray, category: np.ndarray, num_classes: int, score: np.ndarray
    ) -> "Items":
        group = image * num_classes + category
        index = np.lexsort((-score, group))  # stable: ties stay in the order given
        group = group[index]
        rank = np.arange(len(group)) - np.searchsorted(group, group)
        return cls(index, image[index], category[index], group, rank)

    def select(self, keep: np.ndarray) -> "Items":
        return Items(*(field[keep] for field in self))


class Pairs(NamedTuple):
    """Detections and objects of one group that overlap enough to match at some threshold."""

    detection: np.ndarray  # int (P,) ascending
    truth: np.ndarray  # int (P,)
    iou: np.ndarray  # float (P,)


def overlapping_pairs(
    detections: Items, truths: Items, iou: Callable[[slice, slice], np.ndarray]
) -> Pairs:
    """All pairs with an IoU of at least the lowest threshold.

    Args:
        iou: d detections and g objects of a group -> their IoUs, ``(d, g)``.
    """
    parts = [(np.empty(0, int), np.empty(0, int), np.empty(0))]
    groups, starts = np.unique(truths.group, return_index=True)
    stops = np.searchsorted(truths.group, groups, side="right")
    firsts = np.searchsorted(detections.group, groups, side="left")
    lasts = np.searchsorted(detections.group, groups, side="right")
    for first, last, start, stop in zip(firsts, lasts, starts, stops, strict=True):
        if first < last:
            ious = iou(slice(first, last), slice(start, stop))
            d, g = np.nonzero(ious >= IOU_THRESHOLDS[0])
            parts.append((first + d, start + g, ious[d, g]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def match(
    pairs: Pairs, detections: Items, state: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's greedy matching: detections by descending score, each takes the object that overlaps
    it most among those that are free, one that counts rather than an ignored one.

    Args:
        state: int8 ``(L, G)``, COUNTED, IGNORED or REMOVED.
        crowd: bool ``(G,)``, objects that are never used up.

    Returns:
        Bool ``(L, T, D)``: matched to an object that counts, and matched to an ignored one.
    """
    num_layers, num_thresholds = len(state), len(IOU_THRESHOLDS)
    shape = (num_layers, num_thresholds, len(detections.group))
    true, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    taken = np.zeros((len(crowd), num_layers, num_thresholds), dtype=bool)

    # Candidates of a detection from the worst to the best; of equal ones COCO takes the last.
    order = np.lexsort((pairs.truth, pairs.iou, pairs.detection))
    detection, truth, iou = (column[order] for column in pairs)
    active, first, num_candidates = np.unique(detection, return_index=True, return_counts=True)
    group = detections.group[active]
    turn = np.arange(len(active)) - np.searchsorted(group, group)
    # One detection of every group at a time (n of them, K candidates each): they don't compete.
    for r in range(turn.max(initial=-1) + 1):
        now = np.flatnonzero(turn == r)
        place = np.arange(num_candidates[now].max())  # (K,)
        exists = place < num_candidates[now, None]  # (n, K)
        pair = np.where(exists, first[now, None] + place, 0)
        candidate = truth[pair]  # (n, K)
        free = ~taken[candidate] | crowd[candidate][:, :, None, None]  # (n, K, L, T)
        overlaps = exists[:, :, None] & (iou[pair][:, :, None] >= IOU_THRESHOLDS)  # (n, K, T)
        candidate_state = state[:, candidate].transpose(1, 2, 0)  # (n, K, L)
        allowed = free & overlaps[:, :, None] & (candidate_state != REMOVED)[..., None]
        best, found = _best(allowed, candidate_state == COUNTED)
        n, layer, t = np.nonzero(found)
        chosen = candidate[n, best[n, layer, t]]
        taken[chosen, layer, t] = True
        counts = state[layer, chosen] == COUNTED
        d = active[now[n]]
        true[layer, t, d] = counts
        ignored[layer, t, d] = ~counts
    return true, ignored


def _best(allowed: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of the best candidate, int ``(n, L, T)``, and whether there is one, bool.

    Args:
        allowed: bool ``(n, K, L, T)``; candidates from the worst overlap to the best.
        counts: bool ``(n, K, L)``, the candidate is an object that counts.
    """
    # One detection, in one layer, at a threshold of 0.5, with three candidates:
    #
    #     IoU          0.55  0.60  0.90
    #     place           0     1     2   a better overlap wins ...
    #     it counts     yes   yes    no   (an ignored object)
    #     preference      3     4     2   ... but K = 3 more for one that counts
    #     allowed       yes    no   yes   (the second is taken)
    #     preference      3    -1     2   the best is the first
    place = np.arange(counts.shape[1])[:, None]
    preference = place + len(place) * counts
    preference = np.where(allowed, preference[..., None], -1)
    return preference.argmax(axis=1), preference.max(axis=1) >= 0


class Matches(NamedTuple):
    """What one way of counting says of every detection, sorted by class, then descending score."""

    image: np.ndarray  # int (D,)
    category: np.ndarray  # int (D,)
    rank: np.ndarray  # int (D,) among the detections of the same image and class
    score: np.ndarray  # float (D,)
    true: np.ndarray  # bool (T, D) true positive
    false: np.ndarray  # bool (T, D) false positive; the rest is ignored
    positives: np.ndarray  # int (N, C) objects that count

    def curves(self, category: int, weights: np.ndarray | None = None) -> "Curves | None":
        """Precision and recall of a class; ``None`` where none of its objects counts.

        Args:
            weights: float ``(N,)``, how often each image counts; all once by default.
        """
        if weights is None:
            weights = np.ones(len(self.positives))
        positives = weights @ self.positives[:, category]
        if positives == 0:
            return None
        start, stop = np.searchsorted(self.category, [category, category + 1])
        weight = weights[self.image[start:stop]]
        true = self.true[:, start:stop] * weight
        true_sum = np.cumsum(true, axis=1)
        false_sum = np.cumsum(self.false[:, start:stop] * weight, axis=1)
        precision = true_sum / (false_sum + true_sum + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        interpolated = np.zeros((len(IOU_THRESHOLDS), len(RECALL_LEVELS)))
        for curve, recall, values in zip(
            interpolated, true_sum / positives, precision, strict=True
        ):
            reached = np.searchsorted(recall, RECALL_LEVELS, side="left")
            reached = reached[reached < len(values)]
            curve[: len(reached)] = values[reached]
        rank = self.rank[start:stop]
        recalls = {m: true @ (rank < m) / positives for m in MAX_DETECTIONS}
        return Curves(interpolated, recalls)


class Curves(NamedTuple):
    """Of one class; in [0, 1]."""

    precision: np.ndarray  # (T, R), interpolated at RECALL_LEVELS
    recall: dict[int, np.ndarray]  # (T,), by how many detections per image
