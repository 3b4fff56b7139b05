"""The objects of an image, as a file has them -> the internal record, and what was wrong."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from arcnn.data.file_index import FileIndex, as_key, entries_of, is_id, part_of_index
from arcnn.data.image_files import check_image, image_path
from arcnn.data.masks import RLE, area, intersection, to_rle
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.problems import Problem, short
from arcnn.data.schemas import FileObject, count_objects

logger = logging.getLogger(__name__)

RATE_TOLERANCE = 0.01  # between a file's occlusion rate and the one of its masks
AREA_TOLERANCE = 0.05  # relative; polygons turned into pixels elsewhere differ a little
CHUNK = 32  # images per job of a worker process
IN_PARALLEL = 1000  # images; below that, starting processes takes longer than reading
LARGEST_SIDE = 65_535  # pixels: JPEG's limit; more overflows the run lengths of pycocotools


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
    if as_key(found.category_id) not in contiguous:
        return note("unknown category id", "skipped", short(found.category_id))
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
            detail = f"{short(found.rate)}, the masks say {rate:.4f}"
            note("occlusion rate differs", "repaired", detail)
    if found.box is not None:
        _look_at_box(found.box, "box", "repaired", note)
    if found.visible_box is not None:
        _look_at_box(found.visible_box, "visible box", "noted", note)
    if isinstance(found.area, int | float) and not (
        abs(_number(found.area) - whole) <= max(AREA_TOLERANCE * whole, 20)
    ):
        note("area differs", "noted", f"{short(found.area)}, the mask has {whole}")
    if found.occluders is not None and not (
        isinstance(found.occluders, list) and all(map(is_id, found.occluders))
    ):
        note("bad occluders", "repaired", f"{short(found.occluders)}: no list of ids, left out")
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
        note(f"NaN or nonsense in the {name}", action, f"{short(box)}, the mask tells it")
    elif numbers[2] <= 0 or numbers[3] <= 0:
        note(f"zero-size {name}", action, f"{short(box)}, the mask tells it")


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
        _Job(part_of_index(index, ids[k : k + CHUNK]), str(image_root), options)
        for k in range(0, len(ids), CHUNK)
    )
    with ordered_pool(workers) as in_order:
        for results in in_order(_read_job, jobs):
            yield from results
