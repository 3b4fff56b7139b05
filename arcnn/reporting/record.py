"""The record that ends every notebook: what was run, on what, with what, and what came out."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from arcnn import data
from arcnn.paths import ROOT

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


def commit() -> str | None:
    """The kit's commit, ``+changes`` behind it if files were edited; None without git."""
    try:
        described = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one piece: a file of this name is never half-written.

    Raises:
        OSError: the folder cannot be written or the disk is full; says what to do.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path}: {error}. Make room, or choose another folder with the "
            "parameter results_root."
        ) from error


def write_record(
    path: Path,
    *,
    parameters: dict[str, Any],
    started: float,
    dataset: str | None = None,
    data_root: Path | None = None,
    metrics: dict[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Write the record of a notebook's run, its last act.

    Args:
        path: the JSON file.
        parameters: of the notebook, as they were.
        started: ``time.time()`` of the start.
        dataset, data_root: what was read; its fingerprint is taken.
        metrics: numbers that came out.
        extra: whatever else belongs to it.

    Returns:
        What was written.
    """
    now = time.time()
    record = {
        "parameters": parameters,
        "seed": parameters.get("seed"),
        "metrics": metrics,
        "dataset": dataset and {"name": dataset, "sha256": data.fingerprint(dataset, data_root)},
        **extra,
        "commit": commit(),
        "versions": versions(),
        "device": device(),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "seconds": round(now - started, 1),
    }
    write_json(path, record)
    return record
