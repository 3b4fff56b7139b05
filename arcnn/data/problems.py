"""What is wrong with a file, an image or an object, what was done about it, and how much may be."""

import math
from pathlib import Path
from typing import Any, NamedTuple

MAX_SKIPPED = 0.01  # share of the objects that may be left out before that is an error
LIMIT_FILE = "max_skipped.txt"  # beside annotations: another such share, for these


class AnnotationError(ValueError):
    """An annotation file cannot be used; the message names file, record and cure."""


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
        where = [] if self.annotation_id is None else [f"annotation {short(self.annotation_id)}"]
        where += [] if self.image_id is None else [f"image {short(self.image_id)}"]
        where += [self.file] if self.file else []
        text = f"{' of '.join(where)}: " if where else ""
        return f"{text}{self.kind} ({self.detail})" if self.detail else f"{text}{self.kind}"


def short(value: Any) -> str:
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


def name_file(problem: Problem, file: Path, json_file: Path) -> Problem:
    """The problem with the name of its file, where ``json_file`` is a folder of several."""
    return problem if file == json_file else problem._replace(file=file.name)
