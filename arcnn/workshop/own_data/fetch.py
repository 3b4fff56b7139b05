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
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pooch

from arcnn.files import ROOT, plain

# What can be downloaded: addresses, and the MD5 of what they give.
_COCO = "http://images.cocodataset.org/zips"
DOWNLOADS: dict[str, dict[str, str]] = {
    "cocoa_cls": {
        f"{_COCO}/train2014.zip": "md5:0da8c0bd3d6becc4dcb32757491aca88",
        f"{_COCO}/val2014.zip": "md5:a3d79f5ed8d289b7a7554ce06a5782b3",
    }
}
# What the standard library raises on damaged contents. RuntimeError: a password is wanted.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
DAMAGE += (EOFError, OSError, RuntimeError)
LARGEST_RATIO = 100  # of what an archive unpacks to, to itself; annotations have 10, photographs 1
SMALL = 2**26  # bytes that no archive needs to be large for
SIP = 2**20  # bytes of a header, and of what is copied at once


class UnsafeArchive(ValueError):
    """An archive with a path that leads out of the folder it is unpacked into."""


def _refuse(name: str, plain: bool, folder: Path) -> None:
    """Refuse a member by its name, or if it is no plain file or folder. Links are refused wherever
    they lead, since where a chain of them leads shows in unpacking alone; those that are in the
    folder already, where they lead out of it."""
    path = PureWindowsPath(name)  # takes both kinds of slashes
    outside = path.anchor or ".." in path.parts
    if outside or not (folder / name).resolve().is_relative_to(folder):
        raise UnsafeArchive(f"{name!r} leads out of the folder")
    if not plain:
        raise UnsafeArchive(f"{name!r} is a link or a device")


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
        with contextlib.suppress(*DAMAGE):
            return tarfile.TarFile(fileobj=_Sips(opener(archive, "rb")))
    raise ValueError(f"{archive} is neither a zip nor a tar archive, or it is cut off.")


Member = zipfile.ZipInfo | tarfile.TarInfo


def _members(file: zipfile.ZipFile | tarfile.TarFile) -> Iterator[tuple[Member, str, int, bool]]:
    """Of each: itself, its name, its size as the archive has it, whether it is a file or folder."""
    if isinstance(file, zipfile.ZipFile):
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain_kind = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            yield member, member.filename, member.file_size, plain_kind
    else:
        for member in file:
            yield member, member.name, member.size, member.isreg() or member.isdir()


def _write(file: zipfile.ZipFile | tarfile.TarFile, member: Member, target: Path) -> None:
    """One file, beside its name until it is whole; with the rights of a new file."""
    if member.is_dir() if isinstance(member, zipfile.ZipInfo) else member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    opened = file.open(member) if isinstance(file, zipfile.ZipFile) else file.extractfile(member)
    try:
        with opened as content, partial.open("wb") as written:
            shutil.copyfileobj(content, written)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def unpack(archive: str | Path, folder: str | Path) -> None:
    """Unpack a zip or tar archive into a folder.

    Raises:
        UnsafeArchive: a path in it is absolute or goes up, a link or a device is in it, or more
            than what it is large for or there is room for; nothing has been written.
        ValueError: no archive, damaged, or no room; files that came before that are there, whole.
    """
    archive, folder = Path(archive).resolve(), Path(folder).resolve()
    try:
        above = next(place for place in (folder, *folder.parents) if place.exists())
        largest = max(plain(archive).stat().st_size * LARGEST_RATIO, SMALL)
        room, total, members = shutil.disk_usage(above).free, 0, []
        with _open(archive) as file:
            for member, name, size, is_plain in _members(file):
                _refuse(name, is_plain, folder)
                total += size
                if total > min(largest, room):
                    why = f"there is room for {room:,}" if total > room else "it is small for that"
                    raise UnsafeArchive(f"{total:,} bytes or more are in it, and {why}")
                members.append((member, name))
            for member, name in members:
                _write(file, member, folder / name)
    except UnsafeArchive as error:
        raise UnsafeArchive(f"{archive}: {error}; nothing unpacked.") from error
    except DAMAGE as error:
        cure = "if it is damaged, fetch it again"
        raise ValueError(f"{archive} cannot be unpacked ({error}); {cure}.") from error


def sources(dataset: str) -> list[dict[str, str]]:
    """The rows about a data set of the table in ``data/README.md``: what to ``put`` below
    ``data/``, ``what`` it is, and ``where`` it comes from, on which terms.

    Raises:
        ValueError: nothing is known about this data set.
    """
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`(\w+)/.*?) \| (.*?) \| (.*?) ?\|$", text, re.MULTILINE)
    if dataset not in (known := dict.fromkeys(name for _, name, _, _ in rows)):
        raise ValueError(f'no source is known for "{dataset}"; choose {", ".join(known)}')
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
            raise OSError(
                f"{address} was not downloaded: {error}. If it broke off, the next try starts "
                "from the beginning; data/README.md says how to go on instead."
            ) from error
        unpack(file, folder)
        sentences.append(f"{address}: unpacked into {folder}.")
    return sentences
