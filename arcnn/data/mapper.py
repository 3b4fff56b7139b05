"""From an internal record to a training example: the stock mapper's steps, for two stored masks."""

import copy

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from pycocotools import mask as mask_util


class AmodalDatasetMapper:
    """Read, augment and pack one image for detectron2's models.

    The visible mask goes through the same index map as the amodal one (flips, nearest resizing),
    so it stays inside; the occlusion mask is derived from the two afterwards, in
    :func:`arcnn.modeling.mask_targets`. The three are consistent by construction.

    Args:
        is_train: attach ``instances``.
        augmentations: detectron2 augmentations, in order.
        image_format: "BGR" or "RGB".
    """

    @configurable
    def __init__(
        self, is_train: bool, *, augmentations: list[T.Augmentation], image_format: str = "BGR"
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return {
            "is_train": is_train,
            "augmentations": utils.build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, record: dict) -> dict:
        """Map a record (see :mod:`arcnn.data.annotations`).

        Returns:
            The record's image fields, ``image`` uint8 ``(3, H, W)``, and in training ``instances``
            with ``gt_boxes`` (amodal), ``gt_classes``, ``gt_masks`` (amodal) and
            ``gt_visible_masks``.

        Raises:
            OSError: the image is missing or unreadable.
            detectron2.data.detection_utils.SizeMismatchError: its size is not the record's.
        """
        example = copy.copy(record)
        annotations = [a for a in example.pop("annotations", []) if not a.get("iscrowd", 0)]
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(example, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        example["image"] = torch.from_numpy(image.transpose(2, 0, 1).copy())
        if self.is_train:
            example["instances"] = _instances(annotations, transforms, image.shape[:2])
        return example


def _instances(
    annotations: list[dict], transforms: T.TransformList, image_size: tuple[int, int]
) -> Instances:
    # Both masks of an object travel as one image of codes: 0 outside, 1 hidden, 2 or more visible.
    # Transforms of masks move values and never mix them, so this takes half the time of two images.
    codes = np.zeros((len(annotations), *image_size), np.uint8)
    for k, annotation in enumerate(annotations):
        code = mask_util.decode(annotation["segmentation"])
        code += mask_util.decode(annotation["visible_mask"])
        codes[k] = transforms.apply_segmentation(code)
    codes = torch.from_numpy(codes)
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(transforms.apply_box(boxes) if len(boxes) else boxes)
    instances.gt_boxes.clip(image_size)
    instances.gt_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    instances.gt_masks = BitMasks(codes > 0)
    instances.gt_visible_masks = BitMasks(codes > 1)
    # Too small to be seen after resizing: no box, or no pixel.
    kept = instances.gt_boxes.nonempty() & instances.gt_masks.nonempty()
    return instances if kept.all() else instances[kept]
