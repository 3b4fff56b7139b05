"""COCO-like JSON files of any size: where each element lies, without holding the file in memory.

A KINS file parsed as a whole takes gigabytes of Python objects. Here the file is scanned once;
whoever needs an element reads its bytes again. Workers are handed positions instead of content.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

CHUNK = 4 << 20  # bytes read at a time
LARGEST_ELEMENT = 256 << 20  # bytes; a broken file would otherwise be read into memory to its end

_DECODER = json.JSONDecoder()
_AFTER = " \t\r\n,:]}"  # what may follow a value
_SPACE = re.compile(r"[ \t\r\n]*")


class BrokenJSON(ValueError):
    """The file ends too early, or is not JSON at some byte; the message says where."""


class Element(NamedTuple):
    """An element of a top-level list, or a top-level value of another kind.

    ``value`` was decoded byte by byte: numbers and structure are right, but text beyond ASCII is
    not. :func:`read_elements` gives the element as it is meant.
    """

    key: str  # of the top-level entry
    value: Any
    start: int  # byte positions in the file
    end: int


class _Window:
    """The part of a file that is being looked at, one character per byte."""

    def __init__(self, file: BinaryIO, chunk: int) -> None:
        self.file, self.chunk = file, chunk
        self.text, self.base, self.at = "", 0, 0

    def more(self) -> bool:
        """Forget what was read, take in the next chunk; False at the end of the file."""
        # At least as much as there is: an element longer than a chunk is tried few times.
        rest = self.text[self.at :]
        if len(rest) > LARGEST_ELEMENT:
            raise self.broken("holds no complete element in the 256 MB")
        block = self.file.read(max(self.chunk, len(rest)))
        self.base, self.at, self.text = self.base + self.at, 0, rest + block.decode("latin-1")
        return bool(block)

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str) -> str:
        found = self.peek()
        if not found or found not in expected:
            what = f"has {found!r} instead of {' or '.join(expected)}" if found else "ends"
            raise self.broken(what)
        self.at += 1
        return found

    def value(self) -> tuple[Any, int, int]:
        """The next JSON value, with its start and end in the file."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self.more():
                    raise self.broken(f"is cut off or not JSON ({error.msg})") from error
                continue
            except (RecursionError, ValueError) as error:  # nested or written out without end
                raise self.broken(f"holds a value that is not readable ({error})") from error
            # A number at the edge of the window may go on behind it: "1" as "1.5", "1." as "1.5".
            if self.text[end : end + 1] in _AFTER and end < len(self.text) or not self.more():
                break
        start = self.base + self.at
        end_at = start + (end - self.at)
        self.at = end
        return value, start, end_at

    def end(self) -> None:
        """Nothing but white space may follow."""
        if self.peek():
            raise self.broken("goes on behind its last brace")

    def broken(self, what: str) -> BrokenJSON:
        return BrokenJSON(f"{what} at byte {self.base + self.at:,}")


def scan(path: Path, chunk: int = CHUNK, *, keys: set[str] | None = None) -> Iterator[Element]:
    """Every element of the top-level lists of a file, and its other top-level values, in order.

    Args:
        chunk: bytes read at a time.
        keys: takes in the top-level keys as they come, those of empty lists as well.

    Raises:
        BrokenJSON: when it comes to it, after the elements before; not one JSON object.
        OSError: no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        window = _Window(file, chunk)
        window.more()
        if window.text.startswith("\u00ef\u00bb\u00bf"):  # a UTF-8 byte order mark
            window.at = 3
        window.take("{")
        if window.peek() == "}":
            window.take("}")
            window.end()
            return
        while True:
            key, _, _ = window.value()
            if not isinstance(key, str):
                raise window.broken("has a key that is no text")
            window.take(":")
            if keys is not None:
                keys.add(key)
            if window.peek() == "[":
                window.take("[")
                if window.peek() == "]":
                    window.take("]")
                else:
                    while True:
                        yield Element(key, *window.value())
                        if window.take(",]") == "]":
                            break
            else:
                yield Element(key, *window.value())
            if window.take(",}") == "}":
                window.end()
                return


def read_elements(path: Path, spans: Sequence[tuple[int, int]]) -> list[Any]:
    """The elements at these positions (start, end). Text is UTF-8, or else Latin-1."""
    elements = []
    with path.open("rb") as file:
        for start, end in spans:
            file.seek(start)
            raw = file.read(end - start)
            try:
                elements.append(json.loads(raw))
            except UnicodeDecodeError:
                elements.append(json.loads(raw.decode("latin-1")))
    return elements
