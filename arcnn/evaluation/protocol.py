"""The paper's metrics (Section 4.3, Table 1), from ground-truth records and a list of predictions.

*Amodal* and *visible* score the respective masks of the same detections, as COCO does. *Occluded*
is the AP of the **amodal** mask on occluded objects: COCO's area ranges, with the visible fraction
|visible| / |amodal| in the place of the area. Objects (and unmatched detections) whose fraction is
above 0.85 are ignored: they count neither way. That is the protocol of the public evaluators.

Beside the paper's three tasks there are others, each under its own name, see :data:`PROTOCOL`.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core.mask import iou as mask_iou
from pycocotools import mask as mask_util

from arcnn.evaluation.matching import (
    COUNTED,
    IGNORED,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    REMOVED,
    Curves,
    Items,
    Matches,
    Pairs,
    match,
    overlapping_pairs,
)
from arcnn.evaluation.predictions import check_predictions
from arcnn.names import MASK_KEYS, OCCLUSION_RATE, TABLE_1


class Task(NamedTuple):
    """Which masks are compared, and who counts."""

    kind: str  # of the masks, one of MASK_KEYS
    needs: tuple[str, ...] = ()  # the kinds that a prediction must have beside the amodal one
    rate: float = 0.0  # objects of a lower occlusion rate don't count: they are ...
    others: int = IGNORED  # ... ignored, as are detections that claim a lower one; or removed
    sizes: bool = False  # small, medium and large objects by themselves too


PROTOCOL = {
    "amodal": Task("amodal", sizes=True),
    "visible": Task("visible", ("visible",), sizes=True),
    # The amodal mask of occluded objects, at the paper's rate and at two higher ones.
    "occluded": Task("amodal", ("visible",), OCCLUSION_RATE),
    "occluded@0.25": Task("amodal", ("visible",), 0.25),
    "occluded@0.40": Task("amodal", ("visible",), 0.40),
    # With the other objects removed, every unmatched detection is a false positive.
    "occluded_strict": Task("amodal", (), OCCLUSION_RATE, REMOVED),
    # The occlusion mask itself on the hidden part; what is ignored hangs on the visible mask.
    "occlusion": Task("occlusion", ("occlusion", "visible"), OCCLUSION_RATE),
}
TASKS = ("amodal", "visible", "occluded")  # the paper's
ALL_TASKS = tuple(PROTOCOL)
OCCLUSION_LEVELS = {
    name: PROTOCOL[name].rate for name in ("occluded", "occluded@0.25", "occluded@0.40")
}
SIZES = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e5**2)}  # COCO's, square pixels
AT_50, AT_75 = (int(np.abs(IOU_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75))
Numbers = dict[str, float | None]  # by metric, percent
Metrics = dict[str, dict[str, Any]]  # by task
METRICS = ("AP", "AP50", "AP75", *(f"AR@{m}" for m in MAX_DETECTIONS))

# What decides a number: another text of one of these is another protocol.
MODULES = ("protocol", "matching", "masks", "predictions", "uncertainty", "evaluator")
SOURCES = tuple(Path(__file__).with_name(f"{module}.py") for module in MODULES)


def protocol_version() -> str:
    """12 hex digits that name the protocol: of the SHA-256 over the text of :data:`SOURCES`, and
    over the names and the rate that they take from :mod:`arcnn.names`.

    Numbers are compared across runs, machines and months. Two that were measured by different
    code may differ for that reason alone; a version beside each tells. It follows the text, so
    that nobody has to remember to raise it: an edited comment changes it too.
    """
    text = "\0".join(source.read_text(encoding="utf-8") for source in SOURCES)
    text += repr((MASK_KEYS, OCCLUSION_RATE, TABLE_1))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def evaluate(
    records: Sequence[dict], predictions: Sequence[dict], num_classes: int, **options: Any
) -> Metrics:
    """AP and AR of every task, in percent; for the arguments see :class:`Evaluation`.

    Returns:
        ``{task: {"AP", "AP50", "AP75", "AR@1", "AR@10", "AR@100", "per_class"}}``, for amodal and
        visible also APs, APm, APl, ARs, ARm, ARl. The AR of the paper is AR@1. ``None`` where no
        object takes part, with a ``note`` that says why.
    """
    return Evaluation(records, predictions, num_classes, **options).metrics()


class Evaluation:
    """Predictions matched to the ground truth.

    Args:
        records: internal records, the ground truth.
        predictions: as in :mod:`arcnn.evaluation.predictions`, ``category_id`` in [0, C).
        num_classes: C.
        class_names: by contiguous id; the ids themselves by default.
        tasks: some of :data:`ALL_TASKS`.

    Attributes:
        image_ids: of the N images, ascending.
        matches: :class:`Matches` by task, with the size splits as ``"amodal/s"`` and so on.
        notes: by task, why it has no number.

    Raises:
        PredictionError: predictions that cannot be scored.
        ValueError: an unknown task, or an image that the ground truth lists twice.
    """

    def __init__(
        self,
        records: Sequence[dict],
        predictions: Sequence[dict],
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        tasks: Sequence[str] = ALL_TASKS,
    ) -> None:
        if unknown := set(tasks) - set(ALL_TASKS):
            raise ValueError(f"unknown tasks {sorted(unknown)}; there are {', '.join(ALL_TASKS)}")
        lacking = check_predictions(records, predictions, num_classes)
        self.image_ids = sorted(r["image_id"] for r in records)
        if len(set(self.image_ids)) < len(self.image_ids):
            raise ValueError("the ground truth lists an image twice")
        self.num_classes = num_classes
        self.class_names = [str(n) for n in class_names or range(num_classes)]
        self.tasks = tuple(tasks)
        self.notes: dict[str, str] = {}
        for task in tasks:
            if lacks := [kind for kind in PROTOCOL[task].needs if kind in lacking]:
                self.notes[task] = lacking[lacks[0]]
        self.matches: dict[str, Matches] = {}
        objects = [a | {"image_id": r["image_id"]} for r in records for a in r["annotations"]]
        matcher = _Matcher(objects, predictions, self.image_ids, num_classes)
        for kind in MASK_KEYS:
            scored = [t for t in tasks if t not in self.notes and PROTOCOL[t].kind == kind]
            self.matches |= matcher.match(kind, scored) if scored else {}
        for task in self.matches.keys() & set(tasks):
            if not self.matches[task].positives.any():
                rate = PROTOCOL[task].rate
                condition = f" with an occlusion rate of {rate:.2f} or more" if rate else ""
                self.notes[task] = f"the ground truth has no object{condition}"

    def metrics(self) -> Metrics:
        """All numbers; see :func:`evaluate`."""
        return {task: self._task_metrics(task) for task in self.tasks}

    def metric(self, task: str, weights: np.ndarray | None = None) -> Numbers:
        """The six :data:`METRICS` of a task, percent, with images weighted, ``(N,)``.

        Raises:
            KeyError: the task has no number; :attr:`notes` says why.
        """
        return _mean_of_classes(self._by_class(task, weights))

    def _task_metrics(self, task: str) -> dict[str, Any]:
        note = {"note": self.notes[task]} if task in self.notes else {}
        if task not in self.matches:
            return dict.fromkeys(METRICS) | note
        by_class = self._by_class(task)
        numbers = _mean_of_classes(by_class)
        for size in SIZES:
            if f"{task}/{size}" in self.matches:
                split = self.metric(f"{task}/{size}")
                numbers |= {f"AP{size}": split["AP"], f"AR{size}": split["AR@100"]}
        return numbers | {"per_class": dict(zip(self.class_names, by_class, strict=True))} | note

    def _by_class(self, task: str, weights: np.ndarray | None = None) -> list[Numbers]:
        matches = self.matches[task]
        return [_numbers(matches.curves(c, weights)) for c in range(self.num_classes)]


class _Layer(NamedTuple):
    """One way of counting."""

    state: np.ndarray  # int8 (G,) COUNTED, IGNORED or REMOVED
    ignorable: np.ndarray  # bool (D,) detections that don't count where they match nothing


class _Matcher:
    """Detections (of each image and class the first 100) and objects, in the order of their groups.

    Shapes: N images, C classes, D detections, G objects.
    """

    def __init__(
        self,
        objects: Sequence[dict],
        predictions: Sequence[dict],
        image_ids: list,
        num_classes: int,
    ) -> None:
        def group(entries: Sequence[dict], scores: np.ndarray) -> Items:
            image = np.searchsorted(image_ids, [e["image_id"] for e in entries]).astype(int)
            category = np.array([e["category_id"] for e in entries], dtype=int)
            return Items.grouped(image, category, num_classes, scores)

        scores = np.array([p["score"] for p in predictions], dtype=float)
        detections, self.truths = group(predictions, scores), group(objects, np.zeros(len(objects)))
        self.detections = detections.select(detections.rank < MAX_DETECTIONS[-1])
        self.predictions = [predictions[k] for k in self.detections.index.tolist()]
        self.objects = [objects[k] for k in self.truths.index.tolist()]
        self.scores = scores[self.detections.index]
        self.crowd = np.array([a["iscrowd"] for a in self.objects], dtype=bool)
        self.shape = len(image_ids), num_classes

    def match(self, kind: str, tasks: Sequence[str]) -> dict[str, Matches]:
        """Compare the masks of a kind, once, and count in all the ways of the tasks that use it."""
        predicted = [p[MASK_KEYS[kind]] for p in self.predictions]
        if kind == "occlusion":
            true, iou = [], self._hidden_iou(predicted)
        else:
            true = [a[MASK_KEYS[kind]] for a in self.objects]

            def iou(d: slice, g: slice) -> np.ndarray:
                return mask_iou(predicted[d], true[g], self.crowd[g].tolist())

        pairs = overlapping_pairs(self.detections, self.truths, iou)
        layers: dict[str, _Layer] = {}
        for name in tasks:
            layers[name] = self._by_rate(PROTOCOL[name])
            if PROTOCOL[name].sizes:
                areas = _areas(true), _areas(predicted)
                for size, (low, high) in SIZES.items():
                    outside = [(side < low) | (side > high) for side in areas]
                    layers[f"{name}/{size}"] = self._layer(*outside)
        return self._count(pairs, layers)

    def _hidden_iou(self, predicted: Sequence[dict]) -> Callable[[slice, slice], np.ndarray]:
        """Of occlusion masks with hidden parts, without drawing these: a visible mask lies inside
        its amodal one, so that all areas are differences of two."""
        amodal, visible = (
            [a[MASK_KEYS[kind]] for a in self.objects] for kind in ("amodal", "visible")
        )
        hidden_area, area = _areas(amodal) - _areas(visible), _areas(predicted)[:, None]

        def iou(d: slice, g: slice) -> np.ndarray:
            everyone = [1] * len(amodal[g])  # with a "crowd": the share of the detection in it
            in_amodal, in_visible = (
                np.rint(mask_iou(predicted[d], true[g], everyone) * area[d])
                for true in (amodal, visible)
            )
            both = in_amodal - in_visible
            union = np.where(self.crowd[g], area[d], area[d] + hidden_area[g] - both)
            return both / np.maximum(union, 1)  # nothing in nothing is 0

        return iou

    @functools.cached_property
    def _fractions(self) -> np.ndarray:
        return _visible_fractions(self.predictions)

    def _by_rate(self, task: Task) -> _Layer:
        """What is visible by more than 1 - rate does not count. Of a detection without a fraction
        (0/0) the comparison is false: it counts."""
        if not task.rate:
            return self._layer(False, False)
        unoccluded = 1 - np.array([a["occlusion_rate"] for a in self.objects]) > 1 - task.rate
        ignorable = task.others == IGNORED and self._fractions > 1 - task.rate
        return self._layer(unoccluded, ignorable, task.others)

    def _layer(
        self, outside: np.ndarray | bool, ignorable: np.ndarray | bool, others: int = IGNORED
    ) -> _Layer:
        state = np.where(self.crowd, IGNORED, np.where(outside, others, COUNTED))
        return _Layer(state.astype(np.int8), np.broadcast_to(ignorable, len(self.scores)))

    def _count(self, pairs: Pairs, layers: Mapping[str, _Layer]) -> dict[str, Matches]:
        """The outcome of each layer."""
        state = np.array([layer.state for layer in layers.values()])
        true, ignored = match(pairs, self.detections, state, self.crowd)
        order = np.lexsort((-self.scores, self.detections.category))
        detections = self.detections.select(order)
        matches = {}
        for k, (name, layer) in enumerate(layers.items()):
            positives = np.zeros(self.shape, dtype=int)
            objects = self.truths.select(layer.state == COUNTED)
            np.add.at(positives, (objects.image, objects.category), 1)
            matches[name] = Matches(
                image=detections.image,
                category=detections.category,
                rank=detections.rank,
                score=self.scores[order],
                true=true[k][:, order],
                false=~(true[k] | ignored[k] | layer.ignorable)[:, order],
                positives=positives,
            )
        return matches


def visible_fraction(prediction: dict) -> float:
    """|A and V| / |A| of the predicted masks; NaN where A is empty, so that no range ignores it."""
    return float(_visible_fractions([prediction])[0])


def _visible_fractions(predictions: Sequence[dict]) -> np.ndarray:
    both = [
        mask_util.merge([p["segmentation"], p["visible_mask"]], intersect=True) for p in predictions
    ]
    with np.errstate(invalid="ignore"):
        return _areas(both) / _areas([p["segmentation"] for p in predictions])


def _areas(masks: Sequence[dict]) -> np.ndarray:
    # pycocotools 2.0.11 fails on lists of more than 255 under numpy 2.
    chunks = [mask_util.area(masks[k : k + 255]) for k in range(0, len(masks), 255)]
    return np.concatenate([*chunks, np.zeros(0)])


def _numbers(curves: Curves | None) -> Numbers:
    if curves is None:
        return dict.fromkeys(METRICS)
    precision = 100 * curves.precision
    values = [precision.mean(), precision[AT_50].mean(), precision[AT_75].mean()]
    values += [100 * recall.mean() for recall in curves.recall.values()]
    return dict(zip(METRICS, map(float, values), strict=True))


def _mean_of_classes(by_class: list[Numbers]) -> Numbers:
    present = [numbers for numbers in by_class if numbers["AP"] is not None]
    return {
        metric: float(np.mean([n[metric] for n in present])) if present else None
        for metric in METRICS
    }
