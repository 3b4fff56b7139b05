"""A trained model on an image of one's own; ``python -m arcnn.predict`` on a folder of them, see
:mod:`arcnn.workshop.photos`."""

import sys

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from torch import nn

from arcnn.evaluation.evaluator import detections


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
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    resize = ResizeShortestEdge([shortest, shortest], longest).get_transform(image)
    channels = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
    pixels = np.ascontiguousarray(resize.apply_image(channels).transpose(2, 0, 1))
    model.eval()
    example = {"image": torch.from_numpy(pixels), "height": height, "width": width}
    return detections(model([example])[0]["instances"], image_id=0)


if __name__ == "__main__":
    from arcnn.workshop.photos import main

    sys.exit(main())
