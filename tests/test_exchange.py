"""A run as one file, and as TorchScript: the same model, and nothing but what was exported."""

import pickle
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from arcnn import exchange
from arcnn.data import register_dataset
from arcnn.data.tabletop import TABLETOP_CLASSES, draw_scene, make_tabletop
from arcnn.exchange import Papers, write_run_file
from arcnn.files import ROOT, run_folder
from arcnn.predict import at_test_size, predict_image
from arcnn.published import trained_or_published
from arcnn.weight_files import check_pickle
from arcnn.weights import load_trained, run_papers
from arcnn.workshop.own_photos.export import main, outputs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    make_tabletop(root, train_images=2, val_images=1, image_size=64, workers=1)
    register_dataset("tabletop", root)
    results, _ = trained_or_published(root, "tabletop", ["arcnn"])
    return run_folder(results, "tabletop", "arcnn", 0)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "run.safetensors"
    assert main([str(run), str(file)]) == 0
    return file


def test_a_run_is_opened_from_its_file_alone(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    alone = Path(shutil.copy(exported, tmp_path / "alone.safetensors"))
    (cfg, model), own = load_trained(alone, device="cpu"), load_trained(run, device="cpu")
    assert not model.training and cfg.OUTPUT_DIR == ""
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in own.model.state_dict().items())
    scene = draw_scene(1, "val", 0).image
    assert predict_image(cfg, model, scene) == predict_image(*own, scene) != []
    papers = run_papers(alone)
    assert papers.classes == list(TABLETOP_CLASSES) == run_papers(run).classes
    assert papers.records == run_papers(run).records and papers.records["training"]["versions"]
    # Exported once more, it is the same (in another order); and a file that is there stays.
    again = tmp_path / "again.safetensors"
    assert main([str(alone), str(again)]) == 0
    with safe_open(alone, "pt") as first, safe_open(again, "pt") as second:
        assert first.metadata() == second.metadata()
    assert main([str(run), str(again)]) == 1
    assert "is there already" in capsys.readouterr().err


def changed(exported: Path, file: Path, *, sealed: bool = False, **texts: str) -> Path:
    """A copy with other texts; ``sealed`` with the hash that they would have."""
    with safe_open(exported, "pt") as content:
        all_of_them = content.metadata() | texts
    weights = load_file(exported)
    if sealed:
        del all_of_them["sha256"]
        all_of_them["sha256"] = exchange._digest(all_of_them, weights)
    save_file(weights, file, all_of_them)
    return file


def test_what_is_no_whole_exported_run_is_a_sentence(exported: Path, tmp_path: Path) -> None:
    content, file, trap = exported.read_bytes(), tmp_path / "x.safetensors", tmp_path / "sprung"
    with safe_open(exported, "pt") as opened:
        config = opened.metadata()["config.yaml"]

    def refused(said: str) -> None:
        with pytest.raises(ValueError, match=said) as caught:
            load_trained(file, device="cpu")
        assert str(file) in str(caught.value)

    for cut in (content[:-9], content[:5000], content[:4], b"", b"<html>" * 99):
        file.write_bytes(cut)
        refused("no exported run, or only a part of it")
    torch.save({"model": load_file(exported)}, file)  # a pickle, whatever its name
    refused("a pickle .* is not opened")
    shutil.copy(ROOT / "data/start/tabletop.safetensors", file)
    refused("is no exported run: its format is None")
    for bit in (content[:-1] + bytes([content[-1] ^ 1]), content.replace(b"banana", b"papaya")):
        file.write_bytes(bit)
        refused("altered or damaged")
    # Whoever changes it on purpose can change the hash as well.
    code = f"SEED: !!python/object/apply:pathlib.Path.touch ['{trap}']\n"
    bomb = "A: &a [1, 1]\nB: &b [*a, *a]\nC: [*b, *b]\n"
    for text, said in (
        (code, "no configuration that this kit reads"),
        ("_BASE_: /etc/passwd\n", "no configuration that this kit reads"),
        ("SEED: [\n", "no configuration that this kit reads"),
        ("just words", "no configuration that this kit reads"),
        (bomb, "no configuration that this kit reads"),
        (re.sub(r"DATASETS:(\n  .*)*", "", config), "DATASETS.TRAIN names no data set"),
        (config.replace("NUM_CONV: 4", "NUM_CONV: 100000"), "it is 0 to 256"),
        (config.replace("ARCNNMaskHead", "os.system"), "there are .*ARCNNMaskHead"),
        (config.replace("OWN_CLASS: false", "OWN_CLASS: true"), "does not fit the settings in it"),
        (config.replace("FC_DIM: 256", "FC_DIM: 512"), "does not fit the settings in it"),
        (config.replace("DEPTH: 18", "DEPTH: 19"), "make no network"),
    ):
        assert text != config
        changed(exported, file, sealed=True, **{"config.yaml": text})
        refused(said)
    assert not trap.exists()
    for classes in ('["cat"]', "[1]", "{}", "[", "[]", '["\\ud800"]', f'["{"x" * 101}"]'):
        changed(exported, file, sealed=True, classes=classes)
        refused("names 1 classes of 10|altered or damaged")


def test_a_file_of_another_models_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    papers, weights = run_papers(exported), load_file(exported)
    key, value = weights.popitem()
    for given, said in ((weights, "is missing"), (weights | {key: value[:0]}, r"is \[0")):
        write_run_file(tmp_path / "x.safetensors", Papers(*papers), given)
        with pytest.raises(ValueError, match=said):
            load_trained(tmp_path / "x.safetensors", device="cpu")


# --- TorchScript --------------------------------------------------------------------------------

ELSEWHERE = """
import json, sys, torch, torchvision
about = {"arcnn.json": ""}
model = torch.jit.load(sys.argv[1], _extra_files=about)
about = json.loads(about["arcnn.json"])
outputs = dict(zip(about["outputs"], model(torch.load(sys.argv[2]))))
torch.save(outputs | {"kit": "detectron2" in sys.modules, "names": about["classes"]}, sys.argv[3])
"""


def test_torchscript_gives_the_three_masks_without_the_kit(exported: Path, tmp_path: Path) -> None:
    file, image, said = (tmp_path / name for name in ("run.ts", "image.pt", "said.pt"))
    assert main([str(exported), str(file)]) == 0
    cfg, model = load_trained(exported, device="cpu")
    scene = at_test_size(cfg, draw_scene(7, "val", 0).image[:100])
    torch.save(scene, image)
    call = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, file, image, said]
    subprocess.run(call, check=True, cwd=tmp_path)
    there = torch.load(said)
    assert not there.pop("kit") and there.pop("names") == list(TABLETOP_CLASSES)
    with torch.no_grad():
        here = outputs(model, scene)
    assert there.keys() == here.keys() and len(here["scores"])
    assert all(torch.equal(there[name], value) for name, value in here.items())
    with torch.no_grad():
        nothing = torch.jit.load(file)(torch.full((3, 160, 160), 255))
    assert len(nothing) == 6 and not any(map(len, nothing))


def test_a_model_that_traces_wrongly_is_not_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def frozen(adapter: torch.nn.Module, inputs: tuple, **_: object) -> object:
        kept = adapter(*inputs)
        return lambda image: kept  # what a tracer makes of a constant

    monkeypatch.setattr("arcnn.workshop.own_photos.export.torch.jit.trace", frozen)
    assert main([str(exported), str(tmp_path / "run.ts")]) == 1
    assert "cannot be traced: its boxes come out otherwise" in capsys.readouterr().err
    assert main([str(exported), str(tmp_path / "run.onnx")]) == 1
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "run.ts")]) == 1
    assert not list(tmp_path.iterdir())


# --- the pickles of model zoos ------------------------------------------------------------------


def test_a_pickle_of_arrays_is_opened_and_one_of_code_is_not(tmp_path: Path) -> None:
    file = tmp_path / "R-50.pkl"
    arrays = {"w": np.ones((2, 3), np.float32), "b": np.float64(1), "names": ["x"], "n": b"raw"}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps({"model": OrderedDict(arrays)}, protocol))
        check_pickle(file)
    trap = tmp_path / "sprung"

    class Code:
        def __reduce__(self) -> tuple:
            return Path.touch, (trap,)

    for content in (pickle.dumps({"model": arrays | {"w": Code()}}), b"<html>", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"R-50.pkl is not opened"):
            check_pickle(file)
    assert not trap.exists()
