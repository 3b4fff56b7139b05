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
``{"size": [H, W], "counts": bytes | str}``. The files' own field names occur in
:mod:`arcnn.data.schemas` alone.

Real files have glitches. What can be mended is mended and what cannot is left out; each case is a
:class:`Problem`, and more of the latter than allowed is an error.
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
from arcnn.data.schemas import BY_NAME, FileObject, Schema, drop_unused_rider, find_schema

logger = logging.getLogger(__name__)

MAX_SKIPPED = 0.01  # share of a file's objects that may be left out before that is an error
RATE_TOLERANCE = 0.01  # between a file's occlusion rate and the one of its masks
AREA_TOLERANCE = 0.05  # relative; polygons turned into pixels elsewhere differ a little
CHUNK = 32  # images per job of a worker process
IN_PARALLEL = 1000  # images; below that, starting processes takes longer than reading


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

    def __str__(self) -> str:
        where = [] if self.annotation_id is None else [f"annotation {self.annotation_id}"]
        where += [] if self.image_id is None else [f"image {self.image_id}"]
        text = f"{' of '.join(where)}: " if where else ""
        return f"{text}{self.kind} ({self.detail})" if self.detail else f"{text}{self.kind}"


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
    annotations: int = 0  # entries in the file, also those left out
    renumbered: dict[tuple[int, int], int] = field(default_factory=dict)  # new ids by position


def _image_of_entry(entry: dict) -> dict:
    """COCOA's one file per image has no list of images: name from the address, size later."""
    name = PurePosixPath(str(entry.get("url", ""))).name or f"{entry.get('image_id')}.jpg"
    return {"id": entry.get("image_id"), "file_name": name}


def index_file(path: str | Path) -> FileIndex:
    """Scan an annotation file once.

    What can be read of a file that is cut off is indexed; the rest is a problem.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: not JSON from the start, or of no known schema.
    """
    path = Path(path)
    images: dict[Any, dict] = {}
    problems: list[Problem] = []
    seen: dict[Any, tuple[int, int]] = {}
    spans: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    renumbered, twice = {}, []
    categories: list[dict] | None = None
    fields: set[str] = set()
    used: Counter = Counter()
    keys, count, raw_regions = set(), 0, []
    single: dict[str, Any] = {}
    try:
        for key, value, start, end in scan(path):
            keys.add(key)
            if key == "annotations":
                count += 1
                if not isinstance(value, dict):
                    problems.append(
                        Problem("unreadable entry", "skipped", None, None, f"{value!r:.40}")
                    )
                    continue
                if len(seen) < 100:
                    fields.update(value)
                used[_key(value.get("category_id"))] += 1
                number, image_id = _key(value.get("id")), _key(value.get("image_id"))
                if number in seen:
                    twice.append((image_id, number, start, end))
                    continue
                seen[number] = (start, end)
                spans[image_id].append((start, end))
            elif key == "images" and isinstance(value, dict):
                entry = value if _is_ascii(value) else read_elements(path, [(start, end)])[0]
                _add_image(entry, images, problems)
            elif key == "categories" and isinstance(value, dict):
                categories = categories or []
                categories.append(read_elements(path, [(start, end)])[0])
            elif key == "regions":
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
        fields, count = {"regions"}, 1
        images[single.get("image_id")] = _image_of_entry(single)
        spans[single.get("image_id")].append((0, path.stat().st_size))
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

    largest = max((k for k in seen if isinstance(k, int)), default=0) if twice else 0
    for image_id, number, start, end in twice:
        first, again = read_elements(path, [seen[number], (start, end)])
        if first == again:
            detail = "the same object again; one copy is kept"
        else:
            largest += 1
            renumbered[start, end] = largest
            spans[image_id].append((start, end))
            detail = f"another object; it gets the id {largest}"
        problems.append(Problem("duplicate annotation id", "repaired", image_id, number, detail))

    for image_id in [k for k in spans if k not in images]:
        for span in spans.pop(image_id):
            number = read_elements(path, [span])[0].get("id")
            problems.append(Problem("no such image", "skipped", image_id, number, ""))
    categories = schema.categories or categories or []
    categories = drop_unused_rider(schema, categories, set(used))
    categories = sorted(categories, key=lambda c: c["id"])
    return FileIndex(
        path=path,
        schema=schema,
        images=images,
        spans=dict(spans),
        class_names=[c["name"] for c in categories],
        category_ids=[c["id"] for c in categories],
        problems=problems,
        annotations=count,
        renumbered=renumbered,
    )


def _key(value: Any) -> Any:
    """An id as a dictionary key; files with a list or an object for an id exist."""
    return value if isinstance(value, int | float | str | None) else repr(value)


def _is_ascii(entry: dict) -> bool:
    """Whether an entry that was decoded byte by byte is as it is meant."""
    return all(text.isascii() for text in entry.values() if isinstance(text, str))


def _add_image(entry: dict, images: dict[Any, dict], problems: list[Problem]) -> None:
    number = _key(entry.get("id"))
    if number not in images:
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


def check_image(
    root: Path, record: dict, *, decode: bool = False, allow_links: bool = False
) -> Problem | None:
    """Look for an image on disk: there, inside its folder, readable, of the recorded size.

    ``record["file_name"]`` is corrected if the file's name on disk is in Latin-1.

    Args:
        decode: decode every pixel, not just header, checksums (PNG) and end mark (JPEG).
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
            # A JPEG that lies on its side is read upright. (Asked for it, a PNG would be decoded.)
            if image.format == "JPEG" and 5 <= image.getexif().get(0x0112, 1) <= 8:
                size = size[::-1]
            if image.format == "PNG" and not decode:
                image.verify()
            elif decode or image.format != "JPEG" or not _ends_like_jpeg(path):
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "unreadable image" if os.path.exists(path) else "missing image"
        return problem(kind, f"{path}: {error}")
    if record["height"] is None:
        record["height"], record["width"] = size[1], size[0]
    if size != (record["width"], record["height"]):
        there, here = "{} x {}".format(*size), f"{record['width']} x {record['height']}"
        return problem("image of another size", f"{path} is {there}, its record says {here}")
    return found


def _ends_like_jpeg(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return b"\xff\xd9" in file.read()


# ------------------------------------------------------------------------------- a single image


class ImageResult(NamedTuple):
    """One image, read."""

    record: dict | None  # None: the image cannot be used
    objects: int  # in the file
    problems: list[Problem]


def _whole(number: Any) -> int | None:
    """A positive whole number, also where the file writes it as 427.0; else None."""
    if isinstance(number, int | float) and math.isfinite(number) and number >= 1:
        return int(number) if number == int(number) else None
    return None


def read_image_objects(
    image: dict,
    objects: Sequence[FileObject],
    contiguous: dict[Any, int],
    image_root: str | Path,
    *,
    images_too: bool = False,
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
    except (KeyError, ValueError) as error:
        fatal = Problem(
            "image path out of the folder", "skipped", image.get("id"), None, str(error)
        )
    if record["height"] is None or record["width"] is None:
        record["height"], record["width"] = _size_from(objects)
    look = images_too or record["height"] is None
    if not fatal and look:
        found = check_image(Path(image_root), record, decode=decode, allow_links=allow_links)
        if found is not None and found.action == "skipped":
            fatal = found
        elif found is not None:
            problems.append(found)
    if fatal:
        return ImageResult(None, len(objects), [fatal])

    for found in objects:
        annotation = _internal_annotation(found, contiguous, record, problems)
        if annotation is not None:
            record["annotations"].append(annotation)
    _add_occluders(record["annotations"], {o.id: o for o in objects})
    return ImageResult(record, len(objects), problems)


def _size_from(objects: Sequence[FileObject]) -> tuple[int | None, int | None]:
    """The size that the RLEs of an image agree on."""
    masks = [m for o in objects for m in (o.amodal, o.visible) if isinstance(m, dict)]
    sizes = {tuple(m["size"]) for m in masks if "size" in m}
    return sizes.pop() if len(sizes) == 1 else (None, None)


def _internal_annotation(
    found: FileObject, contiguous: dict[Any, int], record: dict, problems: list[Problem]
) -> dict | None:
    """The internal form of one object; None, and why, if it cannot be used."""

    def note(kind: str, action: str, detail: str = "") -> None:
        problems.append(Problem(kind, action, record["image_id"], found.id, detail))

    size = record["height"], record["width"]
    if _key(found.category_id) not in contiguous:
        return note("unknown category id", "skipped", f"{found.category_id}")
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
        own = found.rate if isinstance(found.rate, int | float) else math.nan
        if abs(own - rate) <= RATE_TOLERANCE:
            rate = float(own)
        else:
            note("occlusion rate differs", "repaired", f"{found.rate}, the masks say {rate:.4f}")
    if found.box is not None:
        _look_at_box(found.box, note)
    if isinstance(found.area, int | float) and not (
        abs(found.area - whole) <= max(AREA_TOLERANCE * whole, 20)
    ):
        note("area differs", "noted", f"{found.area}, the mask has {whole}")
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
    if isinstance(found.visible, list) and not any(len(p) >= 6 for p in found.visible):
        # No outline at all, or none that encloses a pixel: KINS' way to say that nothing is seen.
        return mask_util.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
    visible, mended = to_rle(found.visible, *size)
    for text in mended:
        note("bad polygon", "repaired", f"visible mask: {text}")
    return visible


def _look_at_box(box: Any, note: Any) -> None:
    """The box is taken from the mask anyhow; that the file's own is bad is worth a line."""
    numbers = isinstance(box, list) and len(box) == 4
    if not numbers or not all(isinstance(k, int | float) and math.isfinite(k) for k in box):
        note("NaN or nonsense in the box", "repaired", f"{box}, taken from the mask instead")
    elif box[2] <= 0 or box[3] <= 0:
        note("zero-size box", "repaired", f"{box}, taken from the mask instead")


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
    for image_id, image in job.index.images.items():
        objects, problems = [], []
        for entry in entries_of(job.index, image_id):
            try:
                objects += job.index.schema.objects(entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                number = entry.get("id")
                problems.append(
                    Problem("unreadable entry", "skipped", image_id, number, repr(error))
                )
        result = read_image_objects(image, objects, contiguous, job.image_root, **job.options)
        results.append(
            ImageResult(result.record, result.objects + len(problems), problems + result.problems)
        )
    return results


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
    images_too: bool = False,
    decode: bool = False,
    allow_links: bool = False,
) -> Iterator[ImageResult]:
    """Read all images of an indexed file, in order.

    Args:
        workers: processes; by default one per core for large files, else this one.
    """
    if workers is None:
        workers = default_workers() if len(index.images) >= IN_PARALLEL else 1
    options = {"images_too": images_too, "decode": decode, "allow_links": allow_links}
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
    max_skipped: float = MAX_SKIPPED,
    workers: int | None = None,
) -> AmodalAnnotations:
    """Read a KINS (2019 or 2020), COCOA, COCOA-cls, D2SA or tabletop file, or your own.

    The schema is told by the fields of the annotations, never by the file's name. Images are not
    looked at; :func:`arcnn.data.check.check` does that.

    Args:
        json_file: the annotation file; for raw COCOA also a folder with one file per image.
        image_root: the folder that its ``file_name`` entries are relative to.
        max_skipped: share of the objects that may be left out, in [0, 1].
        workers: processes; by default one per core for large files.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: truncated or not JSON, an unknown schema, or too many objects that cannot
            be used; names the first of them.
    """
    json_file = Path(json_file)
    files = sorted(json_file.glob("*.json")) if json_file.is_dir() else [json_file]
    if not files:
        raise FileNotFoundError(f"{json_file} holds no *.json")
    parts = [_load_file(file, image_root, max_skipped, workers) for file in files]
    return parts[0]._replace(
        records=[record for part in parts for record in part.records],
        problems=tuple(problem for part in parts for problem in part.problems),
    )


def _load_file(
    json_file: Path, image_root: str | Path, max_skipped: float, workers: int | None
) -> AmodalAnnotations:
    index = index_file(json_file)
    for problem in index.problems:
        if problem.action == "error":
            raise AnnotationError(
                f"{json_file} is not complete JSON ({problem.detail}); fetch or write the file "
                "again."
            )
    records, problems, objects = [], list(index.problems), 0
    for result in read_images(index, image_root, workers=workers):
        problems += result.problems
        objects += result.objects
        if result.record is not None:
            records.append(result.record)
    left_out = [p for p in problems if p.action == "skipped"]
    total = max(objects, index.annotations, 1)
    if len(left_out) > max_skipped * total:
        shown = "; ".join(map(str, left_out[:5])) + ("; ..." if len(left_out) > 5 else "")
        raise AnnotationError(
            f"{json_file}: {len(left_out)} of {total} objects cannot be used, more than "
            f"{max_skipped:.0%}: {shown}. Repair or remove them, or allow more with max_skipped; "
            "`python -m arcnn.data check` lists all of them."
        )
    counts = Counter((p.action, p.kind) for p in problems)
    for (action, kind), number in counts.items():
        logger.info("%s: %s, %s: %d", json_file, kind, action, number)
    return AmodalAnnotations(
        records=records,
        class_names=index.class_names,
        category_ids=index.category_ids,
        problems=tuple(problems),
        schema=index.schema.name,
    )


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
