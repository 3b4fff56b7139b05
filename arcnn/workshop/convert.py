"""Your own annotations -> the COCOA-cls format that the kit reads.

Two ways in: labelme files, where every object is outlined twice, and a COCO file whose annotations
carry a visible mask under some name. ``data/reference/formats.md`` has the guide with an example.
What is wrong is an error that lists all of it; what could be mended is logged, line by line.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from pycocotools import mask as mask_util

from arcnn.data.masks import RLE, area, intersection, to_json_rle, to_rle
from arcnn.files import compact_json

logger = logging.getLogger(__name__)

KINDS = ("amodal", "visible")
IDS = ("id", "image_id", "category_id")


class ConversionError(ValueError):
    """Annotations that say too little or contradict each other; lists all of them."""


def _read_masks(
    outlines: dict[str, Any], size: tuple[int, int]
) -> tuple[dict[str, RLE], list[str]]:
    """Both masks of an object, the visible one inside the amodal one; and what had to be mended.

    Args:
        outlines: RLE or polygons, by kind.
        size: H, W of the image.

    Raises:
        ValueError: cannot be mended.
    """
    masks, mended = {}, []
    for kind in KINDS:
        masks[kind], wrong = to_rle(outlines[kind], *size)
        if kind == "amodal" or outlines["visible"] != outlines["amodal"]:  # say it once
            mended += [f"{kind} mask: {text}" for text in wrong]
    inside, seen = intersection(masks["amodal"], masks["visible"]), area(masks["visible"])
    if not area(masks["amodal"]):
        raise ValueError("the amodal mask has no pixel")
    if not seen:
        mended.append("visible mask: no pixel, so the object is fully hidden")
    elif not area(inside):
        raise ValueError("the visible mask lies apart from the amodal one")
    elif area(inside) < seen:
        mended.append(f"visible mask: {seen - area(inside)} of {seen} pixels outside, cut away")
    return masks | {"visible": inside}, mended


def _annotation(ids: dict[str, int], masks: dict[str, RLE]) -> dict[str, Any]:
    whole = area(masks["amodal"])
    return ids | {
        "segmentation": to_json_rle(masks["amodal"]),
        "visible_mask": to_json_rle(masks["visible"]),
        "bbox": mask_util.toBbox(masks["amodal"]).tolist(),
        "area": whole,
        "occlude_rate": 1 - area(masks["visible"]) / whole,
        "iscrowd": False,
    }


class _Shape(NamedTuple):
    """An outline in a labelme file."""

    label: str
    kind: str | None  # which mask it outlines; None: both
    group: Any
    outline: list[float]  # x, y, x, y, ... in pixels


def _read_shape(shape: Any) -> _Shape:
    """
    Raises:
        ValueError: no polygon with a label.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("has no label")
    label, group = shape["label"], shape.get("group_id")
    if shape.get("shape_type", "polygon") != "polygon":
        raise ValueError(f"({label}) is a {shape['shape_type']}, not a polygon")
    try:
        outline = [float(v) for x, y in shape["points"] for v in (x, y)]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"({label}) has no points x, y") from None
    kind = _kind(shape)
    if not isinstance(group, int | str | None):
        raise ValueError(f"({label}) has a group_id that is no number: {group!r:.40}")
    if group is None and kind is not None:
        raise ValueError(f"({label}) has no group_id")
    return _Shape(label, kind, group, outline)


def _kind(shape: dict) -> str | None:
    """Which mask a labelme shape outlines: a flag, or a word behind its label."""
    flags = shape.get("flags")
    for kind in KINDS:
        if isinstance(flags, dict) and flags.get(kind):
            return kind
        if str(shape.get("description", "")).strip().lower() == kind:
            return kind
    return next((k for k in KINDS if shape["label"].lower().endswith(f" {k}")), None)


def _class_name(label: str) -> str:
    words = label.split()
    return " ".join(words[:-1] if len(words) > 1 and words[-1].lower() in KINDS else words)


def labelme_to_cocoa(
    files: Sequence[str | Path], target: str | Path, classes: Sequence[str] = ()
) -> dict[str, int]:
    """Convert labelme files, one per image.

    An object is the polygons of one ``group_id``: those labelled "<class> amodal" are the whole
    object, those labelled "<class> visible" what is seen of it (several, if something lies across
    it). A polygon without a group and without either word is an object that nothing covers.

    Args:
        files: labelme's ``.json`` files.
        target: annotation file to write. Image paths in it are labelme's ``imagePath``, without
            folders: put the images into one.
        classes: names in the order of their ids; by default those that occur, sorted.

    Returns:
        Counts of images, annotations, classes, and things mended; each of these is logged.

    Raises:
        ConversionError: lists everything that is wrong, by file and group.
    """
    wrong, mended, images, rows = [], [], [], []
    file_of: dict[str, Path] = {}  # by image name
    for number, file in enumerate(sorted(map(Path, files)), start=1):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            size = int(content["imageHeight"]), int(content["imageWidth"])
            name = PureWindowsPath(content["imagePath"]).name  # takes both kinds of slashes
            shapes = list(content["shapes"])
            if min(size) < 1:
                raise ValueError(f"an image of {size[0]} x {size[1]} pixels")
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            wrong.append(f"{file}: not a labelme file ({error!r})")
            continue
        if name in file_of:
            wrong.append(f"{file}: its image {name} is that of {file_of[name]} as well")
            continue
        file_of[name] = file
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        objects: dict[Any, dict[str, list]] = defaultdict(lambda: {k: [] for k in KINDS})
        labels: dict[Any, set[str]] = defaultdict(set)
        for k, shape in enumerate(shapes):
            try:
                found = _read_shape(shape)
            except ValueError as error:
                wrong.append(f"{file}: shape {k} {error}")
                continue
            key = ("single", k) if found.group is None else found.group
            labels[key].add(_class_name(found.label))
            for each in KINDS if found.kind is None else (found.kind,):
                objects[key][each].append(found.outline)
        for key, outlines in objects.items():
            if len(labels[key]) > 1:
                wrong.append(f"{file}: group {key} has several labels, {sorted(labels[key])}")
            elif not outlines["amodal"]:
                wrong.append(f"{file}: group {key} has no amodal outline")
            elif not outlines["visible"]:
                wrong.append(f"{file}: group {key} has no visible outline")
            else:
                try:
                    masks, texts = _read_masks(outlines, size)
                except ValueError as error:
                    wrong.append(f"{file}: group {key}: {error}")
                    continue
                mended += [f"{file}: group {key}: {text}" for text in texts]
                rows.append((number, labels[key].pop(), masks))
    names = list(classes) or sorted({row[1] for row in rows})
    wrong += [f"class {n!r} is not in classes" for n in sorted({r[1] for r in rows} - set(names))]
    if wrong:
        raise ConversionError("\n".join(wrong))
    annotations = [
        _annotation({"id": k, "image_id": image, "category_id": names.index(name) + 1}, masks)
        for k, (image, name, masks) in enumerate(rows, start=1)
    ]
    return _write(Path(target), images, annotations, names, mended)


def coco_to_cocoa(
    source: str | Path, target: str | Path, *, visible: str = "visible_segmentation"
) -> dict[str, int]:
    """Convert a COCO file whose annotations have a visible mask beside ``segmentation``.

    Args:
        source: COCO instances file; ``segmentation`` is the amodal mask.
        target: annotation file to write.
        visible: name of the field with the visible mask, polygons or RLE. An annotation without it
            is one that nothing covers.

    Returns:
        Counts of images, annotations, classes, and things mended; each of these is logged.

    Raises:
        ConversionError: no COCO file, no annotation has that field, or annotations that cannot be
            read; lists them.
    """
    try:
        content = json.loads(Path(source).read_text(encoding="utf-8"))
        images, categories = list(content["images"]), list(content["categories"])
        entries = [a for a in content["annotations"] if isinstance(a, dict)]
        sizes = {i["id"]: (int(i["height"]), int(i["width"])) for i in images}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConversionError(f"{source}: not a COCO file with image sizes ({error!r})") from error
    if not any(visible in a for a in entries):
        fields = sorted(set().union(*entries[:100]))
        raise ConversionError(f"no annotation has the field {visible!r}; they have {fields}")
    wrong, mended, annotations = [], [], []
    if len(entries) < len(content["annotations"]):
        wrong.append(f"{len(content['annotations']) - len(entries)} annotations are no objects")
    for entry in entries:
        where = f"annotation {entry.get('id')} of image {entry.get('image_id')}"
        missing = [key for key in (*IDS, "segmentation") if key not in entry]
        if missing:
            wrong.append(f"{where}: no {', no '.join(missing)}")
            continue
        whole, seen = entry["segmentation"], entry.get(visible)
        outlines = {"amodal": whole, "visible": whole if seen is None else seen}
        try:
            if entry["image_id"] not in sizes:
                raise ValueError("no such image")
            masks, texts = _read_masks(outlines, sizes[entry["image_id"]])
        except (ValueError, TypeError) as error:
            wrong.append(f"{where}: {error}")
            continue
        ids = {key: entry[key] for key in IDS}
        mended += [f"{where}: {text}" for text in texts]
        extra = {"iscrowd": bool(entry.get("iscrowd"))}
        extra |= {"occluders": entry["occluders"]} if "occluders" in entry else {}
        annotations.append(_annotation(ids, masks) | extra)
    if wrong:
        raise ConversionError("\n".join(wrong))
    return _write(Path(target), images, annotations, categories, mended)


def _write(
    target: Path,
    images: list[dict],
    annotations: list[dict],
    classes: Sequence,
    mended: Sequence[str],
) -> dict[str, int]:
    for text in mended:
        logger.warning("mended: %s", text)
    categories = [
        {"id": k, "name": c} if isinstance(c, str) else c for k, c in enumerate(classes, start=1)
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(compact_json(content))
    counts = {"images": images, "annotations": annotations, "classes": categories}
    return {what: len(found) for what, found in counts.items()} | {"mended": len(mended)}
