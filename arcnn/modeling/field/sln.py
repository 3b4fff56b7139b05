"""SLN (Zhang et al. 2019): an object in layers, by the number of objects in front of each part.

"Learning Semantics-aware Distance Map with Semantics Layering Network for Amodal Instance
Segmentation", ACM MM 2019, arXiv 1905.12898. A pixel's distance is 0 where the object is visible,
and d where it is hidden behind d others; the amodal mask is all layers together.

Shapes: N objects of an image of H x W pixels; R RoIs of all images together, M side of the mask
maps, L layers.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor, nn

from arcnn.errors import InputError
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs
from arcnn.modeling.field.ground_truth import check_order, in_front
from arcnn.modeling.losses import MaskLogits, MaskTargets, mask_loss

FEWEST_LAYERS = 2  # visible, hidden


def count_covering(masks: Tensor, occluders: Tensor) -> Tensor:
    """How many occluders of each object cover each pixel, uint8 ``(N, H, W)``.

    Args:
        masks: amodal, bool ``(N, H, W)``: an occluder counts also where it is hidden itself.
        occluders: bool ``(N, N)``: [i, j] if j is an occluder of i.
    """
    covering = torch.zeros_like(masks, dtype=torch.uint8)
    for k, fronts in enumerate(occluders):
        covering[k] = masks[fronts].sum(0, dtype=torch.uint8)
    return covering


def layer_targets(targets: MaskTargets, layers: int) -> Tensor:
    """The layers on the RoI grid, bool ``(R, L, M, M)``: they partition the amodal mask.

    One by one, cropped layers would leave seams and overlaps (see
    :func:`arcnn.modeling.mask_targets`). So what is cropped is "behind d or more", and depths are
    counted on the grid: hidden and in one such mask is depth 2, in two of them depth 3.

    Args:
        targets: with ``behind_2`` to ``behind_<L-1>`` among the further ones.
        layers: L.
    """
    depth = targets.occlusion.long()
    for d in range(2, layers):
        depth += targets.occlusion & targets.further[f"behind_{d}"]
    depths = torch.arange(layers, device=depth.device).view(-1, 1, 1)
    return (depth[:, None] == depths) & targets.amodal[:, None]


@ROI_MASK_HEAD_REGISTRY.register()
class SLNMaskHead(AmodalMaskHead):
    """One trunk, one map per layer, for all classes alike; the amodal logit is the layers' sum.

    Two layers, visible and hidden, are ARCNN-add's sum of logits in a single trunk. The script that
    its authors published trains one layer, the whole object, so it learns no depth; here are two at
    least.

    ``MODEL.HEAD.LAYERS`` is L, the last layer for "behind L-1 or more". Beyond 2 the data must name
    each object's occluders.

    Args:
        trunk: gives ``(R, L, M, M)`` logits.
    """

    OPTIONS = {"LAYERS": FEWEST_LAYERS}

    # DEVIATION: no semantic map of a frozen DeepLab beside the RoI features; a second network.
    # DEVIATION: no frozen batch norm in the trunk; like all other heads here, without one.
    # DEVIATION: M is the configuration's (28), in the place of 32; masks of all models alike.
    # DEVIATION: neither its schedule nor its training by stages; like all other models.

    @configurable
    def __init__(self, *, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        layers = cfg.MODEL.HEAD.LAYERS
        if layers < FEWEST_LAYERS:
            raise InputError(
                f"MODEL.HEAD.LAYERS is {layers}; give {FEWEST_LAYERS} (visible, hidden) or more"
            )
        return {"trunk": MaskRCNNConvUpsampleHead(cfg, input_shape, num_classes=layers)}

    @classmethod
    def prepare(cls, cfg: CfgNode, records: Sequence[dict]) -> None:
        if cfg.MODEL.HEAD.LAYERS > FEWEST_LAYERS:
            what = f"MODEL.HEAD.LAYERS above {FEWEST_LAYERS}"
            check_order(records, what, f"MODEL.HEAD.LAYERS {FEWEST_LAYERS}")

    @classmethod
    def ground_truth(
        cls, cfg: CfgNode, instances: Instances, annotations: Sequence[dict]
    ) -> dict[str, Tensor]:
        """``behind_d`` for d = 2 to L-1: pixels that d or more named occluders cover.

        Only hidden ones matter, and on the grid it is seen which these are. One that no named
        occluder covers belongs to layer 1: something hides it.
        """
        deeper = range(2, cfg.MODEL.HEAD.LAYERS)
        if not deeper:
            return {}
        # DEVIATION: from the data's occluders; its code reads files that come with it.
        covering = count_covering(instances.gt_masks.tensor, in_front(annotations))
        return {f"behind_{d}": covering >= d for d in deeper}

    def layers(self, x: Tensor) -> MaskLogits:
        maps = self.trunk.layers(x)  # (R, L, M, M)
        amodal = maps.sum(1, keepdim=True)
        visible, *hidden = maps.split(1, dim=1)
        if len(hidden) == 1:
            return MaskLogits(amodal, visible, occlusion=hidden[0])
        further = {f"layer_{d}": layer for d, layer in enumerate(hidden, start=1)}
        return MaskLogits(amodal, visible, further=further)

    def losses(self, logits: MaskLogits, rois: RoIs) -> dict[str, Tensor]:
        # DEVIATION: weight 1 for each layer, as in Eq. (2); its code takes their mean.
        losses = super().losses(logits, rois)
        if logits.further:
            targets = layer_targets(rois.targets, 1 + len(logits.further)).unbind(1)
            for (name, maps), target in zip(logits.further.items(), targets[1:], strict=True):
                losses[f"loss_{name}_mask"] = mask_loss(maps, target, rois.classes)
        return losses

    def probs(self, logits: MaskLogits) -> dict[str, Tensor]:
        probs = super().probs(logits)
        if logits.further:
            # DEVIATION: hidden anywhere is a noisy-or; its code has no such mask. Not the maximum:
            # a pixel that is surely hidden, behind one or two, is half in each layer.
            not_there = torch.cat([-maps for maps in logits.further.values()], dim=1)
            probs["occlusion"] = 1 - not_there.float().sigmoid().prod(1, keepdim=True)
        return probs
