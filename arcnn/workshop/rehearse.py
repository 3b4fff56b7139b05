"""``make rehearse``: what would ``make reproduce`` take here, and what is missing? In minutes.

All that ``make reproduce`` checks beforehand is checked, and every problem is listed. Then, for
each data set and model of the profile, a few steps of the training are made, at the real sizes and
from the real initial weights, and a few images are evaluated, each in a process of its own
(:mod:`arcnn.workshop.rehearsal`), as many side by side as the run would have. What came out is
said, and kept as ``rehearsal.json`` in the folder of results; nothing else of it changes.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from arcnn.data import find_splits
from arcnn.data.tabletop import make_tabletop
from arcnn.files import ROOT, data_folder, lock, read_earlier, results_folder, write_json
from arcnn.reporting.record import commit, moment, versions
from arcnn.workshop.beforehand import (
    check_data,
    check_folders,
    check_training,
    costs,
    name_own_classes,
)
from arcnn.workshop.estimate import (
    DETECTIONS,
    FILE,
    FORMAT,
    Cost,
    Planned,
    cost,
    duration,
    find_rehearsal,
    machine,
    planned,
    settings_of,
    size,
    total,
)
from arcnn.workshop.outdated import find_outdated
from arcnn.workshop.profiles import ProfileError, check_choices
from arcnn.workshop.rehearsal import MEASURED
from arcnn.workshop.reproduce import add_choices, chosen_profile, threads_of_a_training

SECONDS, LIMIT = 60.0, 900.0  # of a process's steps; and of a process, in all
DRAWN = {"train_images": 32, "val_images": 16}  # where the profile's tabletop is not drawn yet


@dataclass
class Checked:
    """What the checks found."""

    problems: list[str] = field(default_factory=list)
    sound: list[Planned] = field(default_factory=list)  # one seed of each data set and model
    images: dict[str, int] = field(default_factory=dict)  # to be evaluated, by data set


def check_all(profile: dict[str, Any], results: Path) -> Checked:
    """Make every check of ``make reproduce``, for each data set and model by itself, so that one
    problem hides no other."""
    found = Checked()

    @contextlib.contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if str(error) not in found.problems:
                found.problems.append(str(error))

    with noted():
        name_own_classes(profile)
    for dataset in profile["datasets"]:
        before = len(found.problems)
        of_data = profile | {"datasets": [dataset]}
        with noted():
            check_folders(of_data)
            found.images |= check_data(of_data)
        if len(found.problems) > before:
            continue
        for model in profile["models"]:
            before = len(found.problems)
            own = of_data | {"models": [model]}
            with noted():
                check_training(own, results / "nothing is trained there")
                found.sound.append(next(planned(own)))
    if "tabletop" in profile["datasets"]:
        found.images["tabletop"] = profile["tabletop"].get("val_images", 200)
    with noted():
        found.problems += find_outdated(profile, results).trainings
    return found


class Rehearsal:
    """Runs the processes of a rehearsal.

    Args:
        place: a folder for what they write, that is removed afterwards.
        threads: of each process.
        seconds, limit: see :data:`SECONDS` and :data:`LIMIT`.
    """

    def __init__(
        self, profile: dict, place: Path, threads: int, seconds: float, limit: float
    ) -> None:
        self.profile, self.place, self.threads = profile, place, threads
        self.seconds, self.limit = seconds, limit

    def training(self, run: Planned) -> dict[str, Any]:
        """What was measured of a training; where memory was too small, what of smaller batches."""
        found = self._process("training", run)
        found["settings_sha256"] = settings_of(run.cfg)
        batch = run.cfg.SOLVER.IMS_PER_BATCH
        smaller = found
        while _too_small(smaller) and batch > 1:
            batch //= 2
            smaller = self._process("training", run, ["SOLVER.IMS_PER_BATCH", batch])
        if smaller is not found and not _too_small(smaller) and "training" in smaller:
            found["fits"] = smaller["training"] | {"batch": batch}
        _say(f"{run.name}: {_in_short(found)}")
        return found

    def evaluation(self, run: Planned, images: int) -> dict[str, Any]:
        """What was measured of the evaluation on its data set."""
        found = self._process("evaluation", run, images=images)
        _say(f"{run.dataset}, evaluation: {_in_short(found)}")
        return found

    def _process(
        self, work: str, run: Planned, more: Sequence = (), images: int = 0
    ) -> dict[str, Any]:
        place = Path(tempfile.mkdtemp(dir=self.place))
        order = {"work": work, "dataset": run.dataset, "model": run.model, "images": images}
        order |= {"options": [*self.profile["options"], *more], "seconds": self.seconds}
        order["max_skipped"] = self.profile["max_skipped"]
        order["data_root"] = str(self.data_root(run.dataset))
        write_json(place / "order.json", order)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        command = [sys.executable, "-m", "arcnn.workshop.rehearsal", str(place / "order.json")]
        with (place / "said.txt").open("w") as said:
            child = subprocess.Popen(
                command, env=environment, stdout=said, stderr=said, start_new_session=True
            )
            ended = _wait(child, self.limit)
        found = read_earlier(place / MEASURED)
        where = found.setdefault("part", "the start")
        if ended is None:
            found["problem"] = f"stopped after {duration(self.limit)}, in {where}"
        elif ended == -signal.SIGKILL:
            found["out_of_memory"] = "the system ended the process, most often for want of memory"
        elif ended:
            last = (place / "said.txt").read_text().strip().splitlines()[-1:]
            found["problem"] = f"failed in {where}: {''.join(last) or f'exit code {ended}'}"
        return found

    def data_root(self, dataset: str) -> Path:
        """The folder of a data set; a small one is drawn where tabletop is not there yet."""
        root = data_folder(self.profile["data_root"])
        if dataset != "tabletop":
            return root
        try:
            find_splits(dataset, root)
            return root
        except FileNotFoundError:
            return make_tabletop(self.place / "data", **DRAWN, workers=1).parent


def _too_small(found: Mapping[str, Any]) -> bool:
    """Whether memory was too small for a batch."""
    return "out_of_memory" in found and "training" in found["part"]


def _wait(child: subprocess.Popen, limit: float) -> int | None:
    """Its exit code; None if it was ended, with its workers, since its time was up."""
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return None
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise


def _in_short(found: Mapping[str, Any]) -> str:
    for key, words in (("out_of_memory", "out of memory: "), ("problem", "")):
        if key in found:
            return words + found[key]
    if "training" in found:
        steps = found["training"]["steps"]
        return f"{len(steps)} steps of {sum(steps) / len(steps):.2f} s"
    return f"measured on {found['on_images']} images"


def _say(sentence: str) -> None:
    print(f"   {sentence}", file=sys.stderr, flush=True)


def rehearse(
    profile: dict[str, Any], results: Path, chosen: argparse.Namespace
) -> tuple[dict[str, Any], Checked]:
    """Check and measure; returns the content of ``rehearsal.json``, and what the checks found."""
    started = time.time()
    checked = check_all(profile, results)
    threads = threads_of_a_training(profile, chosen.cores)
    side_by_side = max(1, chosen.cores // threads)
    _say(f"{len(checked.sound)} trainings are rehearsed, {side_by_side} at a time.")
    first = {run.dataset: run for run in reversed(checked.sound)}
    with (
        tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=results) as place,
        ThreadPoolExecutor(side_by_side) as pool,
    ):
        work = Rehearsal(profile, Path(place), threads, chosen.seconds, chosen.limit)
        for dataset in first:
            work.data_root(dataset)  # which may have to be drawn
        trainings = [pool.submit(work.training, run) for run in checked.sound]
        evaluations = {
            dataset: pool.submit(work.evaluation, run, checked.images.get(dataset, 0))
            for dataset, run in first.items()
        }
        measured = [training.result() for training in trainings]
        evaluated = {dataset: each.result() for dataset, each in evaluations.items()}
    earlier = find_rehearsal(results, chosen.cores)  # of other data sets, perhaps
    own = {run.name: found for run, found in zip(checked.sound, measured, strict=True)}
    return {
        "format": FORMAT,
        "profile": profile["profile"],
        "machine": machine(chosen.cores),
        "threads": threads,
        "side_by_side": side_by_side,
        "runs": earlier.get("runs", {}) | own,
        "evaluations": earlier.get("evaluations", {}) | evaluated,
        "problems": checked.problems,
        "commit": commit(),
        "versions": versions(),
        "started": moment(started),
        "seconds": round(time.time() - started, 1),
    }, checked


# --- what it says ------------------------------------------------------------------------------


def report(
    profile: dict[str, Any], results: Path, rehearsal: dict[str, Any], checked: Checked
) -> str:
    """The rehearsal in words, with the problems that it found added to it."""
    side_by_side = rehearsal["side_by_side"]
    runs = list(planned(profile))
    each = {run.name: cost(run, rehearsal) for run in checked.sound}
    each = {name: of for name, of in each.items() if of.sources}
    lines = [
        f"Rehearsed in {duration(rehearsal['seconds'])} on {rehearsal['machine']['device']}, "
        f"{side_by_side} at a time with {rehearsal['threads']} threads.",
        "",
    ]
    if each:
        lines += _table(each, [each[run.name] for run in runs if run.name in each], side_by_side)
    problems = rehearsal["problems"]
    for run in checked.sound:
        problems += _misfits(run, rehearsal["runs"][run.name], each.get(run.name))
    problems += [
        f"{dataset}, evaluation: {_in_short(found)}"
        for dataset, found in rehearsal["evaluations"].items()
        if "problem" in found or "out_of_memory" in found
    ]
    problems += _memory(checked.sound, each, side_by_side)
    said: list[str] = []
    try:
        said = costs(profile, results, checked.images, rehearsal, side_by_side)
    except ProfileError as error:
        problems.append(str(error))
    said += _not_seen(rehearsal, each) + _waited(rehearsal, each) + _sources(each)
    lines += ["", *(f"- {sentence}" for sentence in said)]
    lines += ["", "Missing, wrong, or too small:" if problems else "Nothing is missing."]
    lines += [f"- {problem}" for problem in problems]
    return "\n".join(lines)


def _table(each: Mapping[str, Cost], runs: Sequence[Cost], side_by_side: int) -> list[str]:
    header = ("a run of", "takes", "memory", "GPU", "for workers", "stays", "checkpoints", "from")
    rows = [header]
    for name, of in each.items():
        rows.append((name, str(of.seconds), *_amounts([of], 1), of.sources))
    everything = str(total(runs, side_by_side)), *_amounts(runs, side_by_side)
    rows.append((f"in all ({len(runs)})", *everything, f"{side_by_side} at a time"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _amounts(runs: Sequence[Cost], side_by_side: int) -> tuple[str, ...]:
    """Of so many at a time: memory, the GPU's, shared memory, what stays on the disk, and what
    checkpoints take there meanwhile."""
    gpu = [of.gpu for of in runs if of.gpu]
    at_once = min(side_by_side, len(runs))
    return (
        size(at_once * max(of.cpu.value for of in runs)),
        size(max(gpu)) if gpu else "none",
        size(at_once * max(of.shared for of in runs)),
        size(sum(of.weights + of.predictions.value for of in runs)),
        size(at_once * 2 * max(of.checkpoint for of in runs)),
    )


def _not_seen(rehearsal: Mapping[str, Any], each: Mapping[str, Cost]) -> list[str]:
    """A sentence, if there was no time for a step on the hardest batch."""
    trainings = {name: rehearsal["runs"][name]["training"] for name in each}
    slow = [name for name, training in trainings.items() if "hardest_seconds" not in training]
    if not slow:
        return []
    return [
        f"Not seen, for want of time: the hardest batch ({', '.join(slow)}), which may take more "
        "memory."
    ]


def _waited(rehearsal: Mapping[str, Any], each: Mapping[str, Cost]) -> list[str]:
    """A sentence if a CPU was shared, or waited for: then it may take less another time."""
    if torch.cuda.is_available() or not each:
        return []
    shares = {
        name: rehearsal["runs"][name]["training"]["cores_used"] / rehearsal["threads"]
        for name in each
    }
    if min(shares.values()) > 0.8:
        return []
    alone = {name: of.seconds.value * min(shares[name], 1) for name, of in each.items()}
    words = ", ".join(f"{name} {duration(seconds)}" for name, seconds in alone.items())
    return [
        f"This machine was busy: a training had {min(shares.values()):.0%} of the processor time "
        "that it could use; other programs had the rest, or it waited for images. With all of "
        f"it, a run would take: {words}."
    ]


def _sources(each: Mapping[str, Cost]) -> list[str]:
    if not each:
        return []
    return [
        "Time: the mean of the steps that were measured, times all steps, with checkpoints and "
        "evaluation; in brackets the 95 % interval of that mean (of a single step: half and twice "
        "its time), and up to a step on the hardest batch. Without drawing or checking the data, "
        "and without the figures, which take minutes. What else is at work on this machine, now "
        "or then, changes it.",
        "Memory is the peak of a process with its workers, who take shared memory besides. On "
        "the disk, weights and predictions stay. Of these and of the evaluation it is supposed "
        f"that a model finds {DETECTIONS:.0f} things for each true object (measured on tabletop: "
        "1.7), since nobody knows that before a training.",
    ]


def _misfits(run: Planned, found: Mapping[str, Any], of: Cost | None) -> list[str]:
    sentences = []
    if "out_of_memory" in found:
        sentences.append(
            f"{run.name} is out of memory in {found['part']}: {found['out_of_memory'][:300]}"
        )
        if _too_small(found):
            sentences += smaller(run.cfg, found.get("fits"))
        else:
            sentences.append(
                "Smaller test images take less (INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST), as do "
                "fewer detections (TEST.DETECTIONS_PER_IMAGE); either changes the numbers."
            )
    elif "problem" in found:
        sentences.append(f"{run.name}: {found['problem'][:500]}")
    return sentences


def smaller(cfg: CfgNode, fits: Mapping[str, Any] | None) -> list[str]:
    """What to change where memory is too small, and what that does to a comparison.

    Args:
        fits: ``batch``, one that was tried and did fit, and what was measured with it.
    """
    sentences = []
    if not cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda"):
        sentences.append('Mixed precision takes less: the options ["SOLVER.AMP.ENABLED", True].')
    batch = cfg.SOLVER.IMS_PER_BATCH
    less = fits["batch"] if fits else batch // 2
    if less:
        options = json.dumps(of_batch(cfg, less))
        peak = fits and (fits["gpu_bytes"] or fits["cpu_bytes"])
        tried = f", which was tried and took {size(peak)}" if peak else ", not tried"
        sentences.append(
            f"A batch of {less} in place of {batch}{tried}: the options {options}. As many images "
            "are seen at learning rates in the same ratio to the batch, so that little should "
            "change; yet these are not the paper's settings."
        )
    if not fits:
        sides = [round(side / math.sqrt(2)) for side in cfg.INPUT.MIN_SIZE_TRAIN]
        longest = round(cfg.INPUT.MAX_SIZE_TRAIN / math.sqrt(2))
        names = [
            f"INPUT.{which}_SIZE_{part}" for part in ("TRAIN", "TEST") for which in ("MIN", "MAX")
        ]
        values = [sides, longest, max(sides), longest]
        options = json.dumps([word for pair in zip(names, values, strict=True) for word in pair])
        sentences.append(
            f"Images of half the pixels take about half: the options {options}. Small objects are "
            "lost with them, so that no number is comparable with the paper's."
        )
    return [
        *sentences,
        'Table 1 marks such rows "ours, other settings" and gives no difference from the paper.',
    ]


def of_batch(cfg: CfgNode, batch: int) -> list:
    """Options of another batch: the learning rate follows it, and the schedule is stretched to as
    many images."""
    factor = batch / cfg.SOLVER.IMS_PER_BATCH
    solver = cfg.SOLVER
    return [
        *("SOLVER.IMS_PER_BATCH", batch, "SOLVER.BASE_LR", round(solver.BASE_LR * factor, 10)),
        *("SOLVER.MAX_ITER", round(solver.MAX_ITER / factor)),
        *("SOLVER.STEPS", [round(step / factor) for step in solver.STEPS]),
        *("SOLVER.WARMUP_ITERS", round(solver.WARMUP_ITERS / factor)),
    ]


def _memory(runs: Sequence[Planned], each: Mapping[str, Cost], at_once: int) -> list[str]:
    """Sentences, where it ran and yet is close to what there is."""
    if not each:
        return []
    sentences, there = [], memory_there()
    name = max(each, key=lambda name: each[name].cpu.value)
    at_once = min(at_once, len(each))
    need = at_once * each[name].cpu.value
    if need > there:
        cfg = next(run.cfg for run in runs if run.name == name)
        sentences.append(
            f"{at_once} at a time take {size(need)} of memory ({name} the most), and there are "
            f"{size(there)}. Fewer at a time: CORES=1."
        )
        sentences += smaller(cfg, None) if at_once == 1 else []
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0).total_memory
        for name, of in each.items():
            if of.gpu and of.gpu > 0.9 * card:
                sentences.append(
                    f"{name} takes {size(of.gpu)} of the GPU's {size(card)}: a little more, and it "
                    "ends. Close what else is on it."
                )
    return sentences


def memory_there() -> int:
    """Bytes of memory of this machine, or of the container."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(pages, int(text)) if text.isdigit() else pages


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.workshop.rehearse", description=__doc__)
    add_choices(parser)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a training's steps")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a process, in all")
    chosen = parser.parse_args(arguments)
    try:
        profile = chosen_profile(chosen)
        check_choices(profile)
        results = results_folder(profile["profile"], profile["results_root"])
        check_folders(profile | {"datasets": []})
        held = lock(results / ".lock")
        if held is None:
            raise ProfileError(
                f"a run is at work in {results}; what is measured beside it is none."
            )
        with held:
            rehearsal, checked = rehearse(profile, results, chosen)
        print(report(profile, results, rehearsal, checked))
        write_json(results / FILE, rehearsal)
    except (OSError, ValueError) as error:
        print(f"make rehearse: {error}", file=sys.stderr)
        return 2
    return 1 if rehearsal["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
