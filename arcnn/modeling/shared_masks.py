"""Ground-truth masks that many proposals of an image share."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes
from torch import Tensor


class SharedMasks(BitMasks):
    """Bitmasks kept once per object, and for every proposal the number of its object.

    Training samples 512 proposals of an image, and detectron2 hands each the masks of its object:
    with stock ``BitMasks`` that is a copy of 2 MB per mask at KINS' size, 8 GB for a batch. Here
    indexing composes the numbers, and no mask is copied.

    Example: ``SharedMasks(two)[torch.tensor([1, 1, 0])]`` has a length of 3 and holds two masks.

    Args:
        objects: bool ``(K, H, W)``.
        index: int64 ``(N,)``, object of each of the N; by default each its own.
    """

    def __init__(self, objects: Tensor, index: Tensor | None = None) -> None:
        # Not the stock constructor, which sets `tensor`: here that is made when somebody asks.
        self.objects = objects.to(torch.bool)
        self.image_size = objects.shape[1:]
        everyone = torch.arange(len(objects), device=objects.device)
        self.index = everyone if index is None else index

    @property
    def tensor(self) -> Tensor:
        """The masks as stock ``BitMasks`` has them, bool ``(N, H, W)``; a copy."""
        return self.objects[self.index]

    @property
    def device(self) -> torch.device:
        return self.objects.device

    def to(self, *args: Any, **kwargs: Any) -> "SharedMasks":
        objects = self.objects.to(*args, **kwargs)
        return SharedMasks(objects, self.index.to(objects.device))

    def __getitem__(self, item: int | slice | Tensor) -> "SharedMasks":
        return SharedMasks(self.objects, self.index[[item] if isinstance(item, int) else item])

    def __len__(self) -> int:
        return len(self.index)

    def nonempty(self) -> Tensor:
        return self.objects.flatten(1).any(dim=1)[self.index]

    def get_bounding_boxes(self) -> Boxes:
        return BitMasks(self.objects).get_bounding_boxes()[self.index.cpu()]

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """As the stock method, of the objects that are asked for; bool ``(N, M, M)``."""
        (crops,) = crop_together([self], boxes, mask_size)
        return crops


def crop_together(kinds: Sequence[SharedMasks], boxes: Tensor, mask_size: int) -> Tensor:
    """``crop_and_resize`` of several masks of the same N, in less time: where to look is computed
    once.

    Args:
        kinds: masks of the same objects, such as the amodal and the visible ones.
        boxes: float ``(N, 4)``, x0, y0, x1, y1 in pixels.
        mask_size: M.

    Returns:
        bool ``(kinds, N, M, M)``.
    """
    first = kinds[0]
    assert all(len(boxes) == len(kind) for kind in kinds), f"{len(boxes)} boxes of {len(first)}"
    assert all(kind.index.equal(first.index) for kind in kinds), "masks of different objects"
    used, number = first.index.unique(return_inverse=True)
    rois = torch.cat([number[:, None].to(boxes), boxes], dim=1).to(first.device)
    align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
    # As channels of one image.
    masks = torch.stack([kind.objects[used] for kind in kinds], dim=1).float()
    return align(masks, rois).transpose(0, 1) >= 0.5
