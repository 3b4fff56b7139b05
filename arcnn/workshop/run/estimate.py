"""What the runs of a profile take: hours, memory, disk.

From a rehearsal (:mod:`arcnn.workshop.run.rehearse`) of the same settings on the same kind of
machine, else as far as the settings tell. ``python -m arcnn.workshop.run.estimate PROFILE_FILE``
says what is left of a run.
"""

import argparse
import functools
import itertools
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from scipy import stats

from arcnn.config import for_processes, get_config
from arcnn.errors import InputError
from arcnn.experiments.variants import VARIANTS
from arcnn.files import read_earlier, run_folder
from arcnn.logbook import read_log, read_sessions
from arcnn.parameters import read_parameters
from arcnn.settings import settings, settings_hash
from arcnn.training import build_optimizer
from arcnn.weights import FINAL_WEIGHTS

FILE, FORMAT = "rehearsal.json", 2
# Measured on one core of a CPU, ARCNN with R50-FPN, forward and backward.
SECONDS_PER_MEGAPIXEL = 11.0
BYTES_PER_PREDICTED_IMAGE = 40_000  # of predictions.json, at KINS' size
OBJECTS = 12  # of an image, where nothing was counted
_WAITING = 2  # batches in shared memory, of each worker
MB, GB = 2**20, 2**30
AROUND = np.array([1, 1 / 2, 2])  # of a guess: expected, and its bounds


class Cost(NamedTuple):
    """What a training and its evaluation take. Bytes; and seconds: expected, at least, at most."""

    weights: float  # that stay
    checkpoint: float  # while it is trained, and the next one beside it
    predictions: float  # predictions.json
    shared: float  # shared memory of the loaders' workers, at most
    training: np.ndarray | None = None  # None where nobody knows
    evaluation: np.ndarray | None = None  # None if it was not rehearsed
    cpu: float = 0.0  # peak memory with that of workers, if it was rehearsed
    gpu: float = 0.0


class Planned(NamedTuple):
    """A run of a profile."""

    dataset: str
    model: str
    seed: int
    cfg: CfgNode

    @property
    def name(self) -> str:
        """Of its row: what is the same for all seeds."""
        return f"{self.dataset}/{self.model}"


def planned(profile: Mapping[str, Any]) -> Iterator[Planned]:
    """Every run of a profile."""
    every = itertools.product(profile["datasets"], profile["models"], profile["seeds"])
    for dataset, model, seed in every:
        cfg = get_config(dataset, model, options=profile["options"])
        yield Planned(dataset, model, seed, for_processes(cfg, profile["num_gpus"]))


def to_train(profile: Mapping[str, Any], results: Path) -> list[Planned]:
    """Those whose training is still to come."""
    return [run for run in planned(profile) if not (_folder(results, run) / FINAL_WEIGHTS).exists()]


def _folder(results: Path, run: Planned) -> Path:
    return run_folder(results, run.dataset, run.model, run.seed) / "train"


def machine(cores: int) -> dict[str, Any]:
    """The kind of a machine: its GPU or processor, and how many cores may be used."""
    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "cores": cores}
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"device": next(iter(names), platform.machine()), "cores": cores}


def settings_of(cfg: CfgNode) -> str:
    """A hash of what decides what a run costs: all settings but its seed, and its workers."""
    own = settings(cfg) | {"DATALOADER.NUM_WORKERS": cfg.DATALOADER.NUM_WORKERS}
    del own["SEED"]
    return settings_hash(own)


def find_rehearsal(results: Path, cores: int) -> dict[str, Any]:
    """The rehearsal of a folder of results; empty if there is none of this kind of machine."""
    found = read_earlier(results / FILE)
    fits = found.get("format") == FORMAT and found.get("machine") == machine(cores)
    return found if fits else {}


def cost(run: Planned, rehearsal: Mapping[str, Any], images: int = 0) -> Cost:
    """What a run takes, as rehearsed; where it was not, as far as its settings tell.

    Args:
        images: that are evaluated, if it was not rehearsed.
    """
    return rehearsed(run, rehearsal) or _computed(run.cfg, images)


def rehearsed(run: Planned, rehearsal: Mapping[str, Any]) -> Cost | None:
    """What a run takes; None if it was not rehearsed to the end with these settings."""
    own = rehearsal.get("runs", {}).get(run.name, {})
    if own.get("settings_sha256") != settings_of(run.cfg) or own["part"] != "done":
        return None
    solver, images, start = run.cfg.SOLVER, own["images"], own["start_seconds"]
    saved = solver.MAX_ITER // solver.CHECKPOINT_PERIOD * own["save_seconds"]
    each = statistics.fmean(own["image_seconds"]) + own["evaluation_seconds"]
    evaluated = own["held_bytes"] + own["evaluation_bytes"] * images
    return Cost(
        weights=own["model_final_bytes"],
        checkpoint=own["rehearsed_bytes"],
        predictions=own["predictions_bytes"] * images,
        shared=_WAITING * run.cfg.DATALOADER.NUM_WORKERS * own["batch_bytes"],
        training=step_seconds(own["steps"], own["hardest_seconds"]) * solver.MAX_ITER
        + (start + saved),
        evaluation=each * images * AROUND + (start + own["fixed_seconds"]),
        cpu=max(own["cpu_bytes"], evaluated),
        gpu=own["gpu_bytes"],
    )


def step_seconds(steps: Sequence[float], hardest: float) -> np.ndarray:
    """Seconds of a step: the mean, and the 95 % interval of that mean (Student's t).

    Its upper end is no less than ``hardest``, a step on the hardest batch: later in a training more
    proposals have a mask to learn.
    """
    mean = statistics.fmean(steps)
    _, low, high = mean * AROUND
    if len(steps) > 1:
        low, high = stats.t.interval(0.95, len(steps) - 1, mean, stats.sem(steps) or 1e-9)
        low = max(low, min(steps))
    return np.array([mean, low, max(high, hardest)])


def is_long(cfg: CfgNode) -> bool:
    """Whether a training takes a CPU more than a day."""
    return _computed_seconds(cfg) > 86_400


def _computed_seconds(cfg: CfgNode) -> float:
    pixels = cfg.SOLVER.IMS_PER_BATCH * max(cfg.INPUT.MIN_SIZE_TRAIN) * cfg.INPUT.MAX_SIZE_TRAIN
    return cfg.SOLVER.MAX_ITER * pixels / 1e6 * SECONDS_PER_MEGAPIXEL


def _computed(cfg: CfgNode, images: int) -> Cost:
    weights = built(cfg)
    moments = 2 if cfg.SOLVER.OPTIMIZER == "AdamW" else 1
    pixels = max(cfg.INPUT.MIN_SIZE_TRAIN) * cfg.INPUT.MAX_SIZE_TRAIN
    # Image and two masks of each object.
    batch = cfg.SOLVER.IMS_PER_BATCH * pixels * (3 + 2 * OBJECTS)
    return Cost(
        weights=weights,
        checkpoint=(1 + moments) * weights,
        predictions=BYTES_PER_PREDICTED_IMAGE * images,
        shared=_WAITING * cfg.DATALOADER.NUM_WORKERS * batch,
        training=None if torch.cuda.is_available() else _computed_seconds(cfg) * AROUND,
    )


def built(cfg: CfgNode) -> int:
    """The bytes of a network's weights.

    Raises:
        ValueError: the network, or what trains it, cannot be built with these settings.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED, cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = 0, "cpu", ""
    return _built(cfg.dump())


@functools.cache
def _built(text: str) -> int:
    try:
        cfg = CfgNode.load_cfg(text)
        model = build_model(cfg)
        build_lr_scheduler(cfg, build_optimizer(cfg, model))
    except Exception as error:  # detectron2's parts raise what they like
        raise InputError(
            f"no model can be built and trained with these options: {error}"
        ) from error
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def total(costs: Sequence[Cost], side_by_side: int) -> np.ndarray:
    """Seconds of several rehearsed runs, so many at a time."""
    return sum(of.training + of.evaluation for of in costs) / min(side_by_side, len(costs))


def what_is_left(profile: Mapping[str, Any], results: Path, cores: int, side_by_side: int) -> str:
    """A sentence: how many trainings are done, and how long the rest takes.

    It takes what finished runs of the same data set and model took; without any, what was rehearsed
    times how wrong that was of the finished ones; else what others on its data set took.
    """
    rehearsal, rows = find_rehearsal(results, cores), []
    for run in planned(profile):
        of, folder = rehearsed(run, rehearsal), _folder(results, run)
        evaluated = read_earlier(folder.parent / "record.json").get("seconds")
        left = not (folder.parent / "metrics.json").is_file()
        own = run.dataset, run.model
        rows.append((*own, "training", *_trained(folder, run.cfg), of and of.training[0]))
        rows.append((*own, "evaluation", evaluated, left, of and of.evaluation[0]))
    runs = pd.DataFrame(rows, columns=["dataset", "model", "part", "took", "left", "expected"])
    runs = runs.astype({"took": float, "left": float, "expected": float})
    wrong = (runs.took / runs.expected).groupby(runs.part).transform("mean").fillna(1)
    seconds = runs.groupby(["dataset", "model", "part"]).took.transform("mean")
    seconds = seconds.fillna(runs.expected * wrong)
    seconds = seconds.fillna(runs.groupby(["dataset", "part"]).took.transform("mean"))
    trainings, to_come = len(runs) // 2, len(to_train(profile, results))
    time = duration((runs.left * seconds).sum() / max(1, min(side_by_side, to_come)))
    unknown = runs[seconds.isna()].drop_duplicates(["dataset", "part"])
    without = [f"{row.part} on {row.dataset}" for row in unknown.itertuples()]
    return (
        f"{trainings - to_come} of {trainings} trainings are done. Trainings and evaluations to "
        f"come: {time}, by those that are finished"
        + (" and the rehearsal" if rehearsal else "")
        + (f"; without {', '.join(without)}, of which none is finished." if without else ".")
    )


def _trained(folder: Path, cfg: CfgNode) -> tuple[float | None, float]:
    """Seconds of a finished training, and the share of it that is left, in [0, 1]."""
    if (folder / FINAL_WEIGHTS).is_file():
        # Of a session that was killed, nobody knows how long it was; the others tell the rate.
        ended = [s for s in read_sessions(folder) if s["seconds"] and s["last"] > s["first"]]
        steps = sum(s["last"] - s["first"] for s in ended)
        seconds = sum(s["seconds"] for s in ended)
        return seconds / steps * cfg.SOLVER.MAX_ITER if steps else None, 0.0
    log = read_log(folder)
    return None, 1 - (log.index[-1] + 1) / cfg.SOLVER.MAX_ITER if len(log) else 1.0


def duration(seconds: float) -> str:
    """In a unit that fits: "40 s", "12 min", "9.3 h", "2.1 days"."""
    for unit, length, until in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 172_800)):
        if seconds < until:
            number = seconds / length
            return f"{number:.1f} {unit}" if unit == "h" and number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def between(seconds: np.ndarray) -> str:
    """Expected seconds with their bounds, in words."""
    return "{} ({} to {})".format(*map(duration, seconds))


def size(number: float) -> str:
    """Bytes in words: "16 MB", "8.1 GB"."""
    return f"{number / MB:.0f} MB" if number < GB else f"{number / GB:.1f} GB"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m arcnn.workshop.run.estimate", description=__doc__
    )
    parser.add_argument("profile", type=Path, help="profile.yaml in a folder of results")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--side-by-side", type=int, default=1, help="trainings at a time")
    given = parser.parse_args(arguments)
    try:
        profile = read_parameters(given.profile)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if profile["profile"] not in VARIANTS:  # a network of the ablation, beside the profile's runs
        results = given.profile.resolve().parent
        print(what_is_left(profile, results, given.cores, given.side_by_side), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
