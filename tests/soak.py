"""Disturbs a run over and over, at random moments: it must end as one that nobody disturbed.

``make soak`` draws, trains, evaluates and makes tables and figures of the profile ``smoke`` once in
peace. Then it does each of it again, and

- sends SIGKILL to a process or to a whole tree of them;
- or fills the disk, a small one of its own, until what is at work gives up, which has to say so;
- or sets the clock back: whatever was written until then is dated tomorrow;

and does the same again, until it ends. Weights, metrics, predictions, tables, films, figures and
records must be those of the undisturbed run to the last byte; of records and logs, all but when
and where. At the first difference it stops, and keeps the folder.

Then each target of ``tests/fuzz.py``, for so many minutes.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from arcnn.config import get_config
from arcnn.data import register_dataset, split_name, split_records
from arcnn.data.tabletop import make_tabletop
from arcnn.evaluation import Evaluation, image_draws, predict, to_results
from arcnn.files import NOTEBOOKS, ROOT, read_yaml, write_json, write_table
from arcnn.reporting.record import CIRCUMSTANCES
from arcnn.training import train
from arcnn.weights import load_trained

MODELS = ("arcnn", "arcnn_add", "orcnn")
KINDS = ("*.pth", "*.json", "*.csv", "*.md", "*.tex", "*.png", "*.npz", "*.jpg")
# Pages; when and where a training went on; seconds that are results.
APART = ("notebooks", "sessions.json", ".snakemake", "cost.csv", "field.csv", "field.cost.png")
APART += ("13_the_field.tabletop.json",)
# Besides those of records, what two runs of the same have otherwise.
WHEN_AND_WHERE = {*CIRCUMSTANCES, "sessions", "time", "data_time", "rank_data_time"}
LONGEST = 1800  # seconds that anything may take
DISK = "1g"  # that is filled
MOUNTS_END = "ARCNN_SOAK_MOUNTS"
BUSY = ("another run is at work", "already; wait until it is done")
WHO = {  # by a word of the command line, the first that fits
    "ipykernel": "kernel",
    "spawn_main": "worker",
    "resource_tracker": "worker",
    "-m snakemake": "snakemake",
    "arcnn.notebooks": "notebook runner",
    "soak.py": "process",
    "make ": "make",
}


class Job(NamedTuple):
    """What is killed, and begun anew when it is done."""

    name: str
    work: list[str] | Callable[[], object]  # a command, or a function for a process of its own
    made: list[str]  # in the results; deleted before each round
    share: float  # of all kills


# --- what is killed -----------------------------------------------------------------------------


def jobs(results: Path, profile: dict) -> list[Job]:
    """All of it, in the order in which one needs another."""

    def draw() -> None:
        make_tabletop(results / "drawn", **profile["tabletop"], workers=1)

    def train_one(model: str, workers: int) -> None:
        options = [*profile["options"], "DATALOADER.NUM_WORKERS", workers]
        output = results / f"runs/tabletop/{model}/seed0/train"
        register_dataset("tabletop", results / "drawn")
        train(get_config("tabletop", model, options=options, device="cpu", output_dir=output))

    def evaluate(model: str) -> None:  # what notebook 05 does
        run = results / f"runs/tabletop/{model}/seed0"
        register_dataset("tabletop", results / "drawn")
        cfg, trained = load_trained(run, device="cpu")
        predictions, records = predict(cfg, trained), split_records(cfg, "val")
        metadata = MetadataCatalog.get(split_name(cfg, "val"))
        ids = {i: k for k, i in metadata.thing_dataset_id_to_contiguous_id.items()}
        write_json(run / "predictions.json", to_results(predictions, ids))
        names = metadata.thing_classes
        evaluation = Evaluation(records, predictions, len(names), class_names=names)
        write_table(run / "draws.csv", image_draws(evaluation, samples=500).round(3))
        write_json(run / "metrics.json", evaluation.metrics())

    found = [Job("drawing", draw, ["drawn/tabletop"], 0.24)]
    for model, workers in zip(MODELS, (0, 1, 2), strict=True):
        run = f"runs/tabletop/{model}/seed0"
        measured = [f"{run}/{file}" for file in ("metrics.json", "predictions.json", "draws.csv")]
        notebook = [sys.executable, "-P", "-m", "arcnn.notebooks", "-p", "model", model]
        notebook += ["-f", str(results / "profile.yaml")]
        pages = results / "notebooks"
        training, evaluation = (
            [*notebook, str(NOTEBOOKS / f"{name}.ipynb"), str(pages / f"{name}.{model}.ipynb")]
            for name in ("04_train", "05_evaluate")
        )
        found += [
            Job("notebook 04", training, [f"{run}/train"], 0.02),
            Job("notebook 05", evaluation, [*measured, f"{run}/record.json"], 0.02),
            Job("training", lambda m=model, w=workers: train_one(m, w), [f"{run}/train"], 0.12),
            Job("evaluation", lambda m=model: evaluate(m), measured, 0.04),
        ]
    return [*found, Job("make reproduce", whole(results.parent), ["."], 0.16)]


def whole(root: Path) -> list[str]:
    """The command for all of it."""
    where = [f"BIN={Path(sys.executable).parent}", "PROFILE=smoke", f"RESULTS={root}"]
    return ["make", "--no-print-directory", "-C", str(ROOT), "reproduce", *where]


class Soak:
    """Disturbs jobs in a folder, and compares what comes out with an undisturbed run."""

    def __init__(self, folder: Path, peace: Path, seed: int) -> None:
        self.results, self.peace, self.log = folder / "disturbed/smoke", peace, folder / "said.log"
        self.random = random.Random(seed)
        self.done: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.left: set[psutil.Process] = set()  # of trees whose top was killed
        self.waited = 0

    def times(self, disturbance: str) -> int:
        return sum(times for (_, how, _), times in self.done.items() if how == disturbance)

    def start(self, work: list[str] | Callable[[], object]) -> "subprocess.Popen | Fork":
        with self.log.open("a") as log:
            self.began = log.tell()
            if callable(work):
                return Fork(work, log.fileno())
            own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            to = {"stdout": log, "stderr": log, "cwd": ROOT, "stdin": subprocess.DEVNULL}
            return subprocess.Popen(work, env=os.environ | own, **to)

    def finish(self, name: str, work: list[str] | Callable[[], object]) -> float:
        """Do it to its end; returns seconds. A command that finds what a killed run left at work
        may say so; when that is over it must not."""
        for _ in range(3):
            began = time.monotonic()
            if self.start(work).wait(LONGEST) == 0:
                return time.monotonic() - began
            said = self.log.read_bytes()[self.began :].decode(errors="replace")
            busy = bool(self.left) and any(words in said for words in BUSY)
            psutil.wait_procs(self.left, LONGEST)
            self.left.clear()
            if not busy:
                break
            self.waited += 1
        raise SystemExit(f"FAILED: {name}; see the end of {self.log}")

    def round(self, job: Job, disturbance: str, seconds: float, times: int) -> None:
        """Begin a job anew, disturb it so many times, bring it to its end and compare."""
        for made in job.made:
            path = self.results / made
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.results.mkdir(exist_ok=True)
        disturb = {"kill": self.kill, "full disk": self.fill, "clock": self.set_back}[disturbance]
        last = self.times(disturbance) + times
        while self.times(disturbance) < last:
            process = self.start(job.work)
            while process.poll() is None and self.times(disturbance) < last:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.random.uniform(0, seconds))
                    break
                if disturb(job, process):
                    break
            if process.wait(LONGEST) == 0:
                break  # it was quicker
        self.finish(job.name, job.work)
        self.compare(job)

    def note(self, job: Job, disturbance: str, what: str, after: str) -> None:
        self.done[job.name, disturbance, what] += 1
        times = self.times(disturbance)
        print(f"{disturbance:10} {times:4}  {job.name:15} {what:16} after {after}", flush=True)

    def kill(self, job: Job, process: "subprocess.Popen | Fork") -> bool:
        """Kill a tree, or one process of it; says whether that was its top."""
        try:
            top = psutil.Process(process.pid)
            there = [top, *top.children(recursive=True)]
            victims = there if self.random.random() < 0.4 else [self.random.choice(there)]
            name = who(victims[0]) if len(victims) == 1 else "whole tree"
            after = self.newest()
        except psutil.NoSuchProcess:
            return False
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self.note(job, "kill", name, after)
        self.left |= set(there) - set(victims)
        return top in victims

    def fill(self, job: Job, process: "subprocess.Popen | Fork") -> bool:
        """Fill the disk until the job gives up, or has no need of more; then free it."""
        after, filler = self.newest(), self.results.with_name("filler")
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            # At once, but for what may just be written by the job.
            most = shutil.disk_usage(filler.parent).free - 2**23
            os.posix_fallocate(file.fileno(), 0, max(most, 1))
            while True:
                file.write(bytes(1 << 16))
        status = process.wait(LONGEST)
        filler.unlink()
        said = self.log.read_bytes()[self.began :].decode(errors="replace")
        if status and not re.search(r"cannot (write|be written).*No space left", said):
            raise SystemExit(f"{job.name} does not say that the disk is full; see {self.log}")
        self.note(job, "full disk", "said so" if status else "needed no more", after)
        return True

    def set_back(self, job: Job, process: "subprocess.Popen | Fork") -> bool:
        """Date everything tomorrow, while the job goes on."""
        after, tomorrow = self.newest(), 86_400 * 10**9
        for file in self.results.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                now = file.stat().st_mtime_ns
                os.utime(file, ns=(now + tomorrow,) * 2)
        self.note(job, "clock", "set back", after)
        return False

    def newest(self) -> str:
        """The file that was written last."""
        times = [(0.0, "nothing")]
        for file in self.results.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                times.append((file.stat().st_mtime, str(file.relative_to(self.results))))
        return max(times)[1]

    def compare(self, job: Job) -> None:
        """What the job makes must be as in peace."""
        made = contents(self.results)
        for name, content in contents(self.peace).items():
            mine = job.made == ["."] or name.startswith(tuple(job.made))
            # The record of a training is the notebook's.
            there = name in made or callable(job.work)
            if mine and (not there or made.get(name, content) != content):
                raise SystemExit(f"DIFFERENT after {job.name}: {self.results / name}")


class Fork:
    """A function in a process of its own that has imported everything already, as a Popen."""

    def __init__(self, work: Callable[[], object], log: int) -> None:
        def run() -> None:
            os.dup2(log, 1)
            os.dup2(log, 2)
            # Forked processes share the lock of tqdm's bars: one that is killed while it draws a
            # bar would never give it back, and all others would wait for it.
            tqdm.set_lock(threading.RLock())
            work()

        self.process = multiprocessing.get_context("fork").Process(target=run)
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("", timeout)
        return self.process.exitcode


def who(process: psutil.Process) -> str:
    """What a process is to the run."""
    line = " ".join(process.cmdline()) + " "
    return next((name for word, name in WHO.items() if word in line), process.name())


# --- what came out ------------------------------------------------------------------------------


def contents(results: Path) -> dict[str, object]:
    """All results of a run by name, without when and where it was."""
    found = {}
    for file in sorted({file for kind in KINDS for file in results.rglob(kind)}):
        name = file.relative_to(results)
        if not set(APART) & set(name.parts):
            found[str(name)] = file.read_bytes()
            if file.suffix == ".json" and name.parts[0] != "drawn":
                found[str(name)] = list(timeless(file.read_text().replace(str(results), "")))
    return found


def timeless(text: str) -> Iterator[object]:
    """JSON, or a JSON object a line, without when and where."""

    def kept(content: object) -> object:
        if isinstance(content, dict):
            return {k: kept(v) for k, v in content.items() if k not in WHEN_AND_WHERE}
        return [kept(each) for each in content] if isinstance(content, list) else content

    try:
        yield kept(json.loads(text))
    except json.JSONDecodeError:
        yield from (kept(json.loads(line)) for line in text.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    option = parser.add_argument
    option("--kills", type=int, default=100)
    option("--full", type=int, default=30, help="times that the disk is full")
    option("--back", type=int, default=10, help="times that the clock is set back")
    option("--minutes", type=float, default=10, help="of each target of tests/fuzz.py")
    option("--seed", type=int, default=0)
    option("--only", default="", metavar="JOB", help="part of a job's name: no others")
    option("--peace", type=Path, help="results of an undisturbed run of smoke, to save its time")
    given = parser.parse_args()
    if given.full and MOUNTS_END not in os.environ:
        # In a space of its own, where anybody may mount, and whose mounts end with it.
        anybody = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        os.environ[MOUNTS_END] = "1"
        os.execvp("unshare", ["unshare", "--mount", *anybody, *sys.orig_argv])
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="arcnn-soak-"))
    os.environ["TMPDIR"] = str(folder)  # what killed processes leave there goes with it
    print(f"Folder: {folder}; seed {given.seed}", flush=True)
    soak = Soak(folder, given.peace or folder / "undisturbed/smoke", given.seed)
    if not given.peace:
        print(f"In peace: {soak.finish('make', whole(soak.peace.parent)):.0f} s", flush=True)
    soak.results.parent.mkdir()
    if given.full:
        small = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(soak.results.parent)]
        subprocess.run(small, check=True)
    soak.results.mkdir()
    text = (soak.peace / "profile.yaml").read_text()
    (soak.results / "profile.yaml").write_text(
        text.replace(str(soak.peace.parent), str(soak.results.parent))
    )
    due, began = collections.Counter(), time.monotonic()
    chosen = [job for job in jobs(soak.results, read_yaml(text)) if given.only in job.name]
    for job in chosen:
        command = job.made == ["."]
        seconds = 120.0 if command else soak.finish(job.name, job.work)
        due["kill"] += job.share * given.kills / sum(job.share for job in chosen)
        due["full disk"] += given.full / len(chosen)
        due["clock"] += given.back if command else 0
        for disturbance, so_far in due.items():
            while (rest := round(so_far) - soak.times(disturbance)) > 0:
                soak.round(job, disturbance, seconds, rest if command else min(rest, 3))
    print("\njob              disturbance                  times")
    for (name, disturbance, what), times in sorted(soak.done.items()):
        print(f"{name:16} {disturbance:10} {what:16} {times:6}")
    print(
        f"{soak.done.total()} times in {(time.monotonic() - began) / 60:.0f} minutes; each time "
        f"the same again ended with the same bytes, {soak.waited} times after what a killed "
        "run had left at work was done."
    )
    if given.full:
        subprocess.run(["umount", str(soak.results.parent)], check=True)
    shutil.rmtree(folder)
    for target in ("read", "check", "evaluate"):
        fuzz = [sys.executable, ROOT / "tests/fuzz.py", target, "--minutes", f"{given.minutes}"]
        if given.minutes and (code := subprocess.call(fuzz)):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
