"""``make reproduce``: check everything that can be checked beforehand, then hand over to Snakemake.

Every problem found here is one sentence that says what is wrong and what to do.
"""

import argparse
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from arcnn.experiments.variants import VARIANTS
from arcnn.files import (
    NOTEBOOKS,
    ROOT,
    lock,
    plain,
    printable,
    read_yaml,
    results_folder,
    write_text,
)
from arcnn.workshop.run.beforehand import (
    check_data,
    check_folders,
    check_training,
    costs,
    name_own_classes,
)
from arcnn.workshop.run.estimate import find_rehearsal
from arcnn.workshop.run.folders import date_back, files_below, unwritable
from arcnn.workshop.run.outdated import find_outdated
from arcnn.workshop.run.profiles import (
    MOST_SEEDS,
    ProfileError,
    check_choices,
    load_profile,
)

CLUSTERS = ROOT / "cluster"
CORES_OF_A_JOB = 8  # on a cluster, unless CORES says otherwise


def check_earlier_results(profile: dict, results: Path, chosen: argparse.Namespace) -> None:
    """Name what does not fit any more, and have measured again what only needs that.

    Raises:
        ProfileError: trainings were made with other settings or data than would be now.
    """
    if not chosen.dry_run:
        number = date_back([*files_below(results), *NOTEBOOKS.glob("*.ipynb")])
        if number:
            print(f"{number} files are dated in the future; dated as of now.", file=sys.stderr)
    outdated = find_outdated(profile, results, ablation=chosen.target == "ablation")
    if outdated.trainings:
        raise ProfileError("\n".join(outdated.trainings))
    for file, why in outdated.measured.items():
        print(f"Measured again: {file.relative_to(results).parent} ({why}).", file=sys.stderr)
    if not chosen.dry_run:
        outdated.put_right()


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The options of a command that works through a profile."""
    parser.add_argument("--profile", default="demo", help="a file of notebooks/profiles/")
    parser.add_argument("--dataset", help="one data set, in the place of the profile's")
    parser.add_argument("--seeds", type=int, help="so many trainings of each, in its place")
    parser.add_argument("--data-root", help="folder of the data sets (default: data/)")
    parser.add_argument("--results-root", help="folder of all results (default: results/)")
    parser.add_argument("--cores", type=int, default=cores_here(), help="of this machine")


def chosen_profile(chosen: argparse.Namespace) -> dict[str, Any]:
    """The profile that is named on a command line, with what else was chosen there.

    Raises:
        ProfileError: see :func:`arcnn.workshop.run.profiles.load_profile`.
    """
    profile = load_profile(chosen.profile)
    if chosen.cores is not None and chosen.cores < 1:
        raise ProfileError(f"CORES is {chosen.cores}; at least one core is needed.")
    if chosen.dataset:
        profile["datasets"] = [chosen.dataset]
    if chosen.seeds is not None:
        if chosen.seeds > MOST_SEEDS:
            raise ProfileError(
                f"SEEDS is so many trainings of each, {MOST_SEEDS} at most, with the seeds 0, 1, "
                "2, ...; for others, write a profile."
            )
        profile["seeds"] = list(range(chosen.seeds))
    for key in ("data_root", "results_root"):
        if getattr(chosen, key):
            profile[key] = str(Path(os.path.expanduser(getattr(chosen, key))).resolve())
    if profile["data_root"]:  # a profile's own is relative to its results
        results = results_folder(profile["profile"], profile["results_root"])
        profile["data_root"] = str(results / profile["data_root"])
    return profile


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make reproduce", description=__doc__)
    add_choices(parser)
    parser.add_argument("--executor", help="a file of cluster/, or another: where, if not here")
    parser.set_defaults(cores=None)  # another one on a cluster
    what = "jobs that share this machine's GPU (default: 1)"
    parser.add_argument("--gpu-jobs", type=int, default=1, help=what)
    parser.add_argument("--target", default="all", choices=("all", "ablation", "start"))
    parser.add_argument("--dry-run", action="store_true", help="only list what would be run")
    chosen = parser.parse_args(arguments)
    try:
        profile = chosen_profile(chosen)
        executor = find_executor(chosen.executor) if chosen.executor else None
        if chosen.gpu_jobs < 1:
            raise ProfileError(f"GPU_JOBS is {chosen.gpu_jobs}; at least one job uses the GPU.")
        if chosen.cores is None:
            chosen.cores = CORES_OF_A_JOB if executor else cores_here()
        if set("{}") & set(f"{ROOT}{sys.executable}"):
            raise ProfileError(
                f"{ROOT} or {sys.executable} has braces in its name, which mean something to "
                "Snakemake; move the kit and its environment to another folder."
            )
        if importlib.util.find_spec("ipykernel") is None:
            raise ProfileError(
                "this environment has no Python kernel for notebooks: `make setup` installs it."
            )
        check_choices(profile)
        results = check_folders(profile)
        name_own_classes(profile)
        evaluated = check_data(profile)
        # Snakemake's own lock outlives a killed run; this one ends with the processes that hold it.
        held = lock(results / ".lock")
        if held is None:
            raise ProfileError(
                f"another run is at work in {results}; wait for it, or choose another folder with "
                "RESULTS=<folder>."
            )
        os.set_inheritable(held.fileno(), True)
        check_earlier_results(profile, results, chosen)
        check_training(profile, results)
        if executor is None:  # what is said is of this machine
            rehearsal = find_rehearsal(results, chosen.cores)
            for sentence in costs(
                profile, results, evaluated, rehearsal, side_by_side(profile, chosen)
            ):
                print(sentence, file=sys.stderr)
    except (OSError, ValueError) as error:
        print(printable(f"make reproduce PROFILE={chosen.profile}: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        return run_snakemake(profile, results, chosen, executor)
    except OSError as error:
        print(f"make reproduce: {unwritable(results, error)}", file=sys.stderr)
        return 2


def find_executor(name: str) -> Path:
    """Snakemake's profile for a cluster: ``cluster/<name>.yaml``, or a file of that name elsewhere.

    Raises:
        ProfileError: there is none, it names no executor, or its executor is not installed.
    """
    file = Path(name) if name.endswith(".yaml") else CLUSTERS / f"{name}.yaml"
    try:
        executor = str(read_yaml(plain(file).read_text())["executor"])
    except FileNotFoundError as error:
        known = " or ".join(sorted(known.stem for known in CLUSTERS.glob("*.yaml")))
        raise ProfileError(f"{file} is not there; EXECUTOR is {known}, or a file.") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ProfileError(f"{file} is no Snakemake profile that names its executor.") from error
    if not re.fullmatch("[a-z0-9-]{1,99}", executor):
        raise ProfileError(f"{file} names an executor that cannot be: {executor:.99}.")
    plugin = f"snakemake-executor-plugin-{executor}"
    if importlib.util.find_spec(plugin.replace("-", "_")) is None:
        raise ProfileError(f"this environment has no {plugin}: python -m pip install {plugin}.")
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise ProfileError(
            f"{file} is for Slurm, and there is no `sbatch` here: start the run on a machine that "
            "jobs are submitted from."
        )
    return file.resolve()


def threads_of_a_training(profile: dict, cores: int, gpu_jobs: int = 1) -> int:
    """How many of the cores a training takes: all where there is a GPU, which is for one at a time
    or for as many as were asked for.

    On a CPU one, or an even share of half of many: two threads of one training on two shared cores
    take several times as long as one, and so do more trainings than cores.
    """
    if torch.cuda.is_available():
        return max(1, cores // gpu_jobs)
    runs = len(profile["datasets"]) * len(profile["models"]) * len(profile["seeds"])
    return max(1, cores // (2 * runs))


def side_by_side(profile: dict, chosen: argparse.Namespace) -> int:
    """How many trainings run at the same time on this machine."""
    threads = threads_of_a_training(profile, chosen.cores, chosen.gpu_jobs)
    return max(1, chosen.cores // threads)


def write_parameters(profile: dict[str, Any], results: Path) -> Path:
    """The profile as a file of parameters for Snakemake and the notebooks, and one for each
    network of the ablation, which to the notebooks is a profile of its own.

    Returns:
        ``profile.yaml`` in the results folder.
    """

    def write(file: Path, content: dict[str, Any]) -> Path:
        write_text(file, yaml.safe_dump(content, sort_keys=False))
        return file

    for name in profile["ablation"]["networks"]:
        own = {"profile": name, "results_root": str(results / "networks")}
        own["options"] = [*profile["options"], *VARIANTS[name].options]
        write(results / "networks" / f"{name}.yaml", profile | own)
    return write(results / "profile.yaml", profile)


def cores_here() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def snakemake(
    targets: Sequence[str], results: Path, configuration: Path, executor: Path | None = None
) -> list[str]:
    """The beginning of a Snakemake command on a results folder."""
    command = [sys.executable, "-m", "snakemake", *targets, "--nolock"]
    command += ["--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(results), "--configfile", str(configuration)]
    # Neither SNAKEMAKE_PROFILE nor a folder of that name has a say in what is run, and how.
    return [*command, "--profile", "none", "--workflow-profile", str(executor or "none")]


def run_snakemake(
    profile: dict[str, Any], results: Path, chosen: argparse.Namespace, executor: Path | None
) -> int:
    """Become Snakemake, for a checked profile; does not return.

    Args:
        executor: from :func:`find_executor`; None for this machine.
    """
    command = snakemake([chosen.target], results, write_parameters(profile, results), executor)
    cores = train_threads = chosen.cores
    if executor is None:
        train_threads = threads_of_a_training(profile, cores, chosen.gpu_jobs)
        command += ["--cores", str(cores)]
        if torch.cuda.is_available():
            command += ["--resources", f"gpu={chosen.gpu_jobs}"]
    beside = 0 if executor else side_by_side(profile, chosen)
    command += ["--config", f"cores={cores}", f"train_threads={train_threads}"]
    command += [f"side_by_side={beside}"]
    command += ["--rerun-incomplete", "--keep-going"]
    # Not `code`: a reworded rule is no reason to train again.
    command += ["--rerun-triggers", "mtime", "params", "input"]
    command += ["--quiet", "rules", "host", "reason"]
    command += ["--dry-run"] if chosen.dry_run else []
    # Every process of the run takes the kit from here, whatever else the environment has.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    # Not a child process: the lock is Snakemake's from here on, and what was imported is gone.
    sys.stdout.flush()
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
