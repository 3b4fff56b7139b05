"""Bad input: everything is named, mended or left out, and nothing stops at the first."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data import AnnotationError, decode_masks, load_annotations
from arcnn.data.annotations import to_json_rle
from arcnn.data.check import Report, check
from arcnn.data.jsonstream import BrokenJSON, read_elements, scan
from arcnn.data.rle import check_rle, clip_polygon, run_lengths, to_rle

H, W = 10, 12
GOOD = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
LEFT = [2.0, 2.0, 5.0, 2.0, 5.0, 8.0, 2.0, 8.0]


def rle(mask: np.ndarray) -> dict:
    return to_json_rle(mask_util.encode(np.asfortranarray(mask, np.uint8)))


def square(top: int = 2, left: int = 2, side: int = 6) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def annotation(**changes: object) -> dict:
    good = {
        "id": 7,
        "image_id": 3,
        "category_id": 1,
        "segmentation": [GOOD],
        "visible_mask": [LEFT],
    }
    return good | changes


def write(folder: Path, *annotations: dict, images: list[dict] | None = None) -> Path:
    content = {
        "images": images or [{"id": 3, "file_name": "3.png", "height": H, "width": W}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": list(annotations),
    }
    Image.new("RGB", (W, H)).save(folder / "3.png")
    file = folder / "made.json"
    file.write_text(json.dumps(content))
    return file


def report_on(folder: Path, *annotations: dict, **options: object) -> Report:
    images = options.pop("images", None)
    return check(write(folder, *annotations, images=images), folder, progress=False, **options)


BROKEN = rle(square())["counts"][:-1] + "~"
SKIPPED = {
    "unknown category id": {"category_id": 99},
    "bad amodal mask": {"segmentation": rle(np.ones((4, 4)))},
    "bad amodal mask ": {"segmentation": {"size": [H, W], "counts": BROKEN}},
    "bad amodal mask  ": {"segmentation": {"size": [H, W], "counts": [3, 4]}},
    "bad amodal mask   ": {"segmentation": [[1, 2, 3, 4]]},
    "bad amodal mask    ": {"segmentation": [[50, 50, 60, 50, 60, 60]]},
    "bad amodal mask     ": {"segmentation": [[1, 2, float("nan"), 4, 5, 6]]},
    "bad visible mask": {"visible_mask": rle(np.ones((H, W + 1)))},
    "visible mask apart from the amodal one": {"visible_mask": rle(square(0, 0, 2))},
    "no such image": {"image_id": 5},
    "empty amodal mask": {"segmentation": rle(np.zeros((H, W)))},
}
REPAIRED = {
    "bad polygon": {"segmentation": [GOOD, [1, 2, 3, 4]]},
    "bad polygon ": {"segmentation": [[2.0, 2.0, 90.0, 2.0, 90.0, 8.0, 2.0, 8.0]]},
    "empty visible mask": {"visible_mask": rle(np.zeros((H, W)))},
    "visible mask not inside the amodal one": {"visible_mask": rle(square(2, 1, 4))},
    "zero-size box": {"bbox": [2, 2, 0, 6]},
    "NaN or nonsense in the box": {"bbox": [2, 2, float("nan"), 6]},
    "occlusion rate differs": {"occlude_rate": 0.9},
}


@pytest.mark.parametrize("kind", SKIPPED)
def test_what_cannot_be_mended_is_left_out_and_named(kind: str, tmp_path: Path) -> None:
    report = report_on(tmp_path, annotation(), annotation(id=8, **SKIPPED[kind]))
    (problem,) = report.problems
    assert (problem.kind, problem.action, problem.annotation_id) == (kind.strip(), "skipped", 8)
    assert problem.image_id == SKIPPED[kind].get("image_id", 3)
    assert (report.used, report.skipped_objects, report.usable) == (1, 1, False)
    assert "annotation 8" in str(report) and "made.json" in str(report)


@pytest.mark.parametrize("kind", REPAIRED)
def test_what_can_be_mended_is_mended_and_counted(kind: str, tmp_path: Path) -> None:
    report = report_on(tmp_path, annotation(), annotation(id=8, **REPAIRED[kind]))
    assert report.counts == {"repaired": {kind.strip(): 1}}
    assert report.problems[0].annotation_id == 8
    assert (report.used, report.errors, report.usable) == (2, 0, True)
    loaded = load_annotations(tmp_path / "made.json", tmp_path)
    masks = decode_masks(loaded.records[0]["annotations"][1])
    assert not (masks["visible"] & ~masks["amodal"]).any()


def test_all_of_it_comes_in_one_report(tmp_path: Path) -> None:
    bad = [
        annotation(id=100 + k, **c) for k, c in enumerate([*SKIPPED.values(), *REPAIRED.values()])
    ]
    report = report_on(tmp_path, annotation(), *bad)
    assert report.errors == len(SKIPPED) and report.used == 1 + len(REPAIRED)
    with pytest.raises(AnnotationError, match=f"{len(SKIPPED)} of {len(bad) + 1} objects"):
        load_annotations(tmp_path / "made.json", tmp_path)
    loaded = load_annotations(tmp_path / "made.json", tmp_path, max_skipped=1.0)
    assert len(loaded.records[0]["annotations"]) == report.used


def test_up_to_one_percent_may_be_left_out(tmp_path: Path) -> None:
    good = [annotation(id=k) for k in range(100, 199)]
    file = write(tmp_path, *good, annotation(category_id=99))
    assert len(load_annotations(file, tmp_path).records[0]["annotations"]) == 99
    file = write(tmp_path, *good, annotation(category_id=99), annotation(id=8, category_id=98))
    with pytest.raises(AnnotationError, match="annotation 7 .*99.*annotation 8"):
        load_annotations(file, tmp_path)


def test_duplicate_ids(tmp_path: Path) -> None:
    other = annotation(visible_mask=[GOOD])
    twin = {"id": 3, "file_name": "another.png", "height": H, "width": W}
    images = [twin | {"file_name": "3.png"}, twin, twin | {"file_name": "3.png"}]
    report = report_on(tmp_path, annotation(), annotation(), other, images=images)
    assert report.counts["repaired"] == {"duplicate annotation id": 2, "duplicate image id": 1}
    assert report.counts["skipped"] == {"duplicate image id": 1}
    loaded = load_annotations(tmp_path / "made.json", tmp_path, max_skipped=1)
    assert [a["id"] for a in loaded.records[0]["annotations"]] == [7, 8]


def test_trouble_with_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    file = write(root)
    file = file.rename(tmp_path / "made.json")
    (tmp_path / "secret.png").write_bytes((root / "3.png").read_bytes())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "torn.png").write_bytes((root / "3.png").read_bytes()[:40])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)).save(
        root / "torn.jpg"
    )
    (root / "torn.jpg").write_bytes((root / "torn.jpg").read_bytes()[:-90])
    Image.new("RGB", (W + 1, H)).save(root / "large.png")
    latin = os.path.join(os.fsencode(root), "café.png".encode("latin-1"))
    try:
        with open(latin, "wb") as stream:
            stream.write((root / "3.png").read_bytes())
    except OSError:
        pytest.skip("this file system holds no names in Latin-1")
    names = ["3.png", "none.png", "link.png", "torn.png", "torn.jpg", "large.png", "café.png",
             "../secret.png"]  # fmt: skip
    content = json.loads(file.read_text())
    content["images"] = [
        {"id": k, "file_name": n, "height": H, "width": W} for k, n in enumerate(names)
    ]
    content["annotations"] = [annotation(id=k, image_id=k) for k in range(len(names))]
    file.write_text(json.dumps(content))
    report = check(file, root, progress=False)
    found = {(p.image_id, p.kind) for p in report.problems}
    assert found == {
        (1, "missing image"),
        (2, "link out of the folder"),
        (3, "unreadable image"),
        (4, "unreadable image"),
        (5, "image of another size"),
        (6, "file name in Latin-1"),
        (7, "image path out of the folder"),
    }
    assert (report.used, report.skipped_objects) == (2, 6)
    str(report).encode("utf-8")
    assert check(file, root, progress=False, allow_links=True).used == 3


def test_a_file_in_latin_1_and_one_with_a_mark_at_its_start(tmp_path: Path) -> None:
    file = write(tmp_path, annotation())
    text = file.read_text().replace("cup", "tasse à café")
    file.write_bytes(text.encode("latin-1"))
    assert load_annotations(file, tmp_path).class_names == ["tasse à café"]
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_annotations(file, tmp_path).class_names == ["tasse à café"]


def test_a_truncated_file_is_an_error_and_its_beginning_is_checked(tmp_path: Path) -> None:
    file = write(tmp_path, annotation(), annotation(id=8, category_id=99), annotation(id=9))
    file.write_text(file.read_text()[:-60])
    report = check(file, tmp_path, progress=False)
    assert report.counts["error"] == {"truncated or broken JSON": 1} and not report.usable
    assert report.used == 1 and report.counts["skipped"] == {"unknown category id": 1}
    for text in ("", "[1, 2]", "hello", '{"a": 1}', '{"images": [{}], "annotations": [{"id": 1}]}'):
        file.write_text(text)
        report = check(file, tmp_path, progress=False)
        assert report.errors and not report.usable
        assert "made.json" in report.problems[0].detail


def test_the_command_line_says_so_in_its_exit_status(tmp_path: Path) -> None:
    write(tmp_path, annotation(), annotation(id=8, category_id=99))
    command = [sys.executable, "-m", "arcnn.data", "check", "made.json", "--images", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "annotation 8 of image 3" in done.stdout


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scanning_in_pieces_of_any_size_finds_every_element(data: st.DataObject) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    content = data.draw(
        st.dictionaries(st.text(), st.lists(values, max_size=4) | values, max_size=4)
    )
    text = json.dumps(content, ensure_ascii=data.draw(st.booleans()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            path.read_text("utf-8")
        except UnicodeDecodeError:
            return  # half of a surrogate pair is no text that a file could hold
        elements = list(scan(path, chunk=data.draw(st.integers(1, 40))))
        found = read_elements(path, [(e.start, e.end) for e in elements])
        expected = [v for x in content.values() for v in (x if isinstance(x, list) else [x])]
        assert found == expected
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, len(text) - 1))])
        with pytest.raises(BrokenJSON):
            list(scan(path, chunk=7))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.randoms(use_true_random=False))
def test_run_lengths_are_those_of_the_mask(height: int, width: int, random: object) -> None:
    mask = np.array([[random.random() < 0.4 for _ in range(width)] for _ in range(height)])
    encoded = mask_util.encode(np.asfortranarray(mask, np.uint8))
    runs = run_lengths(encoded["counts"])
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
    np.testing.assert_array_equal(flat.reshape(width, height).T, mask)
    assert check_rle(encoded, height, width)["counts"] == encoded["counts"]
    with pytest.raises(ValueError, match="size"):
        check_rle(encoded, height, width + 1)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12) | st.binary(max_size=12))
def test_no_counts_bring_the_decoder_down(counts: str | bytes) -> None:
    try:
        kept = check_rle({"size": [H, W], "counts": counts}, H, W)
    except ValueError:
        return
    assert mask_util.decode(kept).shape == (H, W)


COORDINATE = st.floats(-40, 40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=8))
def test_clipped_polygons_lie_inside_the_image(points: list[tuple[float, float]]) -> None:
    clipped = clip_polygon(np.array(points), H, W)
    assert (clipped >= -1e-9).all() and (clipped <= (W + 1e-9, H + 1e-9)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 8), st.integers(0, 8), st.integers(1, 12),
    st.integers(0, 8), st.integers(0, 8), st.integers(0, 12), st.booleans(),
)  # fmt: skip
def test_any_record_that_is_read_keeps_the_three_masks_consistent(
    top: int, left: int, side: int, top2: int, left2: int, side2: int, named: bool
) -> None:
    amodal, visible = square(top, left, side), square(top2, left2, side2)
    fields = {"segmentation": rle(amodal), "visible_mask": rle(visible)}
    if named:
        fields = {"segmentation": rle(amodal), "inmodal_seg": rle(visible)}
    found = {k: v for k, v in annotation().items() if k != "visible_mask"} | fields
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_annotations(write(Path(folder), found), folder, max_skipped=1)
    for a in loaded.records[0]["annotations"]:
        masks = decode_masks(a)
        np.testing.assert_array_equal(masks["amodal"], amodal)
        np.testing.assert_array_equal(masks["visible"], amodal & visible)
        rate = masks["occlusion"].sum() / amodal.sum()
        assert a["occlusion_rate"] == pytest.approx(rate)
    if not loaded.records[0]["annotations"]:
        assert visible.any() and not (amodal & visible).any()


def test_polygons_inside_the_image_become_what_pycocotools_makes_of_them() -> None:
    ours, wrong = to_rle([GOOD], H, W)
    theirs = mask_util.merge(mask_util.frPyObjects([GOOD], H, W))
    assert ours["counts"] == theirs["counts"] and not wrong
