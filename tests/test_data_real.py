"""Every real record at hand, in every format it comes in; and records made in KINS' two schemas.

No real KINS record may be passed on: those of these tests are made (arcnn.data.bench says how).
"""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

import arcnn
from arcnn.data import decode_masks, load_annotations, register_dataset
from arcnn.data.bench import bench_mapper, write_made_kins
from arcnn.data.check import check
from arcnn.data.known import compare_counts


def test_raw_cocoa_and_cocoa_cls_agree_on_the_same_objects(real_data: Path) -> None:
    photos = real_data / "cocoa_cls_val5" / "val2014"
    raw = load_annotations(real_data / "cocoa_val5_raw", photos)
    assert (raw.schema, raw.class_names) == ("cocoa", ["thing", "stuff"])
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
            assert annotation["occlusion_rate"] == pytest.approx(region["occlude_rate"], abs=1e-3)
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
    assert loaded.schema == f"kins_{release}"
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


def test_many_processes_read_the_same(tmp_path: Path) -> None:
    file = write_made_kins(tmp_path / "any.json", 2020, images=70, objects=2)
    assert load_annotations(file, tmp_path, workers=2) == load_annotations(file, tmp_path)


def test_raw_cocoa_and_d2sa_register(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "cocoa").mkdir()
    (tmp_path / "cocoa/COCO_amodal_val2014").symlink_to(real_data / "cocoa_val5_raw")
    (tmp_path / "cocoa/val2014").symlink_to(real_data / "cocoa_cls_val5/val2014")
    assert register_dataset("cocoa", tmp_path) == {"val": "cocoa_val"}
    source = real_data / "cocoa_cls_val5/COCO_amodal_val2014_with_classes.json"
    (tmp_path / "D2S_amodal_validation.json").symlink_to(source)
    assert register_dataset("d2sa", tmp_path) == register_dataset("d2sa", tmp_path)
    assert arcnn.get_config("d2sa", "arcnn").MODEL.ROI_HEADS.NUM_CLASSES == 60


def test_the_real_records_pass_the_check(real_data: Path) -> None:
    folder = real_data / "cocoa_cls_val5"
    report = check(
        folder / "COCO_amodal_val2014_with_classes.json",
        folder / "val2014",
        dataset="cocoa_cls",
        split="val",
        decode=True,
        progress=False,
    )
    assert report.usable and not report.errors and not report.problems
    assert (report.images, report.used, report.not_occluded) == (5, 22, 11)
    assert "published are 1,223" in str(report)


def test_the_misprint_is_named() -> None:
    first, second, note = compare_counts("cocoa_cls", "train", 2276, 6763)
    assert "as published" in first and "as published" in second
    assert "2,476" in note and "misprint" in note
    assert compare_counts("tabletop", "train", 1, 1) == []


def test_the_mapper_benchmark_compares_like_with_like(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        result = bench_mapper(images=1, repeats=1)
    assert set(result) >= {"name", "ours_s", "peer_s", "peer", "ratio"}
