"""What an annotation file lists: images, each with its annotations still unparsed, and classes.

A file is cut into its elements, of which only the ids are parsed at first; the annotations of an
image are parsed when it is read (:mod:`arcnn.data.reading`), for large files in a worker process.
"""

import codecs
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from arcnn.data import schemas
from arcnn.data.image_files import Problem
from arcnn.data.schemas import Schema, count_objects
from arcnn.errors import InputError, MissingError
from arcnn.files import plain, printable

LONGEST_ID = 1000  # characters; numpy keeps a list of texts at the length of the longest
LOOKS = {b"<": "looks like a web page", b"PK": "looks like an archive"}  # by how a file begins


class AnnotationError(InputError):
    """An annotation file cannot be used; the message names file, record and cure.

    ``problem`` says the same for a list of problems.
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(printable(message))
        self.problem = problem or Problem("not an annotation file", "error", None, None, message)


def unusable(path: Path, problem: Problem) -> AnnotationError:
    cure = "Repair the file, or fetch or write it again."
    return AnnotationError(f"{path} cannot be used: {problem}. {cure}", problem)


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
        OSError: it is no plain file.
    """
    content = plain(path).read_bytes().removeprefix(codecs.BOM_UTF8)
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
    raise unusable(path, Problem("truncated or broken JSON", "error", None, None, detail))


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
    category_ids: dict[int, int]  # contiguous, by the file's own
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
    texts: set[bool] = set()
    for file in files:
        name = file.name if file != json_file else ""
        try:
            index = index_file(file, name)
            texts |= {isinstance(image["id"], str) for image, _ in index.images}
            if len(texts) > 1:  # they cannot be sorted
                detail = "some are numbers and some are texts"
                index.problems.add("image ids of two kinds", "error", detail)
            yield index
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
    category_ids = {number: k for k, number in enumerate(classes)}
    return FileIndex(path, schema, entries, category_ids, list(classes.values()), notes)


def as_key(value: Any) -> Any:
    """An id as a dictionary key; files with a list or an object for an id exist."""
    return value if isinstance(value, int | float | str | None) else repr(value)


def is_id(value: Any) -> bool:
    """Whether a value can serve as an id: a text, or a whole number of 64 bits (a float: 53)."""
    if isinstance(value, str):
        return len(value) <= LONGEST_ID and "\0" not in value
    bits = 53 if isinstance(value, float) else 63
    return isinstance(value, int | float) and abs(value) < 2**bits and value == int(value)


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
