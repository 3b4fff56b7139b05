"""What of earlier results still fits: settings, data and protocol now, and as the runs have them.

A training that no longer fits is named, with the command that redoes it, and never thrown away.
What only has to be measured again loses its ``metrics.json``, so that it is.
"""

import functools
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from arcnn.config import for_processes, get_config
from arcnn.data import find_splits, register_dataset, split_fingerprint
from arcnn.evaluation import protocol_version
from arcnn.experiments.runs import head_settings
from arcnn.experiments.variants import NETWORK_SEEDS, VARIANTS
from arcnn.files import data_folder, read_earlier, run_folder, sha256
from arcnn.initial_weights import start_record
from arcnn.settings import (
    MAX_ITER,
    differences,
    read_settings,
    settings,
    settings_hash,
    training_differences,
    write_settings,
)
from arcnn.weights import FINAL_WEIGHTS


class Outdated(NamedTuple):
    """What :func:`find_outdated` found."""

    trainings: list[str]  # sentences: they no longer fit, and what to do
    measured: dict[Path, str]  # metrics.json to be made anew, and why
    configs: dict[Path, CfgNode]  # config.yaml whose settings of testing changed
    reports: list[Path]  # data reports on other files than those that are there

    def put_right(self) -> None:
        """Remove what has to be made anew, and take the new settings of testing over."""
        for file in (*self.measured, *self.reports):
            file.unlink(missing_ok=True)
        for file, cfg in self.configs.items():
            write_settings(cfg, file)


class _Run(NamedTuple):
    folder: Path
    cfg: CfgNode  # as it would be trained now
    dataset: str


def find_outdated(profile: dict[str, Any], results: Path, *, ablation: bool = False) -> Outdated:
    """Compare the runs of a profile with what they would be made with now.

    Args:
        results: the profile's folder.
        ablation: look at its heads and networks too.
    """
    found = Outdated([], {}, {}, [])
    data = _Data(profile)
    for dataset in profile["datasets"]:
        report = results / "data" / f"{dataset}.json"
        if report.is_file() and _recorded_files(report) != data.files(dataset):
            found.reports.append(report)
    for run in _runs(profile, results, ablation):
        _compare(run, data, found)
    if ablation:
        found.trainings.extend(_heads(profile, results))
    return found


class _Data:
    """The data as it is now, read at most once and only where a file's hash has changed."""

    def __init__(self, profile: dict[str, Any]) -> None:
        self.root, self.max_skipped = data_folder(profile["data_root"]), profile["max_skipped"]

    @functools.cache  # noqa: B019 - lives as long as the check
    def files(self, dataset: str) -> dict[str, str]:
        """SHA-256 of the annotation files, by split; empty if there is none."""
        try:
            found = find_splits(dataset, self.root)
        except FileNotFoundError:
            return {}
        return {split: sha256(file) for split, (file, _) in found.items()}

    @functools.cache  # noqa: B019
    def register(self, dataset: str) -> None:
        register_dataset(dataset, self.root, max_skipped=self.max_skipped)

    def differs(self, run: _Run, split: str, before: dict[str, Any]) -> bool:
        """Whether a split is another one now.

        Args:
            before: ``sha256`` and ``used`` of the split as the run has them.
        """
        now = self.files(run.dataset)
        if run.cfg.DATASETS.OVERFIT_IMAGES:  # the one split that is there serves both ends
            split = next(iter(now), split)
        if split not in now or not before or before.get("sha256") == now[split]:
            return False
        self.register(run.dataset)
        return split_fingerprint(run.cfg, split)["used"] != before.get("used")


def _runs(profile: dict[str, Any], results: Path, ablation: bool) -> Iterator[_Run]:
    options, gpus = profile["options"], profile["num_gpus"]
    for dataset, model, seed in product(profile["datasets"], profile["models"], profile["seeds"]):
        folder = run_folder(results, dataset, model, seed)
        if (folder / "train" / "config.yaml").is_file():
            cfg = get_config(dataset, model, options=options, seed=seed)
            yield _Run(folder, for_processes(cfg, gpus), dataset)
    networks, seeds = profile["ablation"]["networks"], profile["seeds"][:NETWORK_SEEDS]
    for dataset, name, seed in product(profile["datasets"], networks, seeds):
        variant = VARIANTS[name]
        folder = run_folder(results / "networks" / name, dataset, variant.model, seed)
        if ablation and (folder / "train" / "config.yaml").is_file():
            own = [*options, *variant.options]
            cfg = get_config(dataset, variant.model, options=own, seed=seed)
            yield _Run(folder, for_processes(cfg, gpus), dataset)


def _compare(run: _Run, data: _Data, found: Outdated) -> None:
    train = run.folder / "train"
    now, before = settings(run.cfg), read_settings(train / "config.yaml")
    changed = training_differences(now, before)
    if (train / FINAL_WEIGHTS).is_file() and now[MAX_ITER] != before.get(MAX_ITER):
        changed = changed or [f"{MAX_ITER}: now {now[MAX_ITER]}, before {before.get(MAX_ITER)}"]
    made_with = read_earlier(train / "data.json")
    if data.differs(run, "train", made_with):
        changed.append("the training data")
    if made_with and start_record(run.cfg).get("sha256") != made_with.get("start"):
        changed.append("the weights that it started from")
    if changed:
        found.trainings.append(_sentence(run.folder, changed))
        return
    metrics = run.folder / "metrics.json"
    record = read_earlier(run.folder / "record.json", tested_on="object")
    tested = differences(now, before)
    if tested:
        found.configs[train / "config.yaml"] = run.cfg
    reasons = [difference for difference in tested if not difference.startswith(MAX_ITER)]
    if record and record.get("protocol") != protocol_version():
        reasons.append("the protocol changed")
    if record and record.get("settings_sha256") != settings_hash(before):
        reasons.append("it was measured with other settings")
    if record and data.differs(run, "val", record.get("tested_on", {})):
        reasons.append("the data changed")
    if metrics.is_file() and reasons:
        found.measured[metrics] = "; ".join(reasons)


def _heads(profile: dict[str, Any], results: Path) -> Iterator[str]:
    """Sentences on heads of the ablation that were trained with other settings."""
    options = [*profile["options"], *profile["ablation"]["options"]]
    for dataset, name in product(profile["datasets"], profile["ablation"]["variants"]):
        folder = results / "ablation" / dataset / name
        for file in sorted(folder.glob("seed*/record.json")):
            before = read_earlier(file, settings="object").get("settings")
            now = head_settings(dataset, name, options)
            changed = differences(now, before) if before else []
            if changed:
                yield _sentence(folder, changed)
                break


def _sentence(folder: Path, changed: list[str]) -> str:
    return (
        f"{folder} was trained with other settings or data ({'; '.join(changed)}). To train it "
        f"anew: rm -r '{folder}', then the same command; to keep it, choose another folder with "
        "RESULTS=<folder>."
    )


def _recorded_files(report: Path) -> dict[str, str] | None:
    return read_earlier(report, dataset="object").get("dataset", {}).get("sha256")
