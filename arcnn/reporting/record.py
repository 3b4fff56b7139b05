"""The record that ends every notebook: what was run, on what, with what, and what came out."""

import importlib.metadata
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from arcnn.data.registration import fingerprint
from arcnn.files import ROOT, compact_json, read_earlier, write_json

PACKAGES = ("arcnn", "detectron2", "torch", "torchvision", "numpy", "pycocotools", "matplotlib")

# Of a record, what another run of the same has otherwise.
CIRCUMSTANCES = ("commit", "versions", "device", "started", "finished", "seconds")


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }


def device() -> str:
    """The GPU by its name, or the CPU with the number of threads in use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"


def about() -> str:
    """:func:`versions`, :func:`device` and the environment in one line, and a second one if this
    is another copy of the kit than the one that the notebook lies in."""
    environment = Path(sys.prefix)
    if environment.is_relative_to(ROOT):
        environment = environment.relative_to(ROOT)
    of = [f"{name} {version}" for name, version in versions().items()]
    lines = [", ".join([*of, device(), f"in {environment}"])]
    if (here := _kit_around(Path.cwd())) != ROOT:
        lines.append(
            f"Mind: you are in {here}, and what runs is the kit in {ROOT}. `make lab` in {here} "
            "runs its own."
        )
    return "\n".join(lines)


def _kit_around(folder: Path) -> Path:
    """The copy of the kit that a folder lies in; the one that runs, if it lies in none."""
    around = (folder, *folder.parents)
    return next((f for f in around if (f / "arcnn" / "__init__.py").is_file()), ROOT)


def commit() -> str | None:
    """The kit's commit, ``+changes`` behind it if files were edited; None without git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.PIPE).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def moment(seconds: float) -> str:
    """``time.time()`` as ISO text, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


class Record(dict):
    """A record, which a notebook shows as one line that says where it is."""

    file: Path

    def _ipython_display_(self) -> None:
        file = self.file.relative_to(ROOT) if self.file.is_relative_to(ROOT) else self.file
        print(f"Recorded in {file}, after {self['seconds']} s.")


def write_record(
    path: Path,
    *,
    parameters: dict[str, Any],
    started: float,
    dataset: str | None = None,
    data_root: Path | None = None,
    metrics: dict[str, Any] | None = None,
    **extra: Any,
) -> Record:
    """Write the record of a notebook's run, its last act, as JSON, and return it.

    If what is there differs in :data:`CIRCUMSTANCES` alone, it stays: nothing is newer than it was.

    Args:
        parameters: of the notebook, as they were.
        started: ``time.time()`` of the start.
        dataset, data_root: what was read; its fingerprint is taken.
        metrics: numbers that came out.
        extra: whatever else belongs to it.
    """
    now = time.time()
    record = Record()
    record.file = path
    record |= {
        "parameters": parameters,
        "seed": parameters.get("seed"),
        "metrics": metrics,
        "dataset": dataset and {"name": dataset, **fingerprint(dataset, data_root)},
        **extra,
        "commit": commit(),
        "versions": versions(),
        "device": device(),
        "started": moment(started),
        "finished": moment(now),
        "seconds": round(now - started, 1),
    }
    if _content(read_earlier(path)) != _content(record):
        write_json(path, record)
    return record


def _content(record: dict[str, Any]) -> str:
    return compact_json({k: v for k, v in record.items() if k not in CIRCUMSTANCES})
