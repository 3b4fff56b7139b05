"""Your own annotations -> the COCOA-cls format that the kit reads.

Two ways in: labelme files, where every object is outlined twice, and a COCO file whose annotations
carry a visible mask under some name. ``data/reference/formats.md`` has the guide with an example.
Masks are taken as they are drawn; ``python -m arcnn.data check`` looks at the result.
"""

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from arcnn.errors import InputError
from arcnn.files import compact_json, not_itself, read_json, write_text
from arcnn.names import MASK_KEYS
from arcnn.workshop.own_data.cutouts import read_instances

KINDS = ("amodal", "visible")  # the occlusion mask follows from them
KEPT = ("id", "image_id", "category_id", "segmentation", "iscrowd", "occluders")
MALFORMED = (AttributeError, KeyError, TypeError, ValueError, OverflowError)


class ConversionError(InputError):
    """Annotations that say too little or contradict each other; names the file and the object."""


def _add_shape(objects: dict[str, dict[str, Any]], k: int, shape: dict[str, Any]) -> None:
    """Add the outline of a labelme shape to its object: its class, and its polygons by kind."""
    words, kind = shape["label"].split(), None
    if len(words) > 1 and words[-1].lower() in KINDS:
        kind = words.pop().lower()
    name, group = " ".join(words), shape.get("group_id")
    if not name:
        raise ConversionError("has no class in its label")
    if shape.get("shape_type", "polygon") != "polygon":
        raise ConversionError(f"({name}) is a {shape['shape_type']}, not a polygon")
    if group is None and kind:
        raise ConversionError(f"({name} {kind}) has no group_id")
    key = f"shape {k}" if group is None else f"group {group}"
    found = objects.setdefault(key, {"class": name} | {each: [] for each in KINDS})
    if found["class"] != name:
        raise ConversionError(f"({name}) is in {key}, which is a {found['class']}")
    outline = [float(v) for x, y in shape["points"] for v in (x, y)]
    for each in [kind] if kind else KINDS:
        found[each].append(outline)


def _read_labelme(file: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The image of a labelme file, without an id, and its objects by group."""
    where, objects = "", {}
    content = read_json(file, "give a file that labelme wrote.")
    try:
        image = {
            "file_name": PureWindowsPath(content["imagePath"]).name,  # takes both kinds of slashes
            "height": int(content["imageHeight"]),
            "width": int(content["imageWidth"]),
        }
        for k, shape in enumerate(content["shapes"]):
            where = f"shape {k} "
            _add_shape(objects, k, shape)
    except ConversionError as error:
        raise ConversionError(f"{file}: {where}{error}") from None
    except MALFORMED as error:
        raise ConversionError(f"{file}: {where}is not as labelme writes it: {error!r}") from error
    for key, found in objects.items():
        if missing := [kind for kind in KINDS if not found[kind]]:
            raise ConversionError(f"{file}: {key} ({found['class']}) has no {missing[0]} outline")
    return image, objects


def labelme_to_cocoa(
    files: Sequence[str | Path], target: str | Path, classes: Sequence[str] = ()
) -> dict[str, int]:
    """Convert labelme files, one per image.

    An object is the polygons of one ``group_id``: those labelled "<class> amodal" are the whole
    object, those labelled "<class> visible" what is seen of it (several, if something lies across
    it). A polygon without a group and without either word is an object that nothing covers.

    Args:
        target: annotation file to write. Image paths in it are labelme's ``imagePath``, without
            folders: put the images into one. ``source`` names the file and group of an object.
        classes: names in the order of their ids; by default those that occur, sorted.

    Returns:
        Counts of images, annotations and classes.

    Raises:
        ConversionError: names the file and the shape or group.
    """
    not_itself(Path(target), *map(Path, files))
    if len(set(classes)) < len(classes):
        raise ConversionError(f"classes are {', '.join(classes)}: one is there twice")
    images, annotations, file_of = [], [], {}
    for image_id, file in enumerate(sorted(map(Path, files)), start=1):
        image, objects = _read_labelme(file)
        name = image["file_name"]
        if name in file_of:
            raise ConversionError(f"{file}: its image {name} is that of {file_of[name]} as well")
        file_of[name] = file
        images.append({"id": image_id} | image)
        for key, found in objects.items():
            if classes and found["class"] not in classes:
                raise ConversionError(f"{file}: {key}: class {found['class']!r} is not in classes")
            row = {"id": len(annotations) + 1, "image_id": image_id, "class": found["class"]}
            row |= {MASK_KEYS[kind]: found[kind] for kind in KINDS}
            annotations.append(row | {"iscrowd": 0, "source": f"{file.name}, {key}"})
    names = list(classes) or sorted({row["class"] for row in annotations})
    for row in annotations:
        row["category_id"] = names.index(row.pop("class")) + 1
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return _write(target, images, categories, annotations)


def coco_to_cocoa(
    source: str | Path, target: str | Path, *, visible: str = "visible_segmentation"
) -> dict[str, int]:
    """Convert a COCO instances file whose annotations have a visible mask, polygons or RLE, in the
    field ``visible`` beside ``segmentation``, which is the amodal one. An annotation without it is
    one that nothing covers.

    Returns and raises as :func:`labelme_to_cocoa`; ValueError too if it is no such file.
    """
    not_itself(Path(target), Path(source))
    content = read_instances(source)
    rows = content["annotations"]
    fields = set().union(*rows)
    if visible not in fields:
        raise ConversionError(
            f"{source}: no annotation has the field {visible!r}; they have {sorted(fields)}"
        )
    annotations = []
    for row in rows:
        seen = row.get("segmentation") if row.get(visible) is None else row[visible]
        kept = {key: row[key] for key in KEPT if key in row}
        annotations.append(kept | {MASK_KEYS["visible"]: seen})
    return _write(target, content["images"], content["categories"], annotations)


def _write(target: str | Path, images: list, categories: list, annotations: list) -> dict[str, int]:
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(Path(target), compact_json(content))
    counts = {"images": images, "annotations": annotations, "classes": categories}
    return {what: len(listed) for what, listed in counts.items()}
