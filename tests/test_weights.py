"""Weights and settings that somebody sent: they are numbers and plain values, or a sentence."""

import json
import math
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from arcnn import initial_weights as starts
from arcnn import weight_files
from arcnn.config import get_config, load_config
from arcnn.experiments.runs import run_variant
from arcnn.experiments.variants import DEFAULT
from arcnn.files import ROOT
from arcnn.initial_weights import load_initial_weights
from arcnn.names import SPLITS
from arcnn.settings import MOST_ALIASES, read_settings
from arcnn.weight_files import read_checkpoint
from arcnn.weights import Checkpointer, load_trained, run_papers
from arcnn.workshop.own_photos.export import main as export


class Code:
    """Pickled, a call of the system's; it would leave a file behind."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trap}",)


class Bytes:
    """Pickled, a text of a few letters that asks for three gigabytes."""

    def __reduce__(self) -> tuple:
        return bytearray, (3 * 10**9,)


def code(file: Path, trap: Path) -> None:
    torch.save({"model": {"w": Code(trap)}}, file)


def code_as_of_old(file: Path, trap: Path) -> None:
    torch.save({"model": {"w": Code(trap)}}, file, _use_new_zipfile_serialization=False)


def only_code(file: Path, trap: Path) -> None:
    file.write_bytes(pickle.dumps(Code(trap)))


def many_bytes(file: Path, trap: Path) -> None:
    torch.save({"model": {}}, file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            evil = pickle.dumps({"model": Bytes()}, protocol=2)
            archive.writestr(name, evil if name.endswith("data.pkl") else content)


def compressed(file: Path, trap: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2**16)}}, file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def cut_off(file: Path, trap: Path) -> None:
    torch.save({"model": {"w": torch.zeros(99)}}, file)
    file.write_bytes(file.read_bytes()[:-99])


def page(file: Path, trap: Path) -> None:
    file.write_text("<html>404</html>")


def empty(file: Path, trap: Path) -> None:
    file.touch()


def a_list(file: Path, trap: Path) -> None:
    torch.save([torch.zeros(3)], file)


def no_numbers(file: Path, trap: Path) -> None:
    torch.save({"model": {"w": "x"}}, file)


def others(file: Path, trap: Path) -> None:
    torch.save({"model": {"w": torch.zeros(3)}}, file)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (code, "it asks for posix.system"),
        (code_as_of_old, "it asks for posix.system"),
        (only_code, "cut off, or none"),
        (many_bytes, "it asks for builtins.bytearray"),
        (compressed, "it is compressed"),
        (cut_off, "cut off, or none"),
        (page, "cut off, or none"),
        (empty, "cannot mmap an empty file"),
        (a_list, "no dictionary"),
        (no_numbers, "holds no weights"),
        (others, "of another network|does not fit"),
    ],
)
def test_a_file_of_weights_is_numbers_or_a_sentence(
    make: Callable[[Path, Path], None], said: str, tmp_path: Path
) -> None:
    train, trap = tmp_path / "train", tmp_path / "sprung"
    train.mkdir()
    cfg = get_config("tabletop", "arcnn", device="cpu")
    (train / "config.yaml").write_text(cfg.dump())
    bottom_up = torch.nn.ModuleDict({"bottom_up": torch.nn.Linear(2, 2)})
    network = torch.nn.ModuleDict({"backbone": bottom_up})
    start = get_config(
        "tabletop", "arcnn", options=["MODEL.WEIGHTS", f"{train}/start.pth"], device="cpu"
    )
    for name, opened in (
        ("model_final.pth", lambda: load_trained(tmp_path, device="cpu")),
        ("model_0000009.pth", lambda: Checkpointer(network, str(train)).resume_or_load("")),
        ("start.pth", lambda: load_initial_weights(start, Checkpointer(network))),
    ):
        make(train / name, trap)
        with pytest.raises(ValueError, match=f"{name}.*({said})") as caught:
            opened()
        assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    assert not trap.exists()


def test_a_pipe_in_the_place_of_a_file_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth cannot be read .*no file"):
        read_checkpoint(tmp_path / "x.pth", "")
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match=r"config.yaml is no file"):
        read_settings(tmp_path / "config.yaml")
    for opened in (lambda: load_config(tmp_path), lambda: load_trained(tmp_path / "x.pth")):
        with pytest.raises(OSError, match=r"is no plain file"):
            opened()


@pytest.mark.parametrize(
    ("content", "said"),
    [(Code(Path("sprung")), "it asks for posix.system"), (1, "holds no features")],
)
def test_features_that_somebody_sent_are_numbers_or_a_sentence(
    content: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in SPLITS:
        torch.save({"x": content}, tmp_path / f"features.{split}.pt")
    with pytest.raises(ValueError, match=f"features.train.pt .*{said}.* `make ablation`"):
        run_variant(tmp_path, "tabletop", DEFAULT, 0, [])
    assert not Path("sprung").exists()


def test_a_start_brings_weights_and_no_trainers_state(tmp_path: Path) -> None:
    trainer = torch.optim.SGD([torch.zeros(1)], lr=1)
    trainer_state = {"model": {}, "trainer": "no state"}
    torch.save(trainer_state, tmp_path / "start.pth")
    options = ["MODEL.WEIGHTS", str(tmp_path / "start.pth")]
    cfg = get_config("tabletop", "arcnn", options=options, device="cpu")
    load_initial_weights(cfg, Checkpointer(torch.nn.Linear(2, 2), trainer=trainer))


def test_a_file_of_the_model_zoos_name_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, (name, *_) = tmp_path / "R-50.pkl", weight_files.ZOO
    file.write_bytes(pickle.dumps(1))
    monkeypatch.setattr(starts, "initial_weights", lambda cfg: str(file))
    cfg = get_config("kins", "arcnn", device="cpu")
    assert f"detectron2://{name}" == cfg.MODEL.WEIGHTS
    with pytest.raises(
        ValueError, match=r"R-50.pkl is not the model zoo's .* its MD5 is .* was 66"
    ):
        load_initial_weights(cfg, Checkpointer(torch.nn.Linear(2, 2)))


def test_every_file_of_the_zoo_that_configs_name_is_known() -> None:
    files = ROOT.glob("arcnn/configs/**/*.yaml")
    named = {n for f in files for n in re.findall(r"detectron2://(\S+)", f.read_text())}
    assert named == set(weight_files.ZOO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SEED: !!python/object/apply:os.system ['touch {trap}']\n", "os.system"),
        ("_BASE_: https://example.org/x.yaml\n", "_BASE_"),
        ("MODEL:\n  ARCN: 1\n", "MODEL.ARCN"),
        ("SEED: [1]\n", "Type mismatch"),
        *((text, "no settings") for text in ("just words", "", "[1]", "5", "null")),
        ("MODEL: [", "while parsing"),
        ("[" * 5000, "more than 20 levels"),
        ("".join(f"K{k}: 1\n" for k in range(30_000)), "more than 100000"),
        ("SEED: " + "9" * 5000, "digits"),
        ("SEED: '" + "-" * 50_000 + "1'", ""),
        ("A: &a [1, 1]\nB: &b [*a, *a]\n", "too many aliases"),
        ("A: &a [1]\nB: [" + "*a, " * (MOST_ALIASES + 1) + "1]\n", "too many aliases"),
        ("A: &a\n  B: *a\n", "too many aliases"),
    ],
)
def test_a_configuration_is_plain_values_or_a_sentence(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "sprung"
    monkeypatch.setenv("ARCNN_MODELS", str(tmp_path))
    for file in (tmp_path / "mine.yaml", tmp_path / "config.yaml"):
        file.write_text(text.replace("{trap}", str(trap)))
    with pytest.raises(ValueError, match=f"(?s)mine.yaml is no configuration.*{said}"):
        get_config("tabletop", "mine")
    with pytest.raises(ValueError, match=f"(?s)config.yaml is no configuration.*{said}"):
        load_config(tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.ROI_MASK_HEAD.NUM_CONV", 100_000, "it is 0 to 256"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 1000, "it is 0 to 16"),
        *(("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", value, "it is 1 to 64") for value in (0, 1000)),
        *(("INPUT.MIN_SIZE_TEST", value, "it is 1 to 20000") for value in (-5, 100_000)),
        ("INPUT.MAX_SIZE_TEST", 0, "it is 1 to 20000"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 10**9, "it is 1 to 10000"),
        ("MODEL.FPN.OUT_CHANNELS", 10**7, "it is 1 to 4096"),
        ("INPUT.FORMAT", "XYZ", "it is BGR or RGB"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", math.nan, "it is 0 to 1"),
        ("MODEL.RPN.PRE_NMS_TOPK_TEST", -1, "it is 1 to 100000"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 128, "it is 0 to 16"),
        ("MODEL.PIXEL_MEAN", [math.nan, 1.0, 1.0], "it is 0 to 255"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, math.inf]], "it is a finite number"),
        ("DATASETS.TRAIN", (), "names no data set"),
        ("DATASETS.TRAIN", (1,), "names no data set"),
        ("DATASETS.TRAIN", ("\x1b[2J",), "names no data set"),
        ("MODEL.META_ARCHITECTURE", "X", "make no network"),
        ("MODEL.RESNETS.DEPTH", 77, "make no network"),
    ],
)
def test_settings_that_nobody_means_are_refused_where_a_run_is_opened(
    key: str, value: object, said: str, tmp_path: Path
) -> None:
    cfg = get_config("tabletop", "arcnn", device="cpu").clone()
    cfg.defrost()
    cfg.merge_from_list([key, value])
    (tmp_path / "train").mkdir()
    (tmp_path / "train/config.yaml").write_text(cfg.dump())
    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "train/model_final.pth")
    with pytest.raises(ValueError, match=f"train/config.yaml .*{said}"):
        load_trained(tmp_path, device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never trained."""
    run = tmp_path_factory.mktemp("run")
    (run / "train").mkdir()
    cfg = get_config("tabletop", "arcnn", options=["MODEL.WEIGHTS", ""], device="cpu")
    (run / "train/config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, run / "train/model_final.pth")
    return run


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.to_sparse(), "holds no weights"),
        (lambda w: w.to("meta"), "holds no weights"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "holds no weights"),
        (lambda w: torch.nested.nested_tensor([w]), "holds no weights"),
        (lambda w: w.to(torch.complex64), "holds no weights"),
        (lambda w: w * math.nan, "is not finite, the training diverged"),
        (lambda w: w[:1], "does not fit the config.yaml beside it"),
    ],
)
def test_weights_of_a_run_are_dense_and_finite(
    trained: Path, change: Callable, said: str, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    weights = torch.load(run / "train/model_final.pth")
    name = "backbone.bottom_up.stem.conv1.weight"
    weights["model"][name] = change(weights["model"][name])
    torch.save(weights, run / "train/model_final.pth")
    with pytest.raises(ValueError, match=f"model_final.pth.* {said}"):
        load_trained(run, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        *(("train/classes.json", text, "classes.json is not") for text in ("null", "[1]", "{}")),
        ("train/classes.json", "[" * 100_000, "classes.json is not"),
        ("train/classes.json", '["\\u001b[2J"]', "classes.json is not"),
        ("train/classes.json", json.dumps(["x" * 10**6] * 10), "classes.json is not"),
        ("train/classes.json", '["cat"]', "classes.json names 1 classes of 10"),
        ("train/classes.json", None, "classes.json is no plain file"),
        ("record.json", '{"loss": NaN}', "record.json is not"),
        ("train/record.json", "[]", "train/record.json is not"),
        ("train/record.json", None, "train/record.json is no plain file"),
    ],
)
def test_papers_of_a_run_that_are_damaged_are_named(
    trained: Path, file: str, content: str | None, said: str, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert run_papers(run).classes[0] == "class 0"
    os.mkfifo(run / file) if content is None else (run / file).write_text(content)
    with pytest.raises((OSError, ValueError), match=said) as caught:
        run_papers(run)
    assert len(str(caught.value)) < 500
    assert export([str(run), str(tmp_path / "x.safetensors")]) == 1
    assert not (tmp_path / "x.safetensors").exists()


def test_settings_whose_aliases_multiply_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    layers = [f"L{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 9)}]" for k in range(1, 12)]
    for text in ("L0: &l0 [1]\n" + "\n".join(layers), "[" * 2000, "A: !!python/name:os.system"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"config.yaml is not YAML"):
            read_settings(file)
    file.write_text("A: &a [1, 2]\nB: *a\n")  # as detectron2 dumps them
    assert read_settings(file) == {"A": [1, 2], "B": [1, 2]}
