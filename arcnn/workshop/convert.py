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

from arcnn.data.masks import area, intersection, to_json_rle, to_rle
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


def _annotation(found: _Object, fixed: list[str]) -> dict[str, Any]:
    """With both masks, the visible one inside the amodal one; adds to what had to be fixed."""
    masks, outlines = {}, found.outlines
    for kind in KINDS:
        masks[kind], texts = to_rle(outlines[kind], *found.size)
        if kind == "amodal" or outlines["visible"] != outlines["amodal"]:  # say it once
            fixed += [f"{found.where}: {kind} mask: {text}" for text in texts]
    inside = intersection(masks["amodal"], masks["visible"])
    whole, seen, left = area(masks["amodal"]), area(masks["visible"]), area(inside)
    if not whole:
        raise ValueError("the amodal mask has no pixel")
    if seen and not left:
        raise ValueError("the visible mask lies apart from the amodal one")
    if not seen:
        fixed.append(f"{found.where}: visible mask: no pixel, so the object is fully hidden")
    elif left < seen:
        outside = f"{seen - left} of {seen} pixels outside"
        fixed.append(f"{found.where}: visible mask: {outside}, cut away")
    return found.fields | {
        MASK_KEYS["amodal"]: to_json_rle(masks["amodal"]),
        MASK_KEYS["visible"]: to_json_rle(inside),
        "bbox": mask_util.toBbox(masks["amodal"]).tolist(),
        "area": whole,
        "occlude_rate": 1 - left / whole,
    }


def _write(
    target: str | Path, images: list, categories: list, objects: list[_Object], wrong: list[str]
) -> dict[str, int]:
    """Read the masks and write the annotation file, if nothing is wrong; see the converters."""
    annotations, fixed = [], []
    for found in objects:
        with _listed(wrong, f"{found.where}: "):
            annotations.append(_annotation(found, fixed))
    if wrong:
        raise ConversionError("\n".join(wrong))
    for text in fixed:
        logger.warning("mended: %s", text)
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(Path(target), compact_json(content))
    counts = {"images": images, "annotations": annotations, "classes": categories, "mended": fixed}
    return {what: len(listed) for what, listed in counts.items()}


def _read_shape(shape: Any) -> tuple[str, int | str | None, str | None, list[float]]:
    """Class, group, kind (None: both) and outline (x, y, x, y, ... in pixels) of a labelme shape.

    The kind is told by a flag, the description, or a word after the class.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("has no label")
    label, group, flags = shape["label"], shape.get("group_id"), shape.get("flags")
    if shape.get("shape_type", "polygon") != "polygon":
        raise ValueError(f"({label}) is a {shape['shape_type']}, not a polygon")
    try:
        outline = [float(v) for x, y in shape["points"] for v in (x, y)]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"({label}) has no points x, y") from None
    if not isinstance(group, int | str | None):
        raise ValueError(f"({label}) has a group_id that is no number: {group!r:.40}")
    words = label.split()
    last = words.pop().lower() if len(words) > 1 and words[-1].lower() in KINDS else None
    said = [kind for kind in KINDS if isinstance(flags, dict) and flags.get(kind)]
    said += [str(shape.get("description")).strip().lower(), last]
    kind = next((kind for kind in said if kind in KINDS), None)
    if group is None and kind is not None:
        raise ValueError(f"({label}) has no group_id")
    return " ".join(words), group, kind, outline


def _read_labelme(file: Path, image_id: int, wrong: list[str]) -> tuple[dict, list[_Object]]:
    """The image and the objects of a file; their ``category_id`` is the name of the class yet."""
    content = json.loads(file.read_text(encoding="utf-8"))
    size = int(content["imageHeight"]), int(content["imageWidth"])
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels")
    name = PureWindowsPath(content["imagePath"]).name  # takes both kinds of slashes
    groups = defaultdict(lambda: (set(), {kind: [] for kind in KINDS}))  # labels, outlines
    for k, shape in enumerate(content["shapes"]):
        with _listed(wrong, f"{file}: shape {k} "):
            label, group, only, outline = _read_shape(shape)
            labels, outlines = groups[f"shape {k}" if group is None else f"group {group}"]
            labels.add(label)
            for kind in [only] if only else KINDS:
                outlines[kind].append(outline)
    objects = []
    for key, (labels, outlines) in groups.items():
        with _listed(wrong, f"{file}: {key} "):
            if len(labels) > 1:
                raise ValueError(f"has several labels, {sorted(labels)}")
            if missing := [kind for kind in KINDS if not outlines[kind]]:
                raise ValueError(f"has no {missing[0]} outline")
            fields = {"image_id": image_id, "category_id": labels.pop(), "iscrowd": False}
            objects.append(_Object(f"{file}: {key}", size, outlines, fields))
    return {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}, objects


def labelme_to_cocoa(
    files: Sequence[str | Path], target: str | Path, classes: Sequence[str] = ()
) -> dict[str, int]:
    """Convert labelme files, one per image.

    An object is the polygons of one ``group_id``: those labelled "<class> amodal" are the whole
    object, those labelled "<class> visible" what is seen of it (several, if something lies across
    it). A polygon without a group and without either word is an object that nothing covers.

    Args:
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
    """Convert a COCO instances file whose annotations have a visible mask, polygons or RLE, in the
    field ``visible`` beside ``segmentation``, which is the amodal one. An annotation without it is
    one that nothing covers.

    Returns and raises as :func:`labelme_to_cocoa`.
    """
    try:
        content = json.loads(Path(source).read_text(encoding="utf-8"))
        images, categories = list(content["images"]), list(content["categories"])
        names = set().union(*(entry.keys() for entry in content["annotations"]))
        sizes = {i["id"]: (int(i["height"]), int(i["width"])) for i in images}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ConversionError(f"{source}: not a COCO file with image sizes ({error!r})") from error
    if visible not in names:
        raise ConversionError(f"no annotation has the field {visible!r}; they have {sorted(names)}")
    wrong, objects = [], []
    for entry in content["annotations"]:
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
