"""The mask terms of the loss, Eq. (2): ``L = L_box + L_cls + L_AM + L_VM + L_OM``.

``L_box`` and ``L_cls`` are detectron2's own (``loss_box_reg``, ``loss_cls``), beside the two losses
of its RPN; the box is the amodal one because the records' ``bbox`` is.

Shapes: R RoIs of all images together, C classes, M side of the mask maps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from arcnn.modeling.shared_masks import SharedMasks, crop_together
from arcnn.names import MASK_KINDS


class MaskLogits(NamedTuple):
    """Maps before the sigmoid, float ``(R, C, M, M)`` each, or ``(R, 1, M, M)`` for all classes.

    ``None`` where a head has no such map, or no loss for it. ``further`` maps are a head's own: it
    alone knows of them.
    """

    amodal: Tensor
    visible: Tensor | None = None
    occlusion: Tensor | None = None
    further: Mapping[str, Tensor] = {}

    def kinds(self) -> dict[str, Tensor]:
        """Those of the three masks that there are."""
        maps = {kind: getattr(self, kind) for kind in MASK_KINDS}
        return {kind: of_kind for kind, of_kind in maps.items() if of_kind is not None}


class MaskTargets(NamedTuple):
    """Ground truth on the RoI grid, bool ``(R, M, M)`` each; visible | occlusion == amodal.

    ``further`` has, by name, what the head asked the mapper for (``gt_<name>_masks``).
    """

    amodal: Tensor
    visible: Tensor
    occlusion: Tensor
    further: Mapping[str, Tensor] = {}


def mask_targets(instances: list[Instances], side: int) -> MaskTargets:
    """Crop the ground-truth masks to the proposals' boxes.

    The occlusion target is derived on the grid (amodal and not visible), so that the two pieces
    fit like a jigsaw there too: cropping a third mask by itself would leave seams and overlaps.

    Args:
        instances: foreground proposals, at least one, with ``proposal_boxes``, ``gt_masks``
            (amodal), ``gt_visible_masks`` and what else a head asked for (:class:`SharedMasks`).
        side: M.
    """
    # An image without objects has no masks to crop, nor any foreground.
    filled = [image for image in instances if len(image)]
    names = [name for name, v in filled[0].get_fields().items() if isinstance(v, SharedMasks)]
    kinds = [
        crop_together([image.get(name) for name in names], image.proposal_boxes.tensor, side)
        for image in filled
    ]
    crops = dict(zip(names, torch.cat(kinds, dim=1), strict=True))
    amodal, visible = crops.pop("gt_masks"), crops.pop("gt_visible_masks")
    visible = visible & amodal
    further = {field.removeprefix("gt_").removesuffix("_masks"): m for field, m in crops.items()}
    # DEVIATION: not a third crop, see above.
    return MaskTargets(amodal, visible, amodal & ~visible, further)


def mask_losses(
    logits: MaskLogits, targets: MaskTargets, classes: Tensor, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """``L_AM``, ``L_VM`` and ``L_OM``: binary cross entropy of the true class's maps, weight 1.

    Args:
        classes: the true ones, int64 ``(R,)``; no other class's maps are looked at.
        weights: of the RoIs, float ``(R,)``; 1 each in Eq. (2).

    Returns:
        Scalars ``loss_amodal_mask``, ``loss_visible_mask``, ``loss_occlusion_mask``, without the
        kinds whose logits are ``None``.
    """
    return {
        f"loss_{kind}_mask": mask_loss(maps, getattr(targets, kind), classes, weights)
        for kind, maps in logits.kinds().items()
    }


def mask_loss(
    maps: Tensor, target: Tensor, classes: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Binary cross entropy of the own class's maps ``(R, C or 1, M, M)`` with ``(R, M, M)``."""
    loss = F.binary_cross_entropy_with_logits(
        own_class(maps, classes).float(), target.float(), reduction="none"
    )
    return (loss if weights is None else loss * weights[:, None, None]).mean()


def own_class(maps: Tensor, classes: Tensor) -> Tensor:
    """The map of each RoI's class, ``(R, M, M)``, of ``(R, C, M, M)``; of ``(R, 1, M, M)`` the one.

    >>> own_class(torch.tensor([[[[1.]], [[2.]]]]), torch.tensor([1])).item()  # R = M = 1, C = 2
    2.0
    """
    if maps.shape[1] == 1:
        return maps[:, 0]
    # `shape`, not `len`, which a tracer of the network would take for a constant.
    return maps[torch.arange(classes.shape[0], device=classes.device), classes]
