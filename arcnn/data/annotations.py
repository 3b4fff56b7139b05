"""Annotation files of the data sets -> one internal record per image.

The internal record is detectron2's standard dataset dict: ``file_name``, ``image_id``, ``height``,
``width`` and ``annotations``, each of these with

=================  ================================================================================
``id``             int, as in the file
``category_id``    int in [0, C), contiguous
``bbox``           ``[x0, y0, x1, y1]`` of the amodal mask, absolute pixels (``BoxMode.XYXY_ABS``)
``segmentation``   RLE of the **amodal** mask (the stock key, so that stock tools see that mask)
``visible_mask``   RLE of the visible mask, inside the amodal one
``occlusion_rate`` float in [0, 1]: the file's own value, else 1 - |visible| / |amodal|
``iscrowd``        0 or 1
=================  ================================================================================

The occlusion mask is never stored: it is *amodal and not visible*, always. RLE means pycocotools'
``{"size": [H, W], "counts": bytes}``. The files' own field names occur in this module alone.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

logger = logging.getLogger(__name__)

RLE = dict[str, Any]


class AnnotationError(ValueError):
    """An annotation file cannot be used; the message names file, record and cure."""


class AmodalAnnotations(NamedTuple):
    """A read annotation file."""

    records: list[dict]
    class_names: list[str]  # length C, by contiguous id
    category_ids: list[int]  # the file's own ids, by contiguous id


def to_rle(segmentation: RLE | list, height: int, width: int) -> RLE:
    """RLE of a mask given as compressed or uncompressed RLE, or as a list of polygons.

    Raises:
        ValueError: no polygon of 3 points or more, or an RLE of another size.
    """
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(
                f"RLE of size {segmentation['size']} on an image of [{height}, {width}]"
            )
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        raise ValueError("no polygon of 3 points or more")
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width))


def occlusion_mask(amodal: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The hidden part, bool: amodal and not visible. Any shape, the same for both."""
    return amodal.astype(bool) & ~visible.astype(bool)


def decode_masks(annotation: dict) -> dict[str, np.ndarray]:
    """The three masks of one annotation of an internal record, bool ``(H, W)`` each."""
    amodal = mask_util.decode(annotation["segmentation"]).astype(bool)
    visible = mask_util.decode(annotation["visible_mask"]).astype(bool)
    return {"amodal": amodal, "visible": visible, "occlusion": occlusion_mask(amodal, visible)}


def load_annotations(json_file: str | Path, image_root: str | Path) -> AmodalAnnotations:
    """Read a KINS (2019 or 2020), COCOA-cls, D2SA or tabletop file.

    The schema is told by the fields of the annotations, never by the file's name.

    Args:
        json_file: the annotation file.
        image_root: the folder that its ``file_name`` entries are relative to.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: truncated or not JSON, an unknown schema, or a record that cannot be read.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    try:
        content = json.loads(json_file.read_text())
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{json_file} is not complete JSON ({error}); fetch or write the file again."
        ) from error
    try:
        images, annotations = content["images"], content["annotations"]
        categories = content["categories"]
    except (KeyError, TypeError) as error:
        raise AnnotationError(
            f"{json_file} has no {error}: not an amodal annotation file of a known schema."
        ) from error

    read_masks = _schema_of(annotations, json_file)
    used = {a["category_id"] for a in annotations}
    if read_masks is not _cocoa_masks:
        # KINS lists a class "rider" (id 3) that has no instance: 7 classes, not 8.
        categories = [c for c in categories if c["name"] != "rider" or c["id"] in used]
    categories = sorted(categories, key=lambda c: c["id"])
    contiguous = {c["id"]: i for i, c in enumerate(categories)}

    records = {
        image["id"]: {
            "file_name": str(image_root / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": [],
        }
        for image in images
    }
    for annotation in annotations:
        try:
            record = records[annotation["image_id"]]
            record["annotations"].append(
                _internal_annotation(annotation, read_masks, contiguous, record)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(
                f"{json_file}: annotation {annotation.get('id')} of image "
                f"{annotation.get('image_id')} cannot be read: {error!r}. Repair or remove it."
            ) from error
    return AmodalAnnotations(
        records=list(records.values()),
        class_names=[c["name"] for c in categories],
        category_ids=[c["id"] for c in categories],
    )


def _internal_annotation(
    annotation: dict, read_masks: Callable, contiguous: dict[int, int], record: dict
) -> dict:
    height, width = record["height"], record["width"]
    amodal, visible = (to_rle(m, height, width) for m in read_masks(annotation))
    # Drawn by hand or rasterised apart, the visible mask can leave the amodal one by a pixel.
    visible = mask_util.merge([amodal, visible], intersect=True)
    x, y, w, h = mask_util.toBbox(amodal).tolist()
    rate = annotation.get("occlude_rate")
    if rate is None:
        # Both areas from the decoded masks: KINS' own area fields disagree with its masks.
        rate = 1 - float(mask_util.area(visible)) / max(float(mask_util.area(amodal)), 1.0)
    return {
        "id": annotation["id"],
        "category_id": contiguous[annotation["category_id"]],
        "bbox": [x, y, x + w, y + h],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": amodal,
        "visible_mask": visible,
        "occlusion_rate": float(rate),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _cocoa_masks(annotation: dict) -> Sequence:
    """COCOA-cls, D2SA, tabletop: visible_mask is left out by some copies where all is visible."""
    return annotation["segmentation"], annotation.get("visible_mask", annotation["segmentation"])


def _kins_2019_masks(annotation: dict) -> Sequence:
    return annotation["segmentation"], annotation["inmodal_seg"]


def _kins_2020_masks(annotation: dict) -> Sequence:
    return annotation["a_segm"], annotation["i_segm"]


def _schema_of(annotations: list[dict], json_file: Path) -> Callable:
    fields = set().union(*(a.keys() for a in annotations[:100]))
    if "a_segm" in fields:
        return _kins_2020_masks
    if "inmodal_seg" in fields:
        return _kins_2019_masks
    if "visible_mask" in fields:
        return _cocoa_masks
    raise AnnotationError(
        f"{json_file} holds none of the fields visible_mask (COCOA-cls, D2SA, tabletop), "
        f"inmodal_seg (KINS 2019) or a_segm (KINS 2020); its annotations have {sorted(fields)}."
    )
