"""Bad input: everything is named, repaired or left out, and nothing stops at the first."""

import ast
import inspect
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data import AnnotationError, decode_masks, image_files, index, load_annotations, reading
from arcnn.data.__main__ import main
from arcnn.data.masks import check_rle, encode, run_lengths
from arcnn.files import ROOT
from arcnn.workshop.own_data import check as checking
from arcnn.workshop.own_data.check import Report, check

H, W = 10, 12
GOOD = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
LEFT = [2.0, 2.0, 5.0, 2.0, 5.0, 8.0, 2.0, 8.0]


def rle(mask: np.ndarray) -> dict:
    return encode(mask[None])[0]


def square(top: int = 2, left: int = 2, side: int = 6) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def annotation(**changes: object) -> dict:
    ids = {"id": 7, "image_id": 3, "category_id": 1}
    return ids | {"segmentation": [GOOD], "visible_mask": [LEFT]} | changes


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
    return check(write(folder, *annotations, images=images), folder, **options)


BROKEN = rle(square())["counts"][:-1] + "~"
SIZE = {"size": [H, W]}
AMODAL = [  # none of these is one
    rle(np.ones((4, 4))), SIZE | {"counts": BROKEN}, {"size": 5, "counts": BROKEN},
    SIZE | {"counts": [3, 4]}, SIZE | {"counts": [22.9, 98.9]}, SIZE | {"counts": [[1], [2, 3]]},
    SIZE | {"counts": [2**62] * 4 + [H * W]}, [[1, 2, 3, 4]], [[500, 500, 600, 500, 600, 600]],
    [[1, 2, 10**400, 4, 5, 6]],
]  # fmt: skip
SKIPPED = [
    *(("bad amodal mask", {"segmentation": mask}) for mask in AMODAL),
    ("empty amodal mask", {"segmentation": rle(np.zeros((H, W)))}),
    ("bad visible mask", {"visible_mask": rle(np.ones((H, W + 1)))}),
    ("visible mask apart from the amodal one", {"visible_mask": rle(square(0, 0, 2))}),
    ("unknown category id", {"category_id": 99}),
    ("no such image", {"image_id": 5}),
]
REPAIRED = [
    ("bad polygon", {"segmentation": [GOOD, [1, 2, 3, 4]]}),
    ("bad polygon", {"segmentation": [GOOD, [1e9, 0, 1e9, 1, 1, 1]]}),
    ("bad polygon", {"segmentation": [[2.0, 2.0, 90.0, 2.0, 90.0, 8.0, 2.0, 8.0]]}),
    ("empty visible mask", {"visible_mask": rle(np.zeros((H, W)))}),
    ("empty visible mask", {"visible_mask": []}),
    ("visible mask not inside the amodal one", {"visible_mask": rle(square(2, 1, 4))}),
    ("occlusion rate differs", {"occlude_rate": 0.9}),
    ("occlusion rate differs", {"occlude_rate": 10**400}),
    ("bad occluders", {"occluders": 5}),
    ("bad occluders", {"occluders": [[1]]}),
]


@pytest.mark.parametrize(("kind", "change"), SKIPPED)
def test_what_cannot_be_repaired_is_left_out_and_named(
    kind: str, change: dict, tmp_path: Path
) -> None:
    report = report_on(tmp_path, annotation(), annotation(id=8, **change))
    (problem,) = report.problems
    assert (problem.kind, problem.action, problem.annotation_id) == (kind, "skipped", 8)
    assert problem.image_id == change.get("image_id", 3)
    assert (report.used, report.skipped_objects, report.usable) == (1, 1, False)
    said = str(report)
    assert "annotation 8" in said and "made.json" in said
    assert 'formats.md, "Is my file good?"' in said and "--json" not in said
    assert said.endswith(": not usable as it is.")
    report = check(tmp_path / "made.json", tmp_path, max_skipped=0.5)
    assert str(report).endswith("usable; the exit status is 1 because something was left out.")


@pytest.mark.parametrize(("kind", "change"), REPAIRED)
def test_what_can_be_repaired_is_repaired_and_counted(
    kind: str, change: dict, tmp_path: Path
) -> None:
    report = report_on(tmp_path, annotation(), annotation(id=8, **change))
    assert report.counts == {"repaired": {kind: 1}}
    assert report.problems[0].annotation_id == 8
    assert (report.used, report.errors, report.usable) == (2, 0, True)
    assert "`--json FILE` lists each repair" in str(report) and str(report).endswith(": usable.")
    loaded = load_annotations(tmp_path / "made.json", tmp_path)
    masks = decode_masks(loaded.records[0]["annotations"][1])
    assert not (masks["visible"] & ~masks["amodal"]).any()


@pytest.mark.parametrize("number", [[1, 2], {"a": 1}, None])
def test_an_id_that_is_none_is_replaced(number: object, tmp_path: Path) -> None:
    report = report_on(tmp_path, annotation(), annotation(id=number))
    assert report.counts == {"repaired": {"annotation without an id": 1}} and report.used == 2
    assert not isinstance(report.problems[0].annotation_id, list | dict)  # some nest without end
    loaded = load_annotations(tmp_path / "made.json", tmp_path)
    assert [a["id"] for a in loaded.records[0]["annotations"]] == [7, 8]


@pytest.mark.parametrize("size", [{}, {"height": 10**400, "width": "12"}])
def test_an_image_without_a_size_takes_it_from_the_file(size: dict, tmp_path: Path) -> None:
    images = [{"id": 3, "file_name": "3.png"} | size]
    report = report_on(tmp_path, annotation(), images=images)
    assert report.counts == ({"repaired": {"bad image size": 1}} if size else {})
    assert report.used == 1
    loaded = load_annotations(tmp_path / "made.json", tmp_path)
    assert (loaded.records[0]["height"], loaded.records[0]["width"]) == (H, W)


def test_the_command_says_what_is_wrong_and_counts_crowds_apart(tmp_path: Path, capsys) -> None:
    file = write(
        tmp_path, annotation(), annotation(id=8, category_id=99), annotation(id=9, iscrowd=1)
    )
    call = ["check", str(file), "--images", str(tmp_path), "--json", str(tmp_path / "report.json")]
    assert main(call) == 1
    said = capsys.readouterr().out
    assert "annotation 8 of image 3" in said and "1 objects are marked as crowd." in said
    assert json.loads((tmp_path / "report.json").read_text())["instances"] == {"cup": 1}


def test_a_crowd_is_0_or_1(tmp_path: Path) -> None:
    given = (0, 1, False, True, None, "0", "x", 2, [[]])
    file = write(tmp_path, *(annotation(id=k, iscrowd=one) for k, one in enumerate(given, 1)))
    (record,) = load_annotations(file, tmp_path, max_skipped=1).records
    assert [a["iscrowd"] for a in record["annotations"]] == [0, 1, 0, 1, 0]
    problems = load_annotations(file, tmp_path, max_skipped=1).problems
    assert [p.annotation_id for p in problems] == [6, 7, 8, 9]
    assert {p.kind for p in problems} == {"bad iscrowd"}


def test_the_command_says_in_one_line_that_nothing_is_there(tmp_path: Path, capsys) -> None:
    assert main(["check", str(tmp_path / "no.json")]) == 1
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == f"{tmp_path / 'no.json'} is not there\n{tmp_path} holds no *.json\n"
    assert not said.out


def test_the_table_of_cures_has_every_kind_of_problem() -> None:
    kinds: set[str] = set()
    for module in (index, reading, image_files, checking):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                found = node.args[:1] if name in ("add", "note", "problem", "Problem") else []
            else:
                kind = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "kind"
                found = [node.value] if kind else []
            constants = (part for whole in found for part in ast.walk(whole))
            kinds |= {c.value for c in constants if isinstance(c, ast.Constant)}
    assert {"no images", "bad visible mask", "annotation without an id", "bad polygon"} <= kinds
    guide = (ROOT / "data/reference/formats.md").read_text()
    table = guide.split("| the report says |")[1].split("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert [kind for kind in sorted(kinds) if kind not in "".join(first)] == []


CUP = {"id": 1, "name": "cup"}


@pytest.mark.parametrize(
    "categories",
    [[CUP, {"name": "pen"}], [CUP, {"id": 2}], [CUP, {"id": "2", "name": "pen"}], [CUP, CUP],
     [CUP, {"id": 1, "name": "pen"}], [CUP, 5]],
)  # fmt: skip
def test_bad_categories_are_an_error(categories: list, tmp_path: Path) -> None:
    file = write(tmp_path, annotation())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"categories": categories}))
    report = check(file, tmp_path)
    assert sum(report.counts["error"].values()) == 1 and not report.usable
    assert report.used == 1 and report.instances == {"cup": 1}
    with pytest.raises(AnnotationError, match="made.json cannot be used: .*category"):
        load_annotations(file, tmp_path)


@pytest.mark.parametrize("depth", [100, 900, 990])
@pytest.mark.parametrize("place", ['"id": 8', '"image_id": 3', '"name": "cup"', '"height": 10'])
def test_deep_nesting_is_at_most_a_problem(place: str, depth: int, tmp_path: Path) -> None:
    file = write(tmp_path, annotation(), annotation(id=8))
    field = place.split(":")[0]
    file.write_text(file.read_text().replace(place, f"{field}: {'[' * depth}{']' * depth}", 1))
    report = check(file, tmp_path)
    assert json.dumps(report.to_json(), indent=1) and report.problems
    assert report.used + report.skipped_objects == report.objects


def test_a_number_of_thousands_of_digits_costs_its_object(tmp_path: Path) -> None:
    file = write(tmp_path, annotation(), annotation(id=8))
    file.write_text(file.read_text().replace('"id": 8', f'"id": 8, "bbox": {"1" * 5000}'))
    report = check(file, tmp_path)
    assert report.counts == {"skipped": {"unreadable entry": 1}} and report.used == 1
    assert "annotation 8 of image 3: unreadable entry (Integer value out of range" in str(report)


@pytest.mark.parametrize("entry", [5, None, "3.png", [3], {"id": [3]}, {"file_name": "3.png"}])
def test_an_entry_of_the_images_that_is_none_is_listed(entry: object, tmp_path: Path) -> None:
    good = {"id": 3, "file_name": "3.png", "height": H, "width": W}
    report = report_on(tmp_path, annotation(), images=[entry, good])
    assert report.counts == {"skipped": {"unreadable entry": 1}}
    assert (report.used, report.skipped_objects) == (1, 0) and "list of images" in str(report)


def region(**changes: object) -> dict:
    return {"segmentation": GOOD, "name": "cup", "isStuff": 0, "order": 1} | changes


def entry_file(folder: Path, name: str, *regions: object, **fields: object) -> None:
    Image.new("RGB", (W, H)).save(folder / "3.jpg")
    Image.new("RGB", (W, H)).save(folder / "4.jpg")
    content = {"id": 1, "image_id": 3, "url": "http://somewhere/3.jpg", "regions": regions}
    (folder / f"{name}.json").write_text(json.dumps(content | fields))


def test_a_folder_of_entries_names_the_file(tmp_path: Path) -> None:
    entry_file(tmp_path, "a", region(), region(segmentation=[1, 2, 3, 4]))
    entry_file(tmp_path, "b", region(), 5, id=2, image_id=4, url="http://somewhere/4.jpg")
    (tmp_path / "c.json").write_text("{")
    report = check(tmp_path, tmp_path)
    assert {p.file for p in report.problems} == {"a.json", "b.json", "c.json"}
    assert report.counts["error"] == {"truncated or broken JSON": 1}
    assert "annotation 1002 of image 3 of a.json" in str(report)
    assert (report.objects, report.used, report.skipped_objects) == (4, 1, 3)
    (tmp_path / "c.json").unlink()
    with pytest.raises(AnnotationError, match="3 of 4 objects.*a.json.*b.json"):
        load_annotations(tmp_path, tmp_path)


def test_the_limit_is_a_share_of_all_objects_of_all_files(tmp_path: Path) -> None:
    entry_file(tmp_path, "a", region(), region(), region(segmentation=[1, 2, 3, 4]))
    others = {"id": 2, "image_id": 4, "url": "http://somewhere/4.jpg"}
    entry_file(tmp_path, "b", *[region()] * 100, **others)
    assert check(tmp_path, tmp_path).usable
    assert load_annotations(tmp_path, tmp_path).problems
    (tmp_path / "4.jpg").unlink()  # an image takes all of its objects along
    assert not check(tmp_path, tmp_path, max_skipped=0.98).usable
    with pytest.raises(AnnotationError, match="101 of 103 objects"):
        load_annotations(tmp_path, tmp_path, max_skipped=0.98)
    assert check(tmp_path, tmp_path, max_skipped=0.99).usable
    assert len(load_annotations(tmp_path, tmp_path, max_skipped=0.99).records) == 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4) | st.sampled_from([10**400, H, W, 3, 7]),
    lambda inner: st.lists(inner, max_size=7)
    | st.dictionaries(st.sampled_from(["size", "counts", "id", "a"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PLACES = {
    "images": ["id", "file_name", "height", "width"],
    "categories": ["id", "name"],
    "annotations": [
        *("id", "image_id", "category_id", "segmentation", "iscrowd", "visible_mask", "a_segm"),
        *("invisible_mask", "occlude_rate", "occluders", "inmodal_seg", "i_segm"),
        *("oco_id", "ico_id", "regions", "depth_constraint"),
    ],
    "regions": ["segmentation", "visible_mask", "invisible_mask", "order", "occlude_rate"],
}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_in_any_field_is_the_end_of_the_report(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(sorted(PLACES)))
    name, value = data.draw(st.sampled_from(PLACES[place])), data.draw(ANYTHING)
    change = data.draw(st.sampled_from([{name: value}, value]))
    with tempfile.TemporaryDirectory() as folder:
        entry = annotation()
        if place == "regions":
            odd = region(**change) if isinstance(change, dict) and name in change else change
            entry = {"id": 1, "image_id": 3, "regions": [region(), odd]}
        file = write(Path(folder), annotation(id=8), entry)
        content = json.loads(file.read_text())
        if place != "regions":
            last = content[place][-1]
            content[place][-1] = last | change if isinstance(change, dict) else change
        file.write_text(json.dumps(content))
        report = check(file, folder)
        str(report)
        json.dumps(report.to_json(), default=repr)
        assert report.used + report.skipped_objects == report.objects
        try:
            loaded = load_annotations(file, folder, look_at_images=True, max_skipped=1)
        except AnnotationError:
            assert not report.usable or report.counts["error"]
            return
        assert sum(len(r["annotations"]) for r in loaded.records) == report.used


def test_duplicate_ids(tmp_path: Path) -> None:
    twin = {"id": 3, "file_name": "another.png", "height": H, "width": W}
    images = [twin | {"file_name": "3.png"}, twin]
    report = report_on(tmp_path, annotation(), annotation(), images=images)
    assert report.counts["repaired"] == {"duplicate annotation id": 1}
    assert report.counts["skipped"] == {"duplicate image id": 1}
    loaded = load_annotations(tmp_path / "made.json", tmp_path, max_skipped=1)
    assert [a["id"] for a in loaded.records[0]["annotations"]] == [7, 8]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("[1, 2]", "is not one JSON object: .*got `array`"),
        ("\n<html>", "of 7 bytes looks like a web page"),
        ("PK\3\4", "of 4 bytes looks like an archive"),
        ('{"a": 1}', "has no images and no annotations"),
        ('{"images": [{}], "annotations": [{"id": 1}]}', "schema"),
        ('{"info": ' + "[" * 100_000, "cut off or not JSON"),
        ('{"info": ' + "1" * 5000, "cut off or not JSON"),
        ('{"images": [], "annotations": []}}', r"trailing characters \(byte 34\)"),
    ],
)
def test_what_is_no_annotation_file_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(text)
    report = check(tmp_path / "made.json")
    assert sum(report.counts["error"].values()) == 1 and not report.usable
    first, error, cures, last = str(report).splitlines()
    assert first.endswith(": not readable") and error.startswith("  error: ")
    assert cures.startswith("cures: ") and last.endswith("made.json: not usable as it is.")
    with pytest.raises(AnnotationError, match=f"made.json.*{said}"):
        load_annotations(tmp_path / "made.json", tmp_path)


@pytest.mark.parametrize(
    ("broken", "said"),
    [(b"8 ?", "(byte {})"), (b"NaN", "(byte {})"), (b'8, "name": "caf\xe9"', "in position {}")],
)
def test_a_broken_file_is_an_error_with_its_place(broken: bytes, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, annotation(), annotation(id=8))
    text = file.read_bytes()
    file.write_bytes(text.replace(b"8,", broken + b",", 1))
    report = check(file, tmp_path)
    assert report.counts == {"error": {"truncated or broken JSON": 1}} and not report.usable
    (problem,) = report.problems
    place = text.index(b"8,") + max(broken.find(b"?"), broken.find(b"\xe9"), 0)
    assert said.format(place) in problem.detail and "not readable" in str(report)
    file.write_bytes(text[: text.index(b"8,")])
    with pytest.raises(AnnotationError, match=r"of [\d,]+ bytes is cut off .*truncated"):
        load_annotations(file, tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999))
def test_run_lengths_are_those_of_the_mask(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    encoded = rle(mask)
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
