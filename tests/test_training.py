"""Training: reproducible, resumable, and never trusting what is half-written."""

import json
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from IPython.core.interactiveshell import InteractiveShell
from soak import Fork
from torch import nn

from arcnn import training, weights
from arcnn.data import split_records
from arcnn.data.loader import ExampleOrder
from arcnn.data.tabletop import make_tabletop
from arcnn.errors import FileError, InputError
from arcnn.files import lock, write_json
from arcnn.film import FRAMES, Camera, film_or_last_state, moments, read_film
from arcnn.initial_weights import initial_weights
from arcnn.logbook import LogWriter, read_log, read_sessions
from arcnn.training import build_optimizer, train
from arcnn.weights import load_trained

MASK_LOSSES = {"loss_amodal_mask", "loss_visible_mask", "loss_occlusion_mask"}


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["model"]


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(file.name for file in Path(folder).glob(pattern))


def test_the_same_seed_gives_the_same_weights(tiny_config) -> None:
    runs = {
        name: weights_of(
            train(tiny_config("arcnn", "SOLVER.MAX_ITER", 2, seed=seed, run=name)).weights
        )
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    }
    first, again, other = runs["first"], runs["again"], runs["other"]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_log_names_every_loss_of_equation_2(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(training, "LOG_PERIOD", 1)
    cfg = tiny_config()
    train(cfg)
    log = read_log(cfg.OUTPUT_DIR)
    assert list(log.index) == list(range(6))
    assert MASK_LOSSES | {"loss_cls", "loss_box_reg"} < set(log.columns)
    first = log.iloc[0]  # later lines are smoothed, each loss by itself
    assert first.filter(regex="^loss_").sum() == pytest.approx(first["total_loss"], rel=1e-4)


class Interrupted(RuntimeError):
    pass


def interrupt(cfg, monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Train until an iteration, and no farther."""
    step = SimpleTrainer.run_step

    def run_step(self: SimpleTrainer) -> None:
        if self.iter == iteration:
            raise Interrupted
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(SimpleTrainer, "run_step", run_step)
        with pytest.raises(Interrupted):
            train(cfg)


def made_by(folder: Path) -> dict[str, object]:
    """Weights, film and log of a training, the log without times."""
    log = read_log(folder)
    log = log.drop(columns=[name for name in log.columns if name.endswith("time")])
    files = {
        file.name: file.read_bytes() for kind in ("*.pth", "*.npz") for file in folder.glob(kind)
    }
    return files | {"log": log.sort_index(axis="columns").to_json(double_precision=15)}


@pytest.mark.parametrize(
    ("model", "workers", "computed_in"),
    [("arcnn", 0, torch.float32), ("orcnn", 2, torch.bfloat16)],
)
def test_an_interrupted_run_ends_with_the_same_bytes(
    model, workers, computed_in, tiny_config, monkeypatch
) -> None:
    monkeypatch.setattr(training, "precision", lambda cfg: computed_in)
    monkeypatch.setattr(training, "LOG_PERIOD", 2)
    options = ("SOLVER.IMS_PER_BATCH", 2 if computed_in == torch.float32 else 1)  # takes longer
    undisturbed = train(tiny_config(model, *options, run="undisturbed"))
    options += ("DATALOADER.NUM_WORKERS", workers)
    cfg = tiny_config(model, *options, run="interrupted")
    interrupt(cfg, monkeypatch, 3)
    interrupt(cfg, monkeypatch, 5)
    output = Path(cfg.OUTPUT_DIR)
    assert names(output, "*.pth") == ["model_0000003.pth"]
    assert not (output / "model_final.pth").exists()
    with pytest.raises(FileNotFoundError, match="04_train"):
        load_trained(output.parent)
    with (output / "metrics.json").open("a") as log:
        log.write('{"iteration": 5, "to')  # by an older kit, when the disk was full
    steps = []

    class Count(HookBase):
        def after_step(self) -> None:
            steps.append(self.trainer.iter)

    monkeypatch.setattr(training, "ProgressBar", Count)
    done = train(cfg)
    assert steps == [4, 5] and done.steps == 2
    assert made_by(output) == made_by(undisturbed.weights.parent)


def test_weights_come_after_all_else(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(LogWriter, "write", lambda self: fail())
        train(cfg)
    assert not (Path(cfg.OUTPUT_DIR) / "model_final.pth").exists()
    last = cfg.SOLVER.MAX_ITER - 1
    assert train(cfg).steps == last + 1 - 4 and read_log(cfg.OUTPUT_DIR).index[-1] == last


def fail() -> None:
    raise OSError("the disk is full")


def test_ten_kills_change_no_byte(tiny_config, tmp_path: Path) -> None:
    at_random = random.Random(0)

    def killed(work: Callable[[], object], seconds: float) -> None:
        with (tmp_path / "said").open("a") as said:
            child = Fork(work, said.fileno())
        time.sleep(at_random.uniform(0.1, 0.9) * seconds)
        child.process.kill()
        child.wait(60)

    def draw(root: Path) -> Path:
        return make_tabletop(root, train_images=4, val_images=2, image_size=96, workers=1)

    began = time.monotonic()
    drawn = draw(tmp_path / "one")
    seconds = time.monotonic() - began
    for _ in range(4):
        killed(lambda: draw(tmp_path / "other"), seconds)
    other = draw(tmp_path / "other")
    files = [file.relative_to(drawn) for file in drawn.rglob("*") if file.is_file()]
    assert len(files) == 11 and [f.name for f in other.parent.iterdir()] == ["tabletop"]
    assert all((drawn / file).read_bytes() == (other / file).read_bytes() for file in files)

    cfg, undisturbed = tiny_config(run="killed"), tiny_config(run="undisturbed")
    began = time.monotonic()
    train(undisturbed)
    seconds = time.monotonic() - began
    for _ in range(4):
        killed(lambda: train(cfg), seconds)
    train(cfg)
    made = [made_by(Path(c.OUTPUT_DIR)) for c in (cfg, undisturbed)]
    assert made[0] == made[1] and set(made[0]) == {"model_final.pth", "film.npz", "log"}

    def write() -> None:
        for k in range(10**6):
            write_json(tmp_path / "numbers.json", [k] * 50_000)

    write_json(tmp_path / "numbers.json", [0] * 50_000)
    for _ in range(2):
        killed(write, 0.5)
        numbers = json.loads((tmp_path / "numbers.json").read_text())
        assert len(numbers) == 50_000 and len(set(numbers)) == 1


def test_a_full_disk_is_named_and_more_room_is_all_that_it_takes(
    tiny_config, tmp_path: Path
) -> None:
    """Files may be so long and no longer, which is to a program what a full disk is."""
    cfg = tiny_config()
    output = Path(cfg.OUTPUT_DIR)

    def train_in(room: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            train(cfg)
        except OSError as error:
            (tmp_path / "said").write_text(str(error))

    for room, name in ((2000, "config.yaml"), (9000, "film.npz"), (10**6, "model_0000001.pth")):
        with open(os.devnull, "w") as nowhere:
            Fork(lambda room=room: train_in(room), nowhere.fileno()).wait(60)
        said = (tmp_path / "said").read_text()
        assert re.match(rf"cannot write .*/{name}: \[Errno 27\] File too large. Make room", said)
        assert not (output / name).exists() and not names(output, "*.partial*")
    train(cfg)
    train(other := tiny_config(run="other"))
    assert made_by(output) == made_by(Path(other.OUTPUT_DIR))


def test_a_killed_training_is_not_taken_for_one_at_work(tiny_config, tmp_path: Path) -> None:
    cfg = tiny_config("arcnn", "DATALOADER.NUM_WORKERS", 1)
    output = Path(cfg.OUTPUT_DIR)
    with (tmp_path / "said").open("w") as said:
        child = Fork(lambda: train(cfg), said.fileno())
    while not names(output, "model_*.pth"):
        time.sleep(0.01)
    child.process.kill()  # the process that loads its images lives on for some seconds
    child.wait(60)
    assert train(cfg).start == "Went on at iteration 2."


def test_a_finished_run_keeps_its_weights_once_and_tells_how_they_came_about(
    tiny_config, monkeypatch
) -> None:
    cfg = tiny_config()
    interrupt(cfg, monkeypatch, 3)
    interrupt(cfg, monkeypatch, 5)
    done = train(cfg)
    assert names(cfg.OUTPUT_DIR, "*.pth*") == ["model_final.pth"]
    assert set(torch.load(done.weights, weights_only=True)) == {"model"}
    sessions = read_sessions(cfg.OUTPUT_DIR)
    assert [(s["first"], s["last"]) for s in sessions] == [(0, None), (2, None), (4, 6)]
    assert sessions[0]["seconds"] is None and sessions[2]["seconds"] > 0
    assert sessions[0]["start"] == "Started from random weights."
    assert {"device", "commit", "started"} < set(sessions[2])
    before = done.weights.read_bytes()
    again = train(cfg)
    assert again.steps == 0 and again.weights.read_bytes() == before
    assert read_sessions(cfg.OUTPUT_DIR) == sessions


def test_the_order_of_examples_is_the_same_from_any_step_on(tiny_config) -> None:
    cfg = tiny_config("arcnn", "SOLVER.IMS_PER_BATCH", 3)
    records = [{"width": w, "height": 10} for w in (5, 20, 20, 5, 20, 20, 20)]

    def take(first: int, count: int) -> list:
        order = iter(ExampleOrder(records, cfg, first))
        return [next(order) for _ in range(count)]

    whole = take(0, 30)
    assert [place for place, _ in whole] == list(range(30))
    assert take(4, 18) == whole[12:]
    for k in range(0, 30, 3):  # one orientation in each batch
        assert len({records[i]["width"] > 10 for _, i in whole[k : k + 3]}) == 1


def test_who_stops_a_training_gets_a_sentence_and_can_go_on(tiny_config, monkeypatch, capsys):
    class Bored(HookBase):
        def after_step(self) -> None:
            if self.trainer.iter == 3:
                raise KeyboardInterrupt

    cfg = tiny_config()
    with monkeypatch.context() as patch:
        patch.setattr(training, "ProgressBar", Bored)
        shell = InteractiveShell.instance()
        shell.user_ns |= {"train": train, "cfg": cfg}
        capsys.readouterr()
        shell.run_cell("train(cfg)")
    printed = capsys.readouterr().out
    assert "Stopped at iteration 3 of 6. Run it again" in printed and "Traceback" not in printed
    assert train(cfg).steps < 6


def test_a_checkpoint_cut_off_in_writing_is_not_resumed_from(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()

    def cut_off(state: dict, file: Path) -> None:
        Path(file).write_bytes(b"half a file")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(weights.torch, "save", cut_off)
        with pytest.raises(OSError, match="run the same again: what is finished is kept"):
            train(cfg)
    assert not names(cfg.OUTPUT_DIR, "*.pth*")
    assert train(cfg).weights.is_file()


def test_what_was_made_otherwise_is_not_gone_on_with(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()
    interrupt(cfg, monkeypatch, 3)
    for option, named in (
        (("SOLVER.BASE_LR", 0.5), r"SOLVER.BASE_LR: now 0.5, before 0.001\).*Delete"),
        (("SOLVER.MAX_ITER", 9), "SOLVER.MAX_ITER: now 9, before 6"),  # a cosine, stretched
    ):
        with pytest.raises(ValueError, match=named):
            train(tiny_config("arcnn", *option))
    records = split_records(cfg, "train")
    with monkeypatch.context() as patch:
        patch.setattr("arcnn.data.registration.split_records", lambda *_: records[1:])
        with pytest.raises(ValueError, match=r"training data: now 7 images .* before 8 .*Delete"):
            train(cfg)
    kept = {name: (Path(cfg.OUTPUT_DIR) / name) for name in ("config.yaml", "data.json")}
    for file in kept.values():
        text = file.read_text()
        file.unlink()
        with pytest.raises(ValueError, match="weights without the config.yaml and data.json"):
            train(cfg)
        file.write_text(text)
    with kept["config.yaml"].open("a") as file:
        file.write("FORMER: 3\n")
    with pytest.raises(ValueError, match="FORMER: now not there, before 3"):
        train(cfg)


def test_settings_that_cannot_matter_do_not_keep_a_run_from_going_on(
    tiny_config, monkeypatch
) -> None:
    steps = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", (5,))
    interrupt(tiny_config("arcnn", *steps), monkeypatch, 3)
    other = ("SOLVER.CHECKPOINT_PERIOD", 3, "TEST.DETECTIONS_PER_IMAGE", 7, "SOLVER.MAX_ITER", 8)
    assert train(tiny_config("arcnn", *steps, *other)).steps == 6
    with pytest.raises(ValueError, match=r"MAX_ITER: now 9, and the run is complete"):
        train(tiny_config("arcnn", *steps, *other, "SOLVER.MAX_ITER", 9))


def test_two_trainings_never_share_a_folder(tiny_config) -> None:
    cfg = tiny_config()
    file = str(Path(cfg.OUTPUT_DIR) / ".lock")
    hold = f"from arcnn.files import *; kept = lock(Path({file!r})); print(); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=PIPE, stdout=PIPE) as other:
        other.stdout.readline()
        with pytest.raises(BlockingIOError, match=rf"process {other.pid} trains in .* already"):
            train(cfg)
        other.communicate(b"\n")
    assert train(cfg).steps == 6


def test_a_run_begun_on_a_cpu_goes_on_in_mixed_precision(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()
    interrupt(cfg, monkeypatch, 3)
    checkpoint = torch.load(Path(cfg.OUTPUT_DIR) / "model_0000001.pth", weights_only=False)
    model = build_model(cfg)
    trainer = training._AMPTrainer(model, [], build_optimizer(cfg, model))
    trainer.load_state_dict(checkpoint["trainer"] | {"hooks": {}})
    assert trainer.iter == 1


def test_gradients_are_clipped_without_the_scale_of_mixed_precision(
    tiny_config, monkeypatch
) -> None:
    cfg = tiny_config()
    moments = []
    for scale in (None, 65536.0):
        layer = nn.Linear(3, 1, bias=False)
        nn.init.ones_(layer.weight)
        now = torch.float32 if scale is None else torch.float16
        monkeypatch.setattr(training, "precision", lambda cfg, now=now: now)
        optimizer = build_optimizer(cfg, layer)
        loss = (layer.weight * torch.tensor([3.0, 0.0, 4.0])).sum()  # a gradient of norm 5
        if scale is None:
            loss.backward()
            optimizer.step()
        else:
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        moments.append(optimizer.state[layer.weight]["exp_avg_sq"])
    assert moments[0].max() == pytest.approx(0.001 * 0.8**2, rel=1e-4)  # clipped to norm 1
    np.testing.assert_allclose(moments[1], moments[0], rtol=1e-4)


def test_a_log_cut_off_in_its_last_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 19, "total_loss": 3.0}\n{"iteration": 39, "total_loss": 2.0}\n'
        '{"iteration": 39, "total_loss": 1.0}\n{"iteration": 59, "tot'
    )
    assert read_log(tmp_path)["total_loss"].to_dict() == {19: 3.0, 39: 1.0}


DEEP = "[" * 100_000


def test_a_damaged_log_is_read_without_its_damaged_lines(tmp_path: Path) -> None:
    damaged = ["[1]", "5", "null", "{}", '{"iteration": "x"}', '{"iteration": [1]}', DEEP, "\xff"]
    damaged += ['{"iteration": 5, "total_loss": "x"}', '{"iteration": 5, "total_loss": [1]}']
    lines = ['{"iteration": 19, "total_loss": 3}', *damaged, '{"iteration": 39, "total_loss": 2.0}']
    (tmp_path / "metrics.json").write_bytes("\n".join(lines).encode("latin"))
    assert read_log(tmp_path)["total_loss"].to_dict() == {19: 3.0, 39: 2.0}
    assert len(LogWriter(tmp_path, 39).lines) == 1


@pytest.mark.parametrize("text", ["", "null", "5", "[1]", "\xff", DEEP, "fifo", '{"a": NaN}'])
def test_a_damaged_file_beside_a_training_is_a_sentence(
    text: str, tiny_config, tmp_path: Path
) -> None:
    cfg = tiny_config()
    output = Path(cfg.OUTPUT_DIR)
    output.mkdir(parents=True)
    training._check_same_run(cfg, output)
    files = [output / "data.json", output / "sessions.json"]
    for file in files:
        file.unlink(missing_ok=True)
        os.mkfifo(file) if text == "fifo" else file.write_bytes(text.encode("latin"))
    with pytest.raises((InputError, FileError), match="sessions.json is"):
        read_sessions(output)
    if text != "fifo":  # which is no data.json, and one is written in its place
        with pytest.raises(InputError, match="data.json is .*: delete its folder to train anew"):
            training._check_same_run(cfg, output)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda file: file.symlink_to("/dev/zero")])
def test_a_lock_is_a_file(put, tmp_path: Path) -> None:
    put(tmp_path / ".lock")
    with pytest.raises(FileError, match=r"\.lock is a symbolic link, or no file. Delete it."):
        lock(tmp_path / ".lock")


def test_missing_initial_weights_say_which_file_to_put_where(tiny_config, monkeypatch) -> None:
    def no_network(path: str) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(PathManager, "get_local_path", no_network)
    name = "ImageNetPretrained/MSRA/R-50.pkl"
    cfg = tiny_config("arcnn", "MODEL.WEIGHTS", f"detectron2://{name}")
    with pytest.raises(FileNotFoundError, match=rf"Download \S+{name}.*put it at \S+{name}"):
        initial_weights(cfg)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        initial_weights(tiny_config("arcnn", "MODEL.WEIGHTS", "nowhere.pth"))


def caffe2_resnet(cfg) -> dict[str, np.ndarray]:
    """Made weights of this ResNet under the names of MSRA's ``R-50.pkl``, scales and shifts in the
    place of statistics."""
    made = {}
    for key, value in build_model(cfg).backbone.bottom_up.state_dict().items():
        if "running" in key or "num_batches" in key:
            continue
        name = key.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.conv1", "conv1")
        name = re.sub(r"res(\d)\.(\d+)\.", r"res\1_\2_", name)
        for ours, theirs in (("conv1", "branch2a"), ("conv2", "branch2b")):
            if name.startswith("res") and "res_conv1" not in name:
                name = name.replace(ours, theirs)
        name = name.replace("shortcut", "branch1").replace(".norm", "_bn")
        name = name.replace("_bn.weight", "_bn_s").replace("_bn.bias", "_bn_b")
        name = name.replace(".weight", "_w").replace(".bias", "_b")
        made[name] = np.random.default_rng(len(made)).normal(size=value.shape).astype(np.float32)
    return made


def test_initial_weights_of_the_backbone_are_all_accounted_for(tiny_config, tmp_path: Path) -> None:
    given = caffe2_resnet(tiny_config()) | {"fc1000_w": np.zeros((1000, 256), np.float32)}
    file = tmp_path / "R-18.pkl"
    file.write_bytes(pickle.dumps(given))
    options = ("MODEL.WEIGHTS", str(file), "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1e-12)
    done = train(tiny_config("arcnn", *options))
    new = (
        "the FPN, the RPN, the box head, the visible mask head, the occlusion mask head, the joint"
    )
    assert done.start == f"Started from {file}; new: {new}."
    loaded = weights_of(done.weights)
    np.testing.assert_array_equal(
        loaded["backbone.bottom_up.stem.conv1.weight"].numpy(), given["conv1_w"]
    )


@pytest.mark.parametrize("lost", ["conv1_w", "res3_0_branch2a_w"])
def test_initial_weights_that_do_not_fit_are_never_trained_on(
    lost: str, tiny_config, tmp_path: Path
) -> None:
    given = caffe2_resnet(tiny_config())
    del given[lost]
    (tmp_path / "some.pkl").write_bytes(pickle.dumps(given))
    foreign = {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "fc.bias": torch.zeros(1000)}
    torch.save(foreign, tmp_path / "torchvision.pth")
    for name in ("some.pkl", "torchvision.pth"):
        cfg = tiny_config("arcnn", "MODEL.WEIGHTS", str(tmp_path / name), run=f"from {name}")
        with pytest.raises(ValueError, match=rf"{name}, does not fit.* no backbone.bottom_up"):
            train(cfg)
        assert not names(cfg.OUTPUT_DIR, "*.pth")


def test_adamw_is_a_choice_and_an_unknown_optimizer_is_refused(tiny_config) -> None:
    cfg = tiny_config("arcnn", "SOLVER.OPTIMIZER", "SGD", "SOLVER.MAX_ITER", 1)
    assert train(cfg).weights.is_file()
    with pytest.raises(ValueError, match="AdamW"):
        train(tiny_config("arcnn", "SOLVER.OPTIMIZER", "Adam", run="other"))


# --- a trained model is what its folder says -----------------------------------------------------


def one_step(tiny_config, model: str = "arcnn", *options: object, run: str = "run") -> Path:
    cfg = tiny_config(model, "SOLVER.MAX_ITER", 1, *options, run=run)
    train(cfg)
    return Path(cfg.OUTPUT_DIR).parent


def test_a_trained_model_has_the_settings_it_was_trained_with(tiny_config) -> None:
    run = one_step(
        tiny_config, "arcnn", "MODEL.ARCNN.OWN_CLASS", True, "MODEL.ARCNN.INPUT", "probs"
    )
    cfg, model = load_trained(run, device="cpu")
    head = model.roi_heads.mask_head
    assert head.amodal_head.own_class and head.joint_input == "probs" and not model.training
    assert cfg.MODEL.ARCNN.OWN_CLASS and cfg.SOLVER.MAX_ITER == 1
    kept = weights_of(run / "train/model_final.pth")
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    moved = run.rename(run.with_name("moved"))  # a run is its folder, wherever that lies
    assert str(moved / "train") == load_trained(moved).cfg.OUTPUT_DIR


@pytest.mark.parametrize(
    ("model", "options", "named"),
    [
        ("arcnn", ("MODEL.ARCNN.OWN_CLASS", True), r"amodal_head.conv.weight is \[10, 2, 1, 1\]"),
        ("arcnn_add", (), "mask_head.amodal_head.conv.weight is missing"),
        ("orcnn", (), "roi_heads.mask_head"),
    ],
)
def test_weights_of_another_model_are_refused(model, options, named, tiny_config) -> None:
    run = one_step(tiny_config)
    other = one_step(tiny_config, model, *options, run="other")
    (other / "train/model_final.pth").rename(run / "train/model_final.pth")
    with pytest.raises(ValueError, match=named) as caught:
        load_trained(run)
    assert "config.yaml" in str(caught.value)


def test_weights_left_over_or_unreadable_are_refused(tiny_config) -> None:
    run = one_step(tiny_config)
    file = run / "train/model_final.pth"
    torch.save({"model": weights_of(file) | {"extra": torch.zeros(1)}}, file)
    with pytest.raises(ValueError, match="extra is left over"):
        load_trained(run)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model_final.pth cannot be read"):
        load_trained(run)
    (run / "train/config.yaml").write_text("MODEL: [1")
    with pytest.raises(ValueError, match="config.yaml is no configuration"):
        load_trained(run)


def test_no_code_in_a_configuration_is_run(tiny_config, tmp_path: Path) -> None:
    run = one_step(tiny_config)
    trap = tmp_path / "sprung"
    (run / "train/config.yaml").write_text(
        f"SEED: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path "
        f"['{trap}']]\n"
    )
    with pytest.raises(ValueError, match="is no configuration"):
        load_trained(run)
    assert not trap.exists()


# --- the film -----------------------------------------------------------------------------------


def test_filming_and_showing_change_no_bit_of_a_training(tiny_config, monkeypatch) -> None:
    shown = []
    for model in ("arcnn", "asn"):
        one, other = (tiny_config(model, run=f"{model} {how}") for how in ("filmed", "alone"))
        filmed = train(one, show=lambda log, film: shown.append((len(log), film.iterations)))
        with monkeypatch.context() as patch:
            patch.setattr(training, "Camera", no_camera)
            alone = train(other)
        assert filmed.weights.read_bytes() == alone.weights.read_bytes()
        assert names(one.OUTPUT_DIR, "film*") == ["film.npz"]
        assert not names(other.OUTPUT_DIR, "film*")
    assert shown[0] == (0, [0]) and shown[-1][1] == [6]


def no_camera(*_: object) -> None:
    raise FileNotFoundError("no test split")


def test_a_film_shows_the_same_objects_from_the_first_step_to_the_last(tiny_config) -> None:
    cfg = tiny_config()
    train(cfg)
    film = read_film(cfg.OUTPUT_DIR)
    assert film.iterations == moments(6) and film.iterations[0] == 0 and film.iterations[-1] == 6
    assert len({filmed.name for filmed in film.objects}) == len(film.objects) == 3
    run = Path(cfg.OUTPUT_DIR).parent
    camera = Camera(*load_trained(run))
    for filmed, now, blank in zip(film.objects, camera.frame(), camera.blank, strict=True):
        assert len(filmed.frames) == len(film.iterations)
        assert filmed.truth["occlusion"].any() and np.array_equal(filmed.image, blank.image)
        for kind, mask in filmed.frames[-1].items():
            assert mask.shape == filmed.image.shape[:2] == filmed.truth[kind].shape
            assert np.array_equal(mask, now[kind])
    (Path(cfg.OUTPUT_DIR) / "film.npz").write_bytes(b"half a file")
    last, sentence = film_or_last_state(run)
    assert last.iterations == [6] and "no film of this training" in sentence
    assert all(
        np.array_equal(one.frames[0]["amodal"], other.frames[-1]["amodal"])
        for one, other in zip(last.objects, film.objects, strict=True)
    )


def test_frames_come_close_at_first_and_never_twice() -> None:
    assert moments(400) == [0, 8, 33, 73, 131, 204, 294, 400]
    assert len(moments(90_000)) == FRAMES and moments(2) == [0, 1, 2]
