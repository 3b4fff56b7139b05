"""Every real record at hand, in every format it comes in; and records made in KINS' two schemas.

No real KINS record may be passed on: those of these tests are made (tests/made.py says how).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from made import write_made_kins
from PIL import Image
from pycocotools import mask as mask_util

import arcnn
from arcnn.data import (
    AmodalDatasetMapper,
    decode_masks,
    load_annotations,
    register_dataset,
    split_records,
)
from arcnn.data.index import index_file
from arcnn.data.masks import encode, to_json_rle
from arcnn.data.reading import ImageFolder, read_images
from arcnn.workshop.own_data.check import check, compare_counts
from arcnn.workshop.own_data.cutouts import read_instances, read_photos


def test_raw_cocoa_and_cocoa_cls_agree_on_the_same_objects(real_data: Path) -> None:
    photos = real_data / "cocoa_cls_val5" / "val2014"
    raw = load_annotations(real_data / "cocoa_val5_raw", photos)
    assert raw.class_names == ["thing", "stuff"]
    assert len(raw.records) == 5 and sum(len(r["annotations"]) for r in raw.records) == 48
    assert not raw.problems
    masks = {
        (r["image_id"], mask_util.area(a["segmentation"]), a["segmentation"]["counts"])
        for r in raw.records
        for a in r["annotations"]
    }
    named = load_annotations(photos.parent / "COCO_amodal_val2014_with_classes.json", photos)
    for record in named.records:
        for annotation in record["annotations"]:
            rle = mask_util.encode(np.asfortranarray(mask_util.decode(annotation["segmentation"])))
            key = (record["image_id"], mask_util.area(rle), rle["counts"])
            assert key in masks


def test_every_real_region_fits_together_and_names_its_occluders(real_data: Path) -> None:
    photos = real_data / "cocoa_cls_val5" / "val2014"
    for file in sorted((real_data / "cocoa_val5_raw").glob("*.json")):
        entry = json.loads(file.read_text())
        (record,) = load_annotations(file, photos).records
        place = {a["id"]: k for k, a in enumerate(record["annotations"])}
        amodal = [decode_masks(a)["amodal"] for a in record["annotations"]]
        for annotation, region in zip(record["annotations"], entry["regions"], strict=True):
            hidden = decode_masks(annotation)["occlusion"]
            if "invisible_mask" in region:
                file_says = mask_util.decode(region["invisible_mask"]).astype(bool)
                np.testing.assert_array_equal(hidden, file_says)
            assert annotation["occlusion_rate"] == region["occlude_rate"]
            pixels = decode_masks(annotation)["amodal"].sum()
            assert pixels == region["area"]
            rate = hidden.sum() / pixels
            assert rate == pytest.approx(region["occlude_rate"], abs=1e-8)  # the file's rounding
            # Exactly the objects named lie over it: they hide all of it that is hidden.
            fronts = [amodal[place[k]] for k in annotation["occluders"]]
            covered = np.logical_or.reduce(fronts) if fronts else np.zeros_like(hidden)
            np.testing.assert_array_equal(covered & amodal[place[annotation["id"]]], hidden)


def test_depth_constraints_of_a_combined_file_name_the_occluders(tmp_path: Path) -> None:
    square = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
    regions = [{"segmentation": square, "name": n, "isStuff": 0, "order": k + 1} for k, n in
               enumerate("abc")]  # fmt: skip
    content = {
        "images": [{"id": 3, "file_name": "3.jpg", "height": 10, "width": 12}],
        "annotations": [
            {"id": 5, "image_id": 3, "regions": regions, "depth_constraint": "1-3,2-3"}
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    (record,) = load_annotations(tmp_path / "all.json", tmp_path).records
    assert [a["occluders"] for a in record["annotations"]] == [[], [], [5001, 5002]]


@pytest.mark.parametrize("release", [2019, 2020])
def test_made_kins_records_load_with_seven_classes(release: int, tmp_path: Path) -> None:
    file = write_made_kins(tmp_path / "any.json", release, images=3, objects=6)
    loaded = load_annotations(file, tmp_path)
    assert len(loaded.class_names) == 7 and "rider" not in loaded.class_names
    for record in loaded.records:
        for k, annotation in enumerate(record["annotations"]):
            masks = decode_masks(annotation)
            assert not (masks["visible"] & ~masks["amodal"]).any()
            occluded = bool(masks["occlusion"].sum() > 50)
            assert occluded == (k % 2 == 1)
            # Only the newer release says who is in front.
            expected = [annotation["id"] - 1] if occluded else []
            assert annotation.get("occluders", "not said") == (
                expected if release == 2020 else "not said"
            )


NAMES = ("cyclist", "pedestrian", "rider", "car", "tram", "truck", "van", "misc")


@pytest.mark.parametrize("release", [2019, 2020])
@pytest.mark.parametrize("listed", [8, 7, 0])
def test_kins_has_seven_classes_whichever_list_its_file_has(
    listed: int, release: int, tmp_path: Path
) -> None:
    file = write_made_kins(tmp_path / "any.json", release, images=1, objects=2)
    content = json.loads(file.read_text())
    names = [{"id": k, "name": n} for k, n in enumerate(NAMES, start=1)]
    content["categories"] = [n for n in names if listed == 8 or n["id"] != 3][:listed]
    if not listed:
        del content["categories"]
    first, second = content["annotations"]
    first["category_id"], second["category_id"] = 8, 3
    file.write_text(json.dumps(content))
    loaded = load_annotations(file, tmp_path, max_skipped=1)
    assert loaded.class_names == [n for n in NAMES if n != "rider"]
    assert loaded.category_ids == [1, 2, 4, 5, 6, 7, 8]
    assert loaded.records[0]["annotations"][0]["category_id"] == 6
    (problem,) = (p for p in loaded.problems if p.action == "skipped")
    assert (problem.kind, problem.detail) == ("unknown category id", "3")


@pytest.mark.parametrize(("release", "mask"), [(2019, "inmodal_seg"), (2020, "i_segm")])
def test_kins_objects_without_a_visible_mask_are_hidden(
    release: int, mask: str, tmp_path: Path
) -> None:
    file = write_made_kins(tmp_path / "any.json", release, images=1, objects=4)
    content = json.loads(file.read_text())
    first, second, *_ = content["annotations"]
    first[mask] = None
    del second[mask]
    file.write_text(json.dumps(content))
    report = check(file)
    assert report.used == 4 and report.counts == {"repaired": {"empty visible mask": 2}}


@pytest.mark.parametrize("release", [2019, 2020])
def test_made_kins_records_on_a_real_street_scene(
    release: int, real_data: Path, tmp_path: Path
) -> None:
    """The photo is KITTI's, the records are made; through the check, registration and mapper."""
    (tmp_path / "kins/training/image_2").mkdir(parents=True)
    photo = tmp_path / "kins/training/image_2/000000.png"
    photo.write_bytes((real_data / "kitti/000008.png").read_bytes())
    name = {2019: "instances_train.json", 2020: "update_train_2020.json"}[release]
    file = write_made_kins(tmp_path / "kins" / name, release, images=1)
    report = check(file, photo.parent, decode=True)
    assert report.usable and not report.errors and report.used == 12
    assert register_dataset("kins", tmp_path) == {"train": "kins_train"}
    cfg = arcnn.get_config("kins", "arcnn", device="cpu")
    example = AmodalDatasetMapper(cfg, True)(split_records(cfg, "train")[0])
    assert example["image"].shape == (3, 800, 2650)
    instances = example["instances"]
    assert len(instances) == 12 and instances.gt_classes.max() < 7
    hidden = instances.gt_masks.tensor & ~instances.gt_visible_masks.tensor
    assert hidden.any()
    assert not (instances.gt_visible_masks.tensor & ~instances.gt_masks.tensor).any()


def test_every_real_modal_record_is_read(real_data: Path) -> None:
    folder = real_data / "coco_modal88"
    content = read_instances(folder / "annotations/instances_train2017.json")
    photos, problems = read_photos(content, folder / "train2017")
    assert not problems and len(photos) == 88 and all(Path(p.file_name).is_file() for p in photos)
    areas = {o.source["annotation_id"]: mask_util.area(o.rle) for p in photos for o in p.objects}
    assert areas.keys() == {a["id"] for a in content["annotations"]} and len(areas) == 690
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            continue
        # COCO's areas are those of the polygons, before they became pixels.
        tolerance = max(20, 0.05 * annotation["area"])
        assert areas[annotation["id"]] == pytest.approx(annotation["area"], abs=tolerance)


def test_made_records_in_the_format_of_d2sa(tmp_path: Path) -> None:
    """No real D2SA record is at hand: these are made, with the fields and names of its files."""
    (tmp_path / "d2sa/images").mkdir(parents=True)
    Image.new("RGB", (12, 10)).save(tmp_path / "d2sa/images/1.jpg")
    visible = np.zeros((10, 12), bool)
    visible[2:8, 2:5] = True
    masks = {"segmentation": visible | visible[:, ::-1], "visible_mask": visible}
    row = {k: to_json_rle(encode(mask[None])[0]) for k, mask in masks.items()}
    row |= {"id": 1, "image_id": 1, "category_id": 60, "iscrowd": 0, "occlude_rate": 0.5}
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 10, "width": 12}],
        "categories": [{"id": k, "name": f"article {k}"} for k in range(1, 61)],
        "annotations": [row],
    }
    for name in ("validation", "augmented"):
        (tmp_path / f"d2sa/D2S_amodal_{name}.json").write_text(json.dumps(content))
    assert register_dataset("d2sa", tmp_path) == {"train": "d2sa_train", "val": "d2sa_val"}
    cfg = arcnn.get_config("d2sa", "arcnn", device="cpu")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 60
    (record,) = split_records(cfg, "train")
    (annotation,) = record["annotations"]
    assert annotation["category_id"] == 59 and decode_masks(annotation)["occlusion"].sum() == 18


def test_many_processes_read_the_same(tmp_path: Path) -> None:
    file = write_made_kins(tmp_path / "any.json", 2020, images=70, objects=2)
    index, folder = index_file(file), ImageFolder(str(tmp_path), look=False)
    assert list(read_images(index, folder, workers=2)) == list(read_images(index, folder))


def test_raw_cocoa_registers(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "cocoa").mkdir()
    (tmp_path / "cocoa/COCO_amodal_val2014").symlink_to(real_data / "cocoa_val5_raw")
    (tmp_path / "cocoa/val2014").symlink_to(real_data / "cocoa_cls_val5/val2014")
    assert register_dataset("cocoa", tmp_path) == {"val": "cocoa_val"}


def test_the_real_records_pass_the_check(real_data: Path) -> None:
    folder = real_data / "cocoa_cls_val5"
    report = check(
        folder / "COCO_amodal_val2014_with_classes.json",
        folder / "val2014",
        dataset="cocoa_cls",
        split="val",
        decode=True,
    )
    assert report.usable and not report.errors and not report.problems
    assert (report.images, report.used, report.not_occluded) == (5, 22, 11)
    assert "published are 1,223" in str(report)


def test_the_misprint_is_named() -> None:
    first, second, note = compare_counts("cocoa_cls", "train", 2276, 6763)
    assert "as published" in first and "as published" in second
    assert "2,476" in note and "misprint" in note
    assert compare_counts("tabletop", "train", 1, 1) == []
