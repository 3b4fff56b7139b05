"""The images that annotations belong to: there, inside their folder, whole, of the right size."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from arcnn.data.problems import Problem

# What reading a damaged image may raise.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


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


def _has_end(path: str, mark: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return mark in file.read()
