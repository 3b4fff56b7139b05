"""What the runs of a profile take: hours, memory, disk.

From a rehearsal (:mod:`arcnn.workshop.rehearse`) where there is one of the same settings on the
same kind of machine, else as far as it can be computed from the settings. While a profile runs,
``python -m arcnn.workshop.estimate PROFILE_FILE`` says what is left, from what its finished runs
took.
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from scipy import stats

from arcnn.config import for_processes, get_config
from arcnn.experiments.variants import VARIANTS
from arcnn.files import read_earlier, read_yaml, run_folder
from arcnn.logbook import read_sessions
from arcnn.settings import settings, settings_hash
from arcnn.weights import FINAL_WEIGHTS

FILE, FORMAT = "rehearsal.json", 1
# Measured on one core of a CPU, ARCNN with R50-FPN, forward and backward.
SECONDS_PER_MEGAPIXEL = 11.0
BYTES_PER_PREDICTED_IMAGE = 40_000  # of predictions.json, at KINS' size
OBJECTS = 12  # of an image, where nothing was counted
# Detections that a trained model has for each true object, which no rehearsal can know: supposed,
# and at least; at most it is TEST.DETECTIONS_PER_IMAGE. (On tabletop it is 1.7.)
DETECTIONS, FEWEST = 3.0, 1.5
MB, GB = 2**20, 2**30


@dataclass(frozen=True)
class Range:
    """A number, and the bounds that it is expected in."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Range":
        return Range(self.value * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        return f"{duration(self.value)} ({duration(self.low)} to {duration(self.high)})"


ZERO = Range(0, 0, 0)


@dataclass(frozen=True)
class Cost:
    """What one run takes, a training and its evaluation. Bytes and seconds."""

    weights: int  # that stay
    checkpoint: int  # while it is trained, and the next one beside it
    predictions: Range  # predictions.json
    shared: int  # shared memory of the loaders' workers, at most
    training: Range | None = None  # seconds; None where nobody knows
    evaluation: Range | None = None
    cpu: Range | None = None  # peak memory, with that of workers
    gpu: int | None = None  # peak memory
    sources: str = ""  # what was measured

    @property
    def seconds(self) -> Range:
        return (self.training or ZERO) + (self.evaluation or ZERO)


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


# --- before a run ------------------------------------------------------------------------------


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
    """The rehearsal of a folder of results; empty if there is none of this kind of machine
    and version of the kit."""
    found = read_earlier(results / FILE)
    fits = found.get("format") == FORMAT and found.get("machine") == machine(cores)
    return found if fits else {}


def cost(run: Planned, rehearsal: Mapping[str, Any], images: int = 0) -> Cost:
    """What a run takes, as rehearsed; where it was not, as computed from its settings.

    Args:
        images: that are evaluated, if it was not rehearsed.
    """
    own = rehearsal.get("runs", {}).get(run.name, {})
    if own.get("settings_sha256") == settings_of(run.cfg) and "training" in own:
        return _rehearsed(run.cfg, own, rehearsal.get("evaluations", {}).get(run.dataset, {}))
    return _computed(run.cfg, images)


def is_long(cfg: CfgNode) -> bool:
    """Whether a training takes a CPU more than a day."""
    return _computed_seconds(cfg) > 86_400


def _computed_seconds(cfg: CfgNode) -> float:
    pixels = cfg.SOLVER.IMS_PER_BATCH * max(cfg.INPUT.MIN_SIZE_TRAIN) * cfg.INPUT.MAX_SIZE_TRAIN
    return cfg.SOLVER.MAX_ITER * pixels / 1e6 * SECONDS_PER_MEGAPIXEL


def _computed(cfg: CfgNode, images: int) -> Cost:
    weights = sum(t.nbytes for t in build_model(cfg).state_dict().values())
    moments = 2 if cfg.SOLVER.OPTIMIZER == "AdamW" else 1
    size = BYTES_PER_PREDICTED_IMAGE * images
    pixels = max(cfg.INPUT.MIN_SIZE_TRAIN) * cfg.INPUT.MAX_SIZE_TRAIN
    # Image and two masks of each object.
    batch = cfg.SOLVER.IMS_PER_BATCH * pixels * (3 + 2 * OBJECTS)
    seconds = _computed_seconds(cfg)
    return Cost(
        weights=weights,
        checkpoint=(1 + moments) * weights,
        predictions=Range(size, size, size),
        shared=_waiting(cfg, batch),
        training=None if torch.cuda.is_available() else Range(seconds, seconds / 2, seconds * 2),
    )


def _waiting(cfg: CfgNode, batch: float) -> int:
    """Bytes of the batches that wait in shared memory: two for each worker."""
    return int(2 * cfg.DATALOADER.NUM_WORKERS * batch)


def _rehearsed(cfg: CfgNode, own: Mapping[str, Any], of_data: Mapping[str, Any]) -> Cost:
    training, inference = own["training"], own.get("inference")
    solver = cfg.SOLVER
    steps = step_seconds(training)
    saved = solver.MAX_ITER // solver.CHECKPOINT_PERIOD * training["save_seconds"]
    overhead = own["register_seconds"] + own["start_seconds"] + saved
    counts = _counted(training["steps"], "step")
    evaluation, predictions = None, ZERO
    cpu = training["cpu_bytes"] + training["workers_bytes"]
    memory = Range(cpu, cpu, cpu)
    if inference and "seconds_per_detection" in of_data:
        # Each of the three detection counts by itself: supposed, fewest, most.
        images, objects = of_data["images"], of_data["objects"]
        most = images * cfg.TEST.DETECTIONS_PER_IMAGE
        found = [min(most, times * objects) for times in (DETECTIONS, FEWEST)] + [most]
        detections = Range(*found)
        each = inference["seconds_per_detection"] + of_data["seconds_per_detection"]
        per_image = _mean(inference["images"])
        fixed = own["register_seconds"] + of_data["seconds_fixed"]
        evaluation = detections * each + per_image * images + Range(fixed, fixed, fixed)
        predictions = detections * of_data["bytes_per_detection"]
        evaluating = detections * of_data["memory_per_detection"]
        bounds = (evaluating.value, evaluating.low, evaluating.high)
        memory = Range(*(max(cpu, inference["cpu_bytes"] + more) for more in bounds))
        counts += f", {_counted(inference['images'], 'image')}"
    return Cost(
        weights=training["weights_bytes"],
        checkpoint=training["checkpoint_bytes"],
        predictions=predictions,
        shared=_waiting(cfg, training["batch_bytes"]),
        training=steps * solver.MAX_ITER + Range(overhead, overhead, overhead),
        evaluation=evaluation,
        cpu=memory,
        gpu=max(
            filter(None, (training["gpu_bytes"], (inference or {}).get("gpu_bytes"))), default=None
        ),
        sources=counts,
    )


def _counted(what: Sequence, noun: str) -> str:
    return f"{len(what)} {noun}{'s' if len(what) > 1 else ''}"


def step_seconds(training: Mapping[str, Any]) -> Range:
    """Seconds of a step: the mean of those measured, and the 95 % interval of that mean (Student's
    t). No less than a step on the hardest batch is its upper end: later in a training more
    proposals have a mask to learn."""
    mean = _mean(training["steps"])
    return Range(mean.value, mean.low, max(mean.high, training.get("hardest_seconds") or 0))


def _mean(measured: Sequence[float]) -> Range:
    value = statistics.fmean(measured)
    if len(measured) < 2:
        return Range(value, value / 2, value * 2)
    error = statistics.stdev(measured) / math.sqrt(len(measured))
    half = float(stats.t.ppf(0.975, len(measured) - 1)) * error
    return Range(value, max(value - half, min(measured)), value + half)


def total(costs: Iterable[Cost], side_by_side: int) -> Range:
    """Seconds of several runs, so many at a time."""
    costs = list(costs)
    at_once = max(1, min(side_by_side, len(costs)))
    return sum((each.seconds for each in costs), ZERO) * (1 / at_once)


# --- while it runs -----------------------------------------------------------------------------


def what_is_left(profile: Mapping[str, Any], results: Path, cores: int, side_by_side: int) -> str:
    """A sentence: how many trainings are done, and how long the rest takes.

    What a finished run took tells of others of its data set and model; what was rehearsed, times
    how wrong it was for those that are finished, of those that have none.
    """
    rehearsal = find_rehearsal(results, cores)
    runs = list(planned(profile))
    took = {run[:3]: _took(results, run) for run in runs}
    done = [run for run in runs if (_folder(results, run) / FINAL_WEIGHTS).is_file()]
    left, unknown, rehearsed = 0.0, set(), False
    for run in runs:
        for part in (0, 1):
            share = _share_left(results, run, part)
            same = [took[o[:3]][part] for o in runs if o.name == run.name]
            seconds = _mean_of(same)
            if share and seconds is None:
                seconds = _corrected(run, part, runs, took, rehearsal)
                rehearsed |= seconds is not None
            if share and seconds is None:
                seconds = _mean_of(took[o[:3]][part] for o in runs if o.dataset == run.dataset)
            if share and seconds is None:
                unknown.add(f"{('training', 'evaluation')[part]} on {run.dataset}")
            left += share * (seconds or 0)
    at_once = max(1, min(side_by_side, len(runs) - len(done)))
    sentence = f"{len(done)} of {len(runs)} trainings are done. "
    source = "finished runs and the rehearsal" if rehearsed else "what the finished ones took"
    sentence += f"Trainings and evaluations to come: {duration(left / at_once)}, by {source}"
    if unknown:
        sentence += f"; without {', '.join(sorted(unknown))}, of which none is finished"
    return sentence + "."


def _took(results: Path, run: Planned) -> tuple[float | None, float | None]:
    """Seconds of a finished training and of its evaluation."""
    folder = _folder(results, run)
    training = None
    if (folder / FINAL_WEIGHTS).is_file():
        # Of a session that was killed, nobody knows how long it was; the others tell the rate.
        ended = [s for s in read_sessions(folder) if s["seconds"] and s["last"] > s["first"]]
        if steps := sum(s["last"] - s["first"] for s in ended):
            training = sum(s["seconds"] for s in ended) / steps * run.cfg.SOLVER.MAX_ITER
    record = read_earlier(folder.parent / "record.json")
    return training, record.get("seconds")


def _share_left(results: Path, run: Planned, part: int) -> float:
    """Of the training (0) or the evaluation (1), in [0, 1]."""
    folder = _folder(results, run)
    if part == 1:
        return 0.0 if (folder.parent / "metrics.json").is_file() else 1.0
    if (folder / FINAL_WEIGHTS).is_file():
        return 0.0
    log = folder / "metrics.json"
    last = log.read_text().splitlines()[-1:] if log.is_file() else []
    try:
        done = json.loads(last[0])["iteration"] + 1 if last else 0
    except (ValueError, KeyError):  # a line that is being written
        done = 0
    return 1 - done / run.cfg.SOLVER.MAX_ITER


def _corrected(
    run: Planned, part: int, runs: list[Planned], took: dict, rehearsal: dict
) -> float | None:
    def expected(which: Planned) -> float | None:
        of = cost(which, rehearsal) if which.name in rehearsal.get("runs", {}) else None
        seconds = of and (of.training, of.evaluation)[part] if of and of.sources else None
        return seconds.value if seconds else None

    if (own := expected(run)) is None:
        return None
    known = [(took[o[:3]][part], expected(o)) for o in runs]
    factors = [real / wanted for real, wanted in known if real and wanted]
    return own * (statistics.fmean(factors) if factors else 1)


def _mean_of(known: Iterable[float | None]) -> float | None:
    known = [seconds for seconds in known if seconds is not None]
    return statistics.fmean(known) if known else None


# --- words -------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """In a unit that fits: "40 s", "12 min", "9.3 h", "2.1 days"."""
    for unit, length, until in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 172_800)):
        if seconds < until:
            number = seconds / length
            return f"{number:.1f} {unit}" if unit == "h" and number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def size(number: float) -> str:
    """Bytes in words: "16 MB", "8.1 GB"."""
    return f"{number / MB:.0f} MB" if number < GB else f"{number / GB:.1f} GB"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.workshop.estimate", description=__doc__)
    parser.add_argument("profile", type=Path, help="profile.yaml in a folder of results")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--side-by-side", type=int, default=1, help="trainings at a time")
    given = parser.parse_args(arguments)
    profile = read_yaml(given.profile.read_text())
    if profile["profile"] not in VARIANTS:  # a network of the ablation, beside the profile's runs
        results = given.profile.resolve().parent
        print(what_is_left(profile, results, given.cores, given.side_by_side), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
