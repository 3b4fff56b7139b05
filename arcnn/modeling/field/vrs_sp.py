"""VRS&SP (Xiao et al., "Amodal Segmentation Based on Visible Region Segmentation and Shape Prior",
AAAI 2021): look at the whole, then only at what is seen of it, and ask what such objects look like.

The order of the steps is that of its public code (VERSION 3 there). The defaults are its final
configuration for KINS; the ones for COCOA-cls and D2SA are in ``configs/published``. Options that
end in ``_TEST`` may be changed after a training.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from arcnn.errors import InputError
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs, piece_head
from arcnn.modeling.field.shape_prior import ShapePrior, prepare_codebook
from arcnn.modeling.losses import MaskLogits, mask_loss, mask_losses, own_class

NEEDS = {  # what a stage is built on
    "SHAPE_PRIOR": "REFINE",
    "FEATURE_MATCHING": "GROUND_TRUTH_PASS",
    "RESCORE_BY_CLASS_TEST": "RECLASSIFY",
    "RESCORE_BY_PRIOR_TEST": "SHAPE_PRIOR",
}


class Pass(NamedTuple):
    """What a run of a piece head gives."""

    maps: Tensor  # (R, C, M, M) logits
    conv: Tensor  # (R, channels, M/2, M/2), after the last convolution
    deconv: Tensor  # (R, channels, M, M)


def run_piece(head: MaskRCNNConvUpsampleHead, x: Tensor) -> Pass:
    """``head.layers(x)``, with the features on the way."""
    *convs, deconv, relu, predictor = head
    for layer in convs:
        x = layer(x)
    upsampled = relu(deconv(x))
    return Pass(predictor(upsampled), x, upsampled)


def attention(masks: Tensor) -> Tensor:
    """Masks in [0, 1], ``(R, M, M)``, as factors of RoI features, ``(R, 1, M/2, M/2)``."""
    return F.avg_pool2d(masks[:, None], 2)


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of two masks, bool ``(R, M, M)`` each, float ``(R,)``; 0 where both are empty: of what
    shows nowhere, attention leaves nothing to learn from."""
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


@ROI_MASK_HEAD_REGISTRY.register()
class VRSSPMaskHead(AmodalMaskHead):
    """An amodal and a visible head that look twice, with the same weights. It has no map of the
    hidden part.

    Args:
        amodal_head, visible_head: two equal heads giving ``(R, C, M, M)`` logits.
        options: as :attr:`OPTIONS`.
        prior: the shapes of the classes; with ``SHAPE_PRIOR``, as is the next.
        fuse: from features and ``NEAREST`` shapes back to features.
        box_head, classifier: of the re-classification; with ``RECLASSIFY``.
        codebook: where a training finds the shapes.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {
        "REFINE": True,  # the second look, with attention
        "SHAPE_PRIOR": True,  # the nearest shapes of the class, for the refined amodal mask
        "GROUND_TRUTH_PASS": True,  # in training a third look, with attention from true masks
        "FEATURE_MATCHING": True,  # features of the first look are to be those of the third
        "RECLASSIFY": True,  # a class from what is seen of the object, in training
        "RECLASSIFY_WEIGHT": 0.25,  # D2SA: 0.1
        "RESCORE_BY_CLASS_TEST": False,  # scores by that class; KINS: off, others: on
        "RESCORE_BY_PRIOR_TEST": True,  # scores by the distance to the nearest shape
        "ALPHA_TEST": 3.0,  # of the distance; COCOA-cls, D2SA: 2
        # DEVIATION: in its code the third look's visible target is the amodal mask, by a slip.
        "VISIBLE_TARGET_BUG": False,
        "NEAREST": 16,  # shapes that a mask is shown
        "CODES": 1024,  # the most that a class may have
        "ENCODER_CONVS": 2,  # COCOA-cls, D2SA: 3
        "PRIOR_EPOCHS": 10,  # of the auto-encoder; not told
        "CODEBOOK": "",  # a file for several trainings; "" is codebook.safetensors of this one
    }
    # Of another training's weights the shapes, which are of its data, are never taken.
    OWN_PARTS: ClassVar[tuple[str, ...]] = ("roi_heads.mask_head.", "roi_heads.mask_head.prior.")
    MATCHING: ClassVar[dict[str, float]] = {"conv": 0.01, "deconv": 0.05}  # its code

    @configurable
    def __init__(
        self,
        *,
        amodal_head: MaskRCNNConvUpsampleHead,
        visible_head: MaskRCNNConvUpsampleHead,
        options: Mapping[str, Any],
        fuse: nn.Module | None,
        prior: ShapePrior | None,
        box_head: nn.Module | None,
        classifier: nn.Module | None,
        codebook: Path,
    ) -> None:
        super().__init__()
        self.amodal_head, self.visible_head = amodal_head, visible_head
        self.options, self.codebook = options, codebook
        self.fuse, self.prior = fuse, prior
        self.box_head, self.classifier = box_head, classifier

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        options, channels = check_options(cfg.MODEL.HEAD), input_shape.channels
        classes, side = cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        parts: dict[str, Any] = dict.fromkeys(("fuse", "prior", "box_head", "classifier"))
        if options.SHAPE_PRIOR:
            parts["fuse"] = Conv2d(channels + options.NEAREST, channels, 3, padding=1)
            parts["prior"] = ShapePrior(
                classes, side=2 * side, convs=options.ENCODER_CONVS, codes=options.CODES
            )
        if options.RECLASSIFY:
            width = cfg.MODEL.ROI_BOX_HEAD.FC_DIM
            shape = ShapeSpec(channels=channels, height=side, width=side)
            parts["box_head"] = FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[width, width])
            # DEVIATION: no background class, which no mask is predicted for.
            parts["classifier"] = nn.Linear(width, classes)
        heads = {f"{kind}_head": piece_head(cfg, input_shape) for kind in ("amodal", "visible")}
        return heads | parts | {"options": options, "codebook": codebook_file(cfg)}

    @classmethod
    def prepare(cls, cfg: CfgNode, records: Sequence[dict]) -> None:
        """Make the codebook of shapes, unless it is there; see :func:`prepare_codebook`."""
        options = check_options(cfg.MODEL.HEAD)
        if options.SHAPE_PRIOR:
            names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
            known = (MetadataCatalog.get(name).get("thing_classes", None) for name in names)
            prepare_codebook(
                codebook_file(cfg),
                records,
                next(filter(None, known), [""] * cfg.MODEL.ROI_HEADS.NUM_CLASSES),
                side=2 * cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION,
                convs=options.ENCODER_CONVS,
                codes=options.CODES,
                epochs=options.PRIOR_EPOCHS,
            )

    def logits(self, rois: RoIs) -> MaskLogits:
        """The refined pair; all that is for the losses alone lies in ``further``."""
        options, x, classes, further = self.options, rois.x, rois.classes, {}
        coarse = [run_piece(self.amodal_head, x)]
        if self.training or not options.REFINE:  # else nobody reads it
            coarse.append(run_piece(self.visible_head, x))
        amodal, visible = coarse[0].maps, coarse[-1].maps
        final = amodal, visible
        shapes = self._near_shapes(amodal, classes)
        if options.REFINE:
            further |= {"coarse_amodal": amodal, "coarse_visible": visible}
            visible = self.visible_head.layers(x * attention(own_class(amodal, classes).sigmoid()))
            seen = x * attention(own_class(visible, classes).sigmoid())
            final = self.amodal_head.layers(self._with_shapes(seen, shapes)), visible
        if self.training and options.GROUND_TRUTH_PASS:
            whole, seen = (x * attention(mask.to(x.dtype)) for mask in rois.targets[:2])
            # The shapes are those of the refined pass; no others are told of.
            third = (
                run_piece(self.amodal_head, self._with_shapes(seen, shapes)),
                run_piece(self.visible_head, whole),
            )
            further |= {"third_amodal": third[0].maps, "third_visible": third[1].maps}
            if options.FEATURE_MATCHING:
                further["matching"] = sum(map(self._matching, coarse, third))
            if options.RECLASSIFY:
                further["class_of_true"] = self._classify(seen)
        if self.training and options.RECLASSIFY:
            seen = x * attention(own_class(final[1], classes).sigmoid())
            further["class_of_predicted"] = self._classify(seen)
        return MaskLogits(*final, further=further)

    def _near_shapes(self, amodal: Tensor, classes: Tensor) -> Tensor | None:
        if self.prior is None:
            return None
        if self.training and not self.prior.counts.any():
            # Not when it is built: trained weights bring their codes, and need no file.
            self.prior.load_codebook(self.codebook)
        # The code looks up logits, not a mask; its shapes get no gradient.
        own = own_class(amodal, classes).detach()
        return F.avg_pool2d(self.prior.nearest(own, classes, self.options.NEAREST), 2)

    def _with_shapes(self, x: Tensor, shapes: Tensor | None) -> Tensor:
        return x if shapes is None else self.fuse(torch.cat([x, shapes.to(x.dtype)], dim=1))

    def _classify(self, seen: Tensor) -> Tensor:
        return self.classifier(self.box_head(seen))

    def _matching(self, coarse: Pass, third: Pass) -> Tensor:
        total = coarse.maps.new_zeros((), dtype=torch.float32)
        for name, weight in self.MATCHING.items():
            own, wanted = getattr(coarse, name).float(), getattr(third, name).detach().float()
            cosine = F.cosine_similarity(own.flatten(1), wanted.flatten(1))  # (R,)
            total = total + weight * (1 - cosine).mean()
        return total

    def losses(self, logits: MaskLogits, rois: RoIs) -> dict[str, Tensor]:
        """Mask terms of all passes, weight 1 but for the refined one, and the head's own.

        Returns:
            ``loss_amodal_mask`` and ``loss_visible_mask`` of the final pair; ``loss_coarse_*``,
            ``loss_third_*``, ``loss_matching`` and ``loss_reclassify`` as far as there are such.
        """
        targets, classes, further = rois.targets, rois.classes, logits.further
        if self.options.REFINE:
            # The refined mask of a kind looked where the coarse one of the other kind was.
            # DEVIATION: IoUs of the own class; the public code sums all channels', by a slip.
            losses = {}
            for kind, other in (("amodal", "visible"), ("visible", "amodal")):
                looked = own_class(further[f"coarse_{other}"], classes) > 0
                weights = mask_iou(looked, getattr(targets, other))
                maps, target = getattr(logits, kind), getattr(targets, kind)
                losses[f"loss_{kind}_mask"] = mask_loss(maps, target, classes, weights)
                coarse = mask_loss(further[f"coarse_{kind}"], target, classes)
                losses[f"loss_coarse_{kind}_mask"] = coarse
        else:
            losses = mask_losses(logits, targets, classes)
        if self.options.GROUND_TRUTH_PASS:
            bug = self.options.VISIBLE_TARGET_BUG
            visible = targets.amodal if bug else targets.visible
            for kind, target in (("amodal", targets.amodal), ("visible", visible)):
                third = mask_loss(further[f"third_{kind}"], target, classes)
                losses[f"loss_third_{kind}_mask"] = third
        if "matching" in further:
            losses["loss_matching"] = further["matching"]
        # DEVIATION: attention from probabilities; the public code takes raw logits.
        for seen, weight in (("predicted", self.options.RECLASSIFY_WEIGHT), ("true", 0.1)):
            if (maps := further.get(f"class_of_{seen}")) is not None:
                term = weight * F.cross_entropy(maps.float(), classes)
                losses["loss_reclassify"] = losses.get("loss_reclassify", 0) + term
        return losses

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """As :class:`AmodalMaskHead`; in inference scores are changed too, and sorted by."""
        results = super().forward(x, instances)
        if self.training or not len(x):
            return results
        # DEVIATION: after NMS; the public code predicts masks of all boxes before it.
        filled = torch.cat([image.scores for image in results])
        scores = self._rescored(filled, x, results).split([len(image) for image in results])
        for image, of_image in zip(results, scores, strict=True):
            image.scores = of_image
        return [image[image.scores.argsort(descending=True, stable=True)] for image in results]

    def _rescored(self, scores: Tensor, x: Tensor, results: list[Instances]) -> Tensor:
        """The geometric mean of score and factors, ``(R,)``; no factor, no change."""
        amodal, visible, classes = (
            torch.cat([image.get(f"pred_{name}") for image in results])
            for name in ("amodal_masks", "visible_masks", "classes")
        )
        factors = [scores]
        if self.options.RESCORE_BY_CLASS_TEST:
            probs = self._classify(x * attention(visible)).softmax(dim=1)
            factors.append(0.6 + 0.4 * probs.gather(1, classes[:, None])[:, 0])
        if self.options.RESCORE_BY_PRIOR_TEST:
            nearest = self.prior.nearest(amodal, classes, 1)[:, 0]
            distance = (amodal - nearest).abs().mean(dim=(1, 2))
            alpha = torch.tensor(self.options.ALPHA_TEST, device=x.device)
            near = ((alpha - distance).log() / alpha.log()).relu()
            factors.append(torch.where(self.prior.counts[classes] > 0, near, 1.0))
        return torch.stack(factors).prod(dim=0) ** (1 / len(factors))


def codebook_file(cfg: CfgNode) -> Path:
    """Where the codebook of a configuration lies, or will lie."""
    name = cfg.MODEL.HEAD.CODEBOOK
    return Path(name).expanduser() if name else Path(cfg.OUTPUT_DIR) / "codebook.safetensors"


def check_options(options: CfgNode) -> CfgNode:
    """The options, if they fit together.

    Raises:
        ValueError: a stage without the one that it is built on, or a number out of range.
    """
    for stage, base in NEEDS.items():
        if options[stage] and not options[base]:
            raise InputError(
                f"MODEL.HEAD.{stage} is on and {base} is off, which it is built on: "
                f"give MODEL.HEAD.{stage} False too."
            )
    for key in ("NEAREST", "CODES", "ENCODER_CONVS", "PRIOR_EPOCHS"):
        if options[key] < 1:
            raise InputError(f"MODEL.HEAD.{key} is {options[key]}; it is at least 1.")
    if options.ALPHA_TEST <= 1:  # no distance between masks in [0, 1] is greater
        raise InputError(f"MODEL.HEAD.ALPHA_TEST is {options.ALPHA_TEST}; it is greater than 1.")
    return options
