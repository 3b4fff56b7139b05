"""Where things lie, from any working directory, and how a file gets there in one piece."""

import os
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def data_folder(data_root: str = "") -> Path:
    """The folder of data sets: as given, by default the kit's ``data/``."""
    return Path(data_root).expanduser().resolve() if data_root else ROOT / "data"


def results_folder(profile: str, results_root: str = "") -> Path:
    """The folder of a profile's results: ``<results_root>/<profile>``, by default ``results/``."""
    root = Path(results_root).expanduser().resolve() if results_root else ROOT / "results"
    return root / profile


def run_folder(results: Path, dataset: str, model: str, seed: int) -> Path:
    """The folder of one run. ``train/`` in it is detectron2's OUTPUT_DIR."""
    return results / "runs" / dataset / model / f"seed{seed}"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path`` and then rename it: no half-written file ever has
    the name, whatever interrupts it.

    Raises:
        OSError: the folder cannot be written or the disk is full; says what to do.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path}: {error}. Make room there, or choose another folder, and run the "
            "same again: what is finished is kept."
        ) from error
