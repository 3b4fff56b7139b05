"""Lists of predictions: what they must hold, and their exchange with other tools.

A prediction is an entry of a COCO result list, one per detection: ``image_id``, ``category_id``,
``score``, ``bbox`` (XYWH, optional) and three masks of the whole image as RLE: ``segmentation``
(amodal), ``visible_mask`` and ``occlusion_mask``. Inside the kit, ``category_id`` is contiguous, in
[0, C); in files that others read, it is that of the ground-truth file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    sizes = _sizes(records)
    missing: dict[str, list[int]] = {kind: [] for kind in MASK_KEYS}
    for n, prediction in enumerate(predictions):
        try:
            size = _check_fields(prediction, sizes, num_classes)
            for kind, key in MASK_KEYS.items():
                mask = prediction.get(key)
                if mask is None:
                    missing[kind].append(n)
                elif not _is_sound(mask, size):
                    _check_mask(mask, key, size)
                    if isinstance(mask["counts"], list):
                        raise PredictionError(f"{key}: its counts are a list, no compressed RLE")
        except PredictionError as error:
            raise _named(error, n, prediction) from None
    if missing["amodal"]:
        n = missing["amodal"][0]
        reason = "no segmentation, the amodal mask as RLE; there is nothing to score without it"
        raise _named(reason, n, predictions[n])
    return {
        kind: f"{len(which)} of {len(predictions)} predictions have no {MASK_KEYS[kind]}, the "
        f"first of them number {which[0]} (image {predictions[which[0]]['image_id']!r})"
        for kind, which in missing.items()
        if which
    }


def _sizes(records: Sequence[dict]) -> dict[int | str, list[int]]:
    return {r["image_id"]: [r["height"], r["width"]] for r in records}


def _named(reason: object, n: int, prediction: dict) -> PredictionError:
    return PredictionError(f"prediction {n} (image {prediction.get('image_id')!r}): {reason}")


def _check_fields(prediction: dict, sizes: Mapping, num_classes: int) -> list[int]:
    """The size of the prediction's image, if the fields beside the masks are right."""
    image_id = prediction.get("image_id")
    if not isinstance(image_id, int | str) or image_id not in sizes:
        raise PredictionError("the ground truth has no such image")
    category, score = prediction.get("category_id"), prediction.get("score")
    if not isinstance(category, int) or not 0 <= category < num_classes:
        raise PredictionError(f"class {category!r} is not one of 0 to {num_classes - 1}")
    try:
        valid = math.isfinite(score)
    except (TypeError, OverflowError):
        valid = False
    if not valid:
        raise PredictionError(f"its score is {score!r:.40}, not a finite number")
    return sizes[image_id]


def _is_sound(mask: Any, size: list[int]) -> bool:
    """The quick look at a mask, of which there are a million; else :func:`_check_mask` tells."""
    try:
        return mask["size"] == size and not (ord(mask["counts"][-1]) - 48) & 0x20
    except (TypeError, KeyError, IndexError):
        return False


def _check_mask(mask: Any, key: str, size: list[int]) -> dict:
    """The mask as compressed RLE, if it is a mask of this size."""
    if not isinstance(mask, dict):
        raise PredictionError(f"{key}: no RLE, a dict of size and counts; polygons won't do")
    try:
        return check_rle(mask, *size)
    except (ValueError, TypeError) as error:
        raise PredictionError(f"{key}: {error}") from None


def read_results(path: str | Path, category_ids: Sequence[int], records: Sequence[dict]) -> list:
    """Read a COCO result list that was made for a ground-truth file.

    Args:
        path: the JSON file.
        category_ids: the ground truth's own ids, by contiguous id.
        records: the ground truth's internal records.

    Returns:
        Predictions with contiguous ``category_id``; uncompressed RLEs are compressed.

    Raises:
        FileNotFoundError: no such file.
        PredictionError: not a list in JSON, a class that the ground truth doesn't have, or a mask
            whose runs are not those of a mask of its image.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PredictionError(f"{path} is not complete JSON ({error})") from None
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise PredictionError(f"{path} is not a COCO result list, a list of one dict per detection")
    sizes = _sizes(records)
    contiguous = {c: k for k, c in enumerate(category_ids)}
    for n, entry in enumerate(content):
        category, image_id = entry.get("category_id"), entry.get("image_id")
        if not isinstance(category, int) or category not in contiguous:
            reason = f"the ground truth has no class {category!r}; its ids are {_few(category_ids)}"
            raise _named(reason, n, entry)
        entry["category_id"] = contiguous[category]
        if not isinstance(image_id, int | str) or image_id not in sizes:
            continue  # named by check_predictions
        for key in MASK_KEYS.values():
            if entry.get(key) is not None:
                try:
                    entry[key] = _check_mask(entry[key], key, sizes[image_id])
                except PredictionError as error:
                    raise _named(error, n, entry) from None
    return content


def to_results(predictions: Sequence[dict], category_ids: Sequence[int]) -> list[dict]:
    """Predictions as a COCO result list for the ground-truth file with these class ids."""
    return [p | {"category_id": category_ids[p["category_id"]]} for p in predictions]


def _few(values: Sequence[int]) -> str:
    text = ", ".join(map(str, values[:10]))
    return text if len(values) <= 10 else f"{text} and {len(values) - 10} more"
