"""Where things lie, from any working directory, and how a file gets there in one piece."""

import contextlib
import fcntl
import filecmp
import functools
import hashlib
import json
import math
import os
import re
import stat
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
import yaml

if TYPE_CHECKING:
    import pandas as pd

from arcnn.errors import BusyError, FileError, InputError, MissingError

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
IN_BATCH = "ARCNN_BATCH"  # set in the environment of notebooks that nobody looks at while they run
REFERENCE = ROOT / "results" / "reference"
PHOTOS = ROOT / "data" / "photos"  # two photographs with outlines drawn by hand
LONGEST_YAML = 100_000  # characters; a whole configuration has 6000


def own_models() -> Path:
    """The folder of models of one's own, ``<name>.py`` and ``<name>.yaml``: the kit's ``models/``,
    or what the environment's ARCNN_MODELS names."""
    return Path(os.environ.get("ARCNN_MODELS") or ROOT / "models").expanduser()


def data_folder(data_root: str = "") -> Path:
    """The folder of data sets: as given, by default the kit's ``data/``."""
    return Path(data_root).expanduser().resolve() if data_root else ROOT / "data"


def results_folder(profile: str, results_root: str = "") -> Path:
    """The folder of a profile's results: ``<results_root>/<profile>``, by default ``results/``.

    Raises:
        ValueError: weights could not be found there, or in the kit.
    """
    root = Path(os.path.expanduser(results_root)).resolve() if results_root else ROOT / "results"
    for folder in (ROOT, root):  # detectron2 reads the place of weights as an address
        if re.search(r"[?\0-\37]", str(folder)):
            raise InputError(
                f"{str(folder)!r} has a question mark or a line break in its name, and detectron2 "
                "would look for weights elsewhere; choose another folder."
            )
    return root / profile


def run_folder(results: Path, dataset: str, model: str, seed: int) -> Path:
    """The folder of one run. ``train/`` in it is detectron2's OUTPUT_DIR."""
    return results / "runs" / dataset / model / f"seed{seed}"


def plain(path: str | Path) -> Path:
    """The path, if it is a plain file's or leads to one; whatever comes from outside is opened by
    it. Others, pipes and devices, are waited for or read for ever.

    Raises:
        OSError: nothing is there, or another thing than a file.
    """
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        raise
    except OSError:  # links in a circle, a name too long
        is_file = False
    if not is_file:
        raise FileError(f"{path} is no plain file. Put a file in its place.")
    return Path(path)


def not_itself(output: Path, *inputs: Path) -> None:
    """Raise ValueError if what is to be written would take the place of what is read."""
    for file in inputs:
        if output.exists() and file.exists() and output.samefile(file):
            raise InputError(f"{output} is read, and would be lost: give another name to write to.")


def printable(text: str) -> str:
    """Text of a file as a terminal may show it: what would move its cursor, colour it or fail to be
    encoded, written as Python writes it (``\\x1b``)."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def write_atomically(
    path: Path, write: Callable[[Path], object], *, keep_equal: bool = False
) -> None:
    """Let ``write`` fill a file beside ``path`` and then rename it: no half-written file ever has
    the name, whatever interrupts it, and however many processes of a machine write it.

    Args:
        keep_equal: one that has this content already is left alone: it is no newer, and nothing
            that was made of it is out of date.

    Raises:
        OSError: the folder cannot be written or the disk is full; says what to do.
    """
    # In the ending: what stands before it, torch.save writes into the file.
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a link there would be written through
        write(partial)
        if not (keep_equal and path.is_file() and filecmp.cmp(partial, path, shallow=False)):
            os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, _reason(error, partial)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder cannot be written, which was said
            partial.unlink(missing_ok=True)


def cannot_write(path: Path, why: Exception) -> FileError:
    """The error about a file that could not be written, on a full disk for instance."""
    return FileError(
        f"cannot write {path}: {why}. Make room there, or choose another folder, and run the same "
        "again: what is finished is kept."
    )


def _reason(error: Exception, partial: Path) -> Exception:
    """What the system says to more of the same, where torch has but a RuntimeError of its own for a
    full disk: "unexpected pos 25421696"."""
    if isinstance(error, RuntimeError):
        try:
            with partial.open("ab") as file:
                file.write(bytes(1 << 20))
        except OSError as said:
            return said
    return error


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece, see :func:`write_atomically`; one that is equal is kept."""
    write_atomically(path, lambda partial: partial.write_text(text), keep_equal=True)


def write_json(path: Path, content: Any) -> None:
    """JSON as :func:`write_text` does it; NaN, which is no JSON, is refused."""

    def write(partial: Path) -> None:
        with partial.open("w") as file:  # a list of a million predictions is no string in memory
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")

    write_atomically(path, write, keep_equal=True)


def read_json(path: Path, cure: str, schema: dict[str, Any] | None = None) -> Any:
    """The content of a JSON file that somebody, or an earlier notebook, wrote.

    Args:
        cure: what to do, for the sentence.
        schema: what it must be, as JSON Schema; see :func:`json_validator`.

    Raises:
        FileNotFoundError, ValueError: it is not there, or cut off, or other than the schema says.
        OSError: another thing is there, or it may not be read.
    """
    try:
        content = json.loads(plain(path).read_bytes(), parse_float=_number, parse_constant=_number)
        fault = schema and next(json_validator()(schema).iter_errors(content), None)
        why = fault and in_a_line(fault)
    except FileNotFoundError:
        raise MissingError(f"{path} is not there: {cure}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} is not whole ({error}): {cure}") from error
    if why:
        raise InputError(f"{path} is not what it should be ({why}): {cure}")
    return content


def _number(text: str) -> float:
    """As JSON has them: NaN is none, and nobody could write the infinity again that 1e999 is."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.40} is no number")
    return number


@functools.cache
def json_validator() -> type:
    """jsonschema's validator of 2020-12, to which 1.0 is no integer, and infinity no number."""
    import jsonschema  # takes long, and only who reads needs it

    draft = jsonschema.Draft202012Validator
    types = {"integer": lambda _, value: is_whole(value), "number": lambda _, v: is_finite(v)}
    return jsonschema.validators.extend(draft, type_checker=draft.TYPE_CHECKER.redefine_many(types))


def object_of(**properties: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of an object whose entries of these names, where it has them, are like that."""
    return {"type": "object", "properties": properties}


def in_a_line(fault: Any) -> str:
    """What a schema does not allow, and where: ``amodal.AP: -5 is less than the minimum of 0``."""
    where = ".".join(map(str, fault.absolute_path))
    sentence = f"{where}: {fault.message}" if where else fault.message
    return printable(textwrap.shorten(sentence, 200, placeholder=" ..."))


def is_whole(value: Any) -> bool:
    """Whether a value of JSON or YAML is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether it is a number, and a finite one."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def read_earlier(path: Path, **types: str) -> dict[str, Any]:
    """A JSON object that an earlier run wrote; empty if it is not there or was cut off, or if an
    entry is of another JSON type than the one given."""
    schema = object_of(**{name: {"type": of} for name, of in types.items()})
    try:
        content = read_json(path, "", schema if types else None)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """CSV through :func:`write_text`, without the index."""
    write_text(path, table.to_csv(index=False))


def read_table(
    path: Path, cure: str, bounds: Mapping[str, tuple[float, float] | None]
) -> "pd.DataFrame":
    """A table of :func:`write_table` that somebody, or an earlier notebook, wrote.

    Args:
        cure: what to do, for the sentence.
        bounds: the columns that must be there, and between what their numbers lie where they have
            any; ``None``: anything.

    Raises:
        FileNotFoundError, ValueError: it is not there, cut off, or has other columns or numbers.
        OSError: another thing is there, or it may not be read.
    """
    import pandas as pd

    try:
        with plain(path).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1))
            if file.read() != b"\n":
                raise ValueError("its last line is cut off")
        table = pd.read_csv(path)
        if missing := [name for name in bounds if name not in table]:
            raise ValueError(f"it has no {', '.join(missing)}")
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("a row has more entries than there are columns")
        for name, limits in bounds.items():
            column = table[name]
            if limits and len(table) and column.dtype.kind not in "iuf":
                raise ValueError(f"{name} is not all numbers")
            if limits and not (column.isna() | column.between(*limits)).all():
                raise ValueError(f"{name} is not all between {limits[0]} and {limits[1]}")
    except FileNotFoundError:
        raise MissingError(f"{path} is not there: {cure}") from None
    except (ValueError, MemoryError) as error:
        raise InputError(f"{path} is not whole ({str(error).strip()}): {cure}") from error
    return table


def compact_json(content: Any) -> str:
    """JSON of one line with sorted keys: the same text for the same content. Refuses NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


class _Yaml(yaml.SafeLoader):
    """Safe YAML in which 1e-05 is a number, as everywhere else; YAML 1.1 takes it for text."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is none, or longer than what anybody writes.
    """
    if len(text) > LONGEST_YAML:
        raise yaml.YAMLError(f"{len(text)} characters, more than {LONGEST_YAML}")
    return yaml.load(text, _Yaml)


def sha256(path: Path) -> str:
    """Of a file, or of all ``*.json`` of a folder in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        with plain(file).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def lock(path: Path) -> IO[str] | None:
    """Take a lock file; None if another process has it.

    The lock ends with the processes that hold it, however they end, so none is ever stale. The file
    stays, with the process's number in it.

    Raises:
        OSError: a link, a pipe or a folder is in its place, or it cannot be written.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileError(f"{path} is a symbolic link, or no file. Delete it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - the caller has it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError as error:
        raise cannot_write(path, error) from error
    return file


@contextlib.contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while something is done that only one process may do.

    Of a process that was killed, those that load images for it hold the lock until they notice,
    after five seconds: they are waited for.

    Args:
        what: it is, for the sentence about another process: "trains".

    Raises:
        BlockingIOError: another process is at it.
    """
    until = time.monotonic() + 15
    while (held := lock(path)) is None:
        other = path.read_text().strip()
        if not other.isdecimal() or psutil.pid_exists(int(other)) or time.monotonic() > until:
            raise BusyError(
                f"process {other or 'unknown'} {what} in {path.parent} already; "
                "wait until it is done, or end it and run the same again."
            )
        time.sleep(0.2)
    with held:
        try:
            yield
        finally:
            fcntl.flock(held, fcntl.LOCK_UN)  # also for workers that inherited the open file
