"""What other papers' heads learn from beside the two masks, made from the objects of an image.

Shapes: N objects of an image of H x W pixels.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

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
            raise ValueError(f"annotation {annotation['id']} does not say who lies in front of it")
        told[k, [places[front] for front in annotation["occluders"] if front in places]] = True
    return told


def neighbours(instances: Instances) -> Tensor:
    """Whose visible box overlaps whose amodal box, bool ``(N, N)``: [i, j] if j's overlaps i's.

    What AISFormer's public code takes for occluders: it holds objects behind as well as in front.
    """
    visible_boxes = instances.gt_visible_masks.get_bounding_boxes()
    near = pairwise_iou(instances.gt_boxes, visible_boxes) > MIN_OCCLUDER_IOU
    return near.fill_diagonal_(False)


def occluder_masks(masks: Tensor, boxes: Boxes, occluders: Tensor) -> Tensor:
    """The union of each object's occluders inside its box, bool ``(N, H, W)``; small ones empty.

    Args:
        masks: of the objects, bool ``(N, H, W)``.
        boxes: their amodal boxes.
        occluders: bool ``(N, N)``, row by row whose masks are joined.
    """
    inside = torch.zeros_like(masks)
    for k, (x0, y0, x1, y1) in enumerate(boxes.tensor.round().long().tolist()):
        union = masks[occluders[k], y0:y1, x0:x1].any(0)
        if union.sum() > MIN_OCCLUDER_AREA:
            inside[k, y0:y1, x0:x1] = union
    return inside
