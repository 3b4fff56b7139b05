"""One pass over an annotation file: what it holds, and where.

Content is read later, image by image, at the positions found here, so that a file of gigabytes
never lies in memory as a whole.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcnn.data.jsonstream import BrokenJSON, read_elements, scan
from arcnn.data.problems import AnnotationError, Problem
from arcnn.data.schemas import (
    BY_NAME,
    REGIONS,
    Schema,
    count_objects,
    find_schema,
    image_of_entry,
)


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
                number, image_id = value.get("id"), as_key(value.get("image_id"))
                if not is_id(number) or number in seen or number in before.annotations:
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
        fields, count, image_id = {REGIONS}, 1, as_key(single.get("image_id"))
        number, span = single.get("id"), (0, path.stat().st_size)
        images[image_id] = image_of_entry(single)
        if not is_id(number) or number in before.annotations:
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
        if is_id(number):
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
            number, name = as_key(category.get("id")), category.get("name")
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


def as_key(value: Any) -> Any:
    """An id as a dictionary key; files with a list or an object for an id exist."""
    return value if isinstance(value, int | float | str | None) else repr(value)


def is_id(value: Any) -> bool:
    """Whether a value can serve as an id."""
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


def _is_ascii(entry: dict) -> bool:
    """Whether an entry that was decoded byte by byte is as it is meant."""
    return all(text.isascii() for text in entry.values() if isinstance(text, str))


def _add_image(entry: Any, images: dict[Any, dict], problems: list[Problem]) -> None:
    number = entry.get("id") if isinstance(entry, dict) else None
    if not is_id(number):
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


def part_of_index(index: FileIndex, image_ids: Sequence[Any]) -> FileIndex:
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
