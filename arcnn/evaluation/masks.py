"""From mask maps inside a box to masks on the image, as run-length encodings.

The masks are those of detectron2's ``paste_masks_in_image`` and pycocotools' ``encode``, bit for
bit, without the full image: a map is sampled where its box lies, with the same coordinates and the
same operator as detectron2 on a CPU (which pastes one by one), and the runs are read off that
window. The maps of one box, three kinds for instance, are sampled together.

Shapes: R detections of one image, K kinds of mask, M side of the mask maps, H and W pixels of the
image, h and w pixels of a window.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.5
OUTSIDE = 9.0  # a coordinate where the map, that reaches from -1 to 1, is sampled as zero


def encode_mask_kinds(
    probs: Sequence[Tensor], boxes: Tensor, height: int, width: int
) -> list[list[dict]]:
    """Paste, threshold at one half and run-length encode K kinds of mask in the same boxes.

    On a GPU the maps are sampled there, one box at a time; a window of bools comes back. So no
    more than one window of floats is ever held, whatever R is.

    Args:
        probs: K tensors, float ``(R, M, M)`` in [0, 1].
        boxes: float ``(R, 4)`` on the same device, XYXY in absolute pixels.
        height, width: H and W.

    Returns:
        K lists of R RLEs with ``counts`` as str, ready for JSON.
    """
    maps = torch.stack(list(probs), dim=1).float()  # (R, K, M, M)
    windows = list(_windows(maps, boxes.float(), height, width))
    if not windows:
        return [[] for _ in probs]
    counts = _run_lengths(windows, height, width)  # R * K
    rles = mask_util.frPyObjects(
        [{"size": [height, width], "counts": c} for c in counts], height, width
    )
    encoded = [{"size": r["size"], "counts": r["counts"].decode("ascii")} for r in rles]
    return [encoded[k :: len(probs)] for k in range(len(probs))]


class _Window(NamedTuple):
    """Masks of one box: bool ``(K, w, h + 2)``, pixel (0, 0) of the window at (x, y) of the image.

    Columns first, as COCO counts them, each between two pixels of nothing, which close every run.
    """

    x: int
    y: int
    columns: np.ndarray


@torch.no_grad()
def _windows(maps: Tensor, boxes: Tensor, height: int, width: int) -> Iterator[_Window]:
    """Windows and coordinates are those of ``detectron2.layers.mask_ops._do_paste_mask``."""
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
            yield _Window(0, 0, np.zeros((maps.shape[1], 0, 2), dtype=bool))
            continue
        column = F.pad(grid_y[r, top:bottom], (1, 1), value=OUTSIDE)
        grid = torch.stack(
            [grid_x[r, left:right, None].expand(w, h + 2), column.expand(w, h + 2)], dim=2
        )
        sampled = F.grid_sample(maps[r, None], grid[None], align_corners=False)[0]
        yield _Window(left, top, (sampled >= THRESHOLD).cpu().numpy())


def _run_lengths(windows: Sequence[_Window], height: int, width: int) -> list[np.ndarray]:
    """COCO's run lengths, zeros first, of all masks of all windows, at once: R * K arrays."""
    # An example: one mask in an image of H = 3, W = 4, its window of two columns at x = 1, y = 0.
    #
    #     columns      [. 0 1 1 .] [. 1 0 0 .]     each between two pixels of nothing: side = 5
    #     place         0 1 2 3 4   5 6 7 8 9
    #     changes         1   3     5 6            before the next place
    #     column, row   (0, 1) (0, 3) (1, 0) (1, 1)            divmod by 5
    #     edges            4      6      6      7              (x + column) * H + y + row
    #     joined           4                    7              the run goes on in column 1
    #     bounds      0    4                    7      12      0 and H * W around them
    #     run lengths   4            3              5          zeros, ones, zeros
    kinds = len(windows[0].columns)
    ravelled = [w.columns.ravel() for w in windows]
    changes = [np.flatnonzero(f[1:] != f[:-1]) for f in ravelled]  # starts and ends, in turn
    window = np.repeat(np.arange(len(windows)), [len(c) for c in changes])
    x, y, w, side = np.array([(w.x, w.y, *w.columns.shape[1:]) for w in windows]).T[:, window]
    column, row = np.divmod(np.concatenate(changes), side)
    kind, column = np.divmod(column, np.maximum(w, 1))
    mask = window * kinds + kind
    edges = (x + column) * height + y + row  # pixels of the image, counted down its columns
    # An end at the foot of a column and a start at the head of the next one fall together.
    joined = np.flatnonzero((edges[1:] == edges[:-1]) & (mask[1:] == mask[:-1]))
    keep = np.ones(len(edges), dtype=bool)
    keep[joined] = keep[joined + 1] = False
    edges, mask = edges[keep], mask[keep]
    # The bounds of all masks in one row: of each a zero, its edges, the end of the image.
    masks = np.arange(len(windows) * kinds)
    first_edge = np.searchsorted(mask, np.arange(len(masks) + 1))
    start, end = first_edge[:-1] + 2 * masks, first_edge[1:] + 2 * masks + 1
    bounds = np.empty(len(edges) + 2 * len(masks), dtype=edges.dtype)
    bounds[start], bounds[end] = 0, height * width
    bounds[np.arange(len(edges)) + 2 * mask + 1] = edges
    lengths = np.diff(bounds)
    runs = [lengths[s:e] for s, e in zip(start.tolist(), end.tolist(), strict=True)]
    # pycocotools writes no last run of zeros where there are none.
    return [r[:-1] if len(r) > 1 and r[-1] == 0 else r for r in runs]
