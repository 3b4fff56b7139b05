"""Masks as files hold them -> checked run-length encodings (RLE), and what was fixed on the way.

RLE means pycocotools' ``{"size": [H, W], "counts": bytes | str}``. Its decoder trusts its
input: a damaged one gives noise, or reads beyond the text. So every RLE is checked here first.
"""

from typing import Any

import numpy as np
from pycocotools import mask as mask_util

RLE = dict[str, Any]

MARGIN = 1.0  # pixels; outlines drawn along the border leave the image by that much
LONGEST = 1_000_000  # pixels of outline of one mask; rasterising takes 100 bytes for each


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
    if lengths.max() > 6:  # 30 bits: more pixels than any image has, and where C overflows
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

    One with runs of no pixels is written anew: pycocotools takes a mask to have no more runs than
    pixels, and overruns its memory where there are more.

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
    if (runs[1:] == 0).any():
        return _of_runs(_merged(runs), height, width)
    return (
        _of_runs(counts, height, width) if listed else {"size": [height, width], "counts": counts}
    )


def _merged(runs: np.ndarray) -> np.ndarray:
    """The same mask without runs of no pixels, but for a first one where it begins with ones."""
    value = np.flatnonzero(runs) % 2
    starts = np.flatnonzero(np.r_[True, value[1:] != value[:-1]])
    return np.r_[[0] * int(value[0]), np.add.reduceat(runs[runs != 0], starts)].astype(np.int64)


def _of_runs(runs: np.ndarray | list, height: int, width: int) -> RLE:
    return mask_util.frPyObjects({"size": [height, width], "counts": runs}, height, width)


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
    kept, wrong, length = [], [], 0.0
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
        elif not (np.abs(points) < 1e9).all():
            wrong.append("a polygon with a coordinate that is no number")
        else:
            points = points.reshape(-1, 2)
            if (points < -MARGIN).any() or (points > (width + MARGIN, height + MARGIN)).any():
                wrong.append("a polygon that leaves the image")
                points = clip_polygon(points, height, width)
            if len(points) >= 3:
                length += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
                kept.append(points.ravel().tolist())
    if not kept:
        why = "; ".join(wrong) or "there is none"
        raise ValueError(f"no polygon of 3 points or more inside the image: {why:.300}")
    if length > LONGEST:
        raise ValueError(f"an outline of {length:,.0f} pixels, more than {LONGEST:,}")
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
        return _union(mask_util.frPyObjects(polygons, height, width)), wrong
    return check_rle(segmentation, height, width), []


def _union(rles: list[RLE]) -> RLE:
    """Of masks of one size, a few at a time: one after another takes the square of their number."""
    while len(rles) > 1:
        rles = [mask_util.merge(rles[k : k + 8]) for k in range(0, len(rles), 8)]
    return rles[0]


def intersection(one: RLE, other: RLE) -> RLE:
    """The pixels of both masks."""
    return mask_util.merge([one, other], intersect=True)


def difference(one: RLE, other: RLE) -> RLE:
    """The pixels of the one mask and not of the other."""
    runs = run_lengths(other["counts"])
    return intersection(one, _of_runs(runs[1:] if not runs[0] else np.r_[0, runs], *other["size"]))


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
