"""The record that ends every notebook: what was run, on what, with what, and what came out."""

import importlib.metadata
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from arcnn.data.registration import fingerprint
from arcnn.files import ROOT, write_json

PACKAGES = ("arcnn", "detectron2", "torch", "torchvision", "numpy", "pycocotools", "matplotlib")


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
    """:func:`versions` and :func:`device` in one line."""
    return ", ".join([*(f"{name} {version}" for name, version in versions().items()), device()])


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
    write_json(path, record)
    return record
