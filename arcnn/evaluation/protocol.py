"""The paper's metrics (Section 4.3, Table 1), from ground-truth records and a list of predictions.

All of it is COCO's own evaluation, run by pycocotools. *Amodal* and *visible* score the respective
masks of the same detections. *Occluded* is the AP of the **amodal** mask on occluded objects:
COCO's area ranges, with the visible fraction |visible| / |amodal| in the place of the area. Objects
(and unmatched detections) whose fraction is above 0.85 are ignored: they count neither way.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

TASKS = ("amodal", "visible", "occluded")
OCCLUSION_RATE = 0.15  # "exceeds 15 %", Section 4.3
MAX_DETECTIONS = (1, 10, 100)
EVERY_AREA = (-np.inf, np.inf)


def evaluate(
    records: Sequence[dict], predictions: Sequence[dict], num_classes: int
) -> dict[str, dict[str, float | None]]:
    """AP and AR of the three tasks, in percent.

    Args:
        records: internal records (:mod:`arcnn.data.annotations`), the ground truth.
        predictions: one dict per detection: ``image_id``, ``category_id`` in [0, C), ``score``, and
            RLEs ``segmentation`` (amodal) and ``visible_mask``.
        num_classes: C.

    Returns:
        ``{task: {"AP", "AP50", "AP75", "AR@1", "AR@10", "AR@100"}}`` for each of :data:`TASKS`. The
        AR of the paper is AR@1. ``None`` where no object takes part, as in a ground truth
        without occluded objects.
    """
    annotations = [(r["image_id"], a) for r in records for a in r["annotations"]]
    amodal = _coco_eval(
        records,
        [_truth(i, a, a["segmentation"], 1 - a["occlusion_rate"]) for i, a in annotations],
        [_detection(p, p["segmentation"], visible_fraction(p)) for p in predictions],
        num_classes,
        {"amodal": EVERY_AREA, "occluded": (-np.inf, 1 - OCCLUSION_RATE)},
    )
    visible = _coco_eval(
        records,
        [_truth(i, a, a["visible_mask"], 1.0) for i, a in annotations],
        [_detection(p, p["visible_mask"], 1.0) for p in predictions],
        num_classes,
        {"visible": EVERY_AREA},
    )
    return {task: (amodal | visible)[task] for task in TASKS}


def visible_fraction(prediction: dict) -> float:
    """|A and V| / |A| of the predicted masks; NaN where A is empty, so that no range ignores it."""
    amodal = prediction["segmentation"]
    both = mask_util.merge([amodal, prediction["visible_mask"]], intersect=True)
    area = float(mask_util.area(amodal))
    return float(mask_util.area(both)) / area if area else float("nan")


def _truth(image_id: int, annotation: dict, mask: dict, fraction: float) -> dict:
    return {
        "image_id": image_id,
        "category_id": annotation["category_id"],
        "segmentation": mask,
        "area": fraction,
        "iscrowd": annotation["iscrowd"],
    }


def _detection(prediction: dict, mask: dict, fraction: float) -> dict:
    return {
        "image_id": prediction["image_id"],
        "category_id": prediction["category_id"],
        "segmentation": mask,
        "area": fraction,
        "score": prediction["score"],
        "iscrowd": 0,
    }


def _coco(records: Sequence[dict], annotations: list[dict], num_classes: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": r["image_id"], "height": r["height"], "width": r["width"]} for r in records
        ],
        "categories": [{"id": k} for k in range(num_classes)],
        # COCOeval reads the id 0 as "not matched", so ids start at 1.
        "annotations": [a | {"id": n} for n, a in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def _coco_eval(
    records: Sequence[dict],
    truths: list[dict],
    detections: list[dict],
    num_classes: int,
    area_ranges: dict[str, tuple[float, float]],
) -> dict[str, dict[str, float | None]]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco_eval = COCOeval(
            _coco(records, truths, num_classes), _coco(records, detections, num_classes), "segm"
        )
        coco_eval.params.maxDets = list(MAX_DETECTIONS)
        coco_eval.params.areaRng = [list(r) for r in area_ranges.values()]
        coco_eval.params.areaRngLbl = list(area_ranges)
        coco_eval.evaluate()
        coco_eval.accumulate()
    precision = coco_eval.eval["precision"]  # (IoU thresholds, recalls, classes, areas, maxDets)
    recall = coco_eval.eval["recall"]  # (IoU thresholds, classes, areas, maxDets)
    iou = list(np.round(coco_eval.params.iouThrs, 2))

    def percent(values: np.ndarray) -> float | None:
        values = values[values > -1]  # COCO writes -1 for a class without objects
        return float(100 * values.mean()) if values.size else None

    return {
        name: {
            "AP": percent(precision[:, :, :, area, -1]),
            "AP50": percent(precision[iou.index(0.5), :, :, area, -1]),
            "AP75": percent(precision[iou.index(0.75), :, :, area, -1]),
            **{f"AR@{m}": percent(recall[:, :, area, i]) for i, m in enumerate(MAX_DETECTIONS)},
        }
        for area, name in enumerate(area_ranges)
    }
