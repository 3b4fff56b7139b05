"""The oracles that the evaluation is held against, and drawn input for both sides.

An oracle answers with detectron2 and pycocotools alone, as one would without the kit. The input is
drawn by rule: street scenes of KINS' size.

Shapes: R boxes, M side of the mask maps.
"""

import contextlib
import io
import json
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from arcnn.evaluation import visible_fraction
from arcnn.evaluation.masks import encode_mask_kinds
from arcnn.evaluation.matching import MAX_DETECTIONS
from arcnn.names import MASK_KEYS, OCCLUSION_RATE

HEIGHT, WIDTH = 375, 1242  # a KITTI image
CLASSES = 7
OBJECTS, DETECTIONS = 12, 60  # per image; KINS has about 12 objects
SIDE = 28


# --- oracles ------------------------------------------------------------------------------------
def peer_encode(probs: Sequence[Tensor], boxes: Tensor, height: int, width: int) -> list[list]:
    """detectron2's paste_masks_in_image and pycocotools' encode, a mask kind at a time."""
    encoded = []
    for maps in probs:
        masks = paste_masks_in_image(maps, boxes, (height, width), threshold=0.5)
        stack = np.asfortranarray(masks.cpu().numpy().transpose(1, 2, 0), np.uint8)
        rles = mask_util.encode(stack)
        encoded.append([{"size": r["size"], "counts": r["counts"].decode()} for r in rles])
    return encoded


def peer_evaluate(
    records: Sequence[dict],
    predictions: Sequence[dict],
    num_classes: int,
    task: str,
    *,
    rate: float = OCCLUSION_RATE,
    areas: tuple[float, float] | None = None,
) -> dict[str, float | None]:
    """One of the paper's three tasks by pycocotools alone, percent: the protocol as it is written,
    with the visible fraction in the place of the area for ``occluded`` (from ``rate`` on); the
    others on request for masks of some ``areas`` alone."""
    key = MASK_KEYS["visible" if task == "visible" else "amodal"]
    occluded = task == "occluded"

    def entry(of: dict, image_id: int, fraction: float) -> dict:
        area = fraction if occluded else float(mask_util.area(of[key]))
        shared = {"image_id": image_id, "category_id": of["category_id"]}
        return shared | {"segmentation": of[key], "area": area, "iscrowd": of.get("iscrowd", 0)}

    objects = [
        entry(a, r["image_id"], 1 - a["occlusion_rate"]) for r in records for a in r["annotations"]
    ]
    detections = [
        entry(p, p["image_id"], visible_fraction(p) if occluded else 1.0) | {"score": p["score"]}
        for p in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco_eval = COCOeval(
            coco_dataset(records, objects, num_classes),
            coco_dataset(records, detections, num_classes),
            "segm",
        )
        coco_eval.params.maxDets = list(MAX_DETECTIONS)
        low, high = (-np.inf, 1 - rate) if occluded else areas or (-np.inf, np.inf)
        coco_eval.params.areaRng = [[low, high]]
        coco_eval.params.areaRngLbl = [task]
        coco_eval.evaluate()
        coco_eval.accumulate()
    precision = coco_eval.eval["precision"][..., 0, -1]  # (IoU thresholds, recalls, classes)
    recall = coco_eval.eval["recall"][..., 0, :]  # (IoU thresholds, classes, maxDets)

    def percent(values: np.ndarray) -> float | None:
        values = values[values > -1]  # COCO writes -1 for a class without objects
        return float(100 * values.mean()) if values.size else None

    return {
        "AP": percent(precision),
        "AP50": percent(precision[0]),
        "AP75": percent(precision[5]),
        **{f"AR@{m}": percent(recall[..., k]) for k, m in enumerate(MAX_DETECTIONS)},
    }


def coco_dataset(records: Sequence[dict], annotations: list[dict], num_classes: int) -> COCO:
    """Objects or detections on the images of ``records`` as pycocotools wants them."""
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


# --- drawn input --------------------------------------------------------------------------------
def draw_maps(boxes: Tensor, hidden: Tensor) -> list[Tensor]:
    """Ellipses that fill their boxes, hidden from the left up to a share: amodal, visible and
    occlusion maps, float ``(R, M, M)``."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    radius = ((axis[:, None] * 2 - 1) ** 2 + (axis * 2 - 1) ** 2).sqrt()
    amodal = torch.sigmoid(12 * (0.95 - radius)).expand(len(boxes), SIDE, SIDE)
    cut = torch.sigmoid(40 * (axis - hidden[:, None, None])).expand_as(amodal)
    return [amodal.contiguous(), amodal * cut, amodal * (1 - cut)]


def draw_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes of street scenes: 16 to 300 pixels wide, inside the image."""
    size = torch.tensor([WIDTH, HEIGHT])
    side = torch.exp(torch.randn(count, 2, generator=generator) * 0.6 + torch.tensor([4.4, 4.0]))
    side = side.clamp(min=16).minimum(size * 0.8)
    corner = torch.rand(count, 2, generator=generator) * (size - side)
    return torch.cat([corner, corner + side], dim=1)


def draw_image(image_id: int, generator: torch.Generator) -> tuple[dict, list[dict]]:
    """A record of 12 objects, and 60 detections: most of them jittered objects, some false."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def drawn(boxes: Tensor, hidden: Tensor, classes: Tensor) -> list[dict]:
        kinds = encode_mask_kinds(draw_maps(boxes, hidden), boxes, HEIGHT, WIDTH)
        return [
            {"category_id": category, **dict(zip(MASK_KEYS.values(), masks, strict=True))}
            for category, *masks in zip(classes.tolist(), *kinds, strict=True)
        ]

    boxes, hidden = draw_boxes(2 * OBJECTS, generator), uniform(2 * OBJECTS) * 0.9 - 0.2
    classes = torch.randint(CLASSES, (2 * OBJECTS,), generator=generator)
    annotations = drawn(*(of[:OBJECTS] for of in (boxes, hidden, classes)))  # the rest is none
    for a in annotations:
        amodal, visible = (float(mask_util.area(a[MASK_KEYS[k]])) for k in ("amodal", "visible"))
        a |= {"occlusion_rate": 1 - visible / amodal, "iscrowd": 0}
    record = {"image_id": image_id, "height": HEIGHT, "width": WIDTH, "annotations": annotations}
    source = torch.arange(DETECTIONS) % (2 * OBJECTS)
    base = boxes[source]
    side = (base[:, 2:] - base[:, :2]).repeat(1, 2)
    base = base + (uniform(DETECTIONS, 4) - 0.5) * 0.25 * side
    hidden = hidden[source] + 0.2 * (uniform(DETECTIONS) - 0.5)
    found = drawn(base, hidden, classes[source])
    scores = uniform(DETECTIONS).tolist()
    return record, [
        p | {"image_id": image_id, "score": s} for p, s in zip(found, scores, strict=True)
    ]


def draw_set(images: int) -> tuple[list[dict], list[dict]]:
    """Records and predictions of so many images: copies of 64 different ones, each with
    strings and scores of its own, so that neither memory nor order is spared."""
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_image(k, generator) for k in range(min(64, images))]
    scores = np.random.default_rng(0).random((images, DETECTIONS)).tolist()
    records, predictions = [], []
    for n in range(images):
        record, detections = json.loads(json.dumps(drawn[n % len(drawn)]))
        records.append(record | {"image_id": n})
        predictions += [
            p | {"image_id": n, "score": s} for p, s in zip(detections, scores[n], strict=True)
        ]
    return records, predictions
