"""``make reproduce``: check everything that can be checked beforehand, then hand over to Snakemake.

Every problem found here is one sentence that says what is wrong and what to do.
"""

import argparse
import fcntl
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from arcnn.config import get_config, models_of
from arcnn.data import AnnotationError, find_splits
from arcnn.data.reading import index_file
from arcnn.experiments import VARIANTS
from arcnn.files import PROFILES, ROOT, data_folder, results_folder
from arcnn.names import DATASETS

DEFAULTS = {
    "datasets": None,
    "models": None,
    "seeds": None,
    "options": [],
    "tabletop": {},
    "figure5_class": {},
    "ablation": {},
    "data_root": "",
    "results_root": "",
}
# What `make ablation` trains, unless the profile's `ablation` says otherwise.
ABLATION_DEFAULTS = {
    "trunk": "orcnn",  # whose features: none of the joints that are compared has formed them
    "variants": list(VARIANTS),
    "max_seeds": 5,
    "whole": [],  # variants to train as whole networks too, one seed
    "options": [],  # detectron2 overrides on top of the profile's; IMS_PER_BATCH counts objects
}


class ProfileError(ValueError):
    """A profile or a command-line choice that cannot be run."""


def load_profile(name: str) -> dict:
    """Read and check ``notebooks/profiles/<name>.yaml``.

    Raises:
        ProfileError: an unknown profile, parameter, data set, model or option; says which.
    """
    profile = {"profile": name} | DEFAULTS | _read_profile(name)
    profile["ablation"] = ABLATION_DEFAULTS | profile["ablation"]
    return profile


def _read_profile(name: str) -> dict:
    """The file's parameters, on top of those of the profile that it names as its ``base``."""
    known = sorted(file.stem for file in PROFILES.glob("*.yaml"))
    if name not in known:
        raise ProfileError(f'there is no profile "{name}"; choose one of {", ".join(known)}.')
    file = f"notebooks/profiles/{name}.yaml"
    try:
        profile = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    except yaml.YAMLError as error:
        raise ProfileError(f"{file} is not YAML: {error}") from error
    if not isinstance(profile, dict):
        raise ProfileError(f"{file} has no parameters; known: {', '.join(DEFAULTS)}.")
    base = _read_profile(profile.pop("base")) if "base" in profile else {"options": []}
    for key in profile:
        if key not in DEFAULTS:
            raise ProfileError(f'{file}: unknown parameter "{key}"; known: {", ".join(DEFAULTS)}.')
    for key in profile.get("ablation", {}):
        if key not in ABLATION_DEFAULTS:
            known = ", ".join(ABLATION_DEFAULTS)
            raise ProfileError(f'{file}: unknown parameter "{key}" of ablation; known: {known}.')
    options = profile.get("options", [])
    if all(isinstance(group, list) for group in options):  # grouped, for reading
        options = [item for group in options for item in group]
    return base | profile | {"options": base["options"] + options}


def check_choices(profile: dict) -> None:
    """Check data sets, models, seeds and options of a profile.

    Raises:
        ProfileError: naming what is wrong.
    """
    for key in ("datasets", "models", "seeds"):
        if not profile[key]:
            raise ProfileError(f"profile {profile['profile']}: {key} is empty; name at least one.")
    for dataset in profile["datasets"]:
        if dataset not in DATASETS:
            raise ProfileError(
                f'datasets: unknown "{dataset}"; choose among {", ".join(DATASETS)}.'
            )
        known = models_of(dataset)
        for model in profile["models"]:
            if model not in known:
                raise ProfileError(f'models: unknown "{model}"; choose among {", ".join(known)}.')
        if profile["ablation"]["trunk"] not in known:
            raise ProfileError(f"ablation: the trunk is one of {', '.join(known)}.")
    for variant in (*profile["ablation"]["variants"], *profile["ablation"]["whole"]):
        if variant not in VARIANTS:
            raise ProfileError(
                f'ablation: unknown variant "{variant}"; choose among {", ".join(VARIANTS)}.'
            )
    for variant in profile["ablation"]["whole"]:
        if VARIANTS[variant].times > 1:
            raise ProfileError(f'ablation: "{variant}" is for heads alone, not for whole networks.')
    try:
        for dataset in profile["datasets"]:
            get_config(dataset, profile["models"][0], options=profile["options"])
    except ValueError as error:
        raise ProfileError(f"profile {profile['profile']}: {error}") from error


def check_folders(profile: dict) -> Path:
    """Check that results can be written and that real data is there; returns the results folder.

    Raises:
        ProfileError: naming the folder or file and the cure.
    """
    results = results_folder(profile["profile"], profile["results_root"])
    probe = results / ".writable"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.write_text("x" * 4096)
        probe.unlink()
    except OSError as error:
        raise ProfileError(_unwritable(results, error)) from error
    for dataset in profile["datasets"]:
        try:
            find_splits(dataset, data_folder(profile["data_root"]))
        except FileNotFoundError as error:
            if dataset != "tabletop":
                raise ProfileError(str(error)) from error
            # Not drawn yet, or deleted since: its report, if any, speaks of nothing.
            (results / "data" / "tabletop.json").unlink(missing_ok=True)
    return results


def _unwritable(results: Path, error: OSError) -> str:
    return (
        f"{results} cannot be written ({error}). Free the disk or the folder's permissions, or "
        "choose another folder with RESULTS=<folder>."
    )


def name_own_classes(profile: dict) -> None:
    """Give the network as many classes as the data set ``own`` has, unless the profile says."""
    key = "MODEL.ROI_HEADS.NUM_CLASSES"
    if profile["datasets"] != ["own"] or key in profile["options"]:
        return
    file, _ = next(iter(find_splits("own", data_folder(profile["data_root"])).values()))
    try:
        profile["options"] = [*profile["options"], key, len(index_file(file).category_ids)]
    except AnnotationError as error:
        raise ProfileError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.workshop.reproduce", description=__doc__)
    parser.add_argument("--profile", default="demo", help="a file of notebooks/profiles/")
    parser.add_argument("--dataset", help="one data set, in the place of the profile's")
    parser.add_argument("--data-root", help="folder of the data sets (default: data/)")
    parser.add_argument("--results-root", help="folder of all results (default: results/)")
    parser.add_argument(
        "--cores",
        type=int,
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    )
    parser.add_argument("--target", default="all", choices=("all", "ablation"))
    parser.add_argument("--dry-run", action="store_true", help="only list what would be run")
    chosen = parser.parse_args(arguments)
    try:
        profile = load_profile(chosen.profile)
        if chosen.dataset:
            profile["datasets"] = [chosen.dataset]
        for key in ("data_root", "results_root"):
            if getattr(chosen, key):
                profile[key] = str(Path(getattr(chosen, key)).expanduser().resolve())
        if profile["data_root"]:  # a profile's own is relative to its results
            results = results_folder(profile["profile"], profile["results_root"])
            profile["data_root"] = str(results / profile["data_root"])
        if importlib.util.find_spec("ipykernel") is None:
            raise ProfileError(
                "this environment has no Python kernel for notebooks: `make setup` installs it."
            )
        check_choices(profile)
        results = check_folders(profile)
        name_own_classes(profile)
    except ProfileError as error:
        print(f"make reproduce: {error}", file=sys.stderr)
        return 2
    try:
        return run_snakemake(profile, results, chosen)
    except OSError as error:
        print(f"make reproduce: {_unwritable(results, error)}", file=sys.stderr)
        return 2


def share_cores(profile: dict, cores: int) -> tuple[int, int]:
    """Job slots for Snakemake, and how many of them a training takes.

    Training a small network on a CPU gains little from a second thread: as many trainings as there
    are cores, and half as many again, side by side, waste the least. A GPU is for one at a time.
    """
    if torch.cuda.is_available():
        return cores, cores
    runs = len(profile["datasets"]) * len(profile["models"]) * len(profile["seeds"])
    at_once = max(1, min(runs, cores + cores // 2))
    threads = max(1, cores // at_once)
    return max(cores, at_once * threads), threads


def run_snakemake(profile: dict, results: Path, chosen: argparse.Namespace) -> int:
    """Become Snakemake, for a checked profile. Returns only if another run is at work."""
    lock = os.open(results / ".lock", os.O_WRONLY | os.O_CREAT)
    # Snakemake's own lock outlives a killed run; this one ends with the processes that hold it.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(
            f"make reproduce: another run is at work in {results}; wait for it, or choose "
            "another folder with RESULTS=<folder>.",
            file=sys.stderr,
        )
        return 2
    os.set_inheritable(lock, True)
    slots, train_threads = share_cores(profile, chosen.cores)
    seeds = {
        variant: min(VARIANTS[variant].seeds, profile["ablation"]["max_seeds"])
        for variant in profile["ablation"]["variants"]
    }
    whole = {
        variant: {"model": VARIANTS[variant].model, "options": list(VARIANTS[variant].options)}
        for variant in profile["ablation"]["whole"]
    }
    settings = profile | {"ablation": profile["ablation"] | {"variants": seeds, "whole": whole}}
    configuration = results / "profile.yaml"
    configuration.write_text(
        yaml.safe_dump(settings | {"train_threads": train_threads}, sort_keys=False)
    )
    command = [sys.executable, "-m", "snakemake", chosen.target]
    command += ["--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(results), "--configfile", str(configuration)]
    command += ["--cores", str(slots), "--nolock", "--rerun-incomplete", "--keep-going"]
    # Not `code`: a reworded rule is no reason to train again.
    command += ["--rerun-triggers", "mtime", "params", "input"]
    command += ["--quiet", "rules", "host", "reason"]
    command += ["--dry-run"] if chosen.dry_run else []
    # Not a child process: what has been imported so far would sit in memory all along.
    sys.stdout.flush()
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
