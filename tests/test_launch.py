"""Several processes train and predict as one would: two on the CPU, over gloo."""

import argparse
import errno
import json
import os
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import TINY
from detectron2.engine import SimpleTrainer, launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.multiprocessing import ProcessExitedException

from arcnn import launch as launching
from arcnn import training, weights
from arcnn.config import get_config
from arcnn.data import AmodalDatasetMapper, register_dataset, split_records
from arcnn.data.loader import ExampleOrder
from arcnn.errors import InputError
from arcnn.evaluation import predict, predict_together
from arcnn.film import read_film
from arcnn.launch import train_together
from arcnn.logbook import read_log, read_sessions
from arcnn.settings import read_settings
from arcnn.training import Failed, Stopped, train
from arcnn.weights import load_trained

# Settings for one process: two take twice the batch and the rate, and half the steps.
OPTIONS = [*TINY, "SOLVER.REFERENCE_WORLD_SIZE", 1, "SOLVER.MAX_ITER", 12]
OPTIONS += ["SOLVER.CHECKPOINT_PERIOD", 4, "DATALOADER.NUM_WORKERS", 0]


def work(data: Path, folder: Path) -> None:
    """What each of two processes does: train, stop in the midst, go on, predict."""
    torch.set_num_threads(1)
    register_dataset("tabletop", data)
    run = folder / "run"
    cfg = get_config("tabletop", "arcnn", options=OPTIONS, device="cpu", output_dir=run / "train")
    step = SimpleTrainer.run_step

    def until_3(self: SimpleTrainer) -> None:
        if self.iter == 3:
            raise KeyboardInterrupt
        step(self)

    SimpleTrainer.run_step = until_3
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    SimpleTrainer.run_step = step
    models = []
    build = training.build_model
    training.build_model = lambda cfg: models.append(build(cfg)) or models[-1]
    steps = train(cfg).steps
    learned = [parameter.detach() for parameter in models[0].parameters()]
    torch.save((steps, learned), folder / f"{comm.get_rank()}.pt")
    predictions = predict_together(*load_trained(run, device="cpu"))
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(predictions))


@pytest.fixture(scope="module")
def two(tabletop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that two processes made, and what each of them had in the end."""
    folder = tmp_path_factory.mktemp("two")
    launch(work, 2, dist_url="auto", args=(tabletop_root, folder))
    return folder


def test_two_processes_go_on_where_they_were_and_end_with_the_same_weights(two: Path) -> None:
    of_each = [torch.load(two / f"{rank}.pt") for rank in (0, 1)]
    assert [steps for steps, _ in of_each] == [4, 4]
    assert all(torch.equal(one, other) for one, other in zip(*(w for _, w in of_each), strict=True))
    saved = load_trained(two / "run", device="cpu").model.parameters()
    assert all(torch.equal(one, other) for one, other in zip(saved, of_each[0][1], strict=True))


def test_their_run_is_whole_and_says_how_many_they_were_and_what_was_scaled(two: Path) -> None:
    output = two / "run/train"
    written = {"classes.json", "config.yaml", "data.json", "film.npz", "metrics.json"}
    written |= {"model_final.pth", "sessions.json", ".lock"}
    assert {file.name for file in output.iterdir()} == written
    assert read_film(output).iterations == [0, 1, 2, 3, 4, 6]
    assert list(read_log(output).index) == [5]  # as of a run that nobody interrupted
    first, second = read_sessions(output)
    assert (first["last"], second["first"], second["last"]) == (None, 2, 6)
    assert first["processes"] == second["processes"] == 2
    settings = read_settings(output / "config.yaml")
    for key, before, now in (
        ("SOLVER.BASE_LR", 0.001, 0.002),
        ("SOLVER.IMS_PER_BATCH", 2, 4),
        ("SOLVER.MAX_ITER", 12, 6),
    ):
        assert settings[key] == now
        assert f"{key}: now {now}, before {before}" in second["scaled"]


def test_two_processes_predict_what_one_does(two: Path, tabletop_root: Path) -> None:
    register_dataset("tabletop", tabletop_root)
    main, other = (json.loads((two / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = predict(*load_trained(two / "run", device="cpu"))
    assert len({p["image_id"] for p in alone}) > 2
    assert main == json.loads(json.dumps(alone)) and other == []


def test_processes_share_the_batch_that_one_would_have(tiny_config, monkeypatch) -> None:
    cfg = tiny_config("arcnn", "SOLVER.IMS_PER_BATCH", 4)
    records = [{"width": w, "height": 10} for w in (5, 20, 20, 5, 20, 20, 20)]

    def take(rank: int, processes: int, batches: int) -> list:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)
        order, share = iter(ExampleOrder(records, cfg, 2)), 4 // processes
        return [[next(order) for _ in range(share)] for _ in range(batches)]

    whole, *parts = take(0, 1, 9), take(0, 2, 9), take(1, 2, 9)
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(sum(shares, []))


@pytest.mark.parametrize("model", ["arcnn", "vrs_sp", "asn"])
def test_losses_have_the_same_names_where_no_object_is_left(model: str, tiny_config) -> None:
    cfg = tiny_config(model)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True)
    records = split_records(cfg, "train")
    training.mask_head_class(cfg).prepare(cfg, records)
    network = build_model(cfg).train()
    example = AmodalDatasetMapper(cfg, is_train=True)(records[0])
    with EventStorage():
        names = set(network([example]))
        assert set(network([example | {"instances": example["instances"][:0]}])) == names


# --- what ends a training early -------------------------------------------------------------------


def words(tabletop_root: Path, run: Path, *more: object) -> list[str]:
    given = ["--dataset", "tabletop", "--model", "arcnn", "--data-root", tabletop_root]
    return [str(word) for word in (*given, "--run", run, *more)]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--num-gpus", 99), "99 GPUs were asked for, and this machine has"),
        (
            ("--num-gpus", 0, "--processes", 3, "SOLVER.IMS_PER_BATCH", 4),
            "3 processes cannot share a batch of 4 equally",
        ),
        (("--num-gpus", 0, "SOLVER.REFERENCE_WORLD_SIZE", 3), "is no multiple of"),
        (("--num-machines", 2, "--machine-rank", 2), "2 machines have the ranks 0 to 1"),
        (("--num-machines", 2, "--machine-rank", 1), "--dist-url tcp://HOST:PORT"),
        (("--processes", 0), "--processes and --num-machines 1 or more"),
        (("SOLVER.MAX_ITERS", 3), "do not fit"),
    ],
)
def test_what_cannot_be_is_a_sentence_before_anything_starts(
    more: tuple, sentence: str, tabletop_root: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(launching, "launch", None)
    assert launching.main(words(tabletop_root, tmp_path / "run", *more)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and sentence in said
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_killed_ends_the_training_and_the_checkpoint_survives(
    tabletop_root: Path, tiny_config, monkeypatch, capsys
) -> None:
    settings = ("DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 500)
    cfg = tiny_config("arcnn", *settings)
    output, shown = Path(cfg.OUTPUT_DIR), []

    def kill(log: object, film: object) -> None:
        shown.append(film)
        if len(shown) == 1:
            while not list(output.glob("model_*.pth")):
                time.sleep(0.1)
            everyone = {p: " ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)}
            processes = [p for p, command in everyone.items() if "spawn_main" in command]
            processes[-1].kill()

    monkeypatch.setattr(launching, "SHOW_EVERY", 0)
    where = {"run": output.parent, "data_root": tabletop_root, "show": kill, "processes": 2}
    with pytest.raises(Failed, match=r"^Process [01] ended \(SIGKILL\).* it goes on") as caught:
        train_together(0, "tabletop", "arcnn", options=[*TINY, *settings], **where)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capsys.readouterr().err
    checkpoints = list(output.glob("model_*.pth"))
    assert len(checkpoints) == 1 and not (output / "model_final.pth").exists()
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="at iteration"):
        patch.setattr(SimpleTrainer, "run_step", interrupted)
        train(cfg)  # by one process
    went_on = read_sessions(output)[-1]
    assert went_on["first"] == int(checkpoints[0].stem[-7:]) + 1 and went_on["processes"] == 1


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_one_process_has_to_say_is_said_once(
    tmp_path: Path, tabletop_root: Path, monkeypatch, capsys
) -> None:
    def fail(given: argparse.Namespace) -> None:
        raise InputError("this is wrong")

    def start(work: object, processes: int, *, args: tuple, **_: object) -> None:
        for _process in range(processes):
            with pytest.raises(SystemExit):
                work(*args)
        raise ProcessExitedException("", 1, 0, 1)

    monkeypatch.setattr(launching, "_work", fail)
    monkeypatch.setattr(launching, "launch", start)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    two = ("--num-gpus", 0, "--processes", 2)
    assert launching.main(words(tabletop_root, tmp_path, *two)) == 1
    assert capsys.readouterr().err == "python -m arcnn.training: this is wrong\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            r"too small at iteration 4 \(CUDA out of memory. Tried.*Lower SOLVER.IMS_PER_BATCH or "
            r"INPUT.MIN_SIZE_TRAIN, or set SOLVER.AMP.ENABLED, .* checkpoint is kept",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
            r"died at iteration 4 \(DataLoader worker .*NUM_WORKERS.* checkpoint is kept",
        ),
    ],
)
def test_too_little_memory_is_a_sentence_and_the_checkpoint_goes_on(
    error: Exception, sentence: str, tiny_config, monkeypatch, capsys
) -> None:
    cfg = tiny_config("arcnn", "SOLVER.AMP.ENABLED", False)
    step = SimpleTrainer.run_step

    def until_4(self: SimpleTrainer) -> None:
        if self.iter == 4:
            raise error
        step(self)

    with monkeypatch.context() as patch, pytest.raises(Failed, match=sentence) as caught:
        patch.setattr(SimpleTrainer, "run_step", until_4)
        train(cfg)
    assert "\n" not in str(caught.value) and "Traceback" not in capsys.readouterr().err
    assert [file.name for file in Path(cfg.OUTPUT_DIR).glob("*.pth")] == ["model_0000003.pth"]
    assert train(cfg).steps == 2


def test_a_disk_that_fills_in_a_checkpoint_leaves_the_last_one(
    tiny_config, monkeypatch, capsys
) -> None:
    cfg = tiny_config()
    save = torch.save

    def full(state: dict, file: Path) -> None:
        if state.get("iteration") == 3:
            Path(file).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as caught:
        patch.setattr(weights.torch, "save", full)
        train(cfg)
    assert "\n" not in str(caught.value) and "what is finished is kept" in str(caught.value)
    assert "Traceback" not in capsys.readouterr().err
    assert [file.name for file in Path(cfg.OUTPUT_DIR).glob("*.pth*")] == ["model_0000001.pth"]
    assert train(cfg).steps == 4
