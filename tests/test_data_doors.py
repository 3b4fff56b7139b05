"""Files from anywhere: what would crash, hang, fill the memory or deceive is a sentence."""

import io
import json
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data import (
    AnnotationError,
    decode_masks,
    load_annotations,
    reading,
    register_dataset,
)
from arcnn.data.__main__ import main
from arcnn.data.image_files import MAX_PIXELS, UNREADABLE, open_image
from arcnn.data.mapper import read_image
from arcnn.data.masks import check_rle, difference, encode, run_lengths, to_rle
from arcnn.errors import FileError, InputError
from arcnn.evaluation.__main__ import main as score
from arcnn.files import plain, read_json
from arcnn.workshop.own_data import fetch
from arcnn.workshop.own_data.check import Report, check
from arcnn.workshop.own_data.convert import coco_to_cocoa, labelme_to_cocoa
from arcnn.workshop.own_data.fetch import UnsafeArchive, unpack

H, W = 10, 12
GOOD, LEFT = [[2, 2, 8, 2, 8, 8, 2, 8]], [[2, 2, 5, 2, 5, 8, 2, 8]]
FULL = {"size": [H, W], "counts": [0, H * W]}
FOUND = {"image_id": 3, "category_id": 1, "score": 0.5}
FOUND |= dict.fromkeys(("segmentation", "visible_mask", "occlusion_mask"), FULL)


def write(folder: Path, *changes: dict, images: list | None = None, name: str = "cup") -> Path:
    ids = {"image_id": 3, "category_id": 1, "segmentation": GOOD, "visible_mask": LEFT}
    content = {
        "images": images or [{"id": 3, "file_name": "3.png", "height": H, "width": W}],
        "categories": [{"id": 1, "name": name}],
        "annotations": [ids | {"id": k} | change for k, change in enumerate(changes or [{}], 7)],
    }
    Image.new("RGB", (W, H)).save(folder / "3.png")
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def scored(folder: Path, predictions: object = (FOUND,), *more: str) -> int:
    """Exit status of the evaluator on the annotations of a folder."""
    file = folder / "p.json"
    if isinstance(predictions, str):
        file.write_text(predictions)
    elif not file.exists():
        file.write_text(json.dumps(predictions))
    call = ["--ground-truth", folder / "a.json", "--predictions", file, "--output"]
    return score([*map(str, call), str(folder / "metrics.json"), *more])


def pipe(path: Path, content: bytes) -> Path:
    """A pipe that gives this to whoever reads it."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    return path


# ---- Masks


def drawn(runs: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(runs)) % 2, runs).reshape(W, H).T.astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0, 1, 2, 5]), max_size=40).filter(lambda runs: sum(runs) <= H * W)
)
def test_runs_of_no_pixels_change_no_mask(runs: list[int]) -> None:
    runs = [*runs, H * W - sum(runs)]
    text = mask_util.frPyObjects({"size": [H, W], "counts": runs}, H, W)["counts"]
    for counts in (runs, text, text.decode()):
        checked = check_rle({"size": [H, W], "counts": counts}, H, W)
        assert (run_lengths(checked["counts"])[1:] > 0).all()
        np.testing.assert_array_equal(mask_util.decode(checked), drawn(runs))


def test_many_runs_of_no_pixels_overrun_nothing(tmp_path: Path) -> None:
    many = {"size": [H, W], "counts": [0] * 300_000 + [100, 20]}
    file = write(tmp_path, {"segmentation": many, "visible_mask": many})
    (annotation,) = load_annotations(file, tmp_path).records[0]["annotations"]
    assert decode_masks(annotation)["visible"].sum() == 20
    write(tmp_path)
    assert scored(tmp_path, [FOUND | {"segmentation": many}]) == 0


def test_a_run_that_overflows_is_refused() -> None:
    # As pycocotools reads it, the shift of its sign is one of 35 of 32 bits.
    with pytest.raises(ValueError, match="a run that no image holds"):
        run_lengths("PPPPPP0")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0, 0.3, 1]), st.sampled_from([0, 0.6, 1]))
def test_the_difference_of_masks_is_that_of_their_pixels(seed: int, one: float, two: float) -> None:
    chance = np.random.default_rng(seed)
    masks = np.stack([chance.random((H, W)) < share for share in (one, two)])
    (expected,) = encode((masks[0] & ~masks[1])[None])
    found = difference(*encode(masks))
    assert found["counts"].decode() == expected["counts"]


def test_many_outlines_are_united_as_if_one_by_one() -> None:
    outlines = [[x, y, x + 1.5, y, x, y + 1.5] for x in range(10) for y in range(8)]
    one_by_one = mask_util.merge(mask_util.frPyObjects(outlines, H, W))
    assert to_rle(outlines, H, W) == (one_by_one, [])


def test_an_outline_to_and_fro_is_refused_before_it_is_drawn() -> None:
    zigzag = [coordinate for k in range(400) for coordinate in (k, 13_000 * (k % 2))]
    with pytest.raises(ValueError, match="an outline of 5,2.*more than 1,000,000"):
        to_rle([zigzag], 13_000, 13_000)
    with pytest.raises(ValueError, match="a coordinate that is no number"):
        to_rle([[1e300, 0] * 5], H, W)


def test_a_record_of_more_pixels_than_any_image_is_not_believed(tmp_path: Path) -> None:
    images = [{"id": 3, "file_name": "3.png", "height": 60_000, "width": 60_000}]
    inside = {"size": [60_000, 60_000], "counts": [0, 60_000**2]}
    file = write(tmp_path, {"segmentation": inside, "visible_mask": inside}, {}, images=images)
    report = check(file, tmp_path)
    assert report.counts["repaired"] == {"bad image size": 1}
    assert report.counts["skipped"] == {"bad amodal mask": 1} and report.used == 1


Count = namedtuple("Count", "calls")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_who_covers_whom_in_a_cluster(seed: int) -> None:
    chance = np.random.default_rng(seed)
    masks = chance.random((8, H, W)) < chance.random((8, 1, 1))
    seen = masks & (chance.random((8, H, W)) < 0.7)
    orders, clusters = chance.integers(-1, 6, 8).tolist(), chance.integers(0, 2, 8).tolist()
    items = {
        k: reading.FileObject(k, 1, None, None, layer=(clusters[k], orders[k])) for k in range(8)
    }
    rles = zip(encode(masks), encode(seen), strict=True)
    annotations = [{"id": k, "segmentation": a, "visible_mask": v} for k, (a, v) in enumerate(rles)]
    reading._add_occluders(annotations, items)
    for k in range(8):
        fronts = [n for n in range(8) if clusters[n] == clusters[k] and 0 < orders[n] < orders[k]]
        hidden = masks[k] & ~seen[k]
        covering = [n for n in fronts if (masks[n] & hidden).any()]
        assert annotations[k]["occluders"] == covering


def test_a_cluster_of_many_takes_no_step_for_each_pair(tmp_path: Path, monkeypatch) -> None:
    counted = Count([])
    for name in ("merge", "iou"):
        real = getattr(mask_util, name)
        monkeypatch.setattr(
            mask_util, name, lambda *a, f=real, **k: counted.calls.append(1) or f(*a, **k)
        )
    kins = [{"a_segm": GOOD, "i_segm": LEFT, "oco_id": [1], "ico_id": k + 1} for k in range(250)]
    records = load_annotations(write(tmp_path, *kins), tmp_path).records
    last = records[0]["annotations"][-1]
    assert len(last["occluders"]) == 249 and len(counted.calls) < 5 * 250


# ---- Images


def png(path: Path, width: int, height: int, pixels: bytes = b"") -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check_sum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check_sum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    return path


def eps(path: Path) -> Path:
    Image.new("RGB", (W, H)).save(path, "EPS")
    return path


def of_16_bits(path: Path) -> Path:
    Image.new("I;16", (W, H), 1000).save(path, "PNG")
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (eps, "cannot identify image file"),
        (of_16_bits, "more than 8 bits a channel"),
        (lambda path: png(path, 60_000, 60_000), "exceeds limit"),
        (lambda path: pipe(path, b""), "no plain file"),
        (lambda path: path.unlink() or path.mkdir(), "no plain file"),
    ],
    ids=["EPS", "16 bits", "60,000 x 60,000", "pipe", "folder"],
)
def test_what_is_no_image_for_a_network_is_left_out(make, said: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    make(tmp_path / "3.png")
    report = check(file, tmp_path, decode=True)
    assert report.counts == {"skipped": {"unreadable image": 1}} and said in str(report)
    with pytest.raises(FileError, match=f"3.png cannot be read .*{said}"):
        read_image(str(tmp_path / "3.png"), "BGR")


def test_an_image_may_have_as_many_pixels_as_a_record(tmp_path: Path, monkeypatch) -> None:
    open_image(png(tmp_path / "a.png", 13_377, MAX_PIXELS // 13_377)).close()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as some programs do
    with pytest.raises(UNREADABLE, match="178,956,970 pixels"):
        open_image(png(tmp_path / "a.png", 13_378, 13_378))


# ---- Annotations and predictions


def test_a_pipe_or_a_device_is_no_file_of_any_kind(tmp_path: Path, capsys) -> None:
    content = write(tmp_path).read_bytes()
    pipe(tmp_path / "p.json", json.dumps([FOUND]).encode())
    assert scored(tmp_path) == 1
    pipe(tmp_path / "a.json", content)
    assert main(["check", str(tmp_path / "a.json")]) == 1
    for more in (["--visible", "visible_mask"], []):
        call = ["convert", str(tmp_path / "a.json"), "--out", str(tmp_path / "o.json"), *more]
        assert main(call) == 1
    call = ["--images", str(tmp_path), "--out", str(tmp_path / "own")]
    assert main(["synthesize", str(tmp_path / "a.json"), *call]) == 1
    with pytest.raises(FileError):
        plain("/dev/null")
    assert capsys.readouterr().err.count("no plain file") == 5


DEEP = "[" * 1_000_000


def test_predictions_nested_without_end_are_a_sentence(tmp_path: Path, capsys) -> None:
    write(tmp_path)
    for text in (
        DEEP,
        "[" + "9" * 5000,
        "[1",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin"),
    ):
        assert scored(tmp_path, text) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"Nothing was written: {tmp_path / 'p.json'} is not whole")
    (tmp_path / "c.json").write_text(DEEP)
    with pytest.raises(InputError, match=r"c.json is not whole \(maximum recursion.*: cure"):
        read_json(tmp_path / "c.json", "cure")
    for convert in (coco_to_cocoa, lambda *files: labelme_to_cocoa(files[:1], files[1])):
        with pytest.raises(InputError, match="c.json is not whole"):
            convert(tmp_path / "c.json", tmp_path / "o.json")


def test_a_tabletop_with_other_classes_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    file = write(tmp_path / "train").rename(tmp_path / "tabletop_train.json")
    with pytest.raises(InputError, match=f"{file} has other classes than tabletop"):
        register_dataset("tabletop", tmp_path)
    assert register_dataset("own", file.rename(tmp_path / "train.json").parent)


IMAGE = {"file_name": "3.png", "height": H, "width": W}


def test_image_ids_of_two_kinds_are_an_error(tmp_path: Path, capsys) -> None:
    file = write(tmp_path, images=[IMAGE | {"id": 3}, IMAGE | {"id": "abc"}])
    assert check(file, tmp_path).counts["error"] == {"image ids of two kinds": 1}
    assert scored(tmp_path) == 1
    assert "a.json cannot be used: image ids of two kinds" in capsys.readouterr().err


def test_image_ids_of_two_kinds_in_two_files_are_an_error(tmp_path: Path) -> None:
    for k, number in enumerate([3, "three"]):
        entry = {"id": k, "image_id": number, "url": "x/3.png", "regions": []}
        (tmp_path / f"{k}.json").write_text(
            json.dumps(entry | {"regions": [{"segmentation": GOOD[0]}]})
        )
    Image.new("RGB", (W, H)).save(tmp_path / "3.png")
    with pytest.raises(AnnotationError, match="1.json cannot be used: .*two kinds"):
        load_annotations(tmp_path, tmp_path)


@pytest.mark.parametrize("number", ["x" * 1001, "a\0", 2**63, -(2**70), 2.0**53, 0.5])
def test_an_id_that_numpy_would_change_is_none(number: object, tmp_path: Path) -> None:
    report = check(write(tmp_path, images=[IMAGE | {"id": 3}, IMAGE | {"id": number}]), tmp_path)
    assert report.counts == {"skipped": {"unreadable entry": 1}} and report.used == 1


@pytest.mark.parametrize("share", ["nan", "-1", "1.5"])
def test_a_share_is_from_nothing_to_all(share: str, tmp_path: Path, capsys) -> None:
    file = write(tmp_path)
    assert scored(tmp_path, (FOUND,), "--max-skipped", share) == 1
    assert main(["check", str(file), "--max-skipped", share]) == 1
    assert capsys.readouterr().err.count("give a share of the objects, in [0, 1]") == 2


def test_what_a_file_says_moves_no_cursor_and_forges_no_line(tmp_path: Path, capsys) -> None:
    bad = "\x1b[2J\u202e\nfine.json: usable."
    write(tmp_path, {}, {"category_id": bad}, name=f"cup {bad}")
    assert main(["check", str(tmp_path / "a.json")]) == 1
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": [{bad: 1}]}))
    assert main(["check", str(tmp_path / "a.json")]) == 1 and scored(tmp_path) == 1
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": [{"id": bad}]}))
    said = "".join(capsys.readouterr())
    assert said.count(r"\x1b[2J\u202e") == 4 and "\x1b" not in said and "\u202e" not in said
    assert not any(line.startswith("fine.json") for line in said.splitlines()[:-1])
    assert "\x1b" not in str(Report("a", notes=[]))


NASTY = [
    "a'b",
    'a"b',
    "a\nb",
    "$(touch hit)",
    "`touch hit`",
    "; touch hit",
    "{x}",
    "%s",
    "-rf",
    "ä\u2028",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_of_files_are_names(name: str, tmp_path: Path, monkeypatch, capfd) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    file = write(folder, images=[IMAGE | {"id": 3, "file_name": f"{name}.png"}])
    (folder / "3.png").rename(folder / f"{name}.png")
    assert main(["check", str(file), "--images", str(folder), "--decode"]) == 0
    assert scored(folder) == 0
    target = str(folder / f"{name}.json")
    assert main(["convert", str(file), "--visible", "visible_mask", "--out", target]) == 0
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        archive.write(target, name)
    unpack(folder / f"{name}.zip", folder / "out")
    assert (folder / "out" / name).is_file()
    assert not list(tmp_path.rglob("hit")) and "usable." in capfd.readouterr().out


# ---- Archives


def test_an_entry_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.external_attr = (stat.S_IFIFO | 0o644) << 16
        archive.writestr(info, b"x")
    with pytest.raises(UnsafeArchive, match="'x' is a link or a device; nothing unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_of_a_damaged_archive_only_whole_files_come(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in "abc":
            archive.writestr(name, f"this is {name}")
    content = (tmp_path / "a.zip").read_bytes().replace(b"this is b", b"that is b")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match="a.zip cannot be unpacked .*CRC.*fetch it again"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a"]


def bombs(folder: Path) -> list[Path]:
    """Small archives of a hundred megabytes, and one with a remark of two."""
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(8 * 10**7))
    info = tarfile.TarInfo("a")
    info.size = 8 * 10**7
    with tarfile.open(folder / "a.tgz", "w:gz") as archive:
        archive.addfile(info, io.BytesIO(bytes(8 * 10**7)))
    with tarfile.open(
        folder / "a.tbz", "w:bz2", pax_headers={"comment": "a" * 2 * 10**6}
    ) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return [folder / "a.zip", folder / "a.tgz", folder / "a.tbz"]


def test_an_archive_much_larger_than_itself_is_refused(tmp_path: Path) -> None:
    compressed, tarred, remarked = bombs(tmp_path)
    for archive in (compressed, tarred):
        with pytest.raises(UnsafeArchive, match="small for that; nothing unpacked"):
            unpack(archive, tmp_path / "out")
    with pytest.raises(ValueError, match=r"a.tbz cannot be unpacked .*neither .* cut off"):
        unpack(remarked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_for_which_there_is_no_room_is_refused(tmp_path: Path, monkeypatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", bytes(1000))
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: namedtuple("Disk", "free")(999))
    with pytest.raises(UnsafeArchive, match="there is room for 999; nothing unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
