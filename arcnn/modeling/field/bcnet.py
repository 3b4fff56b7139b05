"""BCNet (Ke, Tai and Tang, CVPR 2021): two layers, the occluder's above the occludee's.

"Its public code" below is lkeab/BCNet; where that and the paper leave a choice, it is an option.

Shapes: R RoIs of all images together, N objects of an image, M side of the mask maps.
"""

from collections.abc import Sequence
from itertools import pairwise

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F

from arcnn.errors import InputError
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs, piece_head
from arcnn.modeling.field.ground_truth import check_occluders, occluder_masks, occluders, those_with
from arcnn.modeling.losses import MaskLogits, mask_loss


class NonLocalBlock(nn.Module):
    """Each place adds what it finds alike anywhere in the RoI; paper: a graph convolution.

    Self-attention of one head over the places, batch norm, residual (its public code).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("query", "key", "value", "output"):
            self.add_module(name, Conv2d(channels, channels, kernel_size=1, bias=False))
            c2_msra_fill(getattr(self, name))
        self.norm = nn.BatchNorm2d(channels, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``(R, channels, height, width)`` to the same shape."""
        q, k, v = (layer(x).flatten(2).mT[:, None] for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v)  # (R, 1, height * width, channels)
        return x + self.norm(self.output(found[:, 0].mT.reshape(x.shape)))


class Branch(nn.Module):
    """One of the two layers: features, and from them a mask and a boundary for all classes.

    Args:
        channels, width, out: of the features before, between and after the convolutions.
        num_conv: 3x3 convolutions with ReLU, at least 2; a non-local block follows the second.
    """

    def __init__(self, channels: int, width: int, out: int, num_conv: int) -> None:
        super().__init__()
        sizes = [channels, *[width] * (num_conv - 1), out]
        convs = [Conv2d(a, b, 3, padding=1, activation=F.relu) for a, b in pairwise(sizes)]
        for conv in convs:
            c2_msra_fill(conv)
        self.layers = nn.Sequential(*convs[:2], NonLocalBlock(sizes[2]), *convs[2:])
        # Of detectron2's mask head the end alone: deconvolution, ReLU, 1x1 predictor.
        end = {"input_shape": ShapeSpec(channels=out), "num_classes": 1, "conv_dims": [width]}
        self.mask = MaskRCNNConvUpsampleHead(**end)
        self.boundary = MaskRCNNConvUpsampleHead(**end)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``(R, channels, M/2, M/2)`` features ``(R, out, M/2, M/2)``, two ``(R, 1, M, M)``."""
        features = self.layers(x)
        return features, self.mask.layers(features), self.boundary.layers(features)


def boundaries(masks: Tensor, sides: str) -> Tensor:
    """The contours of masks on the RoI grid, bool ``(R, M, M)`` each.

    The grid's own edge is none: a mask that goes on beyond the box has no contour there.

    Args:
        sides: "inner", the mask's pixels with one outside it among their 8 neighbours (the mask
            minus its 3x3 erosion); or "both", pixels of either side that touch the other side by
            an edge (its public code: dilation minus erosion by a cross).
    """

    def grown(masks: Tensor, *window: int) -> Tensor:
        padding = [side // 2 for side in window]
        return F.max_pool2d(masks[:, None].float(), window, 1, padding)[:, 0] > 0

    if sides == "inner":
        return masks & grown(~masks, 3, 3)
    mask, rest = (grown(m, 3, 1) | grown(m, 1, 3) for m in (masks, ~masks))
    return mask & rest


@ROI_MASK_HEAD_REGISTRY.register()
class BCNetMaskHead(AmodalMaskHead):
    """The occluder is segmented first; the object itself from the features and what that found.

    Args:
        occluder, occludee: the two layers; the first gives as many channels as it gets.
        visible_head: gives ``(R, C, M, M)`` logits, or None.
        weights: of the losses of the four maps.
        sides: see :func:`boundaries`.
    """

    # DEVIATION: on the boxes of Faster R-CNN, as all heads here; its public code has FCOS's.
    OPTIONS = {
        # An addition of this kit, not of BCNet, so that the visible mask has a number.
        "VISIBLE_HEAD": True,
        "OCCLUDERS": "neighbours",  # as its public code; or "in_front", where the data name them
        "BOUNDARY": "both",  # as its public code; or "inner", half as wide, inside the mask alone
        "AMODAL_WEIGHT": 1.0,  # all four as in its public code
        "OCCLUDER_WEIGHT": 0.25,
        "BOUNDARY_WEIGHT": 1.0,  # there 0.5, of twice the same cross entropy; so is the next
        "OCCLUDER_BOUNDARY_WEIGHT": 1.0,
    }

    @configurable
    def __init__(
        self,
        *,
        occluder: nn.Module,
        occludee: nn.Module,
        visible_head: nn.Module | None,
        weights: dict[str, float],
        sides: str = "both",
    ) -> None:
        super().__init__()
        if sides not in ("inner", "both"):
            raise InputError(f'MODEL.HEAD.BOUNDARY is "{sides}"; choose "inner" or "both"')
        self.occluder, self.occludee, self.visible_head = occluder, occludee, visible_head
        self.weights, self.sides = weights, sides

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        options, mask_head, channels = cfg.MODEL.HEAD, cfg.MODEL.ROI_MASK_HEAD, input_shape.channels
        width, num_conv = mask_head.CONV_DIM, mask_head.NUM_CONV
        maps = ("amodal", "occluder", "boundary", "occluder_boundary")
        return {
            # DEVIATION: its public code has CONV_DIM here too, and so needs an FPN of as many.
            "occluder": Branch(channels, width, channels, num_conv),
            "occludee": Branch(channels, width, width, num_conv),
            "visible_head": piece_head(cfg, input_shape) if options.VISIBLE_HEAD else None,
            "weights": {name: options[f"{name.upper()}_WEIGHT"] for name in maps},
            "sides": options.BOUNDARY,
        }

    @classmethod
    def prepare(cls, cfg: CfgNode, records: Sequence[dict]) -> None:
        check_occluders(cfg.MODEL.HEAD.OCCLUDERS, records)

    @classmethod
    def ground_truth(
        cls, cfg: CfgNode, instances: Instances, annotations: Sequence[dict]
    ) -> dict[str, Tensor]:
        of = occluders(cfg.MODEL.HEAD.OCCLUDERS, instances, annotations)
        masks = instances.gt_masks.tensor  # whole ones, also where others hide them in turn
        return {"occluder": occluder_masks(masks, instances.gt_boxes, of)}

    def layers(self, x: Tensor) -> MaskLogits:
        found, occluder, occluder_boundary = self.occluder(x)
        _, amodal, boundary = self.occludee(x + found)
        visible = self.visible_head.layers(x) if self.visible_head else None
        further = {"occluder": occluder, "occluder_boundary": occluder_boundary}
        return MaskLogits(amodal, visible, further=further | {"boundary": boundary})

    def losses(self, logits: MaskLogits, rois: RoIs) -> dict[str, Tensor]:
        """Those of :mod:`arcnn.modeling.losses`, and one for each further map."""
        occluder = rois.targets.further["occluder"]
        # DEVIATION: the mean over the RoIs with an occluder; its public code adds the first k RoIs
        # again, k being how many have one.
        share = those_with(occluder)
        further = {
            "occluder": (occluder, share),
            "occluder_boundary": (boundaries(occluder, self.sides), share),
            "boundary": (boundaries(rois.targets.amodal, self.sides), None),
        }
        losses = super().losses(logits, rois)
        losses["loss_amodal_mask"] = self.weights["amodal"] * losses["loss_amodal_mask"]
        for name, (target, of_rois) in further.items():
            loss = mask_loss(logits.further[name], target, rois.classes, of_rois)
            losses[f"loss_{name}"] = self.weights[name] * loss
        return losses
