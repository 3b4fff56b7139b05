"""``make report``: a profile's run as one HTML file, ``results/<profile>/report.html``: Table 1 and
the figures, every executed notebook, what was made of what, when, and how long it took.

It is Snakemake's own report, and opens from disk, without a network.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from arcnn.errors import MissingError
from arcnn.workshop.run.reproduce import snakemake
from arcnn.workshop.run.targets import on_results


def make_report(results: Path) -> str:
    """Write the report of what lies in a results folder; says where it is.

    Raises:
        FileNotFoundError: nothing was run there.
        ChildProcessError: Snakemake refuses, and has said why: a run that is not finished.
    """
    configuration, report = results / "profile.yaml", results / "report.html"
    if not configuration.is_file():
        raise MissingError(f"{results} has no run: make reproduce PROFILE={results.name}.")
    ablation = ["ablation"] if any((results / "records").glob("11_*.json")) else []
    command = snakemake(["all", *ablation], results, configuration)
    command += ["--config", "cores=1", "train_threads=1", "side_by_side=1"]
    command += ["--cores", "1"]
    command += ["--report", str(report), "--quiet", "all"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ChildProcessError(
            f"Snakemake makes no report of {results}. Is the run complete? make reproduce "
            f"PROFILE={results.name} says so. Its words:\n{made.stderr.strip()}"
        )
    return f"The report, {report.stat().st_size // 2**20:,} MB: {report}"


def main(arguments: Sequence[str] | None = None) -> int:
    return on_results("report", __doc__, make_report, arguments)


if __name__ == "__main__":
    sys.exit(main())
