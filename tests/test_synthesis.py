"""Amodal data from modal photos: exact masks, the wanted occlusion, the same for any run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from arcnn.data import decode_masks, load_annotations, register_dataset
from arcnn.data.__main__ import main
from arcnn.data.check import check
from arcnn.data.cutouts import read_photos
from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.data.synthesis import Recipe, make_amodal

SIZE = 120


def polygon(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


@pytest.fixture(scope="module")
def modal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 made photos of two squares each, with modal outlines."""
    root = tmp_path_factory.mktemp("modal")
    random = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(16):
        image = Image.fromarray(random.integers(90, 130, (SIZE, SIZE, 3), np.uint8))
        images.append({"id": k, "file_name": f"{k}.jpg", "height": SIZE, "width": SIZE})
        for x in (12, 70):
            draw = ImageDraw.Draw(image)
            outline = polygon(x, 20 + 2 * k, 36)
            draw.polygon(outline, fill=tuple(int(v) for v in random.integers(0, 255, 3)))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": k, "category_id": 1 + (x > 50)}
                | {"segmentation": [outline], "iscrowd": 0}
            )
        image.save(root / f"{k}.jpg")
    names = [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "modal.json").write_text(json.dumps(content))
    return root


RECIPE = Recipe(image_size=SIZE, objects=(2, 3), sizes=(0.1, 0.35), val_share=0.4, seed=3)


@pytest.fixture(scope="module")
def made(modal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "own"
    make_amodal(
        modal / "modal.json", modal, folder, train_images=40, val_images=4, recipe=RECIPE,
        workers=1, progress=False,
    )  # fmt: skip
    return folder


def test_the_result_is_a_data_set_without_a_fault(made: Path) -> None:
    report = check(made / "train.json", made / "train", progress=False, decode=True)
    assert report.usable and not report.problems and report.images == 40
    assert register_dataset("own", made) == {"train": "own_train", "val": "own_val"}


def test_masks_are_exact_and_occluders_are_named(made: Path) -> None:
    occluded = 0
    for record in load_annotations(made / "train.json", made / "train").records:
        by_id = {a["id"]: decode_masks(a) for a in record["annotations"]}
        for a in record["annotations"]:
            if a["iscrowd"]:
                continue
            masks = by_id[a["id"]]
            fronts = [by_id[k]["amodal"] for k in a["occluders"]]
            covered = np.logical_or.reduce(fronts) if fronts else np.zeros_like(masks["amodal"])
            np.testing.assert_array_equal(masks["occlusion"], masks["amodal"] & covered)
            assert a["occlusion_rate"] == pytest.approx(
                masks["occlusion"].sum() / masks["amodal"].sum()
            )
            occluded += a["occlusion_rate"] > 0
    assert occluded > 20


def test_splits_share_no_photo_and_objects_come_from_other_photos(made: Path) -> None:
    used = []
    for split in ("train", "val"):
        content = json.loads((made / f"{split}.json").read_text())
        photo = {i["id"]: i["source"]["image_id"] for i in content["images"]}
        used.append({a["source"]["image_id"] for a in content["annotations"] if not a["iscrowd"]})
        used[-1] |= set(photo.values())
    assert not used[0] & used[1]


def test_the_same_recipe_gives_the_same_images(modal: Path, made: Path, tmp_path: Path) -> None:
    options = {"train_images": 40, "val_images": 4, "progress": False}
    again = tmp_path / "own"
    make_amodal(modal / "modal.json", modal, again, recipe=RECIPE, workers=2, **options)
    assert (again / "train.json").read_bytes() == (made / "train.json").read_bytes()
    for k in (1, 40):
        name = f"train/{k:06d}.jpg"
        assert (again / name).read_bytes() == (made / name).read_bytes()
    before = (again / "recipe.json").stat().st_mtime_ns
    make_amodal(modal / "modal.json", modal, again, recipe=RECIPE, **options)
    assert (again / "recipe.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="seed"):
        make_amodal(modal / "modal.json", modal, again, recipe=Recipe(seed=9), **options)


def test_pasted_pixels_come_from_the_object_and_the_rest_from_the_photo(
    modal: Path, made: Path
) -> None:
    content = json.loads((made / "train.json").read_text())
    image = content["images"][0]
    pixels = np.asarray(Image.open(made / "train" / image["file_name"]), np.float32)
    photo = np.asarray(Image.open(modal / image["source"]["file_name"]), np.float32)
    records = load_annotations(made / "train.json", made / "train").records
    pasted = np.zeros(pixels.shape[:2], bool)
    for a, row in zip(records[0]["annotations"], content["annotations"], strict=False):
        if not a["iscrowd"] and row["source"]["image_id"] != image["source"]["image_id"]:
            pasted |= decode_masks(a)["amodal"]
    grown = np.pad(pasted, 12)
    near = np.logical_or.reduce(
        [np.roll(grown, (y, x), (0, 1)) for y in (-9, 0, 9) for x in (-9, 0, 9)]
    )
    far = ~near[12:-12, 12:-12]
    assert np.abs(pixels - photo)[far].mean() < 6  # JPEG alone


def test_only_whole_objects_are_cut_out(tmp_path: Path) -> None:
    def row(number: int, *outlines: list[float], iscrowd: int = 0) -> dict:
        return {"id": number, "image_id": 1, "category_id": 1, "iscrowd": iscrowd,
                "segmentation": list(outlines)}  # fmt: skip

    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 400, "width": 400}],
        "annotations": [
            row(1, polygon(20, 20, 50)),
            row(2, polygon(0, 100, 50)),  # at the border
            row(3, polygon(100, 20, 50)),
            row(4, polygon(150, 20, 50)),  # touches 3
            row(5, polygon(250, 20, 50), iscrowd=1),
            row(6, polygon(20, 200, 50), polygon(90, 200, 50)),  # in two pieces
            row(7, polygon(200, 200, 10)),  # small
        ],
    }
    (photo,) = read_photos(content, tmp_path)
    assert [o.id for o in photo.objects if o.whole] == [1]


def test_distributions() -> None:
    rates = [0.0, 0.0, 0.05, 0.1, 0.95, 1.0]
    found = RateDistribution.of(rates)
    assert found.visible == pytest.approx(1 / 3)
    assert found.shares[0] == pytest.approx(1 / 3) and found.shares[9] == pytest.approx(1 / 3)
    random = np.random.default_rng(0)
    sampled = RateDistribution.of([COCOA_CLS.sample(random) for _ in range(4000)])
    assert sampled.distance(COCOA_CLS) < 0.03 and COCOA_CLS.distance(COCOA_CLS) == 0
    with pytest.raises(ValueError, match="sum to 1"):
        RateDistribution(0.5, (0.1,) * 10)
    with pytest.raises(ValueError, match="no object"):
        RateDistribution.of([])


def test_too_little_to_cut_out_is_said(modal: Path, tmp_path: Path) -> None:
    content = json.loads((modal / "modal.json").read_text())
    content["annotations"] = content["annotations"][:1]
    (tmp_path / "few.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="too few"):
        make_amodal(tmp_path / "few.json", modal, tmp_path / "own", workers=1, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (0.5, 0.1)}, "sizes is 0.5 to 0.1"),
        ({"region": (0.5, 0.0, 0.2, 1.0)}, "left, top, right, bottom"),
        ({"region": (0.0, 0.0, 1.0, 2.0)}, "left, top, right, bottom"),
        ({"image_size": 8}, "32 to 4096"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


def test_the_region_holds_the_freely_placed_objects(modal: Path, tmp_path: Path) -> None:
    """By the command. The photos' own objects stay where they are; the pasted ones follow."""

    def mean_centre(left: str, right: str) -> float:
        out = tmp_path / left
        call = ["synthesize", str(modal / "modal.json"), "--images", str(modal), "--out", str(out)]
        call += ["--train", "30", "--val", "2", "--image-size", str(SIZE), "--workers", "1"]
        assert main([*call, "--sizes", "0.1", "0.2", "--region", left, "0", right, "1"]) == 0
        content = json.loads((out / "train.json").read_text())
        return np.mean([a["bbox"][0] + a["bbox"][2] / 2 for a in content["annotations"]])

    assert mean_centre("0", "0.3") < mean_centre("0.7", "1") - SIZE / 10
