"""From mask maps inside a box to masks on the image, as run-length encodings.

Shapes: R detections of one image, M side of the mask maps, H and W pixels of the image.
"""

import numpy as np
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util
from torch import Tensor


def encode_masks(probs: Tensor, boxes: Tensor, height: int, width: int) -> list[dict]:
    """Paste, threshold at one half and run-length encode.

    Args:
        probs: float ``(R, M, M)`` in [0, 1].
        boxes: float ``(R, 4)``, XYXY in absolute pixels.
        height, width: H and W.

    Returns:
        R RLEs with ``counts`` as str, ready for JSON.
    """
    masks = paste_masks_in_image(probs, boxes, (height, width), threshold=0.5)
    encoded = mask_util.encode(np.asfortranarray(masks.cpu().numpy().transpose(1, 2, 0), np.uint8))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in encoded]
