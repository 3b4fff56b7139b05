"""The annotation files as they really are. Their own field names are read in this module alone.

==========  =====================================  ==========================================
schema      told by the field                      who occludes whom
==========  =====================================  ==========================================
kins_2020   ``a_segm``                             ``oco_id`` (cluster), ``ico_id`` (order in it)
kins_2019   ``inmodal_seg``                        not said
cocoa       ``regions`` (raw COCOA, one entry or   ``depth_constraint`` ("i-j": i in front of
            one file per image)                    j), else ``order`` (front first)
cocoa_cls   ``visible_mask``                       ``occluders`` (the kit's own addition: ids of
            (COCOA-cls, D2SA, tabletop, your own)  the annotations in front)
==========  =====================================  ==========================================

A schema turns an annotation of the file into :class:`FileObject` entries, nothing more: what is in
them is checked and turned into internal records by :mod:`arcnn.data.reading`, which knows only the
frame that COCO gave all of these files: lists of images, annotations and categories, their ids, and
an image's name and size. What the kit itself writes (tabletop, conversions, pasted objects) has the
fields of COCOA-cls.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from arcnn.errors import InputError


@dataclass
class FileObject:
    """One object as its file has it, unchecked, under the kit's names."""

    id: Any
    category_id: Any  # the file's own
    amodal: Any  # RLE or polygons
    visible: Any  # None: all of it is visible
    occlusion: Any = None  # only where the file has it
    rate: Any = None
    iscrowd: Any = None
    occluders: list | None = None  # ids of the objects in front, where the file names them
    layer: tuple[Any, int] | None = None  # (cluster, order): smaller orders of a cluster in front


class Schema(NamedTuple):
    """How to read one kind of file."""

    field: str  # the annotation field that tells it
    objects: Callable[[dict], list[FileObject]]  # of one entry of the file
    title: str
    classes: dict[int, str] | None = None  # these, by id, whichever the file lists


# Files list a class "rider" (id 3) or not; no object is one.
KINS_CLASSES = {
    1: "cyclist", 2: "pedestrian", 4: "car", 5: "tram", 6: "truck", 7: "van", 8: "misc",
}  # fmt: skip


def _object(entry: dict, fields: dict[str, str]) -> FileObject:
    """One object; ``fields`` are the file's names by the kit's."""
    values = {ours: entry.get(theirs) for ours, theirs in fields.items()}
    number, category_id, iscrowd = map(entry.get, ("id", "category_id", "iscrowd"))
    return FileObject(number, category_id, iscrowd=iscrowd, **values)


def _kins_2019(entry: dict) -> list[FileObject]:
    item = _object(entry, {"amodal": "segmentation", "visible": "inmodal_seg"})
    item.visible = [] if item.visible is None else item.visible  # no mask: nothing is visible
    return [item]


def _kins_2020(entry: dict) -> list[FileObject]:
    item = _object(entry, {"amodal": "a_segm", "visible": "i_segm"})
    item.visible = [] if item.visible is None else item.visible
    # 0: overlaps nobody, so nobody is in front of it. That is known, other than a missing field.
    if isinstance(order := entry.get("ico_id"), int):
        item.layer = (entry.get("oco_id"), order)
    return [item]


COCOA_FIELDS = {
    "amodal": "segmentation",
    "visible": "visible_mask",
    "occlusion": "invisible_mask",
    "rate": "occlude_rate",
}


def _cocoa_cls(entry: dict) -> list[FileObject]:
    return [_object(entry, COCOA_FIELDS | {"occluders": "occluders"})]


# The list of objects in an entry of raw COCOA; other files have an entry per object.
REGIONS = "regions"
COCOA_CLASSES = {0: "thing", 1: "stuff"}
REGIONS_PER_IMAGE = 1000  # a region has no id of its own: entry id times this, plus its place


def _cocoa(entry: dict) -> list[FileObject]:
    regions, pairs = entry[REGIONS], entry.get("depth_constraint")
    first = int(entry["id"]) * REGIONS_PER_IMAGE
    # Regions are stored front first, and depth constraints count them from 1.
    in_front: dict[int, list[int]] = {}
    for front, behind in re.findall(r"(\d+)-(\d+)", pairs or ""):
        in_front.setdefault(int(behind), []).append(first + int(front))
    items = []
    for place, region in enumerate(regions, start=1):
        item = _object(region, COCOA_FIELDS)
        item.id, item.category_id = first + place, 1 if region.get("isStuff") else 0
        if isinstance(item.amodal, list) and item.amodal and not isinstance(item.amodal[0], list):
            item.amodal = [item.amodal]  # one polygon, flat
        order = region.get("order", place)
        if pairs is not None:
            item.occluders = in_front.get(place, [])
        elif isinstance(order, int):
            item.layer = (0, order)
        items.append(item)
    return items


def image_of_entry(entry: dict) -> dict:
    """The image of raw COCOA's one file per image, which has no list of images.

    Its name is that of the address; its size comes from elsewhere.
    """
    name = PurePosixPath(str(entry.get("url", ""))).name or f"{entry.get('image_id')}.jpg"
    return {"id": entry.get("image_id"), "file_name": name}


# Asked in this order: a KINS 2020 file may carry stock fields besides.
SCHEMAS = (
    Schema("a_segm", _kins_2020, "KINS, release of 2020", KINS_CLASSES),
    Schema("inmodal_seg", _kins_2019, "KINS, release of 2019", KINS_CLASSES),
    Schema(REGIONS, _cocoa, "raw COCOA", COCOA_CLASSES),
    Schema("visible_mask", _cocoa_cls, "COCOA-cls, D2SA and the kit's own"),
)


def count_objects(entry: Any) -> int:
    """How many objects an entry of a file holds, also one that cannot be read."""
    regions = entry.get(REGIONS) if isinstance(entry, dict) else None
    return len(regions) if isinstance(regions, list) else 1


def find_schema(fields: set[str]) -> Schema:
    """The schema of annotations that have these fields.

    Raises:
        ValueError: none; names the fields looked for and those that are there.
    """
    for schema in SCHEMAS:
        if schema.field in fields:
            return schema
    known = ", ".join(f"{schema.field} ({schema.title})" for schema in reversed(SCHEMAS))
    raise InputError(
        f"unknown schema: none of the fields {known}; the annotations have "
        f"{', '.join(sorted(map(str, fields))) or 'no field'}. From an ordinary (modal) COCO file, "
        "`python -m arcnn.data synthesize` makes amodal data"
    )
