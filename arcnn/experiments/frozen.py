"""Mask heads alone, on frozen features: a training in half a minute, for many comparisons.

A trunk (backbone and FPN) is trained once and frozen, and the regions are the ground truth's amodal
boxes. Two heads then differ in nothing but how they make and join the pieces: same features, same
boxes, same classes. What this leaves out (proposals, scores, a trunk that adapts to its head), a
few whole trainings have to confirm.

Shapes: N objects, C classes, M side of the mask maps.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.engine import hooks
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.solver import build_lr_scheduler
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.initial_weights import load_start_of_head
from arcnn.modeling import AmodalMaskHead, MaskTargets, RoIs, mask_targets, own_class
from arcnn.names import MASK_KINDS, OCCLUSION_RATE
from arcnn.training import build_optimizer, build_trainer

SCORES = ("amodal, occluded objects", "amodal", "visible", "occlusion")


class RoIFeatures(NamedTuple):
    """What a mask head sees of a split's objects, and what it should answer."""

    x: Tensor  # float16 (N, channels, M/2, M/2), RoIAlign's output
    amodal: Tensor  # bool (N, M, M), as the other two masks
    visible: Tensor
    occlusion: Tensor
    classes: Tensor  # int64 (N,), in [0, C)
    images: Tensor  # int64 (N,), image ids
    rates: Tensor  # float (N,), occlusion rates of the whole masks

    @property
    def targets(self) -> MaskTargets:
        return MaskTargets(self.amodal, self.visible, self.occlusion)

    @property
    def rois(self) -> RoIs:
        return RoIs(self.x.float(), self.classes, self.targets)

    def batch(self, rows: Tensor) -> "RoIFeatures":
        """The objects ``rows``, int64 ``(R,)``."""
        return RoIFeatures(*(of_all[rows] for of_all in self))

    def batches(self) -> "Iterator[RoIFeatures]":
        """All of them, in order."""
        return map(self.batch, torch.arange(len(self.classes)).split(256))


@torch.no_grad()
def extract(cfg: CfgNode, trunk: nn.Module, split: str) -> RoIFeatures:
    """RoI features of all objects of a split, as they lie: no flips.

    Args:
        cfg: of the trunk, its data set registered.
        trunk: a trained model, in inference mode; its mask head takes no part.
        split: "train" or "val".
    """
    # Resized as in testing, and with ``instances`` all the same.
    resize = utils.build_augmentation(cfg, is_train=False)
    mapper = AmodalDatasetMapper(True, augmentations=resize, image_format=cfg.INPUT.FORMAT)
    heads = trunk.roi_heads
    side = 2 * heads.mask_pooler.output_size[0]
    parts = []
    for record in split_records(cfg, split):
        example = mapper(record)
        instances = example["instances"]
        if not len(instances):
            continue
        features = trunk.backbone(trunk.preprocess_image([example]).tensor)
        levels = [features[level] for level in heads.mask_in_features]
        x = heads.mask_pooler(levels, [instances.gt_boxes.to(trunk.device)])
        instances.proposal_boxes = instances.gt_boxes
        masks = instances.gt_masks, instances.gt_visible_masks
        amodal, visible = (mask.tensor.flatten(1).sum(1) for mask in masks)
        images = torch.full((len(instances),), record["image_id"])
        of_objects = instances.gt_classes, images, 1 - visible / amodal
        parts.append((x.half().cpu(), *mask_targets([instances], side)[:3], *of_objects))
    return RoIFeatures(*map(torch.cat, zip(*parts, strict=True)))


class _HeadWithLosses(nn.Module):
    """What detectron2's trainer wants: a module that answers a batch with its losses."""

    def __init__(self, head: AmodalMaskHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: RoIFeatures) -> dict[str, Tensor]:
        return self.head.losses(self.head.logits(batch.rois), batch.rois)


def _batches(features: RoIFeatures, size: int, seed: int) -> Iterator[RoIFeatures]:
    """Endless, every object once in each round."""
    generator = torch.Generator().manual_seed(seed)
    count = len(features.classes)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, max(count - size, 0) + 1, size):
            yield features.batch(order[start : start + size])


def build_head(cfg: CfgNode, channels: int) -> AmodalMaskHead:
    """The mask head of ``cfg`` for features with this many channels."""
    side = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    return build_mask_head(cfg, ShapeSpec(channels=channels, width=side, height=side))


def train_head(cfg: CfgNode, features: RoIFeatures) -> AmodalMaskHead:
    """Train the mask head of ``cfg`` alone, with its solver; ``IMS_PER_BATCH`` counts objects.

    Begins with the heads of the kit's own start, where ``cfg`` does. The seed (``cfg.SEED``)
    decides what is new and the order of the objects; two variants with equal seeds see the same
    objects in the same order.
    """
    seed_all_rng(cfg.SEED)
    model = _HeadWithLosses(build_head(cfg, features.x.shape[1]))
    load_start_of_head(cfg, model.head)
    optimizer = build_optimizer(cfg, model)
    trainer = build_trainer(cfg, model, optimizer)
    trainer.reset_data_loader(lambda: _batches(features, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED))
    trainer.register_hooks([hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer))])
    trainer.train(0, cfg.SOLVER.MAX_ITER)
    return model.head.eval()


@torch.no_grad()
def predict(head: AmodalMaskHead, features: RoIFeatures) -> MaskTargets:
    """The head's masks of the true classes, bool ``(N, M, M)`` each."""
    parts = []
    for batch in features.batches():
        maps = head.probs(head.logits(batch.rois))
        parts.append([own_class(maps[kind], batch.classes) > 0.5 for kind in MASK_KINDS])
    return MaskTargets(*map(torch.cat, zip(*parts, strict=True)))


def score(predicted: MaskTargets, features: RoIFeatures) -> pd.DataFrame:
    """IoU of every object's masks with the truth on the RoI grid, percent.

    Columns: ``image``, ``class``, ``rate`` and one per mask kind, NaN where the truth is empty.
    """
    table = {"image": features.images, "class": features.classes, "rate": features.rates}
    for kind in MASK_KINDS:
        found, true = (getattr(masks, kind).flatten(1) for masks in (predicted, features.targets))
        iou = 100 * (found & true).sum(1) / (found | true).sum(1).clamp(min=1)
        table[kind] = iou.where(true.any(1), torch.nan)
    return pd.DataFrame({name: values.numpy() for name, values in table.items()})


def summary(objects: pd.DataFrame) -> dict[str, float]:
    """Mean IoU over objects by :data:`SCORES`, percent."""
    return {name: float(scored(objects, name).mean()) for name in SCORES}


def scored(objects: pd.DataFrame, score: str) -> pd.Series:
    """The IoUs that a score of :data:`SCORES` is the mean of."""
    if score == SCORES[0]:
        return objects.amodal[objects.rate >= OCCLUSION_RATE]
    return objects[score]
