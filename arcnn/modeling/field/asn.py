"""ASN (Qi et al., CVPR 2019): judge first whether an object is occluded, then draw its masks.

Beside the box branch a twin of it classifies each RoI as occluded or not. Multi-Level Coding hands
what both branches saw in their first convolutions to the two mask heads. Layers, initialisation and
loss as in its public code.

Shapes: R RoIs of all images together, C classes, M side of the mask maps, F channels of the FPN,
B side of the box branches' maps (7 in the paper, where F = 256 and M = 28; M = 4B).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads import build_box_head
from detectron2.structures import Boxes, Instances
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F

from arcnn.errors import InputError
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs, piece_head
from arcnn.modeling.losses import MaskLogits

CODING = "occlusion_coding"  # the field of the Instances that carries the box branches' maps


@ROI_HEADS_REGISTRY.register()
class ASNROIHeads(StandardROIHeads):
    """Stock heads, a second branch on the same box features, and a hand-over to the mask head.

    The convolutions of both branches are as wide as the FPN, which is 256 in the paper as is
    detectron2's ``MODEL.ROI_BOX_HEAD.CONV_DIM``; that key has no effect here.

    Args:
        box_occlusion_head: a twin of the box head, ``(R, F, B, B)`` to ``(R, FC_DIM)``.
        box_occlusion_predictor: its answer, ``(R, FC_DIM)`` to logits ``(R, 2)``: not, occluded.
        occlusion_loss_weight: of the class "occluded" in the cross entropy; "not" has 1.
        extract: after which convolution of the branches the maps are taken, from 0.
        kwargs: see detectron2.
    """

    @configurable
    def __init__(
        self,
        *,
        box_occlusion_head: nn.Module,
        box_occlusion_predictor: nn.Module,
        occlusion_loss_weight: float,
        extract: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.train_on_pred_boxes:
            raise InputError("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES has to be False for this head")
        self.box_occlusion_head = box_occlusion_head
        self.box_occlusion_predictor = box_occlusion_predictor
        self.occlusion_loss_weight = occlusion_loss_weight
        self.extract = extract

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        extract, num_conv = cfg.MODEL.HEAD.EXTRACT, cfg.MODEL.ROI_BOX_HEAD.NUM_CONV
        _check_place("EXTRACT", extract, "ROI_BOX_HEAD", num_conv)
        channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = channels
        parts = super()._init_box_head(cfg, input_shape)
        side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        twin = build_box_head(cfg, ShapeSpec(channels=channels, height=side, width=side))
        predictor = nn.Linear(twin.output_shape.channels, 2)
        nn.init.normal_(predictor.weight, std=0.01)
        nn.init.zeros_(predictor.bias)
        return parts | {
            "box_occlusion_head": twin,
            "box_occlusion_predictor": predictor,
            "occlusion_loss_weight": cfg.MODEL.HEAD.OCCLUSION_LOSS_WEIGHT,
            "extract": extract,
        }

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        if not self.training:
            # DEVIATION: no occlusion score; the public code computes it and never uses it.
            return super()._forward_box(features, proposals)
        starts = self._first_maps(features, [image.proposal_boxes for image in proposals])
        _hand_over(starts, proposals)
        box, occlusion = (
            _run(list(branch)[self.extract + 1 :], maps)
            for branch, maps in zip(self._branches(), starts, strict=True)
        )
        losses = self.box_predictor.losses(self.box_predictor(box), proposals)
        scores = self.box_occlusion_predictor(occlusion).float()
        labels = occlusion_labels(proposals, self.num_classes)
        # A mean weighted by the classes' weights: w shifts the balance, not the size of the loss.
        weights = scores.new_tensor([1.0, self.occlusion_loss_weight])
        return losses | {"loss_occluded": F.cross_entropy(scores, labels, weights)}

    def _forward_mask(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        if self.training:
            return super()._forward_mask(features, instances)  # _forward_box has handed over
        # The boxes are final only now, so both branches look again.
        _hand_over(self._first_maps(features, [i.pred_boxes for i in instances]), instances)
        instances = super()._forward_mask(features, instances)
        for image in instances:
            image.remove(CODING)  # 2F maps of each object would stay with the predictions
        return instances

    def _first_maps(self, features: dict[str, Tensor], boxes: list[Boxes]) -> list[Tensor]:
        """Class and occlusion branch up to ``extract``, ``(R, F, B, B)`` each."""
        pooled = self.box_pooler([features[level] for level in self.box_in_features], boxes)
        return [_run(list(branch)[: self.extract + 1], pooled) for branch in self._branches()]

    def _branches(self) -> tuple[nn.Module, nn.Module]:
        return self.box_head, self.box_occlusion_head


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _hand_over(maps: list[Tensor], instances: list[Instances]) -> None:
    coding = torch.cat(maps, dim=1).split([len(image) for image in instances])
    for image, of_image in zip(instances, coding, strict=True):
        image.set(CODING, of_image)


def _check_place(option: str, place: int, head: str, num_conv: int) -> None:
    if not 0 <= place < num_conv:
        raise InputError(
            f"MODEL.HEAD.{option} is {place}; MODEL.{head}.NUM_CONV is {num_conv}, "
            "and the first convolution is 0"
        )


def occlusion_labels(proposals: Sequence[Instances], num_classes: int) -> Tensor:
    """Whose object is occluded, int64 ``(R,)``; background, which has no object, counts as not.

    Args:
        proposals: sampled ones, foreground and background, with ``gt_classes`` (``num_classes`` is
            background) and, of images with objects, ``gt_occluded``.
    """
    labels = []
    for image in proposals:
        foreground = image.gt_classes != num_classes
        # An image without objects has none of their fields, and no foreground.
        occluded = image.gt_occluded if image.has("gt_boxes") else False
        labels.append(foreground & occluded)
    return torch.cat(labels).long()


class MultiLevelCoding(nn.Module):
    """Join the box branches' maps with a mask feature.

    Args:
        coding_channels: 2F, of both branches together.
        channels: of the mask feature; the output has as many.
    """

    def __init__(self, coding_channels: int, channels: int) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            _conv(coding_channels, channels),
            ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
            nn.ReLU(),
            _conv(channels, channels),
        )
        self.join = nn.Sequential(_conv(2 * channels, channels), _conv(channels, channels))
        c2_msra_fill(self.upsample[1])

    def forward(self, x: Tensor, coding: Tensor) -> Tensor:
        """``(R, channels, M/2, M/2)`` of a mask feature of this shape and ``(R, 2F, B, B)``."""
        return self.join(torch.cat([self.upsample(coding), x], dim=1))


def _conv(inputs: int, outputs: int) -> Conv2d:
    conv = Conv2d(inputs, outputs, kernel_size=3, padding=1, activation=nn.ReLU())
    c2_msra_fill(conv)
    return conv


@ROI_MASK_HEAD_REGISTRY.register()
class ASNMaskHead(AmodalMaskHead):
    """An amodal and a visible mask head that know what the box and the occlusion branch saw.

    It believes that a network which can tell *that* an object is occluded draws its hidden part
    better. DEVIATION: it has no occlusion mask; here the hidden part is whole and not visible.

    Args:
        amodal_head, visible_head: two equal heads giving ``(R, C, M, M)`` logits.
        amodal_coding, visible_coding: each head's own fusion.
        fusion: before which convolution of the heads it comes, from 0.
    """

    OPTIONS = {
        # w, the class weight of "occluded". The public configurations have 1 to 10, its code's
        # default is 10; 8 is its last-looking ("weight8_feature_fusion0") and UOAIS's.
        "OCCLUSION_LOSS_WEIGHT": 8.0,
        "OCCLUDED_RATE": 0.05,  # occluded above this occlusion rate; UOAIS, its code has no rate
        "FUSION": 0,  # before which convolution of the mask heads; 0 to 3 in the public code
        "EXTRACT": 0,  # after which convolution of the box branches
    }
    OWN_PARTS = ("roi_heads.mask_head.", "roi_heads.box_")  # its box branch is no stock one

    @configurable
    def __init__(
        self,
        *,
        amodal_head: nn.Module,
        visible_head: nn.Module,
        amodal_coding: MultiLevelCoding,
        visible_coding: MultiLevelCoding,
        fusion: int = 0,
    ) -> None:
        super().__init__()
        self.amodal_head, self.amodal_coding = amodal_head, amodal_coding
        self.visible_head, self.visible_coding = visible_head, visible_coding
        self.fusion = fusion

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        mask, fusion = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.HEAD.FUSION
        name = cfg.MODEL.ROI_HEADS.NAME
        if not issubclass(ROI_HEADS_REGISTRY.get(name), ASNROIHeads):
            raise InputError(f'MODEL.ROI_HEADS.NAME is "{name}"; this mask head needs ASNROIHeads')
        _check_place("FUSION", fusion, "ROI_MASK_HEAD", mask.NUM_CONV)
        if mask.POOLER_RESOLUTION != 2 * cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION:
            raise InputError(
                f"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION is {mask.POOLER_RESOLUTION}; it has to be "
                f"twice that of ROI_BOX_HEAD, {cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION}"
            )
        channels = input_shape.channels if fusion == 0 else mask.CONV_DIM
        parts = {"fusion": fusion}
        for kind in ("amodal", "visible"):
            parts[f"{kind}_head"] = piece_head(cfg, input_shape)
            parts[f"{kind}_coding"] = MultiLevelCoding(2 * input_shape.channels, channels)
        return parts

    @classmethod
    def ground_truth(
        cls, cfg: CfgNode, instances: Instances, annotations: Sequence[dict]
    ) -> dict[str, Tensor]:
        masks = (instances.gt_masks, instances.gt_visible_masks)
        amodal, visible = (of_kind.tensor.sum(dim=(1, 2)) for of_kind in masks)
        # DEVIATION: the object's own occlusion rate. The public code asks whether its box holds
        # hidden pixels of any object, with the axes of the image swapped.
        return {"occluded": amodal - visible > cfg.MODEL.HEAD.OCCLUDED_RATE * amodal}

    def logits(self, rois: RoIs) -> MaskLogits:
        coding = torch.cat([image.get(CODING) for image in rois.instances])
        amodal = self._maps(self.amodal_head, self.amodal_coding, rois.x, coding)
        visible = self._maps(self.visible_head, self.visible_coding, rois.x, coding)
        return MaskLogits(amodal, visible)

    def _maps(
        self, head: nn.Sequential, fuse: MultiLevelCoding, x: Tensor, coding: Tensor
    ) -> Tensor:
        for place, layer in enumerate(head):
            x = layer(fuse(x, coding) if place == self.fusion else x)
        return x
