"""From mask maps inside a box to masks on the image, as run-length encodings.

The masks are those of detectron2's ``paste_masks_in_image`` and pycocotools' ``encode``, bit for
bit, without the full image: a map is sampled where its box lies, with the same coordinates and the
same operator as detectron2 on a CPU (which pastes one by one), and the runs are read off that
window. The maps of one box, three kinds for instance, are sampled together.

Shapes: R detections of one image, K kinds of mask, M side of the mask maps, H and W pixels of the
image, h and w pixels of a window.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.5
AT_ONCE = 2**28  # pixels that come from a GPU in one copy, a byte each


def encode_mask_kinds(
    probs: Sequence[Tensor], boxes: Tensor, height: int, width: int
) -> list[list[dict]]:
    """Paste, threshold at one half and run-length encode K kinds of mask in the same boxes.

    On a GPU the maps are sampled there, one box at a time: no more than one window of floats is
    ever held, whatever R is. The bools come back many windows at a time, in half a gigabyte.

    Args:
        probs: K tensors, float ``(R, M, M)`` in [0, 1].
        boxes: float ``(R, 4)`` on the same device, XYXY in absolute pixels.
        height, width: H and W.

    Returns:
        K lists of R RLEs with ``counts`` as str, ready for JSON.
    """
    if not len(boxes):
        return [[] for _ in probs]
    maps = torch.stack(list(probs), dim=1).float()  # (R, K, M, M)
    at_once = 1 if maps.device.type == "cpu" else AT_ONCE
    counts = [
        _run_lengths(mask, x, y, height, width)
        for x, y, masks in _copied(_windows(maps, boxes.float(), height, width), at_once)
        for mask in masks
    ]
    rles = mask_util.frPyObjects(
        [{"size": [height, width], "counts": c} for c in counts], height, width
    )
    encoded = [{"size": r["size"], "counts": r["counts"].decode("ascii")} for r in rles]
    return [encoded[k :: len(probs)] for k in range(len(probs))]


@torch.no_grad()
def _windows(
    maps: Tensor, boxes: Tensor, height: int, width: int
) -> Iterator[tuple[int, int, Tensor]]:
    """By box, the x and y of its window in the image, and the masks in it, bool ``(K, w, h)``:
    columns first, as COCO counts them.

    Windows and coordinates are those of ``detectron2.layers.mask_ops._do_paste_mask``.
    """
    x0, y0, x1, y1 = boxes.split(1, dim=1)  # (R, 1) each
    x = torch.arange(width, device=boxes.device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=boxes.device, dtype=torch.float32) + 0.5
    grid_x = (x - x0) / (x1 - x0) * 2 - 1  # (R, W), -1 and 1 at the box's edges
    grid_y = (y - y0) / (y1 - y0) * 2 - 1  # (R, H)
    upper = (boxes[:, :2].floor() - 1).clamp(min=0)
    lower = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height]))
    corners = torch.cat([upper, lower], dim=1).to(torch.int64).tolist()
    for r, (left, top, right, bottom) in enumerate(corners):
        w, h = right - left, bottom - top
        if w <= 0 or h <= 0:  # outside the image: nothing (detectron2 raises an error)
            yield 0, 0, maps.new_zeros((maps.shape[1], 0, 0), dtype=torch.bool)
            continue
        grid = torch.stack(
            [
                grid_x[r, left:right, None].expand(w, h),
                grid_y[r, None, top:bottom].expand(w, h),
            ],
            dim=2,
        )
        sampled = F.grid_sample(maps[r, None], grid[None], align_corners=False)[0]
        yield left, top, sampled >= THRESHOLD


def _copied(
    windows: Iterable[tuple[int, int, Tensor]], at_once: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """The windows on the CPU, so many pixels together: each copy from a GPU waits until everything
    that it was asked for is done."""
    waiting: list[tuple[int, int, Tensor]] = []
    for window in itertools.chain(windows, [None]):
        if window is not None:
            waiting.append(window)
        sizes = [masks.numel() for *_, masks in waiting]
        if waiting and (window is None or sum(sizes) >= at_once):
            pixels = torch.cat([masks.flatten() for *_, masks in waiting]).cpu()
            for (x, y, masks), own in zip(waiting, pixels.split(sizes), strict=True):
                yield x, y, own.view(masks.shape).numpy()
            waiting = []


def _run_lengths(mask: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """COCO's run lengths, zeros first, of an image with a mask, bool ``(w, h)``, at (x, y)."""
    pixels = np.zeros(len(mask) * height + 2, dtype=bool)  # between two of nothing
    pixels[1:-1].reshape(-1, height)[:, y : y + mask.shape[1]] = mask
    edges = x * height + np.flatnonzero(pixels[1:] != pixels[:-1])  # down the image's columns
    runs = np.diff(np.concatenate([[0], edges, [height * width]]))
    # pycocotools writes no last run of zeros where there are none.
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
