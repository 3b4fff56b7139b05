"""Getting and unpacking what has a direct address; saying where to get what has none.

Nothing is fetched that was not asked for by name. A download that broke off goes on where it was,
and is verified before it is unpacked; an archive whose contents would leave its folder is refused.
"""

import hashlib
import logging
import tarfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch
import requests
from tqdm import tqdm

from arcnn.workshop.sources import SOURCES, Source

logger = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes


class UnsafeArchive(ValueError):
    """An archive with a path that leads out of the folder it is unpacked into."""


def _members(archive: Path) -> list[str]:
    """Names in an archive, those of links' targets included.

    Raises:
        ValueError: neither zip nor tar, or damaged.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                infos = file.infolist()
                for info in infos:
                    if info.external_attr >> 28 == 0xA:  # a symbolic link, as Unix marks it
                        raise UnsafeArchive(f"{archive}: {info.filename} is a link")
                return [info.filename for info in infos]
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                names = []
                for member in file:
                    if not (member.isfile() or member.isdir()):
                        raise UnsafeArchive(f"{archive}: {member.name} is a link or a device")
                    names.append(member.name)
                return names
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}); fetch it again.") from error
    raise ValueError(f"{archive} is neither a zip nor a tar archive.")


def check_archive(archive: Path) -> list[str]:
    """The names in an archive, if unpacking it is safe.

    Raises:
        UnsafeArchive: a path is absolute, goes up, or is a link.
        ValueError: not an archive, or damaged.
    """
    names = _members(archive)
    for name in names:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        up = ".." in (*posix.parts, *windows.parts)
        if posix.is_absolute() or windows.is_absolute() or windows.drive or up:
            raise UnsafeArchive(f"{archive}: {name!r} leads out of the folder; nothing unpacked.")
    return names


def unpack(archive: str | Path, folder: str | Path) -> list[str]:
    """Unpack a zip or tar archive into a folder.

    Returns:
        Paths of the files.

    Raises:
        UnsafeArchive: see :func:`check_archive`; nothing has been written.
    """
    archive, folder = Path(archive).resolve(), Path(folder).resolve()
    check_archive(archive)
    unpacker = pooch.Unzip if zipfile.is_zipfile(archive) else pooch.Untar
    return unpacker(extract_dir=str(folder))(str(archive), "download", None)


def _resuming(target: Path):
    """A downloader for pooch that keeps what it has and asks for the rest."""
    partial = target.with_name(target.name + ".part")

    def download(url: str, output_file: str, _pooch: object) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 416:  # nothing is missing
                partial.replace(output_file)
                return
            answer.raise_for_status()
            if answer.status_code != 206:  # the server starts from the beginning
                have = 0
            total = have + int(answer.headers.get("Content-Length", 0))
            bar = tqdm(
                total=total or None, initial=have, unit="B", unit_scale=True, desc=target.name
            )
            with partial.open("ab" if have else "wb") as file, bar:
                for block in answer.iter_content(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if total and partial.stat().st_size != total:
            raise OSError(f"{url} broke off; start again, and it goes on where it was.")
        partial.replace(output_file)

    return download


def download(url: str, folder: str | Path, known_hash: str | None = None) -> Path:
    """Download a file, or go on with it; a complete one is only verified.

    Args:
        known_hash: "sha256:..." or "md5:..."; None where nobody published one. The hash of what
            came is logged then, and archives still have checksums of their own.

    Raises:
        ValueError: what came is not what was published.
        OSError: no connection, no such file, no room.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (PurePosixPath(url).name or "download")
    pooch.get_logger().setLevel(logging.WARNING)
    path = pooch.retrieve(
        url, known_hash, fname=target.name, path=folder, downloader=_resuming(target)
    )
    if known_hash is None:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        logger.info("%s: sha256:%s", target.name, digest)
    return Path(path)


def fetch(dataset: str, data: str | Path, *, yes: bool = False) -> list[str]:
    """Download and unpack what of a data set has a direct address.

    Args:
        data: the folder of data sets.
        yes: really do it; otherwise only say what would be done.

    Returns:
        Sentences: what was done, what is left to do by hand.

    Raises:
        ValueError: nothing is known about this data set.
    """
    if dataset not in SOURCES:
        raise ValueError(f'no source is known for "{dataset}"; choose {", ".join(SOURCES)}')
    sentences = []
    for source in SOURCES[dataset]:
        if not source.address:
            sentences.append(f"By hand: {describe(source)}")
        elif not yes:
            sentences.append(f"Would download {source.address} ({source.size}).")
        else:
            folder = Path(data) / dataset
            archive = download(source.address, folder, source.known_hash)
            unpack(archive, folder)
            sentences.append(f"{source.what}: unpacked into {folder}.")
    return sentences


def describe(source: Source) -> str:
    """A source in a sentence."""
    return (
        f"{source.what}, from {source.where}; {source.size}; terms: {source.terms}; "
        f"put it into data/{source.put}."
    )
