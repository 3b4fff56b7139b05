"""The mask terms of the loss, Eq. (2): ``L = L_box + L_cls + L_AM + L_VM + L_OM``.

``L_box`` and ``L_cls`` are detectron2's own (``loss_box_reg``, ``loss_cls``), beside the two losses
of its RPN; the box is the amodal one because the records' ``bbox`` is.

Shapes: R RoIs of all images together, C classes, M side of the mask maps.
"""

from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F


class MaskLogits(NamedTuple):
    """Maps before the sigmoid, float ``(R, C, M, M)`` each; ``None`` where a piece has no loss."""

    amodal: Tensor
    visible: Tensor
    occlusion: Tensor | None


class MaskTargets(NamedTuple):
    """Ground truth on the RoI grid, bool ``(R, M, M)`` each; visible | occlusion == amodal."""

    amodal: Tensor
    visible: Tensor
    occlusion: Tensor


def mask_targets(instances: list[Instances], side: int) -> MaskTargets:
    """Crop the ground-truth masks to the proposals' boxes.

    The occlusion target is derived on the grid (amodal and not visible), so that the two pieces
    fit like a jigsaw there too: cropping a third mask by itself would leave seams and overlaps.

    Args:
        instances: foreground proposals with ``proposal_boxes``, ``gt_masks`` (amodal) and
            ``gt_visible_masks`` (detectron2 ``BitMasks``).
        side: M.
    """
    # An image without objects has no masks to crop, nor any foreground.
    filled = [image for image in instances if len(image)]
    amodal, visible = (
        torch.cat([i.get(field).crop_and_resize(i.proposal_boxes.tensor, side) for i in filled])
        for field in ("gt_masks", "gt_visible_masks")
    )
    visible = visible & amodal
    # DEVIATION: not a third crop, see above.
    return MaskTargets(amodal, visible, amodal & ~visible)


def mask_losses(logits: MaskLogits, instances: list[Instances]) -> dict[str, Tensor]:
    """``L_AM``, ``L_VM`` and ``L_OM``: binary cross entropy of the true class's maps, weight 1.

    Args:
        logits: ``(R, C, M, M)`` maps before the sigmoid.
        instances: one per image, R foreground proposals together, with ``gt_classes``.

    Returns:
        Scalars ``loss_amodal_mask``, ``loss_visible_mask``, ``loss_occlusion_mask``, without the
        kinds whose logits are ``None``. Zero (with a gradient) where there is no foreground.
    """
    if sum(len(i) for i in instances) == 0:
        present = {kind: maps for kind, maps in logits._asdict().items() if maps is not None}
        return {f"loss_{kind}_mask": maps.sum() * 0 for kind, maps in present.items()}
    targets = mask_targets(instances, logits.amodal.shape[-1])
    return own_class_losses(logits, targets, torch.cat([i.gt_classes for i in instances]))


def own_class_losses(
    logits: MaskLogits, targets: MaskTargets, classes: Tensor
) -> dict[str, Tensor]:
    """:func:`mask_losses` for targets that lie on the RoI grid already.

    Args:
        classes: the true ones, int64 ``(R,)``; no other class's maps are looked at.
    """
    rows = torch.arange(len(classes), device=classes.device)
    return {
        f"loss_{kind}_mask": F.binary_cross_entropy_with_logits(
            maps[rows, classes].float(), getattr(targets, kind).float()
        )
        for kind, maps in logits._asdict().items()
        if maps is not None
    }
