"""Amodal data from modal photos: exact masks, the wanted occlusion, the same for any run."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.mask import decode

from arcnn.data import decode_masks, load_annotations, register_dataset
from arcnn.data.__main__ import main
from arcnn.data.masks import to_rle
from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.data.tabletop import make_tabletop
from arcnn.errors import FileError, InputError, MissingError
from arcnn.workshop.own_data import cutouts
from arcnn.workshop.own_data.check import check
from arcnn.workshop.own_data.cutouts import (
    forget_hidden_parts,
    open_rgb,
    prepare,
    read_instances,
    read_photos,
)
from arcnn.workshop.own_data.pasting import make_amodal

SIZE = 120
RECIPE = {"image_size": SIZE, "seed": 3}
FEW = {"train_images": 10, "val_images": 4, "workers": 1}


def polygon(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


@pytest.fixture(scope="module")
def modal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 drawn photos with modal outlines: two full squares each, and one at the border."""
    root, random = tmp_path_factory.mktemp("modal"), np.random.default_rng(0)
    images, annotations = [], []
    for k in range(16):
        image = Image.fromarray(random.integers(90, 130, (SIZE, SIZE, 3), np.uint8))
        images.append({"id": k, "file_name": f"{k}.jpg", "height": SIZE, "width": SIZE})
        for x, y, side in ((12, 20 + 2 * k, 36), (70, 20 + 2 * k, 36), (40, 98, 22)):
            outline = polygon(x, y, side)
            color = tuple(int(v) for v in random.integers(0, 255, 3))
            ImageDraw.Draw(image).polygon(outline, fill=color)
            row = {"id": len(annotations) + 1, "image_id": k, "segmentation": [outline]}
            annotations.append(row | {"category_id": 1 + (x > 50), "iscrowd": 0})
        image.save(root / f"{k}.jpg")
    names = [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "modal.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def made(modal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "own"
    make_amodal(modal / "modal.json", modal, folder, **FEW | RECIPE | {"train_images": 40})
    return folder


def pasted(content: dict) -> list[dict]:
    """The annotations of an annotation file that were not in its photos."""
    photo = {i["id"]: i["source"]["image_id"] for i in content["images"]}
    rows = content["annotations"]
    return [a for a in rows if a["source"]["image_id"] != photo[a["image_id"]]]


def read(folder: Path, split: str = "train") -> dict:
    return json.loads((folder / f"{split}.json").read_text())


def test_the_result_is_a_data_set_without_a_fault(made: Path) -> None:
    report = check(made / "train.json", made / "train", decode=True)
    assert report.usable and not report.problems and report.images == 40
    assert register_dataset("own", made) == {"train": "own_train", "val": "own_val"}


def test_masks_are_exact_and_occluders_are_named(made: Path) -> None:
    """What is hidden is what the named occluders lie over, and nobody else lies over an object."""
    occluded = crowds = 0
    for record in load_annotations(made / "train.json", made / "train").records:
        masks = {a["id"]: decode_masks(a) for a in record["annotations"]}
        for a in record["annotations"]:
            own = masks[a["id"]]
            if a["iscrowd"]:
                crowds += 1
                np.testing.assert_array_equal(own["amodal"], own["visible"])
                continue
            later = [k for k in masks if k > a["id"] and (masks[k]["amodal"] & own["amodal"]).any()]
            assert a["occluders"] == later
            covered = sum((masks[k]["amodal"] for k in later), np.zeros_like(own["amodal"]))
            np.testing.assert_array_equal(own["occlusion"], own["amodal"] & covered)
            rate = own["occlusion"].sum() / own["amodal"].sum()
            assert a["occlusion_rate"] == pytest.approx(rate)
            occluded += rate > 0
    assert occluded > 20 and crowds > 20


def test_splits_share_no_photo(made: Path) -> None:
    used = []
    for content in (read(made), read(made, "val")):
        used.append({a["source"]["image_id"] for a in content["annotations"]})
        used[-1] |= {i["source"]["image_id"] for i in content["images"]}
    assert len(used[0]) > 4 and len(used[1]) > 1 and not used[0] & used[1]


def test_the_same_recipe_gives_the_same_images(modal: Path, made: Path, tmp_path: Path) -> None:
    call = modal / "modal.json", modal, tmp_path / "own"
    options = FEW | RECIPE | {"train_images": 40}
    make_amodal(*call, **options | {"workers": 2})
    files = [file.relative_to(made) for file in made.rglob("*") if file.is_file()]
    assert len(files) == 40 + 4 + 3
    for file in files:
        assert (tmp_path / "own" / file).read_bytes() == (made / file).read_bytes()
    before = (tmp_path / "own/recipe.json").stat().st_mtime_ns
    summary = make_amodal(*call, **options)
    assert (tmp_path / "own/recipe.json").stat().st_mtime_ns == before
    assert summary == json.loads((made / "recipe.json").read_text())["summary"]
    with pytest.raises(ValueError, match="of another recipe: .*seed"):
        make_amodal(*call, **options | {"seed": 9})


def test_only_full_objects_are_cut_out_without_a_rim(tmp_path: Path) -> None:
    def row(number: int, *outlines: list[float], iscrowd: int = 0) -> dict:
        row = {"id": number, "image_id": 1, "category_id": 1}
        return row | {"segmentation": list(outlines), "iscrowd": iscrowd}

    rows = [
        row(1, polygon(20, 20, 50)),
        row(2, polygon(0, 100, 50)),  # at the border
        row(3, polygon(100, 20, 50)),
        row(4, polygon(150, 20, 50)),  # touches 3
        row(5, polygon(250, 20, 50), iscrowd=1),
        row(6, polygon(20, 200, 50), polygon(90, 200, 50)),  # in two pieces
        row(7, polygon(200, 200, 10)),  # small
    ]
    content = {"images": [{"id": 1, "file_name": "1.png", "height": 400, "width": 400}]}
    content |= {"annotations": rows, "categories": [{"id": 1, "name": "thing"}]}
    image = Image.new("RGB", (400, 400), "green")
    ImageDraw.Draw(image).rectangle((22, 22, 67, 67), fill="red")  # a little inside its outline
    image.save(tmp_path / "1.png")
    (photo,), problems = read_photos(content, tmp_path)
    full = [o.source["annotation_id"] for o in photo.objects if o.full]
    assert not problems and full == [1]
    as_masks = [a | {"segmentation": to_rle(a["segmentation"], 400, 400)[0]} for a in rows]
    (masked,), _ = read_photos(content | {"annotations": as_masks}, tmp_path)
    assert [o.source["annotation_id"] for o in masked.objects if o.full] == [1]
    cut_out = prepare(photo, 200).objects[0]
    assert cut_out.mask.sum() == 25 * 25 and (cut_out.rgb == (255, 0, 0)).all()


def test_what_is_hidden_can_be_forgotten(tmp_path: Path) -> None:
    make_tabletop(tmp_path, train_images=40, val_images=1, workers=1)
    forget_hidden_parts(tmp_path / "tabletop/tabletop_train.json", tmp_path / "modal.json")
    photos, problems = read_photos(
        read_instances(tmp_path / "modal.json"), tmp_path / "tabletop/train"
    )
    truth = load_annotations(
        tmp_path / "tabletop/tabletop_train.json", tmp_path / "tabletop/train"
    ).records
    truth = {a["id"]: a for record in truth for a in record["annotations"]}
    objects = [o for photo in photos for o in photo.objects]
    assert not problems and len(objects) == len(truth) and any(o.full for o in objects)
    for o in objects:
        a = truth[o.source["annotation_id"]]
        assert (decode(o.rle) == decode_masks(a)["visible"]).all()
        assert not o.full or a["occlusion_rate"] == 0  # nothing covers what is apart


def test_distributions() -> None:
    rates = RateDistribution.of([0.0, 0.0, 0.05, 0.1, 0.95, 1.0])
    assert rates.visible == pytest.approx(1 / 3)
    assert rates.shares[0] == pytest.approx(1 / 3) and rates.shares[9] == pytest.approx(1 / 3)
    random = np.random.default_rng(0)
    sampled = RateDistribution.of([COCOA_CLS.sample(random, 0.5) for _ in range(4000)])
    assert sampled.distance(COCOA_CLS) < 0.03 and COCOA_CLS.distance(COCOA_CLS) == 0
    assert rates.distance(RateDistribution(1.0, (0.0,) * 10)) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no object"):
        RateDistribution.of([])


@pytest.mark.parametrize(
    "given", [{"train_images": -1}, {"train_images": 0, "val_images": 0}, {"occluders": 0}]
)
def test_a_number_that_is_none_is_a_sentence(given: dict, modal: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each number must be above 0"):
        make_amodal(modal / "modal.json", modal, tmp_path / "own", **FEW | given)
    assert not any(tmp_path.iterdir())


def test_too_few_full_objects_are_a_sentence(modal: Path, tmp_path: Path) -> None:
    content = json.loads((modal / "modal.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["id"] % 3 == 0]
    (tmp_path / "border.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train: 0 full objects in 1. photos"):
        make_amodal(tmp_path / "border.json", modal, tmp_path / "own", **FEW)


def test_real_photos_come_near_the_target_within_the_limits(real_data: Path, tmp_path) -> None:
    photos, options = real_data / "coco_modal88", FEW | {"train_images": 60, "val_images": 0}
    call = photos / "annotations/instances_train2017.json", photos / "train2017", tmp_path / "own"
    summary = make_amodal(*call, image_size=200, **options)["train"]
    known = [a for a in read(tmp_path / "own")["annotations"] if not a["iscrowd"]]
    distance = RateDistribution.of(a["occlude_rate"] for a in known).distance(COCOA_CLS)
    assert summary["distance"] == round(distance, 3) < 0.08
    occluders = Counter(str(len(a["occluders"])) for a in known)
    assert summary["occluders"] == occluders and max(occluders) == "2"
    number = Counter(a["image_id"] for a in pasted(read(tmp_path / "own")))
    assert max(number.values()) == 6 and np.mean(list(number.values())) > 4


def test_what_cannot_be_used_is_left_out_and_named(modal: Path, tmp_path: Path) -> None:
    photos, content = tmp_path / "photos", json.loads((modal / "modal.json").read_text())
    shutil.copytree(modal, photos)
    images, annotations = content["images"], content["annotations"]
    (photos / "0.jpg").write_bytes((photos / "0.jpg").read_bytes()[:900])
    Image.new("RGB", (SIZE // 2, SIZE)).save(photos / "1.jpg")
    images[2]["file_name"] = "../photos/2.jpg"
    del images[3]["height"]
    (photos / "4.jpg").unlink()
    (photos / "5.jpg").unlink()
    (photos / "5.jpg").symlink_to(modal / "5.jpg")
    annotations[-1]["segmentation"], annotations[-2]["category_id"] = [[1, 2]], 99
    (tmp_path / "modal.json").write_text(json.dumps(content))
    summary = make_amodal(tmp_path / "modal.json", photos, tmp_path / "own", **FEW | RECIPE)
    lines = sorted((tmp_path / "own/left_out.txt").read_text().splitlines())
    expected = ["annotation 47: .*category id 99", "annotation 48: .*no polygon", "image 0: unread"]
    expected += ["image 1: .*another size", "image 2: .*leads out", "image 3: .*height"]
    expected += ["image 4: missing", "image 5: link out"]
    for line, words in zip(lines, expected, strict=True):
        assert re.match(words, line)
    assert sum(summary["left_out"].values()) == 8
    assert summary["train"]["photos"] + summary["val"]["photos"] == 10
    assert min(i["source"]["image_id"] for i in read(tmp_path / "own")["images"]) > 5


THINGS = [{"id": 1, "name": "thing"}]
EMPTY = {"images": [], "annotations": [], "categories": THINGS}
DAMAGED = [[1, 2], {key: EMPTY[key] for key in ("images", "annotations")}]
DAMAGED += [EMPTY | {key: value} for key in EMPTY for value in (None, 5, "x", [None], [[1]])]
DAMAGED += [EMPTY | {"categories": [{"id": number, "name": "thing"}]} for number in ([1], None)]


@pytest.mark.parametrize("content", ["[1, 2", *DAMAGED], ids=str)
def test_a_file_of_another_kind_gets_a_sentence(content, tmp_path: Path, capsys) -> None:
    file = tmp_path / "any.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for call in (["synthesize", "--images", str(tmp_path)], ["convert", "--visible", "seen"]):
        assert main([*call, str(file), "--out", str(tmp_path / "own")]) == 1
        said = capsys.readouterr().err
        assert re.match(r".*any.json is not .*: give a COCO instances file.\n$", said)
    assert not (tmp_path / "own").exists()


def test_a_size_or_id_that_no_photo_has_costs_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cutouts.mask_util, "decode", lambda _: pytest.fail("a mask of that size"))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    wrong = [(1, 10**9, 8), (2, 0, 8), (3, -8, -8), (4, 10**9, 10**9), (5, 20_000, 8000)]
    wrong += [([6], 8, 8), (None, 8, 8)]
    images = [
        {"id": number, "file_name": "1.png", "height": height, "width": width}
        for number, height, width in wrong
    ]
    outline = {"segmentation": [polygon(1, 1, 5)], "category_id": 1}
    rows = [outline | {"id": k, "image_id": image["id"]} for k, image in enumerate(images)]
    content = {"images": images, "annotations": rows, "categories": THINGS}
    photos, problems = read_photos(content, tmp_path)
    kinds = Counter(problem.kind for problem in problems)
    assert not photos and kinds == {"bad photo": 6, "image of another size": 1, "bad object": 1}


def test_what_lies_in_the_place_of_a_data_set_is_named(modal: Path, tmp_path: Path) -> None:
    def say() -> str:
        with pytest.raises((FileError, InputError, MissingError)) as said:
            make_amodal(modal / "modal.json", modal, tmp_path / "own", **FEW | RECIPE)
        return str(said.value)

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.partial").symlink_to(tmp_path / "elsewhere")
    assert say().endswith("own.partial is in the way; delete it.")
    assert not any((tmp_path / "elsewhere").iterdir())
    (tmp_path / "own").mkdir()
    recipe = tmp_path / "own/recipe.json"
    for text, why in (("[]", "not what it should be"), ("{", "not whole"), ("{}", "'summary'")):
        recipe.write_text(text)
        assert re.search(f"own/recipe.json .*{why}.* choose a new folder", say())
    recipe.rename(tmp_path / "own/a.txt")
    assert "recipe.json is not there" in say()


def test_the_command(modal: Path, tmp_path: Path) -> None:
    call = ["synthesize", str(modal / "modal.json"), "--images", str(modal), "--occluders", "1"]
    call += ["--out", str(tmp_path / "own"), "--train", "12", "--val", "0"]
    assert main(call) == 0
    content = read(tmp_path / "own")
    assert {max(i["height"], i["width"]) for i in content["images"]} == {320}
    assert max(len(a["occluders"]) for a in content["annotations"]) == 1


def test_a_photo_that_lies_on_its_side_is_read_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (80, 48), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 39, 23), fill="black")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=exif, quality=95)
    for width, height in ((80, 48), (40, 24), (20, 12)):
        image = open_rgb(str(tmp_path / "1.jpg"), width, height)
        assert image.shape == (height, width, 3)
        dark = image.mean(axis=2) < 128
        assert dark[: height // 2 - 1, : width // 2 - 1].all() and dark.mean() < 0.3
