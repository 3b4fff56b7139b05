"""Training by several processes, on the GPUs of one machine or more: ``python -m arcnn.training``.

detectron2's ``launch`` starts a process for each GPU. All of them see the same order of examples
and take their share of each step's batch, so that a step looks at the same images however many
processes there are; their gradients are averaged. Settings stay as they are, unless
``SOLVER.REFERENCE_WORLD_SIZE`` asks for scaled ones (:func:`arcnn.config.for_processes`). On more
machines, the same command on each, with its own ``--machine-rank``, and a folder that all see.

``--num-gpus 0 --processes 2`` trains on CPUs, over gloo. That is how it was tried; on GPUs, where
it is NCCL that connects the processes, it was not.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from arcnn.config import for_processes, get_config
from arcnn.data import register_dataset, split_name
from arcnn.data.registration import MAX_SKIPPED, find_splits
from arcnn.errors import InputError, Told
from arcnn.evaluation import predict_together, to_results
from arcnn.files import ROOT, data_folder, write_json
from arcnn.film import Film, Show, read_film
from arcnn.initial_weights import TORCHVISION, initial_weights
from arcnn.logbook import read_log, read_sessions
from arcnn.training import FINAL_WEIGHTS, Failed, Stopped, Training, train
from arcnn.weights import load_trained

COMMAND = "python -m arcnn.training"
STOPPED = 130  # the exit status of what was interrupted, as shells have it
SHOW_EVERY = 10  # seconds
KEPT = "The last checkpoint is kept: run the same again, and it goes on from there."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status. What ends it early is a sentence on stderr."""
    given = _parser().parse_args(arguments)
    # Its warnings about the processes that it ends add nothing to the sentence.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="arcnn-") as folder:
        given.sentence = given.sentence or Path(folder) / "sentence"
        try:
            _check(given)
            _launch(given)
            return 0
        except (Exception, KeyboardInterrupt) as error:
            status, said = _explain(error)
        finally:
            for process in multiprocessing.active_children():
                process.terminate()
        if given.sentence.is_file():  # one of several said why
            said = given.sentence.read_text()
        given.sentence.write_text(said)
    print(f"{COMMAND}: {said}", file=sys.stderr)
    return status


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit status, and a sentence; raises the error again if it has none."""
    match error:
        case KeyboardInterrupt() | ProcessExitedException(exit_code=130):
            return STOPPED, f"Stopped. {KEPT}"
        case ProcessExitedException():
            how = error.signal_name or f"exit status {error.exit_code}"
            return 1, (
                f"Process {error.error_index} ended ({how}), most often for want of memory. {KEPT}"
            )
        case ProcessRaisedException():
            print(error.msg, file=sys.stderr)
            why = error.msg.strip().splitlines()[-1]
            return 1, f"Process {error.error_index} failed: {why}. {KEPT}"
        case Told():
            return 1, str(error)
    raise error


def _parser() -> argparse.ArgumentParser:
    """Arguments as of :func:`arcnn.get_config`, and detectron2's own of ``launch``."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True)
    add("--model", required=True)
    add("--seed", type=int, default=0)
    add("--run", type=Path, required=True, help="folder of the run; the training goes to RUN/train")
    add("--data-root", default="", metavar="DIR", help="of data sets; by default the kit's data/")
    what = "of the objects that may be left out, in [0, 1]"
    add("--max-skipped", type=float, default=MAX_SKIPPED, metavar="SHARE", help=what)
    what = "predict the test split with the trained model, into RUN/predictions.json"
    add("--eval-only", action="store_true", help=what)
    gpus = min(torch.cuda.device_count(), 1)
    add("--num-gpus", type=int, default=gpus, metavar="N", help="of this machine; 0: on its CPU")
    what = "on this machine's CPU, with --num-gpus 0"
    add("--processes", type=int, default=1, metavar="N", help=what)
    add("--num-machines", type=int, default=1, metavar="M")
    add("--machine-rank", type=int, default=0, metavar="R", help="of this one: 0 to M-1")
    what = "where machine 0 listens, as tcp://HOST:PORT, the same on all machines"
    add("--dist-url", default="auto", metavar="URL", help=what)
    what = "detectron2's overrides, KEY VALUE ..., last"
    add("--sentence", type=Path, help=argparse.SUPPRESS)  # a file for what main says last
    add("options", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=what)
    return parser


def _check(given: argparse.Namespace) -> None:
    """What can be known before the first process starts.

    Raises:
        FileNotFoundError, ValueError: data or initial weights are missing; or settings, GPUs or
            machines are not as they should be.
    """
    given.device = "cuda" if given.num_gpus else "cpu"
    given.processes = given.num_gpus or given.processes
    there = torch.cuda.device_count()
    if given.num_gpus > there:
        raise InputError(f"{given.num_gpus} GPUs were asked for, and this machine has {there}.")
    if given.num_gpus < 0 or given.processes < 1 or given.num_machines < 1:
        raise InputError("--num-gpus is 0 or more, --processes and --num-machines 1 or more.")
    if not 0 <= given.machine_rank < given.num_machines:
        raise InputError(
            f"--machine-rank is {given.machine_rank}; {given.num_machines} machines have the ranks "
            f"0 to {given.num_machines - 1}."
        )
    if given.num_machines > 1 and given.dist_url == "auto":
        raise InputError(
            "Several machines find each other by --dist-url tcp://HOST:PORT, a port of machine 0 "
            "that is free; give the same to all."
        )
    cfg = _configuration(given)
    for_processes(cfg, given.processes * given.num_machines)
    find_splits(given.dataset, data_folder(given.data_root))
    if cfg.MODEL.WEIGHTS and not given.eval_only:
        # Once, not by each process at the same time; without torchvision's, a training does.
        optional = cfg.MODEL.WEIGHTS.startswith(TORCHVISION)
        with contextlib.suppress(*[FileNotFoundError] if optional else []):
            initial_weights(cfg)


def _launch(given: argparse.Namespace) -> None:
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # launch would take the GPUs
    alone = given.processes * given.num_machines == 1
    launch(
        _work if alone else _process,
        given.processes,
        num_machines=given.num_machines,
        machine_rank=given.machine_rank,
        dist_url=given.dist_url,
        args=(given,),
    )


def _process(given: argparse.Namespace) -> None:
    """One of several: what it has to say, the process that started it says in the end."""
    if given.device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // given.processes))
    try:
        _work(given)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        if not isinstance(error, Told):
            raise
        with contextlib.suppress(FileExistsError), given.sentence.open("x") as file:
            file.write(str(error))
        sys.exit(1)


def _work(given: argparse.Namespace) -> None:
    register_dataset(given.dataset, data_folder(given.data_root), max_skipped=given.max_skipped)
    if given.eval_only:
        cfg, model = load_trained(given.run, device=given.device)
        predictions = predict_together(cfg, model)
        ids = MetadataCatalog.get(split_name(cfg, "val")).thing_dataset_id_to_contiguous_id
        if comm.is_main_process():
            file = given.run / "predictions.json"
            write_json(file, to_results(predictions, {k: own for own, k in ids.items()}))
            print(f"{len(predictions)} detections: {file}")
        return
    done = train(_configuration(given))
    if comm.is_main_process():
        print(f"{done.start} {done.steps} iterations; weights: {done.weights}")


def _configuration(given: argparse.Namespace) -> CfgNode:
    of_training = {"options": given.options, "seed": given.seed, "device": given.device}
    return get_config(given.dataset, given.model, **of_training, output_dir=given.run / "train")


def train_together(
    num_gpus: int,
    dataset: str,
    model: str,
    *,
    run: Path,
    data_root: Path,
    options: Sequence = (),
    seed: int = 0,
    max_skipped: float = MAX_SKIPPED,
    processes: int = 1,
    show: Show | None = None,
) -> Training:
    """:func:`arcnn.training.train` by a process for each GPU, from a notebook: the command of this
    module as a child, whose bar and words are passed on.

    Args:
        num_gpus: of this machine; 0: on its CPU, by ``processes``.
        run: the run's folder, ``.../seed<k>``.
        show: called now and then with the log and the film so far, for somebody who looks on.

    Raises:
        RuntimeError: the child ended early; says why.
        Stopped: it was interrupted; a second call goes on.
    """
    words: list[Any] = [sys.executable, "-P", "-m", "arcnn.training", "--dataset", dataset]
    words += ["--model", model, "--seed", seed, "--run", run, "--data-root", data_root]
    words += ["--max-skipped", max_skipped, "--num-gpus", num_gpus, "--processes", processes]
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    training = run / "train"
    before = len(read_sessions(training))
    with tempfile.TemporaryDirectory(prefix="arcnn-") as folder:
        sentence = Path(folder) / "sentence"
        words += ["--sentence", sentence]
        words += [word if isinstance(word, str) else repr(word) for word in options]
        status = _follow([str(word) for word in words], environment, training, show)
        if status:
            said = f"The training ended without a word (exit status {status}). {KEPT}"
            said = sentence.read_text() if sentence.is_file() else said
            raise (Stopped if status == STOPPED else Failed)(said)
    if not (new := read_sessions(training)[before:]):
        return Training(training / FINAL_WEIGHTS, 0, "The run was complete already.")
    steps = new[-1]["last"] - new[-1]["first"]
    return Training(training / FINAL_WEIGHTS, steps, new[-1]["start"])


def _follow(
    command: Sequence[str], environment: Mapping[str, str], training: Path, show: Show | None
) -> int:
    """Run a command, pass on what it says, and show what it draws; returns its exit status."""
    to = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **to) as child:
        child.stderr.reconfigure(newline="")  # a bar redraws its line
        shown = time.monotonic()
        try:
            for piece in child.stderr:
                sys.stderr.write(piece)
                if show and time.monotonic() - shown > SHOW_EVERY:
                    if film := _film_so_far(training):
                        show(read_log(training), film)
                    shown = time.monotonic()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
        except BaseException:
            child.terminate()
            raise
    return child.returncode


def _film_so_far(training: Path) -> Film | None:
    try:
        return read_film(training)
    except (FileNotFoundError, ValueError):  # none yet, or nothing to film
        return None
