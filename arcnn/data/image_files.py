"""The images that annotations belong to: there, in their folder, complete, of the right size."""

import os
import struct
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from PIL import Image

from arcnn.files import plain, printable

# What reading a damaged image may raise.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
UNREADABLE += (ArithmeticError, AttributeError, LookupError, TypeError, struct.error)
# Pillow hands other formats to other programs (EPS to Ghostscript), whatever a file's name says.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 178_956_970  # Pillow opens no larger image, so no mask need be larger
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
ORIENTATION = 0x0112  # the EXIF tag; from 5 on, the image lies on its side


class Problem(NamedTuple):
    """Something wrong with a file, an image or an object, and what was done about it.

    ``action`` is ``"error"`` (the file is not what it should be), ``"skipped"`` (left out) or
    ``"repaired"``.
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
        text += f"{self.kind} ({self.detail})" if self.detail else self.kind
        return printable(text).replace("\n", r"\n")  # of one line, whatever names are in it


def short(value: Any) -> str:
    """A value of a file in a message; some have hundreds of digits."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def image_path(root: str | Path, name: str) -> str:
    """The path of an image in its folder.

    Raises:
        ValueError: the name leads out of the folder.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts):
        raise ValueError(f"{name!r} leads out of the image folder")
    return os.path.join(root, name)


def open_image(path: str | Path) -> Image.Image:
    """Open an image of a known format, not decoded yet; all that the kit reads comes in here.

    Raises:
        One of :data:`UNREADABLE`: no plain file, no image of :data:`FORMATS`, too large, or of
        more than 8 bits a channel, which Pillow would turn to white.
    """
    with warnings.catch_warnings():  # of sizes that it warns of, some are annotated
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(plain(path), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height}, more than {MAX_PIXELS:,} pixels")
    if image.mode.startswith(("I", "F")):
        image.close()
        raise ValueError("more than 8 bits a channel; save it with 8")
    return image


def missing_images(image_root: str | Path) -> str:
    """A sentence, if a folder of images is not there or empty; else ""."""
    root = Path(image_root)
    if root.is_dir() and next(root.iterdir(), None) is not None:
        return ""
    what = "is empty" if root.is_dir() else "is not there"
    return f"the folder of the images, {root}, {what}: data/README.md says where to get them"


def check_image(root: Path, record: dict, *, decode: bool = False) -> Problem | None:
    """Look for an image on disk: there, inside its folder, with its end, of the recorded size.

    Only header and end of PNG and JPEG files are read, unless ``decode``: then every pixel. A
    missing ``record["height"]`` and ``["width"]`` are filled in.
    """

    def problem(kind: str, detail: str) -> Problem:
        return Problem(kind, "skipped", record["image_id"], None, detail)

    path = record["file_name"]
    if not os.path.exists(path):
        return problem("missing image", path)
    real, folder = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, folder]) != folder:
        return problem("link out of the folder", f"{path} leads to {real}")
    try:
        size = _read_size(path, decode)
    except UNREADABLE as error:
        return problem("unreadable image", f"{path}: {error}")
    if record["height"] is None:
        record["width"], record["height"] = size
    if size != (record["width"], record["height"]):
        on_disk, recorded = "{} x {}".format(*size), f"{record['width']} x {record['height']}"
        return problem("image of another size", f"{path} is {on_disk}, its record says {recorded}")
    return None


def _read_size(path: str, decode: bool) -> tuple[int, int]:
    """Width and height, upright; raises one of :data:`UNREADABLE` for a damaged file."""
    with open_image(path) as image:
        size = image.size
        # What lies on its side is read upright. (Without asking, a PNG would be decoded.)
        oriented = image.format == "JPEG" or "exif" in image.info
        if oriented and 5 <= image.getexif().get(ORIENTATION, 1) <= 8:
            size = size[::-1]
        ends = _has_end(path, image.format)
        if image.format == "PNG" and not ends:
            image.verify()  # finds also what is cut off behind the last pixel
        elif decode or not ends:
            image.load()  # some without an end mark are complete; the others say what is wrong
    return size


def _has_end(path: str, kind: str | None) -> bool:
    if kind not in END_MARKS:
        return False
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return END_MARKS[kind] in file.read()
