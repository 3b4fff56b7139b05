"""What other papers' heads learn from beside the two masks, made from the objects of an image.

Shapes: N objects of an image of H x W pixels.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from pycocotools import mask as mask_util
from torch import Tensor

from arcnn.errors import InputError

OCCLUDERS = ("neighbours", "in_front")
MIN_OCCLUDER_IOU = 0.05  # of boxes; AISFormer's public code, as the next
MIN_OCCLUDER_AREA = 20  # pixels


def in_front(annotations: Sequence[dict]) -> Tensor:
    """Who lies in front of whom, bool ``(N, N)``: [i, j] if j is an occluder of i.

    Raises:
        ValueError: the annotations do not tell; names the first.
    """
    places = {annotation["id"]: k for k, annotation in enumerate(annotations)}
    told = torch.zeros(len(annotations), len(annotations), dtype=torch.bool)
    for k, annotation in enumerate(annotations):
        if "occluders" not in annotation:
            raise InputError(f"annotation {annotation['id']} does not say who lies in front of it")
        told[k, [places[front] for front in annotation["occluders"] if front in places]] = True
    return told


def neighbours(boxes: Boxes, visible_boxes: Boxes) -> Tensor:
    """Whose visible box overlaps whose amodal box, bool ``(N, N)``: [i, j] if j's overlaps i's.

    What AISFormer's public code takes for occluders: it holds objects behind as well as in front.
    """
    return (pairwise_iou(boxes, visible_boxes) > MIN_OCCLUDER_IOU).fill_diagonal_(False)


def occluders(choice: str, instances: Instances, annotations: Sequence[dict]) -> Tensor:
    """Who counts as an occluder of whom, bool ``(N, N)``, by one of :data:`OCCLUDERS`."""
    if choice == "in_front":
        return in_front(annotations)
    return neighbours(instances.gt_boxes, instances.gt_visible_masks.get_bounding_boxes())


def check_occluders(choice: str, records: Sequence[dict]) -> None:
    """Can a head learn from occluders here, by this choice (the option ``MODEL.HEAD.OCCLUDERS``)?

    Raises:
        ValueError: no such choice; the data do not name occluders; or no object has one.
    """
    if choice not in OCCLUDERS:
        raise InputError(f'MODEL.HEAD.OCCLUDERS is "{choice}"; choose "neighbours" or "in_front"')
    if choice == "in_front":
        check_order(records, 'MODEL.HEAD.OCCLUDERS "in_front"', '"neighbours"')
    images = [_objects(record) for record in records]
    if not any(_has_occluder(choice, image) for image in images):  # looks at the first few, mostly
        raise InputError(
            f"no object of the {len(records):,} training images has an occluder to learn from. It "
            "takes images of several objects that overlap, or, with MODEL.HEAD.OCCLUDERS "
            f'"neighbours", lie close to each other (it is "{choice}").'
        )


def check_order(records: Sequence[dict], what: str, without: str) -> None:
    """Do the data say who lies in front of whom?

    Args:
        what: needs to know.
        without: the choice that does not.

    Raises:
        ValueError: not of every object; says which data do.
    """
    objects = [a for record in records for a in _objects(record)]
    silent = [a["id"] for a in objects if "occluders" not in a]
    if silent:
        raise InputError(
            f"{len(silent):,} of {len(objects):,} objects, annotation {silent[0]} first of all, do "
            f"not say who lies in front of them, as {what} needs. tabletop, KINS of 2020, raw "
            f"COCOA and data with pasted objects tell; {without} does without."
        )


def _objects(record: dict) -> list[dict]:
    return [a for a in record["annotations"] if not a.get("iscrowd", 0)]


def _has_occluder(choice: str, annotations: Sequence[dict]) -> bool:
    if len(annotations) < 2:
        return False
    if choice == "in_front":
        return bool(in_front(annotations).any())
    boxes = Boxes([a["bbox"] for a in annotations])
    visible = torch.from_numpy(mask_util.toBbox([a["visible_mask"] for a in annotations])).float()
    visible[:, 2:] += visible[:, :2]  # XYWH to XYXY
    return bool(neighbours(boxes, Boxes(visible)).any())


def occluder_masks(masks: Tensor, boxes: Boxes, of: Tensor) -> Tensor:
    """The union of each object's occluders inside its box, bool ``(N, H, W)``; small ones empty.

    Args:
        masks: of the objects, bool ``(N, H, W)``.
        boxes: their amodal boxes.
        of: bool ``(N, N)``, row by row whose masks are joined.
    """
    inside = torch.zeros_like(masks)
    for k, (x0, y0, x1, y1) in enumerate(boxes.tensor.round().long().tolist()):
        union = masks[of[k], y0:y1, x0:x1].any(0)
        if union.sum() > MIN_OCCLUDER_AREA:
            inside[k, y0:y1, x0:x1] = union
    return inside


def those_with(masks: Tensor) -> Tensor:
    """Weights of RoIs, float ``(R,)``, that make a mean over all of them one over those whose mask,
    bool ``(R, M, M)``, has a pixel; zero if none has."""
    filled = masks.flatten(1).any(1)
    return filled * len(filled) / filled.sum().clamp(min=1)
