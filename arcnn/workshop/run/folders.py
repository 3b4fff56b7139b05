"""Folders as they are found: with links that lead out of them, with files from the future, with
what a killed process left behind."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from arcnn.errors import FileError, InputError
from arcnn.files import lock

A_DAY = 86_400  # seconds
_IN_USE = ".in_use"  # of a folder for a while: locked as long as its process lives


def files_below(folder: Path) -> list[Path]:
    """Every file of a folder of results, at any depth.

    Raises:
        ValueError: a link leads out of it: somebody who sends a folder would have files written
            wherever he likes.
    """
    found, home = [], folder.resolve()
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise InputError(
                    f"{path} is a link that leads out of the results, to {os.readlink(path)}, and "
                    "what is written there would go along; delete it, or put a copy in its place."
                )
        found += [Path(place, name) for name in files]
    return found


def check_writable(results: Path) -> None:
    """See to it that results can be written, and that no link leads out of them; what killed
    processes left half-written goes after a day.

    Raises:
        OSError, ValueError: not so; says what to do.
    """
    probe = results / ".writable"
    try:
        results.mkdir(parents=True, exist_ok=True)
        for file in files_below(results):  # half-written, by a process that was killed
            if ".partial-" in file.name and time.time() - file.stat().st_mtime > A_DAY:
                file.unlink()
        probe.write_bytes(bytes(2**20))  # Snakemake's notes take as much, without a good word
        probe.unlink()
    except OSError as error:
        raise unwritable(results, error) from error


def unwritable(results: Path, error: OSError) -> FileError:
    """The error about results that cannot be written."""
    return FileError(
        f"{results} cannot be written ({error}). Free the disk or the folder's permissions, or "
        "choose another folder with RESULTS=<folder>."
    )


def date_back(files: Iterable[Path]) -> int:
    """Date files from the future as of now, in the same order; returns how many there were.

    A clock was wrong when they were written, or is now. Whatever is made of them would be older,
    and Snakemake deletes what is older than what it was made of.

    Raises:
        OSError: a file is somebody else's.
    """
    now, ahead = time.time_ns(), {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a link inside, to nothing
            ahead.setdefault(file.stat().st_mtime_ns, []).append(file)
    ahead = sorted((when, of_then) for when, of_then in ahead.items() if when > now)
    for place, (_, of_then) in enumerate(reversed(ahead)):
        for file in of_then:
            os.utime(file, ns=(now - place * 1_000_000,) * 2)
    return sum(len(of_then) for _, of_then in ahead)


@contextlib.contextmanager
def folder_for_a_while(prefix: str = "arcnn-", within: Path | None = None) -> Iterator[Path]:
    """A new folder, by default among the system's temporary ones, that is gone in the end; and so
    are those of processes that were killed before they could do that."""
    within = within or Path(tempfile.gettempdir())
    for left in within.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # somebody else's, or just going
            if not left.is_symlink() and (left / _IN_USE).is_file() and lock(left / _IN_USE):
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as name:
        held = lock(Path(name, _IN_USE))
        try:
            yield Path(name)
        finally:
            if held:
                held.close()
