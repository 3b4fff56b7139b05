"""Your own annotations -> the COCOA-cls format that the kit reads.

Two ways in: labelme files, where every object is outlined twice, and a COCO file whose annotations
carry a visible mask under some name. ``data/reference/formats.md`` has the guide with an example.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from pycocotools import mask as mask_util

from arcnn.data.annotations import dumps, to_json_rle
from arcnn.data.rle import area, intersection, to_rle

KINDS = ("amodal", "visible")


class ConversionError(ValueError):
    """Annotations that say too little or contradict each other; lists all of them."""


def _annotation(ids: dict[str, int], amodal: dict, visible: dict) -> dict[str, Any]:
    whole, seen = area(amodal), area(intersection(amodal, visible))
    return ids | {
        "segmentation": to_json_rle(amodal),
        "visible_mask": to_json_rle(intersection(amodal, visible)),
        "bbox": mask_util.toBbox(amodal).tolist(),
        "area": whole,
        "occlude_rate": 1 - seen / whole,
        "iscrowd": False,
    }


def _kind(shape: dict) -> str | None:
    """Which mask a labelme shape outlines: a flag, or a word behind its label."""
    flags = shape.get("flags") or {}
    for kind in KINDS:
        if flags.get(kind) or str(shape.get("description", "")).strip().lower() == kind:
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
        Counts of images, annotations and classes.

    Raises:
        ConversionError: lists everything that is wrong, by file and group.
    """
    wrong, images, rows = [], [], []
    for number, file in enumerate(sorted(map(Path, files)), start=1):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            size = int(content["imageHeight"]), int(content["imageWidth"])
            name = PureWindowsPath(content["imagePath"]).name  # takes both kinds of slashes
            shapes = content["shapes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"{file}: not a labelme file ({error!r})")
            continue
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        objects: dict[Any, dict[str, list]] = defaultdict(lambda: {k: [] for k in KINDS})
        labels: dict[Any, set[str]] = defaultdict(set)
        for k, shape in enumerate(shapes):
            if shape.get("shape_type", "polygon") != "polygon":
                wrong.append(f"{file}: shape {k} is a {shape['shape_type']}, not a polygon")
                continue
            kind, group = _kind(shape), shape.get("group_id")
            if group is None and kind is not None:
                wrong.append(f"{file}: shape {k} ({shape['label']}) has no group_id")
                continue
            key = ("single", k) if group is None else group
            outline = [float(v) for point in shape["points"] for v in point]
            labels[key].add(_class_name(shape["label"]))
            for each in KINDS if kind is None else (kind,):
                objects[key][each].append(outline)
        for key, outlines in objects.items():
            if len(labels[key]) > 1:
                wrong.append(f"{file}: group {key} has several labels, {sorted(labels[key])}")
            elif not outlines["amodal"]:
                wrong.append(f"{file}: group {key} has no amodal outline")
            elif not outlines["visible"]:
                wrong.append(f"{file}: group {key} has no visible outline")
            else:
                try:
                    masks = [to_rle(outlines[kind], *size)[0] for kind in KINDS]
                except ValueError as error:
                    wrong.append(f"{file}: group {key}: {error}")
                    continue
                rows.append((number, labels[key].pop(), *masks))
    names = list(classes) or sorted({row[1] for row in rows})
    wrong += [f"class {n!r} is not in classes" for n in sorted({r[1] for r in rows} - set(names))]
    if wrong:
        raise ConversionError("\n".join(wrong))
    annotations = [
        _annotation({"id": k, "image_id": image, "category_id": names.index(name) + 1}, *masks)
        for k, (image, name, *masks) in enumerate(rows, start=1)
    ]
    return _write(Path(target), images, annotations, names)


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
        Counts of images, annotations and classes.

    Raises:
        ConversionError: no annotation has that field, or masks that cannot be read; lists them.
    """
    content = json.loads(Path(source).read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    if not any(visible in a for a in content["annotations"]):
        fields = sorted(set().union(*map(set, content["annotations"][:100])))
        raise ConversionError(f"no annotation has the field {visible!r}; they have {fields}")
    wrong, annotations = [], []
    for annotation in content["annotations"]:
        try:
            size = sizes[annotation["image_id"]]
            amodal, _ = to_rle(annotation["segmentation"], *size)
            seen, _ = to_rle(annotation.get(visible, annotation["segmentation"]), *size)
            if not area(amodal):
                raise ValueError("empty mask")
        except (KeyError, ValueError, TypeError) as error:
            wrong.append(
                f"annotation {annotation.get('id')} of image {annotation.get('image_id')}: {error}"
            )
            continue
        ids = {key: annotation[key] for key in ("id", "image_id", "category_id")}
        extra = {"iscrowd": bool(annotation.get("iscrowd"))}
        extra |= {"occluders": annotation["occluders"]} if "occluders" in annotation else {}
        annotations.append(_annotation(ids, amodal, seen) | extra)
    if wrong:
        raise ConversionError("\n".join(wrong))
    return _write(Path(target), content["images"], annotations, content["categories"])


def _write(
    target: Path, images: list[dict], annotations: list[dict], classes: Sequence
) -> dict[str, int]:
    categories = [
        {"id": k, "name": c} if isinstance(c, str) else c for k, c in enumerate(classes, start=1)
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(dumps(content))
    return {"images": len(images), "annotations": len(annotations), "classes": len(categories)}
