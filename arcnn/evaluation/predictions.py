"""Lists of predictions, and what they must hold.

A prediction is an entry of a COCO result list, one per detection: ``image_id``, ``category_id``,
``score``, ``bbox`` (XYWH, optional) and three masks of the whole image as RLE: ``segmentation``
(amodal), ``visible_mask`` and ``occlusion_mask``. Inside the kit, ``category_id`` is contiguous, in
[0, C); in files that others read, it is that of the ground-truth file.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from arcnn.data.masks import check_rle
from arcnn.names import MASK_KEYS


class PredictionError(ValueError):
    """Predictions that cannot be scored; the message names the entry and what is wrong with it."""


def check_predictions(
    records: Sequence[dict], predictions: Sequence[dict], num_classes: int
) -> dict[str, str]:
    """Look at every prediction.

    Returns:
        For each mask kind that some predictions lack, a sentence that says so. Without it, the
        tasks that need that mask cannot be scored; the others can.

    Raises:
        PredictionError: unknown image or class, a score that is missing or not a number, no amodal
            mask, a mask that is no RLE or of another size than its image.
    """
    sizes = image_sizes(records)
    missing: dict[str, list[int]] = {kind: [] for kind in MASK_KEYS}
    for n, prediction in enumerate(predictions):
        try:
            size = image_size(prediction, sizes)
            _check_fields(prediction, num_classes)
            for kind, key in MASK_KEYS.items():
                mask = prediction.get(key)
                if mask is None:
                    missing[kind].append(n)
                elif not _is_sound(mask, size):
                    check_mask(mask, key, size)
                    if isinstance(mask["counts"], list):
                        raise PredictionError(f"{key}: its counts are a list, no compressed RLE")
        except PredictionError as error:
            raise named(error, n, prediction) from None
    if missing["amodal"]:
        n = missing["amodal"][0]
        reason = "no segmentation, the amodal mask as RLE; there is nothing to score without it"
        raise named(reason, n, predictions[n])
    return {
        kind: f"{len(which)} of {len(predictions)} predictions have no {MASK_KEYS[kind]}, the "
        f"first of them number {which[0]} (image {predictions[which[0]]['image_id']!r})"
        for kind, which in missing.items()
        if which
    }


def image_sizes(records: Sequence[dict]) -> dict[int | str, list[int]]:
    """[H, W] by image id."""
    return {r["image_id"]: [r["height"], r["width"]] for r in records}


def image_size(prediction: dict, sizes: Mapping[int | str, list[int]]) -> list[int]:
    """[H, W] of a prediction's image, if there is one."""
    image_id = prediction.get("image_id")
    if not isinstance(image_id, int | str) or image_id not in sizes:
        raise PredictionError("the ground truth has no such image")
    return sizes[image_id]


def check_mask(mask: Any, key: str, size: list[int]) -> dict:
    """The mask as compressed RLE, if it is a mask of this size."""
    if not isinstance(mask, dict):
        raise PredictionError(f"{key}: no RLE, a dict of size and counts; polygons won't do")
    try:
        return check_rle(mask, *size)
    except (ValueError, TypeError) as error:
        raise PredictionError(f"{key}: {error}") from None


def named(reason: object, n: int, prediction: dict) -> PredictionError:
    """The error for entry ``n`` of a list."""
    return PredictionError(f"prediction {n} (image {prediction.get('image_id')!r}): {reason}")


def to_results(predictions: Sequence[dict], category_ids: Sequence[int]) -> list[dict]:
    """Predictions as a COCO result list for the ground-truth file with these class ids."""
    return [p | {"category_id": category_ids[p["category_id"]]} for p in predictions]


def _check_fields(prediction: dict, num_classes: int) -> None:
    category, score = prediction.get("category_id"), prediction.get("score")
    if not isinstance(category, int) or not 0 <= category < num_classes:
        raise PredictionError(f"class {category!r} is not one of 0 to {num_classes - 1}")
    try:
        valid = math.isfinite(score)
    except (TypeError, OverflowError):
        valid = False
    if not valid:
        raise PredictionError(f"its score is {score!r:.40}, not a finite number")


def _is_sound(mask: Any, size: list[int]) -> bool:
    """The quick look at a mask, of which there are a million; else :func:`check_mask` tells."""
    try:
        return mask["size"] == size and not (ord(mask["counts"][-1]) - 48) & 0x20
    except (TypeError, KeyError, IndexError):
        return False
