"""Your own annotations -> the COCOA-cls format that the kit reads.

Two ways in: labelme files, where every object is outlined twice, and a COCO file whose annotations
carry a visible mask under some name. ``data/reference/formats.md`` has the guide with an example.
What is wrong is an error that lists all of it; what could be fixed is logged, line by line.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from pycocotools import mask as mask_util

from arcnn.data.masks import RLE, area, intersection, to_json_rle, to_rle
from arcnn.files import compact_json, write_text
from arcnn.names import MASK_KEYS

logger = logging.getLogger(__name__)

KINDS = ("amodal", "visible")  # the occlusion mask follows from them
IDS = ("id", "image_id", "category_id")


class ConversionError(ValueError):
    """Annotations that say too little or contradict each other; lists all of them."""


class _Object(NamedTuple):
    where: str  # what sentences call it
    size: tuple[int, int]  # H, W of its image
    outlines: dict[str, Any]  # RLE or polygons, by kind
    fields: dict[str, Any]  # what else its annotation says


@contextmanager
def _listed(wrong: list[str], where: str) -> Iterator[None]:
    """Add an error in this block to ``wrong``, so that what follows is looked at as well."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        wrong.append(f"{where}{error if isinstance(error, ValueError) else repr(error)}")


def _read_masks(outlines: dict[str, Any], *size: int) -> tuple[dict[str, RLE], list[str]]:
    """Both masks, the visible one inside the amodal one; and what had to be fixed.

    Raises:
        ValueError: cannot be fixed.
    """
    masks, fixed = {}, []
    for kind in KINDS:
        masks[kind], texts = to_rle(outlines[kind], *size)
        if kind == "amodal" or outlines["visible"] != outlines["amodal"]:  # say it once
            fixed += [f"{kind} mask: {text}" for text in texts]
    inside, seen = intersection(masks["amodal"], masks["visible"]), area(masks["visible"])
    if not area(masks["amodal"]):
        raise ValueError("the amodal mask has no pixel")
    if not seen:
        fixed.append("visible mask: no pixel, so the object is fully hidden")
    elif not area(inside):
        raise ValueError("the visible mask lies apart from the amodal one")
    elif area(inside) < seen:
        fixed.append(f"visible mask: {seen - area(inside)} of {seen} pixels outside, cut away")
    return masks | {"visible": inside}, fixed


def _write(
    target: str | Path, images: list, categories: list, objects: list[_Object], wrong: list[str]
) -> dict[str, int]:
    """Read the masks and write the annotation file, if nothing is wrong; see the converters."""
    annotations, fixed = [], []
    for where, size, outlines, fields in objects:
        with _listed(wrong, f"{where}: "):
            masks, texts = _read_masks(outlines, *size)
            fixed += [f"{where}: {text}" for text in texts]
            annotation = fields | {MASK_KEYS[kind]: to_json_rle(masks[kind]) for kind in KINDS}
            annotation["bbox"] = mask_util.toBbox(masks["amodal"]).tolist()
            annotation["area"] = area(masks["amodal"])
            annotation["occlude_rate"] = 1 - area(masks["visible"]) / annotation["area"]
            annotations.append(annotation)
    if wrong:
        raise ConversionError("\n".join(wrong))
    for text in fixed:
        logger.warning("mended: %s", text)
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(Path(target), compact_json(content))
    counts = {"images": images, "annotations": annotations, "classes": categories, "mended": fixed}
    return {what: len(listed) for what, listed in counts.items()}


def _class_and_kind(shape: dict) -> tuple[str, str | None]:
    """The class, and which mask is outlined: a flag, the description, or a word after the class."""
    words, flags = shape["label"].split(), shape.get("flags")
    last = words.pop().lower() if len(words) > 1 and words[-1].lower() in KINDS else ""
    said = [kind for kind in KINDS if isinstance(flags, dict) and flags.get(kind)]
    said += [str(shape.get("description")).strip().lower(), last]
    return " ".join(words), next((kind for kind in said if kind in KINDS), None)


def _read_shape(shape: Any) -> tuple[str, int | str | None, str | None, list[float]]:
    """Class, group, kind (None: both) and outline (x, y, x, y, ... in pixels) of a labelme shape.

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
    if not isinstance(group, int | str | None):
        raise ValueError(f"({label}) has a group_id that is no number: {group!r:.40}")
    name, kind = _class_and_kind(shape)
    if group is None and kind is not None:
        raise ValueError(f"({label}) has no group_id")
    return name, group, kind, outline


def _read_labelme(file: Path, image_id: int, wrong: list[str]) -> tuple[dict, list[_Object]]:
    """The image and the objects of a file; their ``category_id`` is the name of the class yet.

    Raises:
        OSError, ValueError, KeyError, TypeError, OverflowError: no labelme file.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    size = int(content["imageHeight"]), int(content["imageWidth"])
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels")
    name = PureWindowsPath(content["imagePath"]).name  # takes both kinds of slashes
    labels, outlines = defaultdict(set), defaultdict(lambda: {kind: [] for kind in KINDS})
    for k, shape in enumerate(content["shapes"]):
        with _listed(wrong, f"{file}: shape {k} "):
            label, group, only, outline = _read_shape(shape)
            key = f"{file}: shape {k}" if group is None else f"{file}: group {group}"
            labels[key].add(label)
            for kind in [only] if only else KINDS:
                outlines[key][kind].append(outline)
    objects = []
    for key, found in outlines.items():
        if len(labels[key]) > 1:
            wrong.append(f"{key} has several labels, {sorted(labels[key])}")
        elif not all(found.values()):
            wrong.append(f"{key} has no {next(k for k in KINDS if not found[k])} outline")
        else:
            fields = {"image_id": image_id, "category_id": labels[key].pop(), "iscrowd": False}
            objects.append(_Object(key, size, found, fields))
    return {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}, objects


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
    images, objects, wrong, file_of = [], [], [], {}
    for image_id, file in enumerate(sorted(map(Path, files)), start=1):
        with _listed(wrong, f"{file}: not a labelme file: "):
            image, found = _read_labelme(file, image_id, wrong)
            images.append(image)
            objects += found
            first = file_of.setdefault(image["file_name"], file)
            if first is not file:
                wrong.append(f"{file}: its image {image['file_name']} is that of {first} as well")
    used = sorted({found.fields["category_id"] for found in objects})
    names = list(classes) or used
    wrong += [f"class {name!r} is not in classes" for name in used if name not in names]
    ids = {name: k for k, name in enumerate(names, start=1)}
    for k, found in enumerate(objects, start=1):
        found.fields.update(id=k, category_id=ids.get(found.fields["category_id"]))
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return _write(target, images, categories, objects, wrong)


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
    if not any(visible in entry for entry in entries):
        names = sorted(set().union(*entries[:100]))
        raise ConversionError(f"no annotation has the field {visible!r}; they have {names}")
    broken = len(content["annotations"]) - len(entries)
    wrong, objects = [f"{broken} annotations are no objects"] if broken else [], []
    for entry in entries:
        where = f"annotation {entry.get('id')} of image {entry.get('image_id')}"
        with _listed(wrong, f"{where}: "):
            if missing := [key for key in (*IDS, "segmentation") if key not in entry]:
                raise ValueError(f"no {', no '.join(missing)}")
            if entry["image_id"] not in sizes:
                raise ValueError("no such image")
            full, seen = entry["segmentation"], entry.get(visible)
            outlines = {"amodal": full, "visible": full if seen is None else seen}
            fields = {key: entry[key] for key in (*IDS, "occluders") if key in entry}
            fields["iscrowd"] = bool(entry.get("iscrowd"))
            objects.append(_Object(where, sizes[entry["image_id"]], outlines, fields))
    return _write(target, images, categories, objects, wrong)
