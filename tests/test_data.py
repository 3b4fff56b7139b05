"""Annotation files to internal records, registration, and the mapper."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, read_image
from detectron2.structures import BitMasks, BoxMode
from PIL import Image
from pycocotools import mask as mask_util

import arcnn
from arcnn.data import (
    AmodalDatasetMapper,
    AnnotationError,
    decode_masks,
    fingerprint,
    load_annotations,
    register_dataset,
    registration,
    split_records,
)
from arcnn.data.reading import XYXY_ABS
from arcnn.data.tabletop import make_tabletop
from arcnn.modeling import mask_targets
from arcnn.modeling.shared_masks import SharedMasks, crop_together
from arcnn.workshop.own_data.check import check


def rle(mask: np.ndarray) -> dict:
    encoded = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]  # a made object: 6x6 pixels, of which the left half is visible
LEFT = [2, 2, 5, 2, 5, 8, 2, 8]


def square_masks() -> tuple[np.ndarray, np.ndarray]:
    amodal = np.zeros((10, 12), bool)
    amodal[2:8, 2:8] = True
    visible = amodal.copy()
    visible[:, 5:] = False
    return amodal, visible


def schema(name: str) -> dict:
    """One made annotation of the same object in each of the known schemas."""
    amodal, visible = square_masks()
    return {
        "cocoa_cls": {
            "segmentation": rle(amodal),
            "visible_mask": rle(visible),
            "invisible_mask": rle(amodal & ~visible),
            "occlude_rate": 0.5,
        },
        "cocoa_cls_polygons": {"segmentation": [SQUARE], "visible_mask": [LEFT]},
        "kins_2019": {"segmentation": [SQUARE], "inmodal_seg": rle(visible), "area": 1.0},
        "kins_2020": {"a_segm": [SQUARE], "i_segm": [LEFT], "oco_id": 1, "ico_id": 2},
    }[name] | {"id": 7, "image_id": 3, "category_id": 4, "iscrowd": False}


def write_file(path: Path, annotation: dict) -> Path:
    content = {
        "images": [{"id": 3, "file_name": "000003.png", "height": 10, "width": 12}],
        "categories": [{"id": 4, "name": "car"}, {"id": 1, "name": "cyclist"}],
        "annotations": [annotation],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["cocoa_cls", "cocoa_cls_polygons", "kins_2019", "kins_2020"])
def test_every_schema_gives_the_same_record(name: str, tmp_path: Path) -> None:
    loaded = load_annotations(write_file(tmp_path / "any_name.json", schema(name)), tmp_path)
    kins = name.startswith("kins")  # has its own classes
    ids = [1, 2, 4, 5, 6, 7, 8] if kins else [1, 4]
    assert loaded.category_ids == ids and len(loaded.class_names) == len(ids)
    assert loaded.class_names[ids.index(4)] == "car"
    (record,) = loaded.records
    (annotation,) = record["annotations"]
    amodal, visible = square_masks()
    masks = decode_masks(annotation)
    np.testing.assert_array_equal(masks["amodal"], amodal)
    np.testing.assert_array_equal(masks["visible"], visible)
    np.testing.assert_array_equal(masks["occlusion"], amodal & ~visible)
    assert annotation["bbox"] == [2, 2, 8, 8] and annotation["category_id"] == ids.index(4)
    assert annotation["bbox_mode"] == XYXY_ABS == BoxMode.XYXY_ABS
    assert annotation["occlusion_rate"] == pytest.approx(0.5)
    assert record["file_name"] == str(tmp_path / "000003.png")


def test_a_file_without_visible_masks_is_named(tmp_path: Path) -> None:
    modal = {k: v for k, v in schema("cocoa_cls").items() if k in ("segmentation", "id")}
    with pytest.raises(AnnotationError, match="visible_mask"):
        load_annotations(write_file(tmp_path / "modal.json", modal), tmp_path)
    with pytest.raises(FileNotFoundError):
        load_annotations(tmp_path / "absent.json", tmp_path)


def test_registering_twice_is_harmless_and_another_root_replaces(
    tabletop_root: Path, tmp_path: Path
) -> None:
    assert register_dataset("tabletop", tabletop_root) == {
        "train": "tabletop_train",
        "val": "tabletop_val",
    }
    register_dataset("tabletop", tabletop_root)
    assert len(DatasetCatalog.get("tabletop_train")) == 8
    assert "cat" in MetadataCatalog.get("tabletop_train").thing_classes
    (tmp_path / "tabletop").symlink_to(tabletop_root / "tabletop")
    register_dataset("tabletop", tmp_path)
    assert MetadataCatalog.get("tabletop_train").image_root.startswith(str(tmp_path))
    assert set(fingerprint("tabletop", tmp_path)["used"]) == {"train", "val"}


def test_a_missing_data_set_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"instances_train.json.*data/README.md"):
        register_dataset("kins", tmp_path)
    with pytest.raises(FileNotFoundError, match="01_prepare_data"):
        register_dataset("tabletop", tmp_path)


def test_overfitting_uses_the_one_split_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "COCO_amodal_val2014_with_classes.json"
    write_file(file, schema("cocoa_cls"))
    (tmp_path / "val2014").mkdir()
    Image.new("RGB", (12, 10)).save(tmp_path / "val2014/000003.png")
    for name in ("cocoa_cls_train", "cocoa_cls_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
    register_dataset("cocoa_cls", tmp_path)
    cfg = arcnn.get_config("cocoa_cls", "arcnn", device="cpu")
    with pytest.raises(FileNotFoundError, match="overfit"):
        split_records(cfg, "train")
    options = ["DATASETS.OVERFIT_IMAGES", 1, "MODEL.ROI_HEADS.NUM_CLASSES", 2]
    cfg = arcnn.get_config("cocoa_cls", "arcnn", options=options)
    assert split_records(cfg, "train") == split_records(cfg, "val") != []


def own(root: Path, *names: str) -> Path:
    """A made data set ``own`` of 99 good images and these; every one has the same object."""
    (root / "own/train").mkdir(parents=True)
    names = [f"{k}.png" for k in range(99)] + list(names)
    for name in names:
        if "/" not in name:
            Image.new("RGB", (12, 10), (9, 9, 9)).save(root / "own/train" / name)
    images = [
        {"id": k, "file_name": n, "height": 10, "width": 12} for k, n in enumerate(names, start=1)
    ]
    rows = [schema("cocoa_cls") | {"id": i["id"], "image_id": i["id"]} for i in images]
    content = {"images": images, "categories": [{"id": 4, "name": "car"}], "annotations": rows}
    (root / "own/train.json").write_text(json.dumps(content))
    return root / "own/train"


def test_training_gets_what_the_check_lets_pass(tmp_path: Path) -> None:
    photos = own(tmp_path, "gone.png", "cut.png", "cut.jpg", "large.png", "link.png", "../out.png")
    (photos / "gone.png").unlink()
    for name in ("cut.png", "cut.jpg"):
        (photos / name).write_bytes((photos / name).read_bytes()[:-30])
    Image.new("RGB", (13, 10)).save(photos / "large.png")
    (photos / "link.png").unlink()
    Image.new("RGB", (12, 10)).save(tmp_path / "elsewhere.png")
    (photos / "link.png").symlink_to(tmp_path / "elsewhere.png")
    report = check(tmp_path / "own/train.json", photos)
    kinds = ["missing image", "unreadable image", "unreadable image", "image of another size",
             "link out of the folder", "image path out of the folder"]  # fmt: skip
    found = [(p.image_id, p.kind) for p in report.problems]
    assert found == list(enumerate(kinds, start=100))
    assert (report.used, report.skipped_objects, report.objects) == (99, 6, 105)
    beside = sorted(tmp_path.rglob("*"))
    with pytest.raises(AnnotationError, match="6 of 105 objects.*image 100: missing image"):
        register_dataset("own", tmp_path)
    register_dataset("own", tmp_path, max_skipped=0.06)
    assert len(DatasetCatalog.get("own_train")) == 99
    assert len(load_annotations(tmp_path / "own/train.json", photos).records) == 104
    assert sorted(tmp_path.rglob("*")) == beside  # nothing is written there


@pytest.mark.parametrize("empty", [False, True])
def test_no_images_at_all_is_one_sentence(empty: bool, tmp_path: Path) -> None:
    photos = own(tmp_path)
    for file in photos.iterdir():
        file.unlink()
    if not empty:
        photos.rmdir()
    with pytest.raises(FileNotFoundError, match="folder of the images.*data/README.md"):
        register_dataset("own", tmp_path)
    report = check(tmp_path / "own/train.json", photos)
    (problem,) = report.problems
    assert (problem.kind, problem.action) == ("no images", "error")
    assert report.used == 99 and not report.usable  # the masks were looked at


def test_an_image_that_breaks_off_inside_is_named_with_the_cure(tmp_path: Path) -> None:
    photos = own(tmp_path, "broken.png")
    data = (photos / "broken.png").read_bytes()
    place = data.index(b"IDAT") + 8
    (photos / "broken.png").write_bytes(data[:place] + bytes(8) + data[place + 8 :])
    register_dataset("own", tmp_path)
    record = DatasetCatalog.get("own_train")[-1]
    with pytest.raises(OSError, match=r"broken\.png cannot be read .*--decode"):
        AmodalDatasetMapper(True, augmentations=[])(record)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_are_read_as_detectron2_reads_them(suffix: str, turned: int, tmp_path: Path) -> None:
    photos = own(tmp_path, f"a.{suffix}")
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = turned
    size = (10, 12, 3) if turned < 5 else (12, 10, 3)
    picture = Image.fromarray(random.integers(0, 256, size, np.uint8))
    picture.save(photos / f"a.{suffix}", exif=exif)
    register_dataset("own", tmp_path)
    record = DatasetCatalog.get("own_train")[-1]
    ours = AmodalDatasetMapper(False, augmentations=[])(record)["image"].numpy()
    theirs = read_image(record["file_name"], format="BGR")
    np.testing.assert_array_equal(ours, theirs.transpose(2, 0, 1))
    assert record["file_name"].endswith(f"a.{suffix}")


def test_every_real_cocoa_cls_record_loads(real_data: Path) -> None:
    count = 0
    for folder in ("cocoa_cls_val5", "cocoa_cls_val100_records"):
        file = real_data / folder / "COCO_amodal_val2014_with_classes.json"
        raw = {a["id"]: a for a in json.loads(file.read_text())["annotations"]}
        loaded = load_annotations(file, real_data / folder / "val2014")
        assert not loaded.problems
        for record in loaded.records:
            for annotation in record["annotations"]:
                masks, source = decode_masks(annotation), raw[annotation["id"]]
                assert not (masks["visible"] & ~masks["amodal"]).any()
                assert masks["amodal"].sum() == source["area"]
                rate = masks["occlusion"].sum() / masks["amodal"].sum()
                assert rate == pytest.approx(source["occlude_rate"], abs=1e-8)  # its rounding
                assert annotation["occlusion_rate"] == source["occlude_rate"]
                if "invisible_mask" in source:
                    hidden = mask_util.decode(source["invisible_mask"]).astype(bool)
                    np.testing.assert_array_equal(masks["occlusion"], hidden)
                count += 1
    assert count == 22 + 182


def test_real_photos_lie_where_the_loader_says(real_data: Path) -> None:
    names = register_dataset("cocoa_cls", real_data / "cocoa_cls_val5")
    assert names == {"val": "cocoa_cls_val"}
    for record in DatasetCatalog.get("cocoa_cls_val"):
        with Image.open(record["file_name"]) as image:
            assert image.size == (record["width"], record["height"])


@pytest.fixture
def square_record(tmp_path: Path) -> dict:
    Image.new("RGB", (12, 10)).save(tmp_path / "000003.png")
    file = write_file(tmp_path / "square.json", schema("cocoa_cls"))
    return load_annotations(file, tmp_path).records[0]


def test_a_flip_moves_all_masks_alike(square_record: dict) -> None:
    mapper = AmodalDatasetMapper(True, augmentations=[T.RandomFlip(prob=1.0)])
    instances = mapper(square_record)["instances"]
    amodal, visible = square_masks()
    np.testing.assert_array_equal(instances.gt_masks.tensor[0].numpy(), amodal[:, ::-1])
    np.testing.assert_array_equal(instances.gt_visible_masks.tensor[0].numpy(), visible[:, ::-1])
    assert instances.gt_boxes.tensor.tolist() == [[4, 2, 10, 8]]


@pytest.mark.parametrize("size", [(5, 6), (17, 23), (40, 48)])
def test_resizing_keeps_the_pieces_together(square_record: dict, size: tuple[int, int]) -> None:
    mapper = AmodalDatasetMapper(True, augmentations=[T.Resize(size)])
    example = mapper(square_record)
    instances = example["instances"]
    assert example["image"].shape == (3, *size)
    assert not (instances.gt_visible_masks.tensor & ~instances.gt_masks.tensor).any()
    instances.proposal_boxes = instances.gt_boxes
    targets = mask_targets([instances], side=28)
    assert (targets.visible | targets.occlusion).equal(targets.amodal)
    assert not (targets.visible & targets.occlusion).any()


def test_masks_that_proposals_share_are_the_stock_ones_uncopied() -> None:
    generator = torch.Generator().manual_seed(0)
    stock = BitMasks(torch.rand(4, 30, 40, generator=generator) > 0.6)
    stock.tensor[2] = False
    shared = SharedMasks(stock.tensor)
    for item in (
        torch.tensor([3, 0, 0, 2, 1, 3]),
        torch.tensor([True, False, True, True, True, True]),
        slice(1, 4),
        2,
    ):
        stock, shared = stock[item], shared[item]
        boxes = 30 * torch.rand(len(stock), 4, generator=generator)
        boxes[:, 2:] += boxes[:, :2]
        assert len(shared) == len(stock) and shared.tensor.equal(stock.tensor)
        assert shared.nonempty().equal(stock.nonempty())
        crops = stock.crop_and_resize(boxes, 14)
        assert shared.crop_and_resize(boxes, 14).equal(crops)
        turned = SharedMasks(~shared.objects, shared.index)
        other = BitMasks(~stock.tensor).crop_and_resize(boxes, 14)
        assert crop_together([turned, shared], boxes, 14).equal(torch.stack([other, crops]))
        assert shared.get_bounding_boxes().tensor.equal(stock.get_bounding_boxes().tensor)
    assert shared.objects.shape[0] == 4  # after all that, no more masks than objects
    moved = shared.to("cpu")
    assert moved.objects.data_ptr() == shared.objects.data_ptr() and len(moved) == len(shared)


def test_sampling_proposals_copies_no_mask(square_record: dict) -> None:
    instances = AmodalDatasetMapper(True, augmentations=[])(square_record)["instances"]
    sampled = instances[torch.zeros(512, dtype=torch.int64)]
    assert len(sampled.gt_masks) == len(sampled.gt_visible_masks) == 512
    for before, after in (
        (instances.gt_masks, sampled.gt_masks),
        (instances.gt_visible_masks, sampled.gt_visible_masks),
    ):
        assert after.objects.data_ptr() == before.objects.data_ptr()


def test_an_object_lost_by_resizing_is_left_out(square_record: dict) -> None:
    mapper = AmodalDatasetMapper(True, augmentations=[T.Resize((1, 1))])
    instances = mapper(square_record)["instances"]
    assert len(instances) == len(instances.gt_visible_masks) <= 1
    square_record["annotations"][0]["iscrowd"] = 1
    assert len(mapper(square_record)["instances"]) == 0


def test_the_record_stays_as_it_was(square_record: dict) -> None:
    before = json.dumps(square_record, default=repr)
    AmodalDatasetMapper(True, augmentations=[T.RandomFlip()])(square_record)
    assert json.dumps(square_record, default=repr) == before


def test_an_image_of_another_size_is_refused(square_record: dict, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "000003.png")
    with pytest.raises(SizeMismatchError):
        AmodalDatasetMapper(False, augmentations=[])(square_record)


def test_a_plain_script_stays_one_process(tmp_path):
    """It has no guard against being imported again by new processes."""
    script = tmp_path / "script.py"
    script.write_text("from arcnn.data.pool import default_workers\nprint(default_workers())\n")

    def answer(*command: str) -> int:
        run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        return int(run.stdout)

    cores = answer("-c", script.read_text())
    assert answer(str(script)) == 1 <= cores


def test_an_image_that_is_left_out_changes_the_fingerprint_of_what_is_used(tmp_path: Path) -> None:
    photos = own(tmp_path)

    def taken() -> dict:
        register_dataset("own", tmp_path, max_skipped=1.0)
        return fingerprint("own", tmp_path)

    before, again = taken(), taken()
    assert before == again
    (photos / "98.png").unlink()
    after = taken()
    assert after["sha256"] == before["sha256"]
    assert (after["used"]["train"]["images"], before["used"]["train"]["images"]) == (98, 99)
    assert after["used"]["train"]["used"] != before["used"]["train"]["used"]
    file = tmp_path / "own/train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["visible_mask"] = content["annotations"][0]["segmentation"]
    file.write_text(json.dumps(content))
    assert taken()["used"]["train"]["used"] != after["used"]["train"]["used"]


def test_tabletop_is_drawn_where_it_is_missing_only_if_asked(tmp_path, monkeypatch):
    def draw(root):
        return make_tabletop(root, train_images=2, val_images=1, workers=1)

    monkeypatch.setattr(registration, "make_tabletop", draw)
    with pytest.raises(FileNotFoundError, match="01_prepare_data draws it"):
        register_dataset("tabletop", tmp_path)
    assert register_dataset("tabletop", tmp_path, draw=True) == {
        "train": "tabletop_train",
        "val": "tabletop_val",
    }
    with pytest.raises(FileNotFoundError, match="data/README.md"):
        register_dataset("kins", tmp_path, draw=True)
