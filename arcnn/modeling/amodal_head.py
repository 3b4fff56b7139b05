"""The contract of a mask head: what it may ask for, and what it gives.

A head is one class, registered with detectron2, and a YAML file that names it; both may lie in a
folder of your own (:func:`arcnn.files.own_models`). The shortest has
``from_config`` and ``layers``, maps from RoI features. All else has a default, which a head
replaces only where its paper differs:

================  ==================================================================================
``OPTIONS``       its switches with their defaults; a configuration has them under ``MODEL.HEAD``
``OWN_PARTS``     which weights are its own, and so new where a training starts from other weights
``prepare``       before the first step: refuse data that lack what it learns from, make what it
                  needs
``ground_truth``  further masks or numbers of each object, made when an image is mapped
``logits``        maps from all that is known of the RoIs; by default ``layers`` of their features
``losses``        by default Eq. (2), for the maps that there are
``probs``         what inference makes of the maps; by default the sigmoid of each, and for a head
                  without a map of the hidden part, what is whole and not visible
================  ==================================================================================

One that looks twice, the second time only where the first look saw the object, with a loss of its
own for the first::

    @ROI_MASK_HEAD_REGISTRY.register()
    class TwoLooksMaskHead(AmodalMaskHead):
        OPTIONS = {"FIRST_LOSS_WEIGHT": 0.5}

        @configurable
        def __init__(self, *, first: nn.Module, second: nn.Module, weight: float) -> None:
            super().__init__()
            self.first, self.second, self.weight = first, second, weight

        @classmethod
        def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
            heads = {name: piece_head(cfg, input_shape) for name in ("first", "second")}
            return heads | {"weight": cfg.MODEL.HEAD.FIRST_LOSS_WEIGHT}

        def logits(self, rois: RoIs) -> MaskLogits:
            first = self.first.layers(rois.x)
            seen = own_class(first, rois.classes).sigmoid()[:, None]  # (R, 1, M, M)
            second = self.second.layers(rois.x * F.avg_pool2d(seen, 2))
            return MaskLogits(second, further={"first": first})

        def losses(self, logits: MaskLogits, rois: RoIs) -> dict[str, Tensor]:
            first = mask_loss(logits.further["first"], rois.targets.amodal, rois.classes)
            return super().losses(logits, rois) | {"loss_first_look": self.weight * first}

It predicts no visible mask: its predictions have none, and Table 1 shows a dash.

Shapes: R RoIs of all images together, C classes, M side of the mask maps (28 in the paper).
"""

import abc
import importlib.util
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor, nn

from arcnn.errors import FileError, InputError
from arcnn.files import own_models, plain
from arcnn.modeling.losses import MaskLogits, MaskTargets, mask_losses, mask_targets, own_class


def piece_head(cfg: CfgNode, input_shape: ShapeSpec) -> MaskRCNNConvUpsampleHead:
    """Mask R-CNN's own head: 4 x (3x3 conv, ReLU), 2x2 deconv, 1x1 predictor (Section 3.1)."""
    return MaskRCNNConvUpsampleHead(cfg, input_shape)


class RoIs(NamedTuple):
    """The regions that masks are wanted for, and what is known of them."""

    x: Tensor  # float (R, channels, M/2, M/2), RoIAlign's output
    classes: Tensor  # int64 (R,): the true ones in training, the predicted ones in inference
    targets: MaskTargets | None = None  # in training only
    instances: Sequence[Instances] = ()  # all else, by image: boxes, ``gt_<name>`` numbers, ...


class AmodalMaskHead(nn.Module, abc.ABC):
    """What all models share: losses in training, mask fields in inference."""

    OPTIONS: ClassVar[dict[str, Any]] = {}
    OWN_PARTS: ClassVar[tuple[str, ...]] = ("roi_heads.mask_head.",)
    loss_names: tuple[str, ...] = ("loss_amodal_mask",)  # those that it gave last

    @classmethod
    def prepare(cls, cfg: CfgNode, records: Sequence[dict]) -> None:
        """Before the first step of a training, and of an interrupted one that goes on.

        In one process alone, where several train together.

        Args:
            records: of the training split.

        Raises:
            ValueError: the data lack what the head learns from; says what would be needed.
        """

    @classmethod
    def ground_truth(
        cls, cfg: CfgNode, instances: Instances, annotations: Sequence[dict]
    ) -> dict[str, Tensor]:
        """What the head learns from beside the amodal and the visible mask of each object.

        Args:
            instances: the N objects of a mapped image, with ``gt_boxes``, ``gt_classes``,
                ``gt_masks`` (amodal) and ``gt_visible_masks``.
            annotations: of the same objects, in the same order, as the records have them.

        Returns:
            By name, masks of the image, bool ``(N, H, W)``, which come back in
            ``rois.targets.further``; or numbers ``(N,)``, in the instances as ``gt_<name>``.
        """
        return {}

    def layers(self, x: Tensor) -> MaskLogits:
        """Map RoI features ``(R, channels, M/2, M/2)`` to mask logits."""
        raise TypeError(f"{type(self).__name__} has neither layers() nor logits()")

    def logits(self, rois: RoIs) -> MaskLogits:
        """Map all that is known of the RoIs to mask logits."""
        return self.layers(rois.x)

    def losses(self, logits: MaskLogits, rois: RoIs) -> dict[str, Tensor]:
        """Scalars by name, which training adds up."""
        return mask_losses(logits, rois.targets, rois.classes)

    def probs(self, logits: MaskLogits) -> dict[str, Tensor]:
        """Per-kind probabilities ``(R, C or 1, M, M)`` in [0, 1], for inference."""
        probs = {kind: maps.sigmoid() for kind, maps in logits.kinds().items()}
        if "visible" in probs and "occlusion" not in probs:
            probs["occlusion"] = subtract(probs["amodal"], probs["visible"])
        return probs

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Called by detectron2's ``StandardROIHeads``.

        Args:
            x: RoI features, float ``(R, channels, M/2, M/2)``.
            instances: one per image, R rows together. In training with ``proposal_boxes``,
                ``gt_classes``, ``gt_masks`` (amodal) and ``gt_visible_masks``; in inference with
                ``pred_boxes`` and ``pred_classes``.

        Returns:
            In training the losses by name. In inference the instances, with
            ``pred_amodal_masks``, ``pred_visible_masks`` and ``pred_occlusion_masks`` added, as far
            as the head predicts them: float ``(R_image, M, M)`` probabilities inside the
            detection's (amodal) box. Detectron2's own post-processing pastes only a field called
            ``pred_masks``; these are pasted by :mod:`arcnn.evaluation.masks`, all alike.
        """
        counts = [len(image) for image in instances]
        if not sum(counts):
            # Zero, with a gradient for every weight and by each name: other processes, whose images
            # do show an object, wait for it.
            nothing = sum(weight.sum() for weight in self.parameters()) * 0
            return dict.fromkeys(self.loss_names, nothing) if self.training else instances
        if self.training:
            classes = torch.cat([i.gt_classes for i in instances])
            rois = RoIs(x, classes, mask_targets(instances, 2 * x.shape[-1]), instances)
            losses = self.losses(self.logits(rois), rois)
            self.loss_names = tuple(losses)
            return losses

        rois = RoIs(x, torch.cat([i.pred_classes for i in instances]), instances=instances)
        counts = [image.pred_classes.shape[0] for image in instances]  # which can be traced
        for kind, maps in self.probs(self.logits(rois)).items():
            own = own_class(maps, rois.classes).split(counts)
            for image, masks in zip(instances, own, strict=True):
                image.set(f"pred_{kind}_masks", masks)
        return instances


def subtract(amodal: Tensor, visible: Tensor) -> Tensor:
    """The hidden part by ORCNN: "subtract the visible mask from the amodal mask" (Section 4.4).

    Of probabilities: min(a, 1 - v) is above one half just where a is and v is not.
    """
    return torch.minimum(amodal, 1 - visible)


def import_own_models() -> None:
    """Import the files of :func:`arcnn.files.own_models` that are not imported yet.

    Raises:
        OSError: one is no plain file, or fails; names it and its line.
    """
    for file in sorted(own_models().glob("*.py")):
        name = f"arcnn_models.{file.stem}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, plain(file))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(file)]
            line = lines[-1] if lines else getattr(error, "lineno", None)
            said = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            cure = "Mend it, or move it out of that folder; then start anew."
            raise FileError(f"{file}, line {line}: {said}. {cure}") from error


def mask_head_class(cfg: CfgNode) -> type[AmodalMaskHead]:
    """The mask head that a configuration names.

    Raises:
        ValueError: nobody registered it, or it is no :class:`AmodalMaskHead`.
        OSError: see :func:`import_own_models`.
    """
    import_own_models()
    name = cfg.MODEL.ROI_MASK_HEAD.NAME
    heads = {key: head for key, head in ROI_MASK_HEAD_REGISTRY if issubclass(head, AmodalMaskHead)}
    if name not in heads:
        raise InputError(
            f'MODEL.ROI_MASK_HEAD.NAME is "{name}"; there are {", ".join(heads)}. '
            f"The file that registers one of your own belongs into {own_models()}."
        )
    return heads[name]
