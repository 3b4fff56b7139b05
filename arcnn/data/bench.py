"""Made records for trying and timing the loaders, and the timing of the mapper.

No real KINS record may be passed on, so records in KINS' two schemas are made here: ellipses in the
shape and number of street scenes, with some of the glitches that the real files have.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image
from pycocotools import mask as mask_util

from arcnn.data.annotations import load_annotations, to_json_rle
from arcnn.data.mapper import AmodalDatasetMapper

KINS_CATEGORIES = [
    {"id": k, "name": name}
    for k, name in enumerate(
        ("cyclist", "pedestrian", "rider", "car", "tram", "truck", "van", "misc"), start=1
    )
]
KINS_SIZE = 375, 1242  # H, W


def _ellipse(x: float, y: float, rx: float, ry: float, points: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _below(polygon: np.ndarray, x: float) -> np.ndarray:
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
        seen = polygon if front or objects == 1 else _below(polygon, x - rx)
        amodal, visible = ([p.round(2).ravel().tolist()] for p in (polygon, seen))
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
    """Write a file of made records in the schema of KINS 2019 or 2020; streams to disk."""
    height, width = KINS_SIZE
    with path.open("w") as file:
        info = {"description": f"made records in the schema of KINS {release}; not KINS"}
        file.write('{"info": ' + json.dumps(info) + ', "images": ')
        listed = [
            {"id": k, "file_name": f"{k:06d}.png", "height": height, "width": width}
            for k in range(images)
        ]
        file.write(json.dumps(listed) + ', "categories": ' + json.dumps(KINS_CATEGORIES))
        file.write(', "annotations": [')
        for k in range(images):
            made = made_kins_image(release, k, k * objects + 1, objects)
            file.write((", " if k else "") + json.dumps(made)[1:-1])
        file.write("]}\n")
    return path


def bench_mapper(images: int = 12, repeats: int = 5) -> dict[str, Any]:
    """Time the kit's mapper, three masks per object, against detectron2's own, one mask.

    Both read the same images and augment alike (COCOA-cls' training sizes); detectron2's mapper
    gets the amodal masks as bitmasks, which is what it would train on.

    Returns:
        ``name``, ``ours_s`` and ``peer_s`` (seconds per image, median of the repeats), ``peer``,
        ``ratio`` and ``images_per_second`` of one worker.
    """
    height, width, objects = 480, 640, 8
    with tempfile.TemporaryDirectory() as folder:
        root, random = Path(folder), np.random.default_rng(0)
        listed, annotations = [], []
        for k in range(images):
            coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            picture.save(root / f"{k}.jpg", quality=90)
            listed.append({"id": k, "file_name": f"{k}.jpg", "height": height, "width": width})
            for j in range(objects):
                x, y = random.uniform(100, width - 100), random.uniform(100, height - 100)
                whole = _ellipse(x, y, random.uniform(20, 90), random.uniform(20, 90), 40)
                masks = [
                    to_json_rle(
                        mask_util.merge(mask_util.frPyObjects([p.ravel().tolist()], height, width))
                    )
                    for p in (whole, _below(whole, x))
                ]
                annotations.append(
                    {"id": k * objects + j + 1, "image_id": k, "category_id": 1}
                    | {"segmentation": masks[0], "visible_mask": masks[1]}
                )
        content = {"images": listed, "categories": [{"id": 1, "name": "thing"}]}
        file = root / "made.json"
        file.write_text(json.dumps(content | {"annotations": annotations}))
        records = load_annotations(file, root).records
        sizes = (640, 672, 704, 736, 768, 800)
        augmentations = [T.ResizeShortestEdge(sizes, 1333, "choice"), T.RandomFlip()]
        mappers = {
            "ours": AmodalDatasetMapper(True, augmentations=augmentations),
            "peer": DatasetMapper(
                is_train=True,
                augmentations=augmentations,
                image_format="BGR",
                use_instance_mask=True,
                instance_mask_format="bitmask",
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in mappers}
        for repeat in range(repeats + 1):  # the first is a warm-up
            for name, mapper in mappers.items():
                np.random.seed(repeat)  # both draw the same sizes and flips
                started = time.perf_counter()
                for record in records:
                    mapper(record)
                if repeat:
                    times[name].append((time.perf_counter() - started) / images)
    ours, peer = (statistics.median(times[name]) for name in ("ours", "peer"))
    return {
        "name": "mapper, time per image",
        "ours_s": ours,
        "peer_s": peer,
        "peer": "detectron2.data.DatasetMapper, one mask per object",
        "ratio": ours / peer,
        "images_per_second": 1 / ours,
    }
