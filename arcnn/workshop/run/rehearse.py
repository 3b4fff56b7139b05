"""``make rehearse``: what would ``make reproduce`` take here, and what is missing? In minutes.

All that ``make reproduce`` checks beforehand is checked, and every problem is listed. Then, for
each data set and model, a few steps of the training are made, at the real sizes and from the real
initial weights, and a few images are evaluated, one after another, each in a process of its own
(:mod:`arcnn.workshop.run.rehearsal`). What came out is said, and kept as ``rehearsal.json`` in the
folder of results; nothing else of it changes.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from detectron2.config import CfgNode

from arcnn.data import find_splits
from arcnn.data.tabletop import make_tabletop
from arcnn.files import ROOT, data_folder, lock, printable, read_earlier, results_folder, write_json
from arcnn.reporting.record import commit, moment, versions
from arcnn.workshop.run import beforehand, estimate
from arcnn.workshop.run.estimate import Cost, Planned, duration, planned, rehearsed, size
from arcnn.workshop.run.folders import folder_for_a_while
from arcnn.workshop.run.outdated import find_outdated
from arcnn.workshop.run.profiles import ProfileError, check_choices
from arcnn.workshop.run.rehearsal import DETECTIONS, MEASURED
from arcnn.workshop.run.reproduce import add_choices, chosen_profile, threads_of_a_training

# Of the steps of one training, and of all; and of a process, whatever it does.
SECONDS, SECONDS_IN_ALL, LIMIT = 60.0, 600.0, 900.0
DRAWN = {"train_images": 32, "val_images": 16}  # where the profile's tabletop is not drawn yet


def check_all(profile: dict[str, Any], results: Path) -> tuple[list[str], list[Planned]]:
    """Make every check of ``make reproduce``, for each data set and model by itself, so that one
    problem hides no other.

    Returns:
        The problems; and a run of each data set and model that can be trained.
    """
    problems: list[str] = []

    def passes(check: Callable, *given: Any) -> bool:
        try:
            check(*given)
        except (OSError, ValueError) as error:
            if str(error) not in problems:
                problems.append(str(error))
            return False
        return True

    sound = []
    passes(beforehand.name_own_classes, profile)
    for dataset in profile["datasets"]:
        own = profile | {"datasets": [dataset], "seeds": profile["seeds"][:1]}
        # A class of Figure 5 that is not there keeps nobody from training.
        both = own, own | {"figure5_class": {}}
        if not passes(beforehand.check_folders, own):
            continue
        if not any(passes(beforehand.check_data, each) for each in both):
            continue
        for model in profile["models"]:
            of_model = own | {"models": [model]}
            if passes(beforehand.check_training, of_model, results / "nothing is trained there"):
                sound += planned(of_model)
    with contextlib.suppress(OSError, ValueError):  # which are among the problems already
        problems += find_outdated(profile, results).trainings
    return problems, sound


def measure(profile: dict[str, Any], runs: Sequence[Planned], place: Path, threads: int) -> dict:
    """Rehearse each run in a process of its own; returns what was measured, by its name."""
    found, root = {}, data_folder(profile["data_root"])
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path)}
    for number, run in enumerate(runs):
        print(f"   {number + 1} of {len(runs)}: {run.name} ...", file=sys.stderr, flush=True)
        own, data, images = place / str(number), root, 0
        try:
            find_splits(run.dataset, root)
        except FileNotFoundError:  # tabletop, of which a few images do
            data, images = place / "data", profile["tabletop"].get("val_images", 200)
            if not data.is_dir():
                make_tabletop(data, **DRAWN, workers=1)
        order = {"dataset": run.dataset, "model": run.model, "options": profile["options"]}
        order |= {"data_root": str(data), "max_skipped": profile["max_skipped"], "images": images}
        order["seconds"] = min(SECONDS, SECONDS_IN_ALL / len(runs))
        write_json(own / "order.json", order)
        problem = _run(own / "order.json", os.environ | environment)
        of = {"part": "the start", "out_of_memory": False} | read_earlier(own / MEASURED) | problem
        found[run.name] = of | {"settings_sha256": estimate.settings_of(run.cfg)}
    return found


def _run(order: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a process of the rehearsal; returns how it failed, if it could not say so itself."""
    command = [sys.executable, "-m", "arcnn.workshop.run.rehearsal", str(order)]
    log = order.with_name("said.txt")
    try:
        with log.open("w") as said:
            subprocess.run(
                command, env=environment, stdout=said, stderr=said, timeout=LIMIT, check=True
            )
        return {}
    except subprocess.TimeoutExpired:
        return {"problem": f"stopped after {duration(LIMIT)}"}
    except subprocess.CalledProcessError as error:
        if error.returncode == -signal.SIGKILL:
            problem = "the system ended the process, most often for want of memory"
            return {"problem": problem, "out_of_memory": True}
        return {"problem": "".join(log.read_text().strip().splitlines()[-1:]) or str(error)}


def report(profile: dict[str, Any], results: Path, rehearsal: dict[str, Any]) -> str:
    """The rehearsal in words; the problems that it found are added to its own."""
    side_by_side, problems = rehearsal["side_by_side"], rehearsal["problems"]
    runs = list(planned(profile))
    every = [(run, of) for run in runs if (of := rehearsed(run, rehearsal))]
    each = {run.name: of for run, of in every}
    for run in {run.name: run for run in runs}.values():
        if "problem" in (found := rehearsal["runs"].get(run.name, {})):
            problems += _misfit(run, found)
    at_once = min(side_by_side, len(every))
    need, there = at_once * max((of.cpu for _, of in every), default=0), memory_there()
    if need > there:
        problems.append(
            f"{at_once} at a time take {size(need)} of memory, and there are {size(there)}. Less "
            "is taken by fewer at a time (CORES=1), fewer workers (DATALOADER.NUM_WORKERS), a "
            "smaller batch or smaller images."
        )
    device = rehearsal["machine"]["device"]
    if torch.cuda.is_available():
        device += f" of {size(torch.cuda.get_device_properties(0).total_memory)}"
    lines = [f"Rehearsed in {duration(rehearsal['seconds'])} on {device}; memory: {size(there)}."]
    if each:
        rows = {name: _row([of], 1) for name, of in each.items()}
        rows[f"all {len(every)} runs"] = _row([of for _, of in every], side_by_side)
        lines += ["", pd.DataFrame(rows).T.to_string(), "", *_explained(rehearsal)]
    try:
        to_come = beforehand.costs(profile, results, {}, rehearsal, side_by_side)
        lines += [f"- {sentence}" for sentence in to_come]
    except ProfileError as error:
        problems.append(str(error))
    lines += ["", "Missing, wrong, or too small:" if problems else "Nothing is missing."]
    return "\n".join([*lines, *(f"- {problem}" for problem in problems)])


def _row(runs: Sequence[Cost], side_by_side: int) -> dict[str, str]:
    at_once = min(side_by_side, len(runs))
    return {
        "time": estimate.between(estimate.total(runs, side_by_side)),
        "memory": size(at_once * max(of.cpu for of in runs)),
        "GPU memory": size(max(of.gpu for of in runs)) if torch.cuda.is_available() else "no GPU",
        "shared memory": size(at_once * max(of.shared for of in runs)),
        "disk": size(sum(of.weights + of.predictions for of in runs)),
        "checkpoints": size(at_once * 2 * max(of.checkpoint for of in runs)),
    }


def _explained(rehearsal: Mapping[str, Any]) -> list[str]:
    return [
        "- Time: of a training and its evaluation, without data checks and figures, which take "
        "minutes. In brackets the 95 % interval of the mean step, up to a step on the hardest "
        "batch, and half and twice the evaluation. What else works on this machine changes it: "
        f"before this began, {rehearsal['load']:.1f} of {psutil.cpu_count()} cores were wanted.",
        f"- All runs: {rehearsal['side_by_side']} at a time, threads each: {rehearsal['threads']}. "
        "They were measured one after another; side by side they may slow one another.",
        "- Memory: the peak of a training with its loaders' workers, or of its evaluation. Disk: "
        "weights and predictions, which stay; checkpoints, two at a time, go after a training.",
        f"- An evaluation is supposed to have {DETECTIONS} detections for each true object: nobody "
        "knows before a training. (A model trained on tabletop has 1.7.)",
    ]


def _misfit(run: Planned, found: Mapping[str, Any]) -> list[str]:
    part, problem = found["part"], found["problem"][:500]
    if not found["out_of_memory"]:
        return [f"{run.name} failed in {part}: {problem}"]
    sentence = f"{run.name} is out of memory in {part}: {problem}"
    if part == "inference":
        sentence += " Smaller test images (INPUT.MIN_SIZE_TEST) and fewer detections "
        sentence += "(TEST.DETECTIONS_PER_IMAGE) take less; either changes the numbers."
    return [sentence, *(smaller(run.cfg) if "training" in part else [])]


def smaller(cfg: CfgNode) -> list[str]:
    """What to change where memory is too small, and what that does to a comparison."""
    solver, sentences = cfg.SOLVER, []
    if not solver.AMP.ENABLED and torch.cuda.is_available():
        sentences.append('Mixed precision takes less: the options ["SOLVER.AMP.ENABLED", true].')
    if batch := solver.IMS_PER_BATCH // 2:
        factor = batch / solver.IMS_PER_BATCH
        options = ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.BASE_LR", solver.BASE_LR * factor]
        options += ["SOLVER.MAX_ITER", round(solver.MAX_ITER / factor)]
        options += ["SOLVER.STEPS", [round(step / factor) for step in solver.STEPS]]
        options += ["SOLVER.WARMUP_ITERS", round(solver.WARMUP_ITERS / factor)]
        sentences.append(
            f"A batch of {batch} takes about half: the options {json.dumps(options)}. As many "
            "images are seen, at learning rates in the same ratio to the batch: little should "
            "change."
        )
    return [
        *sentences,
        "Images of 0.7 times the sides take about half (INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, "
        "MIN_SIZE_TEST and MAX_SIZE_TEST). Small objects are lost with them.",
        "None of this was tried: rehearse again. It is not the paper's setting: Table 1 marks such "
        'rows "ours, other settings" and gives no difference from the paper.',
    ]


def memory_there() -> int:
    """Bytes of memory of this machine, or of the container."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    there = psutil.virtual_memory().total
    return min(there, int(text)) if text.isdigit() else there


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    add_choices(parser)
    chosen = parser.parse_args(arguments)
    try:
        profile = chosen_profile(chosen)
        check_choices(profile)
        results = results_folder(profile["profile"], profile["results_root"])
        beforehand.check_folders(profile | {"datasets": []})
        held = lock(results / ".lock")
        if held is None:
            told = f"a run is at work in {results}; what is measured beside it is none."
            raise ProfileError(told)
        with held, folder_for_a_while(".rehearsal-", results) as place:
            began, load = time.time(), psutil.getloadavg()[0]
            problems, sound = check_all(profile, results)
            threads = threads_of_a_training(profile, chosen.cores)
            measured = measure(profile, sound, place, threads)
            earlier = estimate.find_rehearsal(results, chosen.cores)  # of other data sets, perhaps
            rehearsal = {"format": estimate.FORMAT, "profile": profile["profile"], "load": load}
            rehearsal |= {"machine": estimate.machine(chosen.cores), "threads": threads}
            rehearsal |= {"side_by_side": max(1, chosen.cores // threads), "problems": problems}
            done = {k: of for k, of in earlier.get("runs", {}).items() if of["part"] == "done"}
            rehearsal |= {"runs": done | measured}
            rehearsal |= {"commit": commit(), "versions": versions(), "started": moment(began)}
            rehearsal |= {"seconds": round(time.time() - began, 1)}
        print(report(profile, results, rehearsal))
        write_json(results / estimate.FILE, rehearsal)
    except (OSError, ValueError) as error:
        print(printable(f"make rehearse PROFILE={chosen.profile}: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if rehearsal["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
