"""Annotation files of the data sets -> one internal record per image.

The internal record is detectron2's standard dataset dict: ``file_name``, ``image_id``, ``height``,
``width`` and ``annotations``, each of these with

=================  ================================================================================
``id``             int, as in the file (raw COCOA has none: entry id * 1000 + place in the entry)
``category_id``    int in [0, C), contiguous
``bbox``           ``[x0, y0, x1, y1]`` of the amodal mask, absolute pixels (``BoxMode.XYXY_ABS``)
``segmentation``   RLE of the **amodal** mask (the stock key, so that stock tools see that mask)
``visible_mask``   RLE of the visible mask, inside the amodal one
``occlusion_rate`` float in [0, 1]: the file's own value if the masks agree, else theirs
``iscrowd``        0 or 1
``occluders``      ids of the annotations in front of it; only where the file tells
=================  ================================================================================

The occlusion mask is never stored: it is *amodal and not visible*, always. RLE means pycocotools'
``{"size": [H, W], "counts": bytes | str}``. The files' own field names are read in
:mod:`arcnn.data.schemas` alone.

Real files have glitches. What can be mended is mended and what cannot is left out; each case is a
:class:`Problem`, and more objects left out than allowed is an error.
"""

import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data.jsonstream import BrokenJSON, read_elements, scan
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.rle import RLE, area, intersection, to_rle
from arcnn.data.schemas import (
    BY_NAME,
    REGIONS,
    FileObject,
    Schema,
    count_objects,
    find_schema,
    image_of_entry,
)

logger = logging.getLogger(__name__)

MAX_SKIPPED = 0.01  # share of the objects that may be left out before that is an error
LIMIT_FILE = "max_skipped.txt"  # beside annotations: another such share, for these
RATE_TOLERANCE = 0.01  # between a file's occlusion rate and the one of its masks
AREA_TOLERANCE = 0.05  # relative; polygons turned into pixels elsewhere differ a little
CHUNK = 32  # images per job of a worker process
IN_PARALLEL = 1000  # images; below that, starting processes takes longer than reading
LARGEST_SIDE = 65_535  # pixels: JPEG's limit; more overflows the run lengths of pycocotools

# What reading a damaged image may raise.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class AnnotationError(ValueError):
    """An annotation file cannot be used; the message names file, record and cure."""


class AmodalAnnotations(NamedTuple):
    """A read annotation file."""

    records: list[dict]
    class_names: list[str]  # length C, by contiguous id
    category_ids: list[int]  # the file's own ids, by contiguous id
    problems: tuple["Problem", ...] = ()
    schema: str = ""


class Problem(NamedTuple):
    """Something wrong with a file, an image or an object, and what was done about it.

    ``action`` is ``"error"`` (the file is not what it should be), ``"skipped"`` (left out),
    ``"repaired"`` or ``"noted"`` (a field that nothing depends on).
    """

    kind: str  # a few words, the same for all of a kind
    action: str
    image_id: Any
    annotation_id: Any
    detail: str
    lost: int = 0  # objects that are left out because of it
    file: str = ""  # one of a folder's

    def __str__(self) -> str:
        where = [] if self.annotation_id is None else [f"annotation {_short(self.annotation_id)}"]
        where += [] if self.image_id is None else [f"image {_short(self.image_id)}"]
        where += [self.file] if self.file else []
        text = f"{' of '.join(where)}: " if where else ""
        return f"{text}{self.kind} ({self.detail})" if self.detail else f"{text}{self.kind}"


def _short(value: Any) -> str:
    """A value of a file in a message; some have hundreds of digits."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def too_many_lost(lost: int, objects: int, max_skipped: float) -> bool:
    """Whether more objects are left out than may be: the one rule, for checks and for loading.

    Args:
        lost: objects that are left out, over all files.
        objects: all of them, those included.
        max_skipped: share that may be left out, in [0, 1].
    """
    return lost > max_skipped * max(objects, 1)


def allowed_share(json_file: str | Path) -> float:
    """The share of objects that may be left out: :data:`MAX_SKIPPED`, or what the file
    ``max_skipped.txt`` beside the annotations says.

    Raises:
        AnnotationError: it says no share.
    """
    file = Path(json_file).parent / LIMIT_FILE
    if not file.is_file():
        return MAX_SKIPPED
    try:
        share = float(file.read_text())
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise AnnotationError(f"{file} must hold a number from 0 to 1, the share to be left out.")
    return share


def allow_skipped(json_file: str | Path, share: float) -> None:
    """Remember beside the annotations which share of the objects may be left out, in [0, 1]."""
    if share != allowed_share(json_file):
        (Path(json_file).parent / LIMIT_FILE).write_text(f"{share}\n")


def occlusion_mask(amodal: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The hidden part, bool: amodal and not visible. Any shape, the same for both."""
    return amodal.astype(bool) & ~visible.astype(bool)


def decode_masks(annotation: dict) -> dict[str, np.ndarray]:
    """The three masks of one annotation of an internal record, bool ``(H, W)`` each."""
    amodal = mask_util.decode(annotation["segmentation"]).astype(bool)
    visible = mask_util.decode(annotation["visible_mask"]).astype(bool)
    return {"amodal": amodal, "visible": visible, "occlusion": occlusion_mask(amodal, visible)}


# ------------------------------------------------------------------------------- the whole file


@dataclass
class FileIndex:
    """What a file holds and where, from one pass over it."""

    path: Path
    schema: Schema
    images: dict[Any, dict]  # by id, the file's own entries
    spans: dict[Any, list[tuple[int, int]]]  # positions of an image's annotations
    class_names: list[str]
    category_ids: list[int]
    problems: list[Problem] = field(default_factory=list)
    renumbered: dict[tuple[int, int], int] = field(default_factory=dict)  # new ids by position


@dataclass
class Earlier:
    """What the files of a folder so far have, for ids that are given twice."""

    annotations: dict[Any, tuple[Path, tuple[int, int]]] = field(default_factory=dict)
    images: set = field(default_factory=set)


def annotation_files(json_file: str | Path) -> list[Path]:
    """The file itself, or all files of a folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    json_file = Path(json_file)
    files = sorted(json_file.glob("*.json")) if json_file.is_dir() else [json_file]
    if not files:
        raise FileNotFoundError(f"{json_file} holds no *.json")
    return files


def index_file(path: str | Path, earlier: Earlier | None = None) -> FileIndex:
    """Scan an annotation file once.

    What can be read of a file that is cut off is indexed; the rest is a problem.

    Args:
        earlier: of the files before in the same folder; this one is added.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: not JSON from the start, or of no known schema.
    """
    path, before = Path(path), earlier or Earlier()
    images: dict[Any, dict] = {}
    problems: list[Problem] = []
    seen: dict[Any, tuple[int, int]] = {}
    spans: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    twice: list[tuple[Any, Any, tuple[int, int]]] = []  # also those without an id
    categories: list[Any] = []
    fields: set[str] = set()
    keys: set[str] = set()
    count, raw_regions = 0, []
    single: dict[str, Any] = {}
    try:
        for key, value, start, end in scan(path, keys=keys):
            if key == "annotations":
                count += 1
                if not isinstance(value, dict):
                    problems.append(
                        Problem("unreadable entry", "skipped", None, None, f"{value!r:.40}", lost=1)
                    )
                    continue
                if len(seen) < 100:
                    fields.update(value)
                number, image_id = value.get("id"), _key(value.get("image_id"))
                if not _is_id(number) or number in seen or number in before.annotations:
                    twice.append((image_id, number, (start, end)))
                    continue
                seen[number] = (start, end)
                spans[image_id].append((start, end))
            elif key == "images":
                entry = value
                if isinstance(value, dict) and not _is_ascii(value):
                    entry = read_elements(path, [(start, end)])[0]
                _add_image(entry, images, problems)
            elif key == "categories":
                categories += read_elements(path, [(start, end)])
            elif key == REGIONS:
                raw_regions.append(value)
            elif not isinstance(value, list | dict):
                single[key] = value
    except BrokenJSON as error:
        cut = f"the file {error}; {count} annotations and {len(images)} images stand before it"
        if not keys:
            raise AnnotationError(
                f"{path} is not complete JSON ({error}); fetch or write the file again."
            ) from error
        problems.append(Problem("truncated or broken JSON", "error", None, None, cut))

    if raw_regions and not count:
        # COCOA's one file per image is its only entry.
        fields, count, image_id = {REGIONS}, 1, _key(single.get("image_id"))
        number, span = single.get("id"), (0, path.stat().st_size)
        images[image_id] = image_of_entry(single)
        if not _is_id(number) or number in before.annotations:
            twice.append((image_id, number, span))
        else:
            seen[number] = span
            spans[image_id].append(span)
    missing = [key for key in ("images", "annotations") if key not in keys and not raw_regions]
    if missing and not any(p.action == "error" for p in problems):
        raise AnnotationError(
            f"{path} has no {' and no '.join(missing)}: not an amodal annotation file of a known "
            "schema."
        )
    try:
        schema = find_schema(fields) if count else BY_NAME["cocoa_cls"]
    except ValueError as error:
        if any(p.action == "error" for p in problems):
            raise AnnotationError(f"{path}: {problems[0]}") from error
        raise AnnotationError(f"{path} is of an {error}.") from error

    renumbered = _mend_ids(path, twice, seen, before, spans, problems)
    for image_id in [k for k in images if k in before.images]:
        kind, detail = "duplicate image id", "another file has this image; that one is kept"
        lost = sum(map(count_objects, read_elements(path, spans.pop(image_id, []))))
        action = "skipped" if lost else "repaired"
        problems.append(Problem(kind, action, image_id, None, detail, lost))
        del images[image_id]
    for image_id in [k for k in spans if k not in images]:
        for entry in read_elements(path, spans.pop(image_id)):
            number, lost = entry.get("id"), count_objects(entry)
            problems.append(Problem("no such image", "skipped", image_id, number, "", lost))
    if earlier is not None:
        earlier.images |= images.keys()
        earlier.annotations |= {number: (path, span) for number, span in seen.items()}
    categories = _classes(schema, categories, problems)
    return FileIndex(
        path=path,
        schema=schema,
        images=images,
        spans=dict(spans),
        class_names=[c["name"] for c in categories],
        category_ids=[c["id"] for c in categories],
        problems=problems,
        renumbered=renumbered,
    )


def _mend_ids(
    path: Path,
    twice: list[tuple[Any, Any, tuple[int, int]]],
    seen: dict[Any, tuple[int, int]],
    earlier: Earlier,
    spans: dict[Any, list[tuple[int, int]]],
    problems: list[Problem],
) -> dict[tuple[int, int], int]:
    """New ids by position, for objects (image, id, position) whose own is taken or is none."""
    numbers = (int(k) for k in (*seen, *earlier.annotations) if not isinstance(k, str))
    largest = max(numbers, default=0) if twice else 0
    renumbered = {}
    for image_id, number, span in twice:
        kind, detail = "annotation without an id", f"{number!r:.40}"
        if _is_id(number):
            file, first = (path, seen[number]) if number in seen else earlier.annotations[number]
            kind, detail = "duplicate annotation id", "another object"
            if read_elements(file, [first]) == read_elements(path, [span]):
                detail = "the same object again; one copy is kept"
                problems.append(Problem(kind, "repaired", image_id, number, detail))
                continue
        largest += 1
        renumbered[span] = largest
        seen[largest] = span
        spans[image_id].append(span)
        detail += f"; it gets the id {largest}"
        problems.append(Problem(kind, "repaired", image_id, number, detail))
    return renumbered


def _classes(schema: Schema, listed: list[Any], problems: list[Problem]) -> list[dict]:
    """The categories in the order of their ids: the schema's own, or those that the file lists."""
    if schema.categories is not None:
        names = {c["id"]: c["name"] for c in schema.categories}
        for category in filter(lambda c: isinstance(c, dict), listed):
            number, name = _key(category.get("id")), category.get("name")
            if isinstance(name, str) and name.lower() != names.get(number, name.lower()):
                detail = f"{number}: {name!r:.40} in the file, {names[number]!r} here"
                problems.append(Problem("category of another name", "noted", None, None, detail))
        return schema.categories
    found: dict[int, dict] = {}
    for category in listed:
        detail = f"{category!r:.80}"
        if not (
            isinstance(category, dict)
            and isinstance(category.get("id"), int)
            and isinstance(category.get("name"), str)
        ):
            kind = "category without a whole number as id, or without a name"
            problems.append(Problem(kind, "error", None, None, detail))
        elif category["id"] in found:
            problems.append(Problem("duplicate category id", "error", None, None, detail))
        else:
            found[category["id"]] = category
    return [found[k] for k in sorted(found)]


def _key(value: Any) -> Any:
    """An id as a dictionary key; files with a list or an object for an id exist."""
    return value if isinstance(value, int | float | str | None) else repr(value)


def _is_id(value: Any) -> bool:
    """Whether a value can serve as an id."""
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


def _is_ascii(entry: dict) -> bool:
    """Whether an entry that was decoded byte by byte is as it is meant."""
    return all(text.isascii() for text in entry.values() if isinstance(text, str))


def _add_image(entry: Any, images: dict[Any, dict], problems: list[Problem]) -> None:
    number = entry.get("id") if isinstance(entry, dict) else None
    if not _is_id(number):
        detail = f"of the list of images: {entry!r:.40}"
        problems.append(Problem("unreadable entry", "skipped", None, None, detail))
    elif number not in images:
        images[number] = entry
    elif entry.get("file_name") == images[number].get("file_name"):
        problems.append(Problem("duplicate image id", "repaired", number, None, "the same image"))
    else:
        names = f"{images[number].get('file_name')} is kept, {entry.get('file_name')} is not"
        problems.append(Problem("duplicate image id", "skipped", number, None, names))


def entries_of(index: FileIndex, image_id: Any) -> list[dict]:
    """The file's own entries of one image, numbered anew where ids were given twice."""
    spans = index.spans.get(image_id, [])
    entries = read_elements(index.path, spans)
    return [
        entry | {"id": index.renumbered[span]} if span in index.renumbered else entry
        for entry, span in zip(entries, spans, strict=True)
    ]


# ------------------------------------------------------------------------------ the image files


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), folder]) == folder


def image_path(root: str | Path, name: str) -> str:
    """The path of an image in its folder.

    Raises:
        ValueError: the name leads out of the folder.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts):
        raise ValueError(f"{name!r} leads out of the image folder")
    return os.path.join(root, name)


def missing_images(image_root: str | Path) -> str:
    """A sentence, if a folder of images is not there or empty; else ""."""
    root = Path(image_root)
    if root.is_dir() and next(root.iterdir(), None) is not None:
        return ""
    what = "is empty" if root.is_dir() else "is not there"
    return f"the folder of the images, {root}, {what}: data/README.md says where to get them"


def check_image(
    root: Path,
    record: dict,
    *,
    quick: bool = False,
    decode: bool = False,
    allow_links: bool = False,
) -> Problem | None:
    """Look for an image on disk: there, inside its folder, readable, of the recorded size.

    ``record["file_name"]`` is corrected if the file's name on disk is in Latin-1.

    Args:
        quick: read header and end alone, not the checksums of a PNG; other formats than PNG and
            JPEG have nothing but pixels to look at.
        decode: decode every pixel.
        allow_links: accept links that lead out of the folder.
    """

    def problem(kind: str, detail: str, action: str = "skipped") -> Problem:
        detail = detail.encode("utf-8", "backslashreplace").decode()
        return Problem(kind, action, record["image_id"], None, detail)

    path, found = record["file_name"], None
    if not os.path.lexists(path):
        name = os.path.relpath(path, root)
        try:
            latin = os.path.join(root, os.fsdecode(name.encode("latin-1")))
        except UnicodeEncodeError:
            latin = path
        if not os.path.lexists(latin):
            return problem("missing image", path)
        found = problem("file name in Latin-1", f"{name} is {latin} on disk", "repaired")
        path = record["file_name"] = latin
    if not allow_links and not _is_within(path, os.path.realpath(root)):
        return problem("link out of the folder", f"{path} leads to {os.path.realpath(path)}")
    try:
        with Image.open(path) as image:
            size = image.size
            # What lies on its side is read upright. (Without asking, a PNG would be decoded.)
            oriented = image.format == "JPEG" or "exif" in image.info
            if oriented and 5 <= image.getexif().get(0x0112, 1) <= 8:
                size = size[::-1]
            ends = image.format in END_MARKS and _has_end(path, END_MARKS[image.format])
            if image.format == "PNG" and not decode and not (quick and ends):
                image.verify()
            elif decode or not ends:
                image.load()  # some without that mark are whole; the others say what is wrong
    except UNREADABLE as error:
        kind = "unreadable image" if os.path.exists(path) else "missing image"
        return problem(kind, f"{path}: {error}")
    if record["height"] is None:
        record["height"], record["width"] = size[1], size[0]
    if size != (record["width"], record["height"]):
        there, here = "{} x {}".format(*size), f"{record['width']} x {record['height']}"
        return problem("image of another size", f"{path} is {there}, its record says {here}")
    return found


END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def _has_end(path: str, mark: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return mark in file.read()


# ------------------------------------------------------------------------------- a single image


class ImageResult(NamedTuple):
    """One image, read."""

    record: dict | None  # None: the image cannot be used
    objects: int  # in the file
    problems: list[Problem]


def _whole(number: Any) -> int | None:
    """A side in pixels, also where the file writes it as 427.0; else None."""
    if isinstance(number, int | float) and 1 <= number <= LARGEST_SIDE:
        return int(number) if number == int(number) else None
    return None


def _number(value: Any) -> float:
    """A number of a file; NaN if it is none, or too large for a float."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def read_image_objects(
    image: dict,
    objects: Sequence[FileObject],
    contiguous: dict[Any, int],
    image_root: str | Path,
    *,
    images_too: bool = False,
    quick: bool = False,
    decode: bool = False,
    allow_links: bool = False,
) -> ImageResult:
    """Turn one image of a file and its objects into an internal record.

    Args:
        image: the file's own entry.
        contiguous: category ids of the file -> [0, C).
        images_too: look at the image file as well; see :func:`check_image`.
    """
    record = {
        "file_name": "",
        "image_id": image.get("id"),
        "height": _whole(image.get("height")),
        "width": _whole(image.get("width")),
        "annotations": [],
    }
    problems: list[Problem] = []
    fatal = None
    try:
        record["file_name"] = image_path(image_root, str(image["file_name"]))
    except KeyError:
        fatal = Problem("image without a file name", "skipped", record["image_id"], None, "")
    except ValueError as error:
        kind = "image path out of the folder"
        fatal = Problem(kind, "skipped", record["image_id"], None, str(error))
    if record["height"] is None or record["width"] is None:
        if image.keys() & {"height", "width"}:
            given = f"{image.get('height')!r:.40} x {image.get('width')!r:.40}"
            kind, detail = "bad image size", f"{given}, taken from the masks or the image instead"
            problems.append(Problem(kind, "repaired", record["image_id"], None, detail))
        record["height"], record["width"] = _size_from(objects)
    if not fatal and (images_too or record["height"] is None):
        options = {"quick": quick, "decode": decode, "allow_links": allow_links}
        found = check_image(Path(image_root), record, **options)
        if found is not None and found.action == "skipped":
            fatal = found
        elif found is not None:
            problems.append(found)
    if fatal:
        return ImageResult(None, len(objects), [fatal._replace(lost=len(objects))])

    for found in objects:
        annotation = _internal_annotation(found, contiguous, record, problems)
        if annotation is not None:
            record["annotations"].append(annotation)
    _add_occluders(record["annotations"], {o.id: o for o in objects})
    return ImageResult(record, len(objects), problems)


def _size_from(objects: Sequence[FileObject]) -> tuple[int | None, int | None]:
    """The size that the RLEs of an image agree on."""
    masks = [m for o in objects for m in (o.amodal, o.visible) if isinstance(m, dict)]
    given = [m.get("size") for m in masks]
    sizes = {
        (_whole(size[0]), _whole(size[1]))
        for size in given
        if isinstance(size, list) and len(size) == 2 and all(map(_whole, size))
    }
    return sizes.pop() if len(sizes) == 1 else (None, None)


def _internal_annotation(
    found: FileObject, contiguous: dict[Any, int], record: dict, problems: list[Problem]
) -> dict | None:
    """The internal form of one object; None, and why, if it cannot be used."""

    def note(kind: str, action: str, detail: str = "") -> None:
        lost = int(action == "skipped")
        problems.append(Problem(kind, action, record["image_id"], found.id, detail, lost))

    size = record["height"], record["width"]
    if _key(found.category_id) not in contiguous:
        return note("unknown category id", "skipped", _short(found.category_id))
    try:
        amodal, mended = to_rle(found.amodal or [], *size)
    except (ValueError, TypeError) as error:
        return note("bad amodal mask", "skipped", str(error))
    for text in mended:
        note("bad polygon", "repaired", f"amodal mask: {text}")
    whole = area(amodal)
    if not whole:
        return note("empty amodal mask", "skipped")

    try:
        visible = _visible(found, amodal, size, note)
    except (ValueError, TypeError) as error:
        return note("bad visible mask", "skipped", str(error))
    seen = area(visible)
    inside = intersection(amodal, visible)
    kept = area(inside)
    if not seen:
        note("empty visible mask", "repaired", "kept as fully hidden, occlusion rate 1")
    elif not kept:
        return note("visible mask apart from the amodal one", "skipped", f"{seen} pixels")
    elif kept < seen:
        # Drawn by hand or rasterised apart, the visible mask can leave the amodal one by a pixel.
        detail = f"{seen - kept} of {seen} pixels cut away"
        note("visible mask not inside the amodal one", "repaired", detail)

    rate = 1 - kept / whole
    if found.rate is not None:
        own = _number(found.rate)
        if abs(own - rate) <= RATE_TOLERANCE:
            rate = own
        else:
            detail = f"{_short(found.rate)}, the masks say {rate:.4f}"
            note("occlusion rate differs", "repaired", detail)
    if found.box is not None:
        _look_at_box(found.box, "box", "repaired", note)
    if found.visible_box is not None:
        _look_at_box(found.visible_box, "visible box", "noted", note)
    if isinstance(found.area, int | float) and not (
        abs(_number(found.area) - whole) <= max(AREA_TOLERANCE * whole, 20)
    ):
        note("area differs", "noted", f"{_short(found.area)}, the mask has {whole}")
    if found.occluders is not None and not (
        isinstance(found.occluders, list) and all(map(_is_id, found.occluders))
    ):
        note("bad occluders", "repaired", f"{_short(found.occluders)}: no list of ids, left out")
        found.occluders = None
    x, y, w, h = mask_util.toBbox(amodal).tolist()
    return {
        "id": found.id,
        "category_id": contiguous[found.category_id],
        "bbox": [x, y, x + w, y + h],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": amodal,
        "visible_mask": inside,
        "occlusion_rate": min(max(rate, 0.0), 1.0),
        "iscrowd": int(bool(found.iscrowd)),
    }


def _visible(found: FileObject, amodal: RLE, size: tuple[int, int], note: Any) -> RLE:
    if found.visible is None and found.occlusion is not None:
        hidden, _ = to_rle(found.occlusion, *size)
        hidden_mask = mask_util.decode(hidden)
        return mask_util.encode(np.asfortranarray(mask_util.decode(amodal) & ~hidden_mask & 1))
    if found.visible is None:
        return amodal
    if isinstance(found.visible, list) and all(
        isinstance(p, list) and len(p) < 6 for p in found.visible
    ):
        # No outline at all, or none that encloses a pixel: KINS' way to say that nothing is seen.
        for points in (len(p) // 2 for p in found.visible if p):
            detail = f"visible mask: a polygon of fewer than 3 points ({points})"
            note("bad polygon", "repaired", detail)
        return mask_util.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
    visible, mended = to_rle(found.visible, *size)
    for text in mended:
        note("bad polygon", "repaired", f"visible mask: {text}")
    return visible


def _look_at_box(box: Any, name: str, action: str, note: Any) -> None:
    """Boxes are taken from the masks anyhow; that the file's own is bad is worth a line."""
    numbers = [_number(k) for k in box] if isinstance(box, list) else []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        note(f"NaN or nonsense in the {name}", action, f"{_short(box)}, the mask tells it")
    elif numbers[2] <= 0 or numbers[3] <= 0:
        note(f"zero-size {name}", action, f"{_short(box)}, the mask tells it")


def _add_occluders(annotations: list[dict], objects: dict[Any, FileObject]) -> None:
    """``occluders`` where the file says them, by name or by order."""
    layers = {a["id"]: objects[a["id"]].layer for a in annotations}
    there = set(layers)
    for behind in annotations:
        named, layer = objects[behind["id"]].occluders, layers[behind["id"]]
        if named is not None:
            behind["occluders"] = [number for number in named if number in there]
        elif layer is not None:
            behind["occluders"] = [
                front["id"]
                for front in annotations
                if layers[front["id"]] is not None
                and layers[front["id"]][0] == layer[0]
                and 0 < layers[front["id"]][1] < layer[1]
                and _covers(front, behind)
            ]


def _covers(front: dict, behind: dict) -> bool:
    """Whether some hidden pixel of ``behind`` belongs to ``front``."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = front["bbox"], behind["bbox"]
    if a1 <= c0 or c1 <= a0 or b1 <= d0 or d1 <= b0:
        return False
    overlap = intersection(front["segmentation"], behind["segmentation"])
    return area(overlap) > area(intersection(overlap, behind["visible_mask"]))


# -------------------------------------------------------------------------------- many images


class _Job(NamedTuple):
    """Some images of a file, for a worker process: positions, not content."""

    index: FileIndex
    image_root: str
    options: dict[str, bool]


def _read_job(job: _Job) -> list[ImageResult]:
    contiguous = {k: i for i, k in enumerate(job.index.category_ids)}
    results = []
    for image_id in job.index.images:
        try:
            results.append(_read_image(job, image_id, contiguous))
        except Exception as error:  # one image must not be the end of a report on 15,000
            logger.debug("image %s", image_id, exc_info=True)
            lost = len(job.index.spans.get(image_id, ()))
            kind, detail = "image that cannot be read", f"{error!r:.200}"
            problem = Problem(kind, "skipped", image_id, None, detail, lost)
            results.append(ImageResult(None, lost, [problem]))
    return results


def _read_image(job: _Job, image_id: Any, contiguous: dict[Any, int]) -> ImageResult:
    objects, problems = [], []
    for entry in entries_of(job.index, image_id):
        try:
            objects += job.index.schema.objects(entry)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            lost, detail = count_objects(entry), f"{error!r:.200}"
            problems.append(
                Problem("unreadable entry", "skipped", image_id, entry.get("id"), detail, lost)
            )
    image = job.index.images[image_id]
    result = read_image_objects(image, objects, contiguous, job.image_root, **job.options)
    return result._replace(
        objects=result.objects + sum(p.lost for p in problems), problems=problems + result.problems
    )


def _part(index: FileIndex, image_ids: Sequence[Any]) -> FileIndex:
    """The part of an index that these images need."""
    spans = {k: index.spans[k] for k in image_ids if k in index.spans}
    return FileIndex(
        path=index.path,
        schema=index.schema,
        images={k: index.images[k] for k in image_ids},
        spans=spans,
        class_names=index.class_names,
        category_ids=index.category_ids,
        renumbered={
            s: index.renumbered[s] for v in spans.values() for s in v if s in index.renumbered
        }
        if index.renumbered
        else {},
    )


def read_images(
    index: FileIndex,
    image_root: str | Path,
    *,
    workers: int | None = None,
    **options: bool,
) -> Iterator[ImageResult]:
    """Read all images of an indexed file, in order.

    Args:
        workers: processes; by default one per core for large files, else this one.
        options: see :func:`read_image_objects`.
    """
    if workers is None:
        workers = default_workers() if len(index.images) >= IN_PARALLEL else 1
    ids = list(index.images)
    jobs = (
        _Job(_part(index, ids[k : k + CHUNK]), str(image_root), options)
        for k in range(0, len(ids), CHUNK)
    )
    with ordered_pool(workers) as in_order:
        for results in in_order(_read_job, jobs):
            yield from results


def load_annotations(
    json_file: str | Path,
    image_root: str | Path,
    *,
    max_skipped: float | None = None,
    workers: int | None = None,
    look_at_images: bool = False,
    allow_links: bool = False,
) -> AmodalAnnotations:
    """Read a KINS (2019 or 2020), COCOA, COCOA-cls, D2SA or tabletop file, or your own.

    The schema is told by the fields of the annotations, never by the file's name.

    Args:
        json_file: the annotation file; for raw COCOA also a folder with one file per image.
        image_root: the folder that its ``file_name`` entries are relative to.
        max_skipped: share of the objects that may be left out, in [0, 1]; by default 0.01, or what
            the file ``max_skipped.txt`` beside the annotations says.
        workers: processes; by default one per core for large files.
        look_at_images: leave out images that are missing, cut off, of another size or outside their
            folder. Only headers are read; :func:`arcnn.data.check.check` looks closer.
        allow_links: accept links that lead out of the image folder.

    Raises:
        FileNotFoundError: no such file, or no images where they are to be looked at.
        AnnotationError: truncated or not JSON, an unknown schema, or too many objects that cannot
            be used; names the first of them.
    """
    json_file = Path(json_file)
    max_skipped = allowed_share(json_file) if max_skipped is None else max_skipped
    if look_at_images and (sentence := missing_images(image_root)):
        raise FileNotFoundError(
            f"{json_file}: {sentence}. To do without them, move the annotation file away."
        )
    options = {"images_too": look_at_images, "quick": True, "allow_links": allow_links}
    records, problems, objects = [], [], 0
    files = annotation_files(json_file)
    earlier = Earlier() if len(files) > 1 else None
    for file in files:
        index = index_file(file, earlier)
        found = list(index.problems)
        for problem in found:
            if problem.action == "error":
                cure = "Repair the file, or fetch or write it again."
                raise AnnotationError(f"{file} cannot be used: {problem}. {cure}")
        objects += sum(p.lost for p in found)
        for result in read_images(index, image_root, workers=workers, **options):
            objects += result.objects
            found += result.problems
            if result.record is not None:
                records.append(result.record)
        problems += [name_file(p, file, json_file) for p in found]
    lost = sum(p.lost for p in problems)
    if too_many_lost(lost, objects, max_skipped):
        left_out = [p for p in problems if p.lost]
        shown = "; ".join(map(str, left_out[:5])) + ("; ..." if len(left_out) > 5 else "")
        raise AnnotationError(
            f"{json_file}: {lost} of {objects} objects cannot be used, more than "
            f"{max_skipped:.2%}: {shown}. Repair or remove them, or allow more with max_skipped; "
            "`python -m arcnn.data check` lists all of them."
        )
    for (action, kind), number in Counter((p.action, p.kind) for p in problems).items():
        logger.info("%s: %s, %s: %d", json_file, kind, action, number)
    return AmodalAnnotations(
        records=records,
        class_names=index.class_names,
        category_ids=index.category_ids,
        problems=tuple(problems),
        schema=index.schema.name,
    )


def name_file(problem: Problem, file: Path, json_file: Path) -> Problem:
    """The problem with the name of its file, where ``json_file`` is a folder of several."""
    return problem if file == json_file else problem._replace(file=file.name)


def to_json_rle(rle: RLE) -> dict[str, Any]:
    """An RLE that JSON can hold: text instead of bytes."""
    counts = rle["counts"]
    return {
        "size": [int(k) for k in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def dumps(content: Any) -> str:
    """Compact JSON with sorted keys; refuses NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
