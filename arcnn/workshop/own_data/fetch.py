"""Getting and unpacking what has a direct address; saying where to get what has none.

The table in ``data/README.md`` says where each part of a data set is, and on which terms. Nothing
is fetched that was not asked for by name. What came is verified before it is unpacked; an archive
whose contents would leave its folder is refused as a whole.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

import pooch

from arcnn.errors import FileError, InputError
from arcnn.files import ROOT, plain

# What can be downloaded: addresses, and the MD5 of what they give.
_COCO = "http://images.cocodataset.org/zips"
DOWNLOADS: dict[str, dict[str, str]] = {
    "cocoa_cls": {
        f"{_COCO}/train2014.zip": "md5:0da8c0bd3d6becc4dcb32757491aca88",
        f"{_COCO}/val2014.zip": "md5:a3d79f5ed8d289b7a7554ce06a5782b3",
    }
}
LARGEST_RATIO = 100  # of what an archive unpacks to, to itself; annotations have 10, photographs 1
SMALL = 2**26  # bytes that no archive needs to be large for
SIP = 2**20  # bytes of a header, and of what is copied at once


class UnsafeArchive(InputError):
    """An archive with a path that leads out of the folder it is unpacked into."""


class Entry(NamedTuple):
    """Of an archive."""

    name: str
    size: int  # bytes, as the archive has it
    is_folder: bool
    is_plain: bool  # a file or folder, no link and no device
    open: Callable[[], IO[bytes]]


class _Sips(io.BufferedReader):
    """A stream of which nobody reads much at once: a name in a tar archive may be of gigabytes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= SIP:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    for opener in (gzip.open, bz2.open, lzma.open, open):
        with contextlib.suppress(Exception):  # each is damaged to the others
            return tarfile.TarFile(fileobj=_Sips(opener(archive, "rb")))
    raise tarfile.ReadError("it is neither a zip nor a tar archive, or it is cut off")


def _entries(file: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Entry]:
    if isinstance(file, zipfile.ZipFile):
        for info in file.infolist():
            name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            opened = partial(file.open, info)
            yield Entry(name, info.file_size, name.endswith("/"), is_plain, opened)
    else:
        for info in file:
            is_plain, opened = info.isreg() or info.isdir(), partial(file.extractfile, info)
            yield Entry(info.name, info.size, info.isdir(), is_plain, opened)


def _check(entry: Entry, folder: Path) -> None:
    """Refuse an entry by its name, or if it is no plain file or folder. Links are refused wherever
    they lead, since where a chain of them leads shows in unpacking alone; those that are in the
    folder already, where they lead out of it."""
    path = PureWindowsPath(entry.name)  # takes both kinds of slashes
    outside = path.anchor or ".." in path.parts
    if outside or not (folder / entry.name).resolve().is_relative_to(folder):
        raise UnsafeArchive(f"{entry.name!r} leads out of the folder")
    if not entry.is_plain:
        raise UnsafeArchive(f"{entry.name!r} is a link or a device")
    if not (entry.is_folder or path.name):
        raise UnsafeArchive(f"{entry.name!r} is no name of a file")


def _write(entry: Entry, target: Path, unfinished: Path) -> None:
    """One file or folder; a file lies elsewhere until it is whole, and has the rights of a new
    one."""
    (target if entry.is_folder else target.parent).mkdir(parents=True, exist_ok=True)
    if not entry.is_folder:
        with entry.open() as content, unfinished.open("wb") as written:
            shutil.copyfileobj(content, written)
        unfinished.replace(target)


def unpack(archive: str | Path, folder: str | Path) -> None:
    """Unpack a zip or tar archive into a folder.

    Raises:
        UnsafeArchive: a path in it is absolute, goes up or names nothing, a link or a device is in
            it, or more than what it is large for or there is room for; nothing has been written.
        ValueError: no archive, damaged, or no room; files that came before that are there, whole.
    """
    archive, folder = Path(archive).resolve(), Path(folder).resolve()
    try:
        above = next(place for place in (folder, *folder.parents) if place.exists())
        largest = max(plain(archive).stat().st_size * LARGEST_RATIO, SMALL)
        room, total, entries = shutil.disk_usage(above).free, 0, []
        with _open(archive) as file:
            for entry in _entries(file):
                _check(entry, folder)
                total += entry.size
                if total > min(largest, room):
                    why = f"there is room for {room:,}" if total > room else "it is small for that"
                    raise UnsafeArchive(f"{total:,} bytes or more are in it, and {why}")
                entries.append(entry)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as beside:
                for entry in entries:
                    _write(entry, folder / entry.name, Path(beside) / "file")
    except UnsafeArchive as error:
        raise UnsafeArchive(f"{archive}: {error}; nothing unpacked.") from error
    except Exception as error:  # a damaged archive makes the standard library raise nearly anything
        cure = "if it is damaged, fetch it again"
        raise InputError(f"{archive} cannot be unpacked ({error}); {cure}.") from error


def sources(dataset: str) -> list[dict[str, str]]:
    """The rows about a data set of the table in ``data/README.md``: what to ``put`` below
    ``data/``, ``what`` it is, and ``where`` it comes from, on which terms.

    Raises:
        ValueError: nothing is known about this data set.
    """
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`(\w+)/.*?) \| (.*?) \| (.*?) ?\|$", text, re.MULTILINE)
    if dataset not in (known := dict.fromkeys(name for _, name, _, _ in rows)):
        raise InputError(f'no source is known for "{dataset}"; choose {", ".join(known)}')
    return [
        {"put": put.replace("`", ""), "what": what, "where": where}
        for put, name, what, where in rows
        if name == dataset
    ]


def fetch(dataset: str, data: str | Path, *, yes: bool = False) -> list[str]:
    """Download and unpack what of a data set has a direct address.

    Args:
        data: the folder of data sets.
        yes: really do it; otherwise only say what would be done.

    Returns:
        Sentences: what belongs where and comes from where, and what was done.

    Raises:
        ValueError: nothing is known about this data set, or what came is not what was published.
        OSError: no connection, no such file, no room.
    """
    folder = Path(data).resolve() / dataset
    sentences = [
        f"data/{row['put']}: {row['what']}; {row['where']}".removesuffix("; ")
        for row in sources(dataset)
    ]
    for address, known_hash in DOWNLOADS.get(dataset, {}).items():
        if not yes:
            sentences.append(f"Would download {address}.")
            continue
        try:  # a file that is there and complete is only verified
            name = address.rpartition("/")[2]
            file = pooch.retrieve(address, known_hash, name, folder, progressbar=True)
        except OSError as error:  # those of requests are of this kind
            raise FileError(
                f"{address} was not downloaded: {error}. If it broke off, the next try starts "
                "from the beginning; data/README.md says how to go on instead."
            ) from error
        unpack(file, folder)
        sentences.append(f"{address}: unpacked into {folder}.")
    return sentences
