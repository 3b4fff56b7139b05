"""``make lab``: copies of the notebooks to work in, so that stepping through changes nothing of the
kit, and no result that ``make reproduce`` made.

``python -m arcnn.workshop.notebooks.lab`` writes them to ``lab/``, without the solutions of the
exercises, and with ``results/lab/`` as the folder that they write to. A copy that is there stays as
it is.
"""

import argparse
import hashlib
import sys
import textwrap
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from arcnn.data import find_splits
from arcnn.files import NOTEBOOKS, ROOT, data_folder, results_folder, write_text
from arcnn.names import DATASETS
from arcnn.reporting import device
from arcnn.weights import FINAL_WEIGHTS

LAB = ROOT / "lab"
PROFILE = "lab"
# An answer that is open or wrong is no reason for Run All to stop.
CHECK = """try:
{check}
    print("Right.")
except Exception as error:
    print("Not yet.", type(error).__name__, error)"""


def handout(source: Path) -> NotebookNode:
    """A notebook of the kit as a student gets it: no solutions, results in a folder of its own."""
    notebook = nbformat.read(source, as_version=4)
    without = TagRemovePreprocessor(remove_cell_tags={"solution"})
    notebook, _ = without.preprocess(notebook, {})
    notebook.metadata["arcnn"] = {"source": _fingerprint(source)}
    for cell in notebook.cells:
        if "check" in cell.metadata.get("tags", []):
            cell.source = CHECK.format(check=textwrap.indent(cell.source, "    "))
        if "parameters" in cell.metadata.get("tags", []):
            lines = cell.source.split("\n")
            lines[0] = f'profile: str = "{PROFILE}"  # results go to results/<profile>/'
            cell.source = "\n".join(lines)
    return notebook


def hand_out(folder: Path = LAB) -> list[str]:
    """Write the copies that are not there yet.

    Returns:
        A sentence for each copy whose original has changed since.
    """
    said = []
    for source in sorted(NOTEBOOKS.glob("*.ipynb")):
        copy = folder / source.name
        if not copy.is_file():
            write_text(copy, nbformat.writes(handout(source)) + "\n")
        elif nbformat.read(copy, 4).metadata.get("arcnn", {}).get("source") != _fingerprint(source):
            said.append(
                f"{copy.name} in {folder} is of an older version of the kit; it stays as it is. "
                "Move it away to get the new one."
            )
    return said


def _fingerprint(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def machine(data_root: str = "", results_root: str = "") -> pd.DataFrame:
    """What is on this machine already: data sets, trainings by profile, the device."""
    rows = {"computes on": device()}
    if Path.cwd() == NOTEBOOKS:
        rows["mind"] = "these are the kit's own notebooks; `make lab` opens copies to work in"
    for dataset in DATASETS:
        try:
            splits = find_splits(dataset, data_folder(data_root))
            rows[f"data set {dataset}"] = "there: " + ", ".join(splits)
        except FileNotFoundError:
            where = "notebook 01 draws it" if dataset == "tabletop" else "see data/README.md"
            rows[f"data set {dataset}"] = f"not there; {where}"
    results = results_folder("x", results_root).parent
    for profile in sorted(path.name for path in results.glob("*") if path.is_dir()):
        runs = sorted((results / profile).glob(f"runs/*/*/*/train/{FINAL_WEIGHTS}"))
        names = [f"{run.parents[3].name} {run.parents[2].name}" for run in runs]
        if names:
            rows[f"trained in results/{profile}"] = ", ".join(dict.fromkeys(names))
    return pd.Series(rows, name="").to_frame()


def main() -> int:
    argparse.ArgumentParser(prog="make lab", description=__doc__).parse_args()
    try:
        for sentence in hand_out():
            print(sentence, file=sys.stderr)
        return 0
    except OSError as error:
        print(f"The copies for JupyterLab cannot be written: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
