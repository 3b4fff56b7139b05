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

Which images and annotations a file lists, :mod:`arcnn.data.index` tells. What is wrong and can be
repaired is repaired and what cannot is left out; each case is a :class:`Problem`, and more objects
left out than allowed is an error.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from arcnn.data.image_files import (
    MAX_PIXELS,
    Problem,
    check_image,
    image_path,
    missing_images,
    short,
)
from arcnn.data.index import (
    AnnotationError,
    Annotations,
    FileIndex,
    Notes,
    as_key,
    index_files,
    is_id,
    parse,
    unusable,
)
from arcnn.data.masks import RLE, area, difference, intersection, to_rle
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.schemas import FileObject, count_objects
from arcnn.errors import InputError, MissingError

MAX_SKIPPED = 0.01  # share of the objects that may be left out before that is an error
RATE_TOLERANCE = 0.01  # between a file's occlusion rate and the one of its masks
AT_ONCE = 100  # objects that all others of their cluster are held against
XYXY_ABS = 0  # detectron2's BoxMode.XYXY_ABS; importing it would bring torch into every worker


class AmodalAnnotations(NamedTuple):
    """A parsed annotation file."""

    records: list[dict]
    class_names: list[str]  # length C, by contiguous id
    category_ids: list[int]  # the file's own ids, by contiguous id
    problems: list[Problem]


def load_annotations(
    json_file: str | Path,
    image_root: str | Path,
    *,
    max_skipped: float = MAX_SKIPPED,
    look_at_images: bool = False,
) -> AmodalAnnotations:
    """Read a KINS (2019 or 2020), COCOA, COCOA-cls, D2SA or tabletop file, or your own.

    The fields of the annotations tell the schema, never the file's name.

    Args:
        json_file: the annotation file; for raw COCOA also a folder with one file per image.
        image_root: the folder that its ``file_name`` entries are relative to.
        max_skipped: share of the objects that may be left out, in [0, 1].
        look_at_images: leave out images that are missing, cut off, of another size or outside their
            folder. Only headers and ends are read.

    Raises:
        FileNotFoundError: no such file, or no images where they are to be looked at.
        AnnotationError: truncated or not JSON, an unknown schema, or too many objects that cannot
            be used; names the first of them.
        ValueError: ``max_skipped`` is no share.
    """
    check_share(max_skipped)
    if look_at_images and (sentence := missing_images(image_root)):
        cure = "To do without them, move the annotation file away."
        raise MissingError(f"{json_file}: {sentence}. {cure}")
    folder = ImageFolder(str(image_root), look_at_images)
    records, problems = [], []
    for index in index_files(json_file):
        if isinstance(index, AnnotationError):
            raise index
        for problem in index.problems:
            if problem.action == "error":
                raise unusable(index.path, problem)
        problems += index.problems
        for record, found in read_images(index, folder):
            problems += found
            records += [record] if record else []
    _limit(json_file, problems, sum(len(r["annotations"]) for r in records), max_skipped)
    return AmodalAnnotations(records, index.class_names, list(index.category_ids), problems)


def check_share(max_skipped: float) -> None:
    """Raise ValueError if a share of objects is none."""
    if not 0 <= max_skipped <= 1:  # NaN is not
        raise InputError(f"max_skipped is {max_skipped}: give a share of the objects, in [0, 1].")


def _limit(json_file: str | Path, problems: list[Problem], used: int, max_skipped: float) -> None:
    left_out = [p for p in problems if p.lost]
    lost = sum(p.lost for p in left_out)
    if lost > max_skipped * (used + lost):
        shown = "; ".join(map(str, left_out[:5])) + ("; ..." if len(left_out) > 5 else "")
        raise AnnotationError(
            f"{json_file}: {lost} of {used + lost} objects cannot be used, more than "
            f"{max_skipped:.2%}: {shown}. Repair or remove them, or allow more with max_skipped; "
            "`python -m arcnn.data check` lists all of them."
        )


# ---- Image by image: the file's own entries -> the internal record, and what was wrong


class ImageFolder(NamedTuple):
    """Where the images are, and how closely :func:`check_image` looks at them."""

    root: str
    look: bool  # False: only at those whose size is recorded nowhere
    decode: bool = False  # every pixel


Result = tuple[dict | None, list[Problem]]  # None: the image cannot be used


def read_images(
    index: FileIndex, folder: ImageFolder, workers: int | None = None
) -> Iterator[Result]:
    """Read all images of an indexed file, in order.

    Args:
        workers: processes; by default one per core for large files, else this one.
    """
    if workers is None:  # for few images, starting processes takes longer than reading
        many = 200 if folder.look and folder.decode else 1000
        workers = default_workers() if len(index.images) >= many else 1
    # A process gets its images' own annotations, as they stand in the file, with each 32 images.
    bare = index._replace(images=(), problems=Notes(index.problems.file))
    with ordered_pool(workers, chunksize=32) as in_order:
        yield from in_order(functools.partial(_read_entry, bare, folder), index.images)


def _read_entry(index: FileIndex, folder: ImageFolder, entry: tuple[dict, Annotations]) -> Result:
    image, annotations = entry
    notes = Notes(index.problems.file, image["id"])
    items: list[FileObject] = []
    for element, number in annotations:
        content = parse(element)
        try:
            items += index.schema.objects(content | {"id": number})
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            detail = f"{error!r:.200}" if isinstance(content, dict) else content
            lost = count_objects(content)
            notes.add("unreadable entry", "skipped", detail, annotation_id=number, lost=lost)
    height, width = _size(image, notes)
    record = {"file_name": "", "image_id": image["id"], "height": height, "width": width}
    if problem := _find_image(image, record, folder):
        unusable = problem.action == "skipped"
        notes.append(problem._replace(lost=len(items) if unusable else 0, file=notes.file))
        if unusable:
            return None, notes
    made = (_internal_annotation(item, index.category_ids, record, notes) for item in items)
    record["annotations"] = [annotation for annotation in made if annotation is not None]
    _add_occluders(record["annotations"], {item.id: item for item in items})
    return record, notes


def _find_image(image: dict, record: dict, folder: ImageFolder) -> Problem | None:
    """Fill in the path of an image; look at the file if that is wanted, or needed for its size."""
    if "file_name" not in image:
        return Problem("image without a file name", "skipped", image["id"], None, "")
    try:
        record["file_name"] = image_path(folder.root, str(image["file_name"]))
    except ValueError as error:
        return Problem("image path out of the folder", "skipped", image["id"], None, str(error))
    if not folder.look and record["height"] is not None:
        return None
    return check_image(Path(folder.root), record, decode=folder.decode)


def _side(number: Any) -> int | None:
    """A side in pixels, also where the file writes it as 427.0; else None."""
    fits = isinstance(number, int | float) and 1 <= number <= MAX_PIXELS
    return int(number) if fits and number == int(number) else None


def _size(image: dict, notes: Notes) -> list[int | None]:
    """Height and width as recorded, else None, twice: the image tells them."""
    size = [_side(image.get(key)) for key in ("height", "width")]
    if None not in size and size[0] * size[1] <= MAX_PIXELS:
        return size
    if image.keys() & {"height", "width"}:
        given = f"{image.get('height')!r:.40} x {image.get('width')!r:.40}"
        notes.add("bad image size", "repaired", f"{given}, taken from the image instead")
    return [None, None]


# ---- Object by object

Note = Callable[..., None]  # kind, action, detail


def _internal_annotation(
    item: FileObject, category_ids: dict[int, int], record: dict, notes: Notes
) -> dict | None:
    """The internal form of one object; None, and why, if it cannot be used."""

    def note(kind: str, action: str, detail: str = "") -> None:
        lost = int(action == "skipped")
        notes.add(kind, action, detail, annotation_id=item.id, lost=lost)

    category = category_ids.get(as_key(item.category_id))
    if category is None:
        return note("unknown category id", "skipped", short(item.category_id))
    if item.iscrowd not in (None, 0, 1):  # "0" is no 0, and would be a crowd
        return note("bad iscrowd", "skipped", f"{short(item.iscrowd)}: neither 0 nor 1")
    masks = _read_masks(item, (record["height"], record["width"]), note)
    if masks is None:
        return None
    amodal, visible = masks
    rate = _occlusion_rate(item.rate, 1 - area(visible) / area(amodal), note)
    named = item.occluders
    if named is not None and not (isinstance(named, list) and all(map(is_id, named))):
        note("bad occluders", "repaired", f"{short(named)}: no list of ids, left out")
        item.occluders = None
    x, y, w, h = mask_util.toBbox(amodal).tolist()
    return {
        "id": item.id,
        "category_id": category,
        "bbox": [x, y, x + w, y + h],
        "bbox_mode": XYXY_ABS,
        "segmentation": amodal,
        "visible_mask": visible,
        "occlusion_rate": rate,
        "iscrowd": int(bool(item.iscrowd)),
    }


def _occlusion_rate(given: Any, measured: float, note: Note) -> float:
    """The file's own rate if the masks agree, else theirs."""
    # First of all within bounds: some numbers of a file are too large for a float.
    number = isinstance(given, int | float) and -1 < given < 2
    if number and abs(given - measured) <= RATE_TOLERANCE:
        return min(max(float(given), 0.0), 1.0)
    if given is not None:
        detail = f"{short(given)}, the masks say {measured:.4f}"
        note("occlusion rate differs", "repaired", detail)
    return measured


def _read_masks(item: FileObject, size: tuple[int, int], note: Note) -> tuple[RLE, RLE] | None:
    """The amodal mask, and the visible one inside it; None if one of them cannot be used."""
    kind = "bad amodal mask"
    try:
        amodal = _read_mask(item.amodal or [], size, "amodal", note)
        if not area(amodal):
            return note("empty amodal mask", "skipped")
        kind = "bad visible mask"
        visible = _visible_mask(item, amodal, size, note)
    except (ValueError, TypeError) as error:
        return note(kind, "skipped", str(error))
    inside = intersection(amodal, visible)
    given, kept = area(visible), area(inside)
    if not given:
        note("empty visible mask", "repaired", "kept as fully hidden, occlusion rate 1")
    elif not kept:
        return note("visible mask apart from the amodal one", "skipped", f"{given} pixels")
    elif kept < given:
        # Drawn by hand or rasterised apart, the visible mask can leave the amodal one by a pixel.
        detail = f"{given - kept} of {given} pixels cut away"
        note("visible mask not inside the amodal one", "repaired", detail)
    return amodal, inside


def _read_mask(mask: Any, size: tuple[int, int], name: str, note: Note) -> RLE:
    rle, fixed = to_rle(mask, *size)
    for text in fixed:
        note("bad polygon", "repaired", f"{name} mask: {text}")
    return rle


def _visible_mask(item: FileObject, amodal: RLE, size: tuple[int, int], note: Note) -> RLE:
    visible = item.visible
    if visible is None and item.occlusion is not None:
        return difference(amodal, to_rle(item.occlusion, *size)[0])
    if visible is None:
        return amodal
    if isinstance(visible, list) and all(isinstance(p, list) and len(p) < 6 for p in visible):
        # No outline at all, or none that encloses a pixel: KINS' way to say that nothing is seen.
        for points in (len(p) // 2 for p in visible if p):
            detail = f"visible mask: a polygon of fewer than 3 points ({points})"
            note("bad polygon", "repaired", detail)
        return mask_util.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
    return _read_mask(visible, size, "visible", note)


def _add_occluders(annotations: list[dict], items: dict[Any, FileObject]) -> None:
    """``occluders`` where the file gives them, by name or by order."""
    present = {a["id"] for a in annotations}
    clusters: dict[Any, list[dict]] = {}
    for annotation in annotations:
        item = items[annotation["id"]]
        if item.occluders is not None:
            annotation["occluders"] = [number for number in item.occluders if number in present]
        elif item.layer is not None:
            clusters.setdefault(as_key(item.layer[0]), []).append(annotation)
    for members in clusters.values():
        orders = np.array([items[a["id"]].layer[1] for a in members])[:, None]
        fronts = [a["segmentation"] for a in members]
        for k in range(0, len(members), AT_ONCE):
            some = slice(k, k + AT_ONCE)
            hidden = [difference(a["segmentation"], a["visible_mask"]) for a in members[some]]
            # An object is in front of another if it comes first and some hidden pixel is its own.
            covers = mask_util.iou(fronts, hidden, [0] * len(hidden)) > 0
            covers &= (orders > 0) & (orders < orders[some].T)
            for behind, column in zip(members[some], covers.T, strict=True):
                behind["occluders"] = [members[n]["id"] for n in np.flatnonzero(column)]
