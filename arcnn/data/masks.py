"""Masks as files hold them -> checked run-length encodings (RLE), and what was fixed on the way.

RLE means pycocotools' ``{"size": [H, W], "counts": bytes | str}``. Its decoder trusts its
input: a damaged one gives noise, or reads beyond the text. So every RLE is checked here first.
"""

from typing import Any

import numpy as np
from pycocotools import mask as mask_util

RLE = dict[str, Any]

MARGIN = 1.0  # pixels; outlines drawn along the border leave the image by that much


def run_lengths(counts: str | bytes) -> np.ndarray:
    """Lengths of the runs of zeros and ones, alternately, int64, from compressed counts.

    Raises:
        ValueError: not what a compressed RLE looks like.
    """
    raw = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else bytes(counts)
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(codes):
        raise ValueError("broken counts: empty")
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("broken counts: a character that no RLE has")
    # Five bits per character, the sixth says that more follow; COCO's own variant of LEB128.
    ends = np.flatnonzero(codes < 32)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("broken counts: cut off")
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits: more pixels than any image has
        raise ValueError("broken counts: a run that no image holds")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    # From the fourth on, a number is the difference to the one two places before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def check_rle(rle: RLE, height: int, width: int) -> RLE:
    """The RLE in compressed form, if it is one of a mask of this size.

    Raises:
        ValueError: another size, or counts that are not those of a mask of this size.
    """
    if not isinstance(rle, dict) or "counts" not in rle or "size" not in rle:
        raise ValueError("neither RLE nor polygons")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"RLE of size {size!r:.40} on an image of [{height}, {width}]")
    listed = isinstance(counts, list)
    if not listed and not isinstance(counts, str | bytes):
        raise ValueError("broken counts: neither text nor a list")
    if listed and not all(isinstance(k, int | np.integer) for k in counts):
        raise ValueError("broken counts: not whole numbers")
    runs = np.array(counts) if listed else run_lengths(counts)
    pixels = height * width
    if (runs < 0).any() or (runs > pixels).any():  # their sum may overflow
        raise ValueError("broken counts: a run that this image does not hold")
    if runs.sum() != pixels:
        raise ValueError(f"broken counts: {runs.sum()} pixels instead of {pixels}")
    checked = {"size": [height, width], "counts": counts}
    return mask_util.frPyObjects(checked, height, width) if listed else checked


def clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon inside the image (Sutherland and Hodgman's algorithm).

    Args:
        points: ``(P, 2)`` x, y in pixels.

    Returns:
        ``(Q, 2)``; Q is 0 if nothing is inside.
    """
    for axis, limit, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, height, -1)):
        if not len(points):
            break
        inside = sign * (points[:, axis] - limit) >= 0
        kept = []
        for k in range(len(points)):
            before, point = points[k - 1], points[k]
            if inside[k] != inside[k - 1]:
                share = (limit - before[axis]) / (point[axis] - before[axis])
                kept.append(before + share * (point - before))
            if inside[k]:
                kept.append(point)
        points = np.array(kept).reshape(-1, 2)
    return points


def clean_polygons(polygons: list, height: int, width: int) -> tuple[list[list[float]], list[str]]:
    """Polygons fit for rasterising, and what was wrong with those that were not.

    Raises:
        ValueError: none is left.
    """
    kept, wrong = [], []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            wrong.append("a polygon that is no list of numbers")
            continue
        if points.ndim != 1 or len(points) % 2:
            wrong.append("a polygon that is no list of x, y, x, y, ...")
        elif len(points) < 6:
            wrong.append(f"a polygon of fewer than 3 points ({len(points) // 2})")
        elif not np.isfinite(points).all():
            wrong.append("a polygon with a coordinate that is no number")
        else:
            points = points.reshape(-1, 2)
            if (points < -MARGIN).any() or (points > (width + MARGIN, height + MARGIN)).any():
                wrong.append("a polygon that leaves the image")
                points = clip_polygon(points, height, width)
            if len(points) >= 3:
                kept.append(points.ravel().tolist())
    if not kept:
        why = "; ".join(wrong) or "there is none"
        raise ValueError(f"no polygon of 3 points or more inside the image: {why}")
    return kept, wrong


def to_rle(segmentation: RLE | list, height: int, width: int) -> tuple[RLE, list[str]]:
    """RLE of a mask given as compressed or uncompressed RLE, or as polygons.

    Returns:
        The RLE, and what had to be fixed: one sentence each, empty for a good mask.

    Raises:
        ValueError: cannot be fixed.
    """
    if isinstance(segmentation, list):
        polygons, wrong = clean_polygons(segmentation, height, width)
        return mask_util.merge(mask_util.frPyObjects(polygons, height, width)), wrong
    return check_rle(segmentation, height, width), []


def intersection(one: RLE, other: RLE) -> RLE:
    """The pixels of both masks."""
    return mask_util.merge([one, other], intersect=True)


def area(rle: RLE) -> int:
    """Number of pixels."""
    return int(mask_util.area(rle))


def decode_masks(annotation: dict) -> dict[str, np.ndarray]:
    """The three masks of one annotation of an internal record, bool ``(H, W)`` each.

    The hidden part is what is amodal and not visible.
    """
    amodal = mask_util.decode(annotation["segmentation"]).astype(bool)
    visible = mask_util.decode(annotation["visible_mask"]).astype(bool)
    return {"amodal": amodal, "visible": visible, "occlusion": amodal & ~visible}


def to_json_rle(rle: RLE) -> dict[str, Any]:
    """An RLE that JSON can hold: text instead of bytes."""
    counts = rle["counts"]
    return {
        "size": [int(k) for k in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """Bool masks ``(N, H, W)`` -> N RLEs with text counts, ready for JSON."""
    rles = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    return [to_json_rle(rle) for rle in rles]
