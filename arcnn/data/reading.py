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

A file is cut into its elements, of which only the ids are parsed at first; the annotations of an
image are parsed when it is read, for large files in a worker process. What is wrong and can be
repaired is repaired and what cannot is left out; each case is a :class:`Problem`, and more objects
left out than allowed is an error.
"""

import codecs
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw
from pycocotools import mask as mask_util

from arcnn.data import schemas
from arcnn.data.image_files import Problem, check_image, image_path, missing_images, short
from arcnn.data.masks import RLE, area, intersection, to_rle
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.schemas import FileObject, Schema, count_objects
from arcnn.errors import InputError, MissingError

MAX_SKIPPED = 0.01  # share of the objects that may be left out before that is an error
RATE_TOLERANCE = 0.01  # between a file's occlusion rate and the one of its masks
LOOKS = {b"<": "looks like a web page", b"PK": "looks like an archive"}  # by how a file begins
LARGEST_SIDE = 65_535  # pixels: JPEG's limit; more overflows the run lengths of pycocotools
XYXY_ABS = 0  # detectron2's BoxMode.XYXY_ABS; importing it would bring torch into every worker


class AnnotationError(InputError):
    """An annotation file cannot be used; the message names file, record and cure.

    ``problem`` says the same for a list of problems.
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem or Problem("not an annotation file", "error", None, None, message)


def _unusable(path: Path, problem: Problem) -> AnnotationError:
    cure = "Repair the file, or fetch or write it again."
    return AnnotationError(f"{path} cannot be used: {problem}. {cure}", problem)


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
    """
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
                raise _unusable(index.path, problem)
        problems += index.problems
        for record, found in read_images(index, folder):
            problems += found
            records += [record] if record else []
    _limit(json_file, problems, sum(len(r["annotations"]) for r in records), max_skipped)
    return AmodalAnnotations(records, index.class_names, index.category_ids, problems)


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


# ---- From a file to its elements, and from an element to Python objects


def parse(element: Raw) -> Any:
    """The content of an element; of one that cannot be read, a sentence that says why."""
    try:
        return msgspec.json.decode(element)
    except (ValueError, RecursionError) as error:
        return str(error)


def _elements(value: Raw) -> list[Raw]:
    try:
        return msgspec.json.decode(value, type=list[Raw])
    except msgspec.ValidationError:
        return [value]


def _split(path: Path) -> tuple[Raw, dict[str, list[Raw]]]:
    """A file as a whole, and the elements of its top-level lists (of another value: itself).

    Raises:
        AnnotationError: it is not a JSON object in UTF-8 from the first to the last byte.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        if not content.isascii():
            content.decode()
        sections = msgspec.json.decode(Raw(content), type=dict[str, Raw])
        return Raw(content), {key: _elements(value) for key, value in sections.items()}
    except msgspec.ValidationError as error:
        raise AnnotationError(f"{path} is not one JSON object: {error}.") from error
    except (ValueError, RecursionError) as error:
        begins = (looks for start, looks in LOOKS.items() if content.lstrip().startswith(start))
        looks = next(begins, "is cut off or not JSON" if content.strip() else "is empty")
        detail = f"the file of {len(content):,} bytes {looks} ({error})"
    raise _unusable(path, Problem("truncated or broken JSON", "error", None, None, detail))


# ---- The index: what a file lists, image by image


class Notes(list[Problem]):
    """The problems of a file or, in it, of an image."""

    def __init__(self, file: str = "", image_id: Any = None) -> None:
        self.file, self.image_id = file, image_id

    def add(self, kind: str, action: str, detail: str = "", **fields: Any) -> None:
        """Add a :class:`Problem`; ``fields`` are others of its fields."""
        fields = {"image_id": self.image_id, "annotation_id": None} | fields
        fields["annotation_id"] = as_key(fields["annotation_id"])
        self.append(Problem(kind, action, detail=detail, file=self.file, **fields))


Annotations = list[tuple[Raw, Any]]  # elements, each with the id that it has in the record


class FileIndex(NamedTuple):
    """What a file lists."""

    path: Path
    schema: Schema
    images: Sequence[tuple[dict, Annotations]]  # the file's own entries
    category_ids: list[int]
    class_names: list[str]
    problems: Notes


class _Ids(msgspec.Struct):
    """All that is parsed of an annotation before its image is read."""

    id: Any = None
    image_id: Any = None


def index_files(json_file: str | Path) -> Iterator[FileIndex | AnnotationError]:
    """Index the file, or all files of a folder; one that cannot be used gives its error.

    Raises:
        FileNotFoundError: no such file, or none in the folder.
    """
    json_file = Path(json_file)
    folder = json_file.is_dir()
    files = sorted(json_file.glob("*.json")) if folder else [json_file] * json_file.exists()
    if not files:
        raise MissingError(f"{json_file} {'holds no *.json' if folder else 'is not there'}")
    for file in files:
        name = file.name if file != json_file else ""
        try:
            yield index_file(file, name)
        except AnnotationError as error:
            error.problem = error.problem._replace(file=name)
            yield error


def index_file(path: str | Path, name: str = "") -> FileIndex:
    """Index one annotation file; ``name`` is what its problems call it.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: not JSON, or of no known schema.
    """
    path, notes = Path(path), Notes(name)
    content, sections = _split(path)
    if sections.get(schemas.REGIONS) and not sections.get("annotations"):
        # COCOA's one file per image is its only entry.
        entry = {key: parse(values[0]) for key, values in sections.items() if values}
        image = Raw(json.dumps(schemas.image_of_entry(entry)).encode())
        sections |= {"images": [image], "annotations": [content]}
    missing = [key for key in ("images", "annotations") if key not in sections]
    if missing:
        what = "not an amodal annotation file of a known schema"
        raise AnnotationError(f"{path} has no {' and no '.join(missing)}: {what}.")
    elements = sections["annotations"]
    fields = set().union(*(e for e in map(parse, elements[:100]) if isinstance(e, dict)))
    try:
        schema = schemas.find_schema(fields) if elements else schemas.SCHEMAS[-1]
    except ValueError as error:
        raise AnnotationError(f"{path} is of an {error}.") from error
    images = _index_images(sections["images"], notes)
    annotations = _index_annotations(elements, notes)
    entries = [(image, annotations.pop(k, [])) for k, image in images.items()]
    for k, others in annotations.items():
        for element, number in others:
            lost = count_objects(parse(element))
            notes.add("no such image", "skipped", image_id=k, annotation_id=number, lost=lost)
    classes = schema.classes or _classes(sections.get("categories", []), notes)
    return FileIndex(path, schema, entries, list(classes), list(classes.values()), notes)


def as_key(value: Any) -> Any:
    """An id as a dictionary key; files with a list or an object for an id exist."""
    return value if isinstance(value, int | float | str | None) else repr(value)


def is_id(value: Any) -> bool:
    """Whether a value can serve as an id."""
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


def _index_images(elements: Sequence[Raw], notes: Notes) -> dict[Any, dict]:
    images: dict[Any, dict] = {}
    for entry in map(parse, elements):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not is_id(number):
            notes.add("unreadable entry", "skipped", f"of the list of images: {entry!r:.40}")
            continue
        kept = images.setdefault(number, entry)
        if kept is not entry:
            detail = f"{kept.get('file_name')} is kept, {entry.get('file_name')} is not"
            notes.add("duplicate image id", "skipped", detail, image_id=number)
    return images


def _index_annotations(elements: Sequence[Raw], notes: Notes) -> dict[Any, Annotations]:
    """The annotations of each image; those whose id is taken or is none get a new one."""
    by_image: dict[Any, Annotations] = defaultdict(list)
    taken: set = set()
    others: list[tuple[Any, Any, Any]] = []
    decoder = msgspec.json.Decoder(_Ids)
    for element in elements:
        try:
            ids = decoder.decode(element)
        except (ValueError, RecursionError):
            notes.add("unreadable entry", "skipped", f"{parse(element)!r:.40}", lost=1)
            continue
        number, image_id = ids.id, as_key(ids.image_id)
        if is_id(number) and number not in taken:
            taken.add(number)
            by_image[image_id].append((element, number))
        else:
            others.append((element, number, image_id))
    new = max((int(k) for k in taken if not isinstance(k, str)), default=0)
    for element, number, image_id in others:
        new += 1
        by_image[image_id].append((element, new))
        kind = "duplicate annotation id" if is_id(number) else "annotation without an id"
        detail = f"{number!r:.40}; it gets the id {new}"
        notes.add(kind, "repaired", detail, image_id=image_id, annotation_id=number)
    return by_image


def _classes(elements: Sequence[Raw], notes: Notes) -> dict[int, str]:
    """Names by id, in the order of the ids, as the file lists them."""
    names: dict[int, str] = {}
    for category in map(parse, elements):
        entry = category if isinstance(category, dict) else {}
        number, name = entry.get("id"), entry.get("name")
        if not isinstance(number, int) or not isinstance(name, str):
            kind = "category without a whole number as id, or without a name"
            notes.add(kind, "error", f"{category!r:.80}")
        elif number in names:
            notes.add("duplicate category id", "error", f"{category!r:.80}")
        else:
            names[number] = name
    return dict(sorted(names.items()))


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
    fits = isinstance(number, int | float) and 1 <= number <= LARGEST_SIDE
    return int(number) if fits and number == int(number) else None


def _size(image: dict, notes: Notes) -> list[int | None]:
    """Height and width as recorded, else None, twice: the image tells them."""
    size = [_side(image.get(key)) for key in ("height", "width")]
    if None not in size:
        return size
    if image.keys() & {"height", "width"}:
        given = f"{image.get('height')!r:.40} x {image.get('width')!r:.40}"
        notes.add("bad image size", "repaired", f"{given}, taken from the image instead")
    return [None, None]


# ---- Object by object

Note = Callable[..., None]  # kind, action, detail


def _internal_annotation(
    item: FileObject, category_ids: list[int], record: dict, notes: Notes
) -> dict | None:
    """The internal form of one object; None, and why, if it cannot be used."""

    def note(kind: str, action: str, detail: str = "") -> None:
        lost = int(action == "skipped")
        notes.add(kind, action, detail, annotation_id=item.id, lost=lost)

    if item.category_id not in category_ids:
        return note("unknown category id", "skipped", short(item.category_id))
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
        "category_id": category_ids.index(item.category_id),
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
        hidden = mask_util.decode(to_rle(item.occlusion, *size)[0])
        return mask_util.encode(np.asfortranarray(mask_util.decode(amodal) & ~hidden & 1))
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
    places = {a["id"]: items[a["id"]].layer for a in annotations}
    for behind in annotations:
        item = items[behind["id"]]
        if item.occluders is not None:
            behind["occluders"] = [number for number in item.occluders if number in places]
        elif item.layer is not None:
            cluster, order = item.layer
            in_front = {k for k, p in places.items() if p and p[0] == cluster and 0 < p[1] < order}
            fronts = [a for a in annotations if a["id"] in in_front]
            behind["occluders"] = [front["id"] for front in fronts if _covers(front, behind)]


def _covers(front: dict, behind: dict) -> bool:
    """Whether some hidden pixel of ``behind`` belongs to ``front``."""
    overlap = intersection(front["segmentation"], behind["segmentation"])
    return area(overlap) > area(intersection(overlap, behind["visible_mask"]))
