"""Made records and photos: what the tests of reading and the benchmark of the mapper read.

No real KINS record may be passed on, so records in KINS' two schemas are made here: ellipses in the
shape and number of street scenes, with some of the glitches that the real files have.
"""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_util

from arcnn.data import find_splits
from arcnn.data.masks import to_json_rle
from arcnn.data.tabletop import make_tabletop

KINS_CATEGORIES = [
    {"id": k, "name": name}
    for k, name in enumerate(
        ("cyclist", "pedestrian", "rider", "car", "tram", "truck", "van", "misc"), start=1
    )
]
KINS_SIZE = 375, 1242  # H, W
COCO_SIZE = 480, 640


def _ellipse(x: float, y: float, rx: float, ry: float, points: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _left_of(polygon: np.ndarray, x: float) -> np.ndarray:
    """The part of a polygon left of a vertical line, roughly: its points pushed to the line."""
    return np.stack([np.minimum(polygon[:, 0], x), polygon[:, 1]], axis=1)


def made_kins_image(release: int, image_id: int, first_id: int, objects: int) -> list[dict]:
    """Annotations of one made street scene, in the schema of KINS 2019 or 2020.

    Objects come in pairs, the first in front of the left or right part of the second.
    """
    random = np.random.default_rng([release, image_id])
    height, width = KINS_SIZE
    annotations = []
    for k in range(objects):
        front = k % 2 == 0
        if front:
            x, y = random.uniform(120, width - 120), random.uniform(150, height - 80)
            rx, ry = random.uniform(15, 90), random.uniform(15, 60)
        polygon = _ellipse(x, y, rx, ry, 40) if front else _ellipse(x - rx, y, rx, ry, 40)
        uncovered = polygon if front or objects == 1 else _left_of(polygon, x - rx)
        amodal, visible = ([p.round(2).ravel().tolist()] for p in (polygon, uncovered))
        common = {
            "id": first_id + k,
            "image_id": image_id,
            "category_id": int(random.choice([1, 2, 4, 5, 6, 7, 8])),
            "iscrowd": 0,
        }
        w, h = np.ptp(polygon, axis=0).tolist()
        box = [*polygon.min(axis=0).tolist(), w, h]
        if release == 2019:
            rle = mask_util.merge(mask_util.frPyObjects(visible, height, width))
            fields = {
                "segmentation": amodal,
                "bbox": box,
                "area": w * h,  # the real ones disagree with the masks as well
                "inmodal_seg": to_json_rle(rle),
                "inmodal_bbox": mask_util.toBbox(rle).tolist(),
            }
        else:
            fields = {
                "a_segm": amodal,
                "a_bbox": box,
                "a_area": w * h,
                "i_segm": visible,
                "i_bbox": box,
                "i_area": w * h,
                "oco_id": k // 2,
                "ico_id": k % 2 + 1,
            }
        annotations.append(common | fields)
    return annotations


def write_made_kins(path: Path, release: int, images: int, objects: int = 12) -> Path:
    """Write a file of made records in the schema of KINS 2019 or 2020."""
    height, width = KINS_SIZE
    content = {
        "info": {"description": f"made records in the schema of KINS {release}; not KINS"},
        "images": [
            {"id": k, "file_name": f"{k:06d}.png", "height": height, "width": width}
            for k in range(images)
        ],
        "categories": KINS_CATEGORIES,
        "annotations": [
            annotation
            for k in range(images)
            for annotation in made_kins_image(release, k, k * objects + 1, objects)
        ],
    }
    path.write_text(json.dumps(content) + "\n")
    return path


def write_made_photos(folder: Path, images: int) -> Path:
    """Photos in COCO's usual size with eight ellipses each, and their COCOA-cls file.

    The amodal mask is the full ellipse, which nothing touches; of the visible mask, the right half
    is missing.

    Returns:
        The file, ``folder / "made.json"``; the photos lie beside it.
    """
    random, (height, width) = np.random.default_rng(0), COCO_SIZE
    listed, annotations = [], []
    for k in range(images):
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        listed.append({"id": k, "file_name": f"{k}.jpg", "height": height, "width": width})
        for j in range(8):  # in 4 columns and 2 rows
            x, y = np.array([80 + 160 * (j % 4), 120 + 240 * (j // 4)]) + random.uniform(-10, 10, 2)
            full = _ellipse(x, y, random.uniform(25, 65), random.uniform(25, 100), 40)
            draw.polygon(full.ravel().tolist(), fill=tuple(random.integers(0, 256, 3).tolist()))
            amodal, visible = ([p.ravel().tolist()] for p in (full, _left_of(full, x)))
            annotations.append(
                {"id": k * 8 + j + 1, "image_id": k, "category_id": 1, "iscrowd": 0}
                | {"segmentation": amodal, "visible_mask": visible}
            )
        picture.save(folder / f"{k}.jpg", quality=90)
    content = {"images": listed, "categories": [{"id": 1, "name": "thing"}]}
    file = folder / "made.json"
    file.write_text(json.dumps(content | {"annotations": annotations}))
    return file


PLACES = {
    "train": {
        "own": ("train", "train.json"),
        "cocoa_cls": ("train2014", "COCO_amodal_train2014_with_classes.json"),
        "kins": ("training/image_2", "instances_train.json"),
    },
    "val": {
        "own": ("val", "val.json"),
        "cocoa_cls": ("val2014", "COCO_amodal_val2014_with_classes.json"),
        "kins": ("testing/image_2", "instances_val.json"),
    },
}


CLASSES = {"cocoa_cls": 80, "kins": 7}  # as many as the paper's settings have


def _take_classes(content: dict, count: int) -> None:
    """Give a file so many classes, with "cup" and "cat" the first."""
    names = ["cup", "cat", *(f"class {k}" for k in range(3, count + 1))]
    content["categories"] = [{"id": k + 1, "name": names[k]} for k in range(count)]
    for annotation in content["annotations"]:
        annotation["category_id"] = annotation["category_id"] % count + 1


def data_of_all_kinds(root: Path) -> Path:
    """Data: tabletop, and the same once more as COCOA-cls, as KINS and as data of one's own."""
    make_tabletop(root, train_images=8, val_images=4, image_size=64, workers=1)
    for split, places in PLACES.items():
        file, _ = find_splits("tabletop", root)[split]
        for dataset, (images, name) in places.items():
            (root / dataset / images).parent.mkdir(parents=True, exist_ok=True)
            (root / dataset / images).symlink_to(root / "tabletop" / split)
            content = json.loads(file.read_text())
            if dataset in CLASSES:
                _take_classes(content, CLASSES[dataset])
            text = json.dumps(content)  # Figure 5 of KINS is about cars
            (root / dataset / name).write_text(
                text.replace('"cup"', '"car"') if dataset == "kins" else text
            )
    return root


def stand_ins_for_weights(cache: Path) -> dict[str, str]:
    """Files in the place of the weights that the paper's trainings start from, for what only looks
    whether they are whole, and the variable of the environment that leads to them.

    The zoo's name says how the MD5 of its file begins; a number was found that has it too.
    """
    for name, content in (
        ("ImageNetPretrained/MSRA/R-50.pkl", 0),
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl", 1208310),
    ):
        file = cache / "detectron2" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(content, protocol=2))
    return {"FVCORE_CACHE": str(cache)}
