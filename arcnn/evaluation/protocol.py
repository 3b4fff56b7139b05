"""The paper's metrics (Section 4.3, Table 1), from ground-truth records and a list of predictions.

*Amodal* and *visible* score the respective masks of the same detections, as COCO does. *Occluded*
is the AP of the **amodal** mask on occluded objects: COCO's area ranges, with the visible fraction
|visible| / |amodal| in the place of the area. Objects (and unmatched detections) whose fraction is
above 0.85 are ignored: they count neither way. That is the protocol of the public evaluators.

Beside the paper's three tasks there are others, each under its own name:

====================  ==========================================================================
``occluded@0.25``     the occluded protocol at a rate of 0.25 or more; ``occluded@0.40`` likewise
``occluded_strict``   the amodal mask on objects with a rate of 0.15 or more, the other objects
                      removed, not ignored: every unmatched detection is a false positive
``occlusion``         the occlusion mask itself on the hidden part; objects and detections ignored
                      as in ``occluded``
``amodal_boundary``   boundary AP (Cheng et al. 2021) of the amodal masks; ``visible_boundary`` of
                      the visible ones
====================  ==========================================================================
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core.mask import iou as mask_iou
from faster_coco_eval.core.mask import rleToBoundary
from pycocotools import mask as mask_util

import arcnn.names
from arcnn.evaluation.matching import (
    COUNTED,
    IGNORED,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    REMOVED,
    Items,
    Matches,
    Pairs,
    match,
    overlapping_pairs,
)
from arcnn.evaluation.predictions import check_predictions
from arcnn.names import MASK_KEYS, OCCLUSION_RATE

TASKS = ("amodal", "visible", "occluded")  # the paper's
OCCLUSION_LEVELS = {"occluded": OCCLUSION_RATE, "occluded@0.25": 0.25, "occluded@0.40": 0.40}
STRICT, OCCLUSION = "occluded_strict", "occlusion"
BOUNDARIES = {"amodal_boundary": "amodal", "visible_boundary": "visible"}
SIZES = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e5**2)}  # COCO's, square pixels
BOUNDARY_WIDTH = 0.02  # of the image's diagonal, as published
AT_50, AT_75 = (int(np.abs(IOU_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75))
DEFAULT_TASKS = (*TASKS, "occluded@0.25", "occluded@0.40", STRICT, OCCLUSION)
ALL_TASKS = (*DEFAULT_TASKS, *BOUNDARIES)  # boundaries take longer than all the rest
METRICS = ("AP", "AP50", "AP75", *(f"AR@{m}" for m in MAX_DETECTIONS))

MASK_OF_TASK = dict.fromkeys(DEFAULT_TASKS, "amodal") | BOUNDARIES
MASK_OF_TASK |= {"visible": "visible", OCCLUSION: OCCLUSION}

# What a task needs beside the amodal mask.
NEEDS = {
    "visible": ["visible"],
    **dict.fromkeys(OCCLUSION_LEVELS, ["visible"]),
    OCCLUSION: ["occlusion", "visible"],
    "visible_boundary": ["visible"],
}


# What decides a number: another text of one of these is another protocol.
MODULES = ("protocol", "matching", "masks", "predictions", "uncertainty")
SOURCES = (
    *(Path(__file__).with_name(f"{module}.py") for module in MODULES),
    Path(arcnn.names.__file__),
)


def protocol_version() -> str:
    """12 hex digits that name the protocol: of the SHA-256 over the text of :data:`SOURCES`.

    Numbers are compared across runs, machines and months. Two that were measured by different
    code may differ for that reason alone; a version beside each tells. It follows the text, so
    that nobody has to remember to raise it: an edited comment changes it too.
    """
    text = "\0".join(source.read_text(encoding="utf-8") for source in SOURCES)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def evaluate(
    records: Sequence[dict],
    predictions: Sequence[dict],
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
    tasks: Sequence[str] = DEFAULT_TASKS,
) -> dict[str, dict[str, Any]]:
    """AP and AR of every task, in percent.

    Args:
        records: internal records, the ground truth.
        predictions: as in :mod:`arcnn.evaluation.predictions`, ``category_id`` in [0, C).
        num_classes: C.
        class_names: by contiguous id; the ids themselves by default.
        tasks: some of :data:`ALL_TASKS`.

    Returns:
        ``{task: {"AP", "AP50", "AP75", "AR@1", "AR@10", "AR@100", "per_class"}}``, for amodal and
        visible also APs, APm, APl, ARs, ARm, ARl. The AR of the paper is AR@1. ``None`` where no
        object takes part, with a ``note`` that says why.

    Raises:
        PredictionError: predictions that cannot be scored.
    """
    evaluation = Evaluation(records, predictions, num_classes, class_names=class_names, tasks=tasks)
    return evaluation.metrics()


class Evaluation:
    """Predictions matched to the ground truth; see :func:`evaluate` for the arguments.

    Attributes:
        image_ids: of the N images, ascending.
        matches: :class:`Matches` by task, with the size splits as ``"amodal/s"`` and so on.
        notes: by task, why it has no number.
    """

    def __init__(
        self,
        records: Sequence[dict],
        predictions: Sequence[dict],
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        tasks: Sequence[str] = DEFAULT_TASKS,
    ) -> None:
        if unknown := set(tasks) - set(ALL_TASKS):
            raise ValueError(f"unknown tasks {sorted(unknown)}; there are {', '.join(ALL_TASKS)}")
        lacking = check_predictions(records, predictions, num_classes)
        self.num_classes = num_classes
        self.class_names = [str(n) for n in class_names or range(num_classes)]
        self.image_ids = sorted(r["image_id"] for r in records)
        if len(set(self.image_ids)) < len(self.image_ids):
            raise ValueError("the ground truth lists an image twice")
        self.matches: dict[str, Matches] = {}
        self.tasks = tuple(tasks)
        # Which of the occlusion masks' detections count depends on their visible masks too.
        needs = {t: [k for k in NEEDS[t] if k in lacking] for t in tasks if t in NEEDS}
        self.notes = {task: lacking[kinds[0]] for task, kinds in needs.items() if kinds}

        self._predictions = predictions
        self._objects = [a | {"image_id": r["image_id"]} for r in records for a in r["annotations"]]
        self._scores = np.array([p["score"] for p in predictions], dtype=float)
        self._detections = self._group(predictions, self._scores)
        self._detections = self._detections.select(self._detections.rank < MAX_DETECTIONS[-1])
        self._truths = self._group(self._objects, np.zeros(len(self._objects)))
        self._crowd = self._of_truths([a["iscrowd"] for a in self._objects]) > 0

        # Fractions of the amodal masks, whatever mask is scored.
        self._true_fraction = 1 - self._of_truths([a["occlusion_rate"] for a in self._objects])
        self._predicted_fraction = np.zeros(len(self._detections.index))
        wanted = [task for task in tasks if task not in self.notes]
        if any(task in OCCLUSION_LEVELS or task == OCCLUSION for task in wanted):
            self._predicted_fraction = self._of_detections(_visible_fractions(predictions))
        for kind in MASK_KEYS:
            self._score_kind(kind, [task for task in wanted if MASK_OF_TASK[task] == kind])
        for task, matches in self.matches.items():
            if not matches.positives.any() and "/" not in task:
                self.notes[task] = _no_object(task)
        del self._predictions, self._objects  # the masks, which take the memory

    def metrics(self) -> dict[str, dict[str, Any]]:
        """All numbers; see :func:`evaluate`."""
        return {task: self._task_metrics(task) for task in self.tasks}

    def metric(self, task: str, weights: np.ndarray | None = None) -> dict[str, float | None]:
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

    def _by_class(
        self, task: str, weights: np.ndarray | None = None
    ) -> list[dict[str, float | None]]:
        matches = self.matches[task]
        numbers = []
        for c in range(self.num_classes):
            curves = matches.curves(c, weights)
            if curves is None:
                numbers.append(dict.fromkeys(METRICS))
                continue
            precision = 100 * curves.precision
            numbers.append(
                {
                    "AP": float(precision.mean()),
                    "AP50": float(precision[AT_50].mean()),
                    "AP75": float(precision[AT_75].mean()),
                    **{f"AR@{m}": float(100 * r.mean()) for m, r in curves.recall.items()},
                }
            )
        return numbers

    def _group(self, entries: Sequence[dict], score: np.ndarray) -> Items:
        image = np.searchsorted(self.image_ids, [e["image_id"] for e in entries]).astype(int)
        category = np.array([e["category_id"] for e in entries], dtype=int)
        return Items.grouped(image, category, self.num_classes, score)

    def _of_detections(self, values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, dtype=float)[self._detections.index]

    def _of_truths(self, values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, dtype=float)[self._truths.index]

    def _score_kind(self, kind: str, tasks: Sequence[str]) -> None:
        """Compare the masks of one kind, once, and count in all the ways that use them."""
        if not tasks:
            return
        predicted = [p[MASK_KEYS[kind]] for p in self._predictions]
        if kind == OCCLUSION:
            pairs = self._hidden_pairs(predicted)
        else:
            true = [a[MASK_KEYS[kind]] for a in self._objects]
            crowd = np.array([a["iscrowd"] for a in self._objects], dtype=int)
            pairs = overlapping_pairs(
                self._detections,
                self._truths,
                lambda d, g: mask_iou(_pick(predicted, d), _pick(true, g), crowd[g].tolist()),
            )
        layers = {}
        for task in tasks:
            if task == kind and task in TASKS:
                layers[task] = self._layer()
                areas = self._of_truths(_areas(true)), self._of_detections(_areas(predicted))
                for size, (low, high) in SIZES.items():
                    outside = [(area < low) | (area > high) for area in areas]
                    layers[f"{task}/{size}"] = self._layer(*outside)
            elif task not in BOUNDARIES:
                rate = OCCLUSION_LEVELS.get(task, OCCLUSION_RATE)
                layers[task] = self._occluded_layer(rate, strict=task == STRICT)
        self._count(pairs, layers)
        for task in tasks:
            if task in BOUNDARIES:
                self._count(self._boundary_pairs(pairs, predicted, true), {task: self._layer()})

    def _occluded_layer(self, rate: float, strict: bool = False) -> "_Layer":
        """The rule of the occluded tasks: what is visible by more than 1 - rate does not count."""
        unoccluded = self._true_fraction > 1 - rate
        if strict:
            return self._layer(removed=unoccluded)
        # Of a detection without a fraction (0/0) the comparison is false: it counts.
        return self._layer(ignored=unoccluded, ignorable=self._predicted_fraction > 1 - rate)

    def _layer(
        self,
        ignored: np.ndarray | bool = False,
        ignorable: np.ndarray | bool = False,
        removed: np.ndarray | bool = False,
    ) -> "_Layer":
        state = np.full(len(self._crowd), COUNTED, dtype=np.int8)
        state[removed] = REMOVED
        state[self._crowd | ignored] = IGNORED
        return _Layer(state, np.broadcast_to(ignorable, len(self._detections.index)))

    def _count(self, pairs: Pairs, layers: dict[str, "_Layer"]) -> None:
        """Match, and keep the outcome of each layer."""
        if not layers:
            return
        state = np.array([layer.state for layer in layers.values()])
        true, ignored = match(pairs, self._detections, state, self._crowd)
        scores = self._of_detections(self._scores)
        order = np.lexsort((-scores, self._detections.category))
        detections = self._detections.select(order)
        for k, (task, layer) in enumerate(layers.items()):
            positives = np.zeros((len(self.image_ids), self.num_classes), dtype=int)
            objects = self._truths.select(layer.state == COUNTED)
            np.add.at(positives, (objects.image, objects.category), 1)
            self.matches[task] = Matches(
                image=detections.image,
                category=detections.category,
                rank=detections.rank,
                score=scores[order],
                true=true[k][:, order],
                false=~(true[k] | ignored[k] | layer.ignorable)[:, order],
                positives=positives,
            )

    def _hidden_pairs(self, predicted: list[dict]) -> Pairs:
        """Occlusion masks on hidden parts, without drawing these: a visible mask lies inside its
        amodal one, so that all areas are differences of two."""
        amodal, visible = (
            [a[MASK_KEYS[kind]] for a in self._objects] for kind in ("amodal", "visible")
        )
        hidden_area, area = _areas(amodal) - _areas(visible), _areas(predicted)
        occluded = np.flatnonzero(self._of_truths(hidden_area) > 0)
        nonempty = np.flatnonzero(self._of_detections(area) > 0)
        crowd = np.array([a["iscrowd"] for a in self._objects], dtype=bool)

        def iou(d: np.ndarray, g: np.ndarray) -> np.ndarray:
            masks, own = _pick(predicted, d), area[d, None]
            # IoU with a "crowd" is the share of the detection that lies in it.
            in_amodal, in_visible = (
                np.rint(mask_iou(masks, _pick(true, g), [1] * len(g)) * own)
                for true in (amodal, visible)
            )
            both = in_amodal - in_visible
            return both / np.where(crowd[g], own, own + hidden_area[g] - both)

        pairs = overlapping_pairs(
            self._detections.select(nonempty), self._truths.select(occluded), iou
        )
        return Pairs(nonempty[pairs.detection], occluded[pairs.truth], pairs.iou)

    def _boundary_pairs(self, pairs: Pairs, predicted: list[dict], true: list[dict]) -> Pairs:
        """The lower of mask IoU and boundary IoU; no pair can come in that way, only go."""
        boundaries: dict[tuple[str, int], dict] = {}

        def boundary(side: str, masks: list[dict], index: int) -> dict:
            if (side, index) not in boundaries:
                boundaries[side, index] = rleToBoundary(masks[index], BOUNDARY_WIDTH)
            return boundaries[side, index]

        lower = pairs.iou.copy()
        for n, (d, g) in enumerate(zip(pairs.detection, pairs.truth, strict=True)):
            if not self._crowd[g]:
                a = boundary("detection", predicted, self._detections.index[d])
                b = boundary("truth", true, self._truths.index[g])
                lower[n] = min(lower[n], mask_iou([a], [b], [0])[0, 0])
        keep = lower >= IOU_THRESHOLDS[0]
        return Pairs(pairs.detection[keep], pairs.truth[keep], lower[keep])


class _Layer(NamedTuple):
    """One way of counting."""

    state: np.ndarray  # int8 (G,) COUNTED, IGNORED or REMOVED
    ignorable: np.ndarray  # bool (D,) detections that don't count where they match nothing


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
    """Of any number of masks, float."""
    chunk = 255  # pycocotools 2.0.11 fails on longer lists under numpy 2
    chunks = [mask_util.area(masks[k : k + chunk]) for k in range(0, len(masks), chunk)]
    return np.concatenate([*chunks, np.zeros(0)]).astype(float)


def _pick(masks: list[dict], indices: np.ndarray) -> list[dict]:
    return [masks[k] for k in indices.tolist()]


def _mean_of_classes(by_class: list[dict[str, float | None]]) -> dict[str, float | None]:
    present = [numbers for numbers in by_class if numbers["AP"] is not None]
    return {
        metric: float(np.mean([n[metric] for n in present])) if present else None
        for metric in METRICS
    }


def _no_object(task: str) -> str:
    rate = OCCLUSION_LEVELS.get(task, OCCLUSION_RATE)
    hidden = task in OCCLUSION_LEVELS or task in (STRICT, OCCLUSION)
    condition = f" with an occlusion rate of {rate:.2f} or more" if hidden else ""
    return f"the ground truth has no object{condition}"
