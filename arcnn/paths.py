"""Where things lie: notebooks run from any working directory and agree on these folders."""

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
