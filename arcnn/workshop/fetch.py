"""Getting and unpacking what has a direct address; saying where to get what has none.

The table in ``data/README.md`` says where each part of a data set is, and on which terms. Nothing
is fetched that was not asked for by name. What came is verified before it is unpacked; an archive
whose contents would leave its folder is refused as a whole.
"""

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

import pooch

from arcnn.files import ROOT

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
# Python has it from 3.11.4 on; some systems' 3.11 is older.
UNFORGIVING = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


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


def unpack(archive: str | Path, folder: str | Path) -> None:
    """Unpack a zip or tar archive into a folder.

    Raises:
        UnsafeArchive: a path in it is absolute or goes up, or a link or a device is in it; nothing
            has been written.
        ValueError: no archive, damaged, or no room; what came before that may have been written.
    """
    archive, folder = Path(archive).resolve(), Path(folder).resolve()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    plain = not stat.S_ISLNK(member.external_attr >> 16)
                    _refuse(member.filename, plain, folder)
                file.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                for member in file:
                    _refuse(member.name, member.isfile() or member.isdir(), folder)
                    member.mode = 0o755 if member.isdir() else 0o644
                file.extractall(folder, **UNFORGIVING)
        else:
            raise ValueError(f"{archive} is neither a zip nor a tar archive, or it is cut off.")
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
