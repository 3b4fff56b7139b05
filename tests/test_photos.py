"""A trained model on a folder of photos."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data import register_dataset
from arcnn.data.tabletop import TABLETOP_CLASSES, draw_scene, make_tabletop
from arcnn.files import run_folder
from arcnn.published import trained_or_published
from arcnn.workshop import photos
from arcnn.workshop.photos import find_photos, main, open_photo


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    make_tabletop(root, train_images=2, val_images=1, image_size=64, workers=1)
    register_dataset("tabletop", root)
    results, _ = trained_or_published(root, "tabletop", ["arcnn"])
    return run_folder(results, "tabletop", "arcnn", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes in two folders with one name, and what only looks like an image."""
    for seed, name in enumerate(("one", "two")):
        file = tmp_path / "in" / name / "a \"$(b)'.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(draw_scene(seed, "val", 0).image).save(file)
    (tmp_path / "in/broken.jpg").write_text("<html>")
    (tmp_path / "in/notes.txt").write_text("no image")
    return tmp_path / "in"


def test_a_folder_becomes_masks_and_a_page(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    call = [str(folder), "--run", str(run), "--out", str(out), "--device", "cpu"]
    assert main(call) == 0
    said = capsys.readouterr()
    assert "2 photos, 2 new" in said.out and "1 left out" in said.out
    assert "broken.jpg cannot be read" in said.err and "ten drawn things" in said.err
    made = json.loads((out / "predictions.json").read_text())
    assert [image["width"] for image in made["images"]] == [160, 160]
    assert [c["name"] for c in made["categories"]] == list(TABLETOP_CLASSES)
    assert made["annotations"] and all(one["score"] >= 0.5 for one in made["annotations"])
    first = made["annotations"][0]
    name = Path(made["images"][0]["file_name"]).stem
    mask = np.asarray(Image.open(out / "masks" / f"{name}.0.png"))
    for channel, key in enumerate(("visible_mask", "occlusion_mask", "segmentation")):
        assert np.array_equal(mask[..., channel] == 255, mask_util.decode(first[key]) == 1)
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 2
    for source in re.findall('src="([^"]*)"', page):
        assert (out / unquote(source)).is_file()
    before = {file: file.stat().st_mtime_ns for file in (out / "photos").glob("*.json")}
    (out / "photos" / f"{name}.json").unlink()  # as if it had been interrupted
    assert main(call) == 0
    assert "2 photos, 1 new" in capsys.readouterr().out
    kept = [file for file, when in before.items() if file.stat().st_mtime_ns == when]
    assert len(kept) == 2  # the other photo, and what the folder was made by
    assert json.loads((out / "predictions.json").read_text()) == made
    assert main([*call, "--score", "0.9"]) == 1
    assert "choose another folder" in capsys.readouterr().err


def test_photos_of_all_kinds_are_opened_upright_in_eight_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 200
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x0112] = 6  # lies on its side
    photo.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    photo.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    photo.convert("RGBA").save(tmp_path / "clear.png")
    for file in tmp_path.iterdir():
        opened = open_photo(file).astype(int)
        if file.stem == "turned":
            assert opened.shape == (40, 30, 3)
            opened = np.rot90(opened)
        assert opened.shape == (30, 40, 3)
        assert abs(opened - pixels).mean() < 4, file.name
    monkeypatch.setattr(photos, "MAX_PIXELS", 300)
    assert open_photo(tmp_path / "sixteen.png").shape == (15, 20, 3)


def test_what_cannot_be_done_is_a_sentence(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert len(find_photos([folder, folder / "one"])) == 4
    for places, at, said in (
        ([tmp_path / "nowhere"], run, "nowhere is not there"),
        ([tmp_path / "empty"], run, "no image in"),
        ([folder], tmp_path, "is not there: run notebook 04_train"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main([*map(str, places), "--run", str(at), "--out", str(tmp_path / "o")]) == 1
        assert said in capsys.readouterr().err
