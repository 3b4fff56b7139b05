"""A trained model on an image of one's own, and on objects whose boxes are given.

``python -m arcnn.predict`` does the first on a folder of photos, see
:mod:`arcnn.workshop.own_photos.photos`.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation import inference_context
from detectron2.structures import Boxes, Instances
from torch import nn

from arcnn.data import AmodalDatasetMapper
from arcnn.evaluation.evaluator import detections


def at_test_size(cfg: CfgNode, image: np.ndarray) -> torch.Tensor:
    """An image as a model takes it: uint8 ``(3, H, W)``, at the size that it was tested at, with
    its order of colours.

    Args:
        image: uint8 ``(H, W, 3)``, RGB.
    """
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    resize = ResizeShortestEdge([shortest, shortest], longest).get_transform(image)
    # Of a strip a hair wide, a hair is left.
    resize.new_h, resize.new_w = max(resize.new_h, 1), max(resize.new_w, 1)
    channels = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
    return torch.from_numpy(np.ascontiguousarray(resize.apply_image(channels).transpose(2, 0, 1)))


@torch.no_grad()
def predict_image(cfg: CfgNode, model: nn.Module, image: np.ndarray) -> list[dict]:
    """What a model sees in an image, at the size that it was tested at.

    Args:
        cfg, model: from :func:`arcnn.weights.load_trained`.
        image: uint8 ``(H, W, 3)``, RGB.

    Returns:
        Predictions as :mod:`arcnn.evaluation.predictions`, of image 0, masks in the given image.
    """
    height, width = image.shape[:2]
    model.eval()
    example = {"image": at_test_size(cfg, image), "height": height, "width": width}
    return detections(model([example])[0]["instances"], image_id=0)


class GivenBoxes:
    """Objects of an image as a detector would have found them: boxes and classes are the true ones,
    and what is left to say is the masks."""

    def __init__(self, cfg: CfgNode, record: dict, objects: Sequence[dict]) -> None:
        self.record, self.objects = record, objects
        self.example = AmodalDatasetMapper(cfg, is_train=False)(record)

    def instances(self) -> Instances:
        """The objects in the resized image; ``place`` is their position in ``objects``."""
        height, width = self.example["image"].shape[1:]
        scale = np.array([width / self.example["width"], height / self.example["height"]] * 2)
        boxes = np.array([a["bbox"] for a in self.objects], dtype=np.float64).reshape(-1, 4)
        found = Instances((height, width))
        found.pred_boxes = Boxes(torch.from_numpy(boxes * scale).float())
        found.pred_classes = torch.tensor(
            [a["category_id"] for a in self.objects], dtype=torch.int64
        )
        found.scores = torch.ones(len(self.objects))
        found.place = torch.arange(len(self.objects))
        return found

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> Instances:
        """detectron2's, in the image; without the boxes that have no area in it."""
        with inference_context(model):
            return model.inference([self.example], [self.instances()])[0]["instances"]

    def predict(self, model: nn.Module) -> list[tuple[dict, dict]]:
        """Each object, and a prediction as :mod:`arcnn.evaluation.predictions`."""
        found = self.outputs(model)
        predicted = detections(found, self.record["image_id"])
        places = found.place.tolist()
        return [(self.objects[k], drawn) for k, drawn in zip(places, predicted, strict=True)]


if __name__ == "__main__":
    from arcnn.workshop.own_photos.photos import main

    sys.exit(main())
