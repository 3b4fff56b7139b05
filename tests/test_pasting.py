"""Amodal data from modal photos: exact masks, the wanted occlusion, the same for any run."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as mask_util
from scipy import ndimage

from arcnn.data import decode_masks, load_annotations, register_dataset
from arcnn.data.__main__ import main
from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.workshop.check import check
from arcnn.workshop.cutouts import open_rgb, read_instances, read_photos
from arcnn.workshop.pasting import Recipe, make_amodal

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
    content["categories"] = [{"id": 1, "name": "thing"}]
    (photo,), problems = read_photos(content, tmp_path)
    assert not problems
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


def number_of_occluders(folder: Path) -> list[int]:
    rows = json.loads((folder / "train.json").read_text())["annotations"]
    return [len(a["occluders"]) for a in rows if not a["iscrowd"]]


@pytest.mark.parametrize("occluders", [(1, 1), (1, 2), (2, 2), (2, 3)])
def test_the_number_of_occluders_is_kept(
    occluders: tuple[int, int], real_data: Path, tmp_path: Path
) -> None:
    """The most always; the fewest for most, since not everywhere is room."""
    recipe = Recipe(occluders=occluders)
    summary = make_real(real_data, tmp_path / "own", 60, recipe)
    numbers = number_of_occluders(tmp_path / "own")
    assert max(numbers) == occluders[1]
    covered = [n for n in numbers if n]
    assert len(covered) > 60
    assert np.mean([n >= occluders[0] for n in covered]) > 0.7
    counted = {str(k): numbers.count(k) for k in sorted(set(numbers))}
    assert summary["train"]["occluders"] == counted
    recorded = json.loads((tmp_path / "own" / "recipe.json").read_text())["summary"]
    assert recorded["train"]["occluders"] == counted


def make_real(real_data: Path, folder: Path, images: int, recipe: Recipe) -> dict:
    photos = real_data / "coco_modal88"
    return make_amodal(
        photos / "annotations" / "instances_train2017.json",
        photos / "train2017",
        folder,
        train_images=images,
        val_images=0,
        recipe=recipe,
        progress=False,
    )


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """150 images from real photos, and their summary."""
    folder = tmp_path_factory.mktemp("real") / "own"
    return folder, make_real(real_data, folder, 150, Recipe())


def test_occlusion_rates_come_near_the_target(real: tuple[Path, dict]) -> None:
    _, summary = real
    assert summary["train"]["distance"] < 0.08


def test_no_more_objects_are_pasted_than_the_recipe_says(real: tuple[Path, dict]) -> None:
    content = json.loads((real[0] / "train.json").read_text())
    photo = {i["id"]: i["source"]["image_id"] for i in content["images"]}
    pasted = Counter(
        a["image_id"]
        for a in content["annotations"]
        if not a["iscrowd"] and a["source"]["image_id"] != photo[a["image_id"]]
    )
    assert max(pasted.values()) <= Recipe().objects[1]


def spoil(root: Path, content: dict) -> dict[str, str]:
    """Break some photos, each in its own way; the image ids and what is to be said of them."""
    images = content["images"]
    cut = root / images[0]["file_name"]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    Image.new("RGB", (SIZE // 2, SIZE)).save(root / images[1]["file_name"])
    images[2]["file_name"] = f"../{root.name}/{images[2]['file_name']}"
    del images[3]["height"]
    (root / images[4]["file_name"]).unlink()
    return {
        f"image {images[0]['id']}": "unreadable image",
        f"image {images[1]['id']}": "image of another size",
        f"image {images[2]['id']}": "leads out of the image folder",
        f"image {images[3]['id']}": "height is None",
        f"image {images[4]['id']}": "missing image",
    }


def test_photos_that_cannot_be_used_are_left_out_and_named(modal: Path, tmp_path: Path) -> None:
    shutil.copytree(modal, tmp_path / "photos")
    content = json.loads((modal / "modal.json").read_text())
    broken = spoil(tmp_path / "photos", content)
    content["annotations"][-1]["segmentation"] = [[1, 2]]
    content["annotations"][-2]["category_id"] = 99
    broken[f"annotation {content['annotations'][-1]['id']}"] = "no polygon of 3 points"
    broken[f"annotation {content['annotations'][-2]['id']}"] = "unknown category id 99"
    (tmp_path / "modal.json").write_text(json.dumps(content))
    made, options = tmp_path / "own", {"train_images": 10, "val_images": 4, "progress": False}
    summary = make_amodal(
        tmp_path / "modal.json", tmp_path / "photos", made, recipe=RECIPE, workers=1, **options
    )
    assert sum(summary["left_out"].values()) == len(broken)
    lines = (made / "left_out.txt").read_text().splitlines()
    assert len(lines) == len(broken)
    for who, what in broken.items():
        assert any(who in line and what in line for line in lines)
    assert summary["train"]["photos"] + summary["val"]["photos"] == 11
    used = json.loads((made / "train.json").read_text())["images"]
    assert not {i["source"]["image_id"] for i in used} & set(range(5))


def test_a_photo_behind_a_link_out_of_the_folder_needs_leave(modal: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in modal.glob("*.jpg"):
        (photos / file.name).symlink_to(file)
    call = modal / "modal.json", photos
    options = {"train_images": 2, "val_images": 0, "recipe": RECIPE, "workers": 1}
    with pytest.raises(ValueError, match="Left out: .* link out of the folder"):
        make_amodal(*call, tmp_path / "own", progress=False, **options)
    summary = make_amodal(*call, tmp_path / "own", progress=False, allow_links=True, **options)
    assert summary["left_out"] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not JSON"),
        ("[1, 2]", "no list of images, no annotations, no categories"),
        ('{"images": [], "annotations": []}', "no list of categories"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list of images"),
    ],
)
def test_a_file_of_another_kind_gets_a_sentence(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "any.json").write_text(text)
    call = ["synthesize", str(tmp_path / "any.json"), "--images", str(tmp_path)]
    assert main([*call, "--out", str(tmp_path / "own")]) == 1
    said = capsys.readouterr().err
    assert "no COCO instances file" in said and message in said and said.count("\n") == 1


def test_a_photo_that_lies_on_its_side_is_read_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (80, 48), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 39, 23), fill="black")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=exif, quality=95)
    for size in (None, (80, 48), (40, 24), (20, 12)):
        image = open_rgb(str(tmp_path / "1.jpg"), size)
        width, height = size or (80, 48)
        assert image.size == (width, height)
        dark = np.asarray(image).mean(axis=2) < 128
        assert dark[: height // 2 - 1, : width // 2 - 1].all() and dark.mean() < 0.3


def outline_contrast(pixels: np.ndarray, mask: np.ndarray) -> float:
    """Mean gradient magnitude across an outline, grey levels per pixel.

    At each pixel of the outline the steepest place within two pixels, since outlines that people
    draw run a little beside the edge.
    """
    grey = ndimage.gaussian_filter(pixels.astype(np.float32).mean(axis=2), 0.5)
    steepest = ndimage.maximum_filter(np.hypot(*np.gradient(grey)), size=5)
    return float(steepest[mask & ~ndimage.binary_erosion(mask)].mean())


def test_pasted_edges_are_as_steep_as_those_in_the_photos(
    real: tuple[Path, dict], real_data: Path
) -> None:
    """Nobody should tell what was pasted by its edge: pasted objects that nothing covers, against
    the whole objects of the photos at the same size."""
    own, pasted = [], []
    root = real_data / "coco_modal88"
    content = read_instances(root / "annotations" / "instances_train2017.json")
    for photo in read_photos(content, root / "train2017")[0]:
        scale = Recipe().image_size / max(photo.height, photo.width)
        size = round(scale * photo.width), round(scale * photo.height)
        for found in photo.objects:
            if found.whole:
                mask = Image.fromarray(mask_util.decode(found.rle) * 255)
                mask = np.asarray(mask.resize(size, Image.Resampling.BOX)) > 127
                own.append(outline_contrast(np.asarray(open_rgb(photo.file_name, size)), mask))
    made, _ = real
    content = json.loads((made / "train.json").read_text())
    photo_of = {i["id"]: i["source"]["image_id"] for i in content["images"]}
    source = {a["id"]: a["source"]["image_id"] for a in content["annotations"] if "source" in a}
    for record in load_annotations(made / "train.json", made / "train").records:
        pixels = np.asarray(Image.open(record["file_name"]))
        for a in record["annotations"]:
            if a["iscrowd"] or source[a["id"]] == photo_of[record["image_id"]]:
                continue
            if a["occlusion_rate"] == 0:
                pasted.append(outline_contrast(pixels, decode_masks(a)["amodal"]))
    assert len(own) > 40 and len(pasted) > 200
    assert 1 / 1.25 < np.mean(pasted) / np.mean(own) < 1.25
