"""From an internal record to a training example: the stock mapper's steps, for two stored masks."""

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import ImageOps
from pycocotools import mask as mask_util

from arcnn.data.image_files import UNREADABLE, open_image
from arcnn.errors import FileError
from arcnn.modeling.amodal_head import mask_head_class
from arcnn.modeling.shared_masks import SharedMasks

GroundTruth = Callable[[Instances, Sequence[dict]], dict[str, torch.Tensor]]


class AmodalDatasetMapper:
    """Read, augment and pack one image for detectron2's models.

    The visible mask goes through the same index map as the amodal one (flips, nearest resizing),
    so it stays inside; the occlusion mask is derived from the two afterwards, in
    :func:`arcnn.modeling.mask_targets`. The three are consistent by construction.

    Args:
        is_train: attach ``instances``.
        augmentations: detectron2 augmentations, in order.
        image_format: "BGR" or "RGB".
        ground_truth: what the mask head learns from beside the two masks, see
            :meth:`arcnn.modeling.AmodalMaskHead.ground_truth`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation],
        image_format: str = "BGR",
        ground_truth: GroundTruth | None = None,
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.ground_truth = ground_truth

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return {
            "is_train": is_train,
            "augmentations": utils.build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "ground_truth": functools.partial(mask_head_class(cfg).ground_truth, cfg),
        }

    def __call__(self, record: dict) -> dict:
        """Map a record (see :mod:`arcnn.data.reading`).

        Returns:
            The record's image fields, ``image`` uint8 ``(3, H, W)``, and in training ``instances``
            with ``gt_boxes`` (amodal), ``gt_classes``, ``gt_masks`` (amodal),
            ``gt_visible_masks`` and what the mask head asks for.

        Raises:
            OSError: the image is missing or unreadable; names the file and the cure.
            detectron2.data.detection_utils.SizeMismatchError: its size is not the record's.
        """
        example = copy.copy(record)
        annotations = [a for a in example.pop("annotations", []) if not a.get("iscrowd", 0)]
        image = read_image(record["file_name"], self.image_format)
        utils.check_image_size(example, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        example["image"] = torch.from_numpy(image.transpose(2, 0, 1).copy())
        if self.is_train:
            instances = _instances(annotations, transforms, image.shape[:2])
            further = self.ground_truth(instances, annotations) if self.ground_truth else {}
            for name, values in further.items():
                if values.dim() == 3:
                    instances.set(f"gt_{name}_masks", SharedMasks(values))
                else:
                    instances.set(f"gt_{name}", values)
            # Too small to be seen after resizing: no box, or no pixel.
            kept = instances.gt_boxes.nonempty() & instances.gt_masks.nonempty()
            example["instances"] = instances if kept.all() else instances[kept]
        return example


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """An image as detectron2 reads it, upright, ``(H, W, 3)`` uint8; OSError if it is broken."""
    try:
        with open_image(file_name) as image:
            # First of all: detectron2's own reader asks a PNG for its EXIF data, swallows the error
            # of decoding it, and goes on with the half of an image.
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return utils.convert_PIL_to_numpy(image, image_format)
    except UNREADABLE as error:
        raise FileError(
            f"{file_name} cannot be read ({error}). Get the image again, or remove it: registering "
            "then leaves it out. `python -m arcnn.data check FILE --images DIR --decode` finds all "
            "images of this kind."
        ) from error


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
    instances.gt_masks = SharedMasks(codes > 0)
    instances.gt_visible_masks = SharedMasks(codes > 1)
    return instances
