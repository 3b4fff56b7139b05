"""A trained model on a folder of photos."""

import json
import os
import re
import struct
import sys
from pathlib import Path
from urllib.parse import unquote

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data import register_dataset
from arcnn.data.tabletop import TABLETOP_CLASSES, draw_scene, make_tabletop
from arcnn.files import IN_BATCH, NOTEBOOKS, run_folder
from arcnn.published import trained_or_published
from arcnn.workshop.notebooks.runner import run_notebook
from arcnn.workshop.own_photos import photos, video
from arcnn.workshop.own_photos.export import main as export
from arcnn.workshop.own_photos.photos import find_photos, main, open_photo


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
    assert (
        "broken.jpg cannot be read" in said.err
        and "knows 10 drawn things (person, cat," in said.err
    )
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


def write_all_kinds(folder: Path) -> np.ndarray:
    """The same picture as files of many kinds; returns its pixels."""
    folder.mkdir(exist_ok=True)
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 200
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x0112] = 6  # lies on its side
    photo.save(folder / "turned.jpg", exif=exif, quality=95)
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    photo.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    photo.convert("RGBA").save(folder / "clear.png")
    return pixels


def test_photos_of_all_kinds_are_opened_upright_in_eight_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_all_kinds(tmp_path)
    for file in tmp_path.iterdir():
        opened = open_photo(file).astype(int)
        if file.stem == "turned":
            assert opened.shape == (40, 30, 3)
            opened = np.rot90(opened)
        assert opened.shape == (30, 40, 3)
        assert abs(opened - pixels).mean() < 4, file.name
    monkeypatch.setattr(photos, "MAX_PIXELS", 300)
    assert open_photo(tmp_path / "sixteen.png").shape == (15, 20, 3)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.uint16([[0, 257 * 128, 65535]]), [0, 128, 255]),
        (np.int32([[0, 257 * 128, 65535]]), [0, 128, 255]),
        (np.float32([[0, 0.5, np.nan]]), "values from nan"),
        (np.float32([[0, 0.5, 255]]), "not 0 to 1"),
        (np.uint16([[0, 2000, 4095]]), "values from 0 to 4095"),  # 12 bits
        (np.int32([[0, 5, 65536]]), "not 0 to 65535"),
        (np.int32([[-1, 5, 60000]]), "not 0 to 65535"),
    ],
)
def test_more_than_eight_bits_are_read_as_what_they_are_or_not_at_all(
    values: np.ndarray, seen: list[int] | str, tmp_path: Path
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tiff")
    if isinstance(seen, list):
        assert open_photo(tmp_path / "x.tiff")[0, :, 1].tolist() == seen
    else:
        with pytest.raises(OSError, match=f"x.tiff cannot be read: .*{seen}"):
            open_photo(tmp_path / "x.tiff")


def test_a_photo_that_takes_too_much_to_decode_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x.png", "x.jpg"):
        Image.new("L", (1000, 1000)).save(tmp_path / name)
    monkeypatch.setattr(photos, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(photos, "MAX_DECODED", 100_000)
    assert open_photo(tmp_path / "x.jpg").shape == (100, 100, 3)
    with pytest.raises(OSError, match=r"x.png cannot be read: more than 100,000 pixels"):
        open_photo(tmp_path / "x.png")


def test_odd_photos_and_odd_names_leave_the_others_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    scene = Image.fromarray(draw_scene(0, "val", 0).image)
    names = b"\xff.png", b"x" * 251 + b".png", b"\x1b[2J.png", b"FIGURES NOTE.png"
    for name in names:
        scene.save(folder / os.fsdecode(name))
    for size in ((1, 3000), (3000, 1), (2, 6000)):
        Image.new("RGB", size).save(folder / f"{size}.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / os.fsdecode(b"bad\x1b\xff.png")).write_text("<html>")
    call = [str(folder), "--run", str(run), "--out", str(out), "--device", "cpu"]
    assert main(call) == 0
    said = capsys.readouterr()
    assert "7 photos, 7 new" in said.out and "1 left out" in said.out
    assert (
        r"left out: " in said.err and "\x1b[2" not in said.err and r"bad\x1b\udcff.png" in said.err
    )
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 7 and page.count("This model was trained on tabletop") == 1
    sources = re.findall('src="([^"]*)"', page)
    assert all((out / unquote(source)).is_file() for source in sources)
    assert any("FIGURES%20NOTE.png.jpg" in source for source in sources)
    assert main([str(folder / os.fsdecode(b"bad\x1b\xff.png")), *call[1:]]) == 1  # none is left
    for score in ("nan", "inf", "5", "-1"):
        assert main([*call, f"--score={score}"]) == 1
        assert "the one is in [0, 1]" in capsys.readouterr().err


def test_what_an_earlier_run_left_damaged_is_predicted_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    Image.fromarray(draw_scene(0, "val", 0).image).save(tmp_path / "a.png")
    call = [str(tmp_path / "a.png"), "--run", str(run), "--out", str(out), "--device", "cpu"]
    assert main(call) == 0
    file, made_by = out / "photos/a.png.json", out / "photos/made_by.json"
    whole, one = json.loads(file.read_text()), json.loads(file.read_text())["objects"][0]
    capsys.readouterr()
    runs = {"size": one["segmentation"]["size"], "counts": "0" * 9}
    objects = {"category_id": 99}, {"score": "x"}, {"segmentation": None}, {"visible_mask": runs}
    for content in (
        *("[]", "{", '"x"', "null", "[" * 100_000),
        json.dumps({key: value for key, value in whole.items() if key != "objects"}),
        *(json.dumps(whole | {"objects": [one | odd]}) for odd in objects),
        *(json.dumps(whole | {key: 10**6}) for key in ("height", "width")),
    ):
        assert photos._is_finished(file, 10)
        file.write_text(content)
        assert not photos._is_finished(file, 10), content
        file.write_text(json.dumps(whole))
    file.write_text("{")
    assert main(call) == 0 and "1 photos, 1 new" in capsys.readouterr().out
    assert json.loads(file.read_text()) == whole
    for content in ("[]", "{", "[" * 100_000):
        made_by.write_text(content)
        assert main(call) == 1
        assert f"{out}" in (said := capsys.readouterr().err) and "another folder" in said


def film(file: Path, count: int) -> list[np.ndarray]:
    """Write a video of a drawn table that gets darker; returns its frames."""
    scene = draw_scene(3, "val", 0).image
    drawn = [(scene * (1 - 0.1 * k)).astype(np.uint8) for k in range(count)]
    with av.open(str(file), "w") as content:
        stream = content.add_stream("mpeg4", rate=25)
        stream.height, stream.width = scene.shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for pixels in drawn:
            content.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        content.mux(stream.encode())
    return drawn


def test_a_video_is_as_many_photos_as_it_has_frames(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clip, out, exported = tmp_path / "clip.mp4", tmp_path / "out", tmp_path / "run.safetensors"
    drawn = film(clip, 5)
    assert export([str(run), str(exported)]) == 0
    call = [str(clip), "--run", str(exported), "--out", str(out), "--device", "cpu"]
    assert main([*call, "--every", "2"]) == 0
    assert "3 photos, 3 new" in capsys.readouterr().out
    assert main(call) == 0  # goes on
    assert "5 photos, 2 new" in (said := capsys.readouterr()).out and "photos a second" in said.out
    made = json.loads((out / "predictions.json").read_text())
    assert [c["name"] for c in made["categories"]] == list(TABLETOP_CLASSES)
    names = [image["file_name"] for image in made["images"]]
    assert names == [f"photos/clip.mp4.{k:06d}.jpg" for k in range(5)]
    for name, pixels in zip(names, drawn, strict=True):
        assert abs(open_photo(out / name).astype(int) - pixels).mean() < 8
    # What is cut off or no video is left out, and what lies in the folder of the results too.
    clip.with_name("cut.avi").write_bytes(clip.read_bytes()[:2000])
    clip.with_name("page.mkv").write_text("<html>")
    assert main([str(tmp_path), *call[1:]]) == 0
    said = capsys.readouterr()
    assert "5 photos, 0 new" in said.out and "2 left out" in said.out
    assert "cut.avi cannot be read" in said.err and "page.mkv cannot be read" in said.err
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(call) == 1
    assert "PyAV, which reads them, is not installed: `pip install av`" in capsys.readouterr().err


def test_a_video_that_lies_on_its_side_is_stood_up(tmp_path: Path) -> None:
    def matrix(*numbers: float) -> bytes:
        return struct.pack(">9i", *(round(k * 65536) for k in numbers), 0, 0, 1 << 30)

    clip = tmp_path / "clip.mp4"
    pixels = film(clip, 1)[0]
    plain, turned = matrix(1, 0, 0, 0, 1, 0), matrix(0, 1, 0, -1, 0, 0)  # clockwise
    before, _, after = clip.read_bytes().rpartition(plain)  # the track's, after the film's
    clip.write_bytes(before + turned + after)
    (frame,) = (frame for _, frame in video.frames(clip))
    assert abs(video.upright(frame, 10**9).astype(int) - np.rot90(pixels, -1)).mean() < 8
    assert video.upright(frame, 100).size <= 3 * 110


def test_the_notebook_takes_photos_of_all_kinds(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IN_BATCH, "1")
    write_all_kinds(tmp_path / "in")
    (tmp_path / "in/broken.jpg").write_text("<html>")
    executed = tmp_path / "executed.ipynb"
    places = {"photos": str(tmp_path / "in"), "results_root": str(tmp_path / "results")}
    run_notebook(NOTEBOOKS / "15_your_own_photos.ipynb", executed, places | {"run": str(run)})
    text = executed.read_text()
    assert "5 photos, 5 new" in text and "broken.jpg cannot be read" in text
    assert "it knows 10 drawn things" in text and "the same predictions" in text
    (page,) = (tmp_path / "results/demo/photos").glob("*/index.html")
    assert page.read_text().count("<figure>") == 5
    record = json.loads((tmp_path / "results/demo/records/15_your_own_photos.json").read_text())
    assert record["metrics"]["left out"] == 1
    assert f"sha256 {record['exported'][:16]}" in text


def test_what_cannot_be_done_is_a_sentence(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert len(find_photos([folder, folder / "one"])) == 4
    for places, at, said in (
        ([tmp_path / "nowhere"], run, "nowhere is not there"),
        ([tmp_path / "empty"], run, "no image or video in"),
        ([folder], tmp_path, "is not there: run notebook 04_train"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main([*map(str, places), "--run", str(at), "--out", str(tmp_path / "o")]) == 1
        assert said in capsys.readouterr().err
