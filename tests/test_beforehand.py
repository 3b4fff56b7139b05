"""What can be known before the first step is known before the first step."""

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from made import data_of_all_kinds, stand_ins_for_weights, write_made_kins

from arcnn.workshop.run import beforehand
from arcnn.workshop.run.profiles import load_profile
from arcnn.workshop.run.reproduce import main


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the paper's two data sets, small, and weights to start from in the cache."""
    root = data_of_all_kinds(tmp_path_factory.mktemp("beforehand"))
    stand_ins_for_weights(root / "cache")
    return root


@pytest.fixture
def data(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    copy = tmp_path / "data"
    shutil.copytree(sound, copy, symlinks=True)
    monkeypatch.setenv("FVCORE_CACHE", str(copy / "cache"))
    for handler in PathManager._path_handlers.values():  # which remember where files were
        if hasattr(handler, "cache_map"):
            monkeypatch.setattr(handler, "cache_map", {})
    return copy


def start(data: Path, *more: str) -> int:
    places = ["--data-root", str(data), "--results-root", str(data / "results")]
    return main(["--profile", "paper", *places, "--dry-run", *more])


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def no_images(data: Path) -> None:
    (data / "kins/testing/image_2").unlink()


def no_validation(data: Path) -> None:
    (data / "kins/instances_val.json").unlink()


def cut_off(data: Path) -> None:
    cut(data / "kins/instances_train.json", 2000)


def nothing_listed(data: Path) -> None:
    file = data / "cocoa_cls/COCO_amodal_val2014_with_classes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"images": [], "annotations": []}))


def other_classes(data: Path) -> None:
    file = data / "kins/instances_val.json"
    file.write_text(file.read_text().replace('"car"', '"tram"'))


def another_release(data: Path) -> None:
    (data / "kins/instances_train.json").unlink()
    write_made_kins(data / "kins/update_train_2020.json", 2020, images=2)
    write_made_kins(data / "kins/instances_val.json", 2019, images=2)


def no_weights(data: Path) -> None:
    shutil.rmtree(data / "cache")


def half_of_the_weights(data: Path) -> None:
    weights = data / "cache/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    weights.write_bytes(pickle.dumps({"model": list(range(1000))})[:-9])


def other_weights(data: Path) -> None:
    (weights,) = (data / "cache").rglob("model_final_280758.pkl")
    weights.write_bytes(pickle.dumps(1))


def a_page_as_weights(data: Path) -> None:
    weights = data / "cache/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    weights.write_text("<html>404</html>")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_images, "kins, val: the folder of the images, .* is not there"),
        (no_validation, "kins: no update_test_2020.json or instances_val.json, the val split"),
        (cut_off, "instances_train.json"),
        (nothing_listed, "COCO_amodal_val2014_with_classes.json lists no image"),
        (other_classes, "are of two releases, or their classes differ"),
        (another_release, "are of two releases, or their classes differ"),
        (no_weights, "The initial weights could not be fetched"),
        (half_of_the_weights, "R-50.pkl is not a file of weights, or only a part of it"),
        (other_weights, "model_final_280758.pkl is damaged"),
        (a_page_as_weights, "R-50.pkl is not a file of weights, or only a part of it"),
    ],
)
def test_what_is_missing_or_broken_is_said_before_anything_runs(
    spoil: Callable[[Path], None], said: str, data: Path, capsys: pytest.CaptureFixture
) -> None:
    spoil(data)
    assert start(data) == 2
    heard = capsys.readouterr().err
    assert "make reproduce PROFILE=paper: " in heard
    assert re.search(said, heard), heard


def test_settings_that_train_nothing_and_classes_that_are_not_there(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    profile = load_profile("paper")
    for change, said in (
        ({"options": ["SOLVER.MAX_ITER", 0]}, "SOLVER.MAX_ITER is 0"),
        ({"options": ["SOLVER.IMS_PER_BATCH", 0]}, "SOLVER.IMS_PER_BATCH is 0"),
        ({"num_gpus": 99}, "num_gpus is 99, and this machine has"),
        ({"figure5_class": {"cocoa_cls": "unicorn"}}, "figure5_class is 'unicorn'"),
        ({"options": ["MODEL.ROI_HEADS.NUM_CLASSES", 5]}, "cocoa_cls has 80 classes, the model 5"),
    ):
        monkeypatch.setattr(
            "arcnn.workshop.run.reproduce.load_profile", lambda _, c=change: profile | c
        )
        assert start(data) == 2
        assert said in capsys.readouterr().err


def test_what_it_costs_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("paper") | {"data_root": str(data), "models": ["arcnn"]}
    few, tiny = beforehand.shutil.disk_usage(data), data / "shm"
    tiny.mkdir()
    monkeypatch.setattr(beforehand, "SHARED_MEMORY", tiny)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def usage(folder: Path) -> object:
        return few._replace(total=64 * 2**20) if folder == tiny else few

    monkeypatch.setattr(beforehand.shutil, "disk_usage", usage)
    said = "\n".join(beforehand.costs(profile, data, {"kins": 7517}, {}))
    assert "No GPU is at work here, and kins asks for 48,000 steps" in said
    assert "of shared memory" in said and "has 64 MB" in said
    assert "Weights, checkpoints and predictions" in said
    assert "`make rehearse PROFILE=paper` measures in minutes" in said
    assert not beforehand.costs(load_profile("smoke"), data, {}, {})  # nothing worth a word
    few = few._replace(free=100 * 2**20)
    with pytest.raises(beforehand.ProfileError, match="has room for 100 MB"):
        beforehand.costs(profile, data, {}, {})
