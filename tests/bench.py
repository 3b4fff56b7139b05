"""How fast the kit is, beside what one would use without it: ``python tests/bench.py``.

Prints one JSON object a line: ``{"name", "ours_s", "peer_s", "peer", "ratio", ...}``. Both sides
run in one process on the same input, in turns; the times are medians, the ratio is peer / ours.
The input is drawn by rule: images of KINS' size with 60 detections each, for the mapper photos of
COCO's. Nobody else checks amodal files or makes them: ``check`` and ``synthesize`` have no peer.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.layers import paste_masks_in_image
from made import write_made_kins, write_made_photos
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from arcnn.data import AmodalDatasetMapper, load_annotations
from arcnn.data.pool import default_workers
from arcnn.evaluation import encode_mask_kinds, evaluate, visible_fraction
from arcnn.evaluation.matching import MAX_DETECTIONS
from arcnn.evaluation.protocol import TASKS
from arcnn.names import MASK_KEYS, OCCLUSION_RATE
from arcnn.workshop.pasting import Recipe, make_amodal

HEIGHT, WIDTH = 375, 1242  # a KITTI image
CLASSES = 7
OBJECTS, DETECTIONS = 12, 60  # per image; KINS has about 12 objects
SIDE = 28


# --- the peers ----------------------------------------------------------------------------------
def peer_encode(probs: Sequence[Tensor], boxes: Tensor, height: int, width: int) -> list[list]:
    """detectron2's paste_masks_in_image and pycocotools' encode, a mask kind at a time."""
    encoded = []
    for maps in probs:
        masks = paste_masks_in_image(maps, boxes, (height, width), threshold=0.5)
        stack = np.asfortranarray(masks.cpu().numpy().transpose(1, 2, 0), np.uint8)
        rles = mask_util.encode(stack)
        encoded.append([{"size": r["size"], "counts": r["counts"].decode()} for r in rles])
    return encoded


def peer_evaluate(
    records: Sequence[dict], predictions: Sequence[dict], num_classes: int, task: str
) -> dict[str, float | None]:
    """One of the paper's three tasks by pycocotools alone, percent: the protocol as it is written,
    with the visible fraction in the place of the area for ``occluded``."""
    key = MASK_KEYS["visible" if task == "visible" else "amodal"]
    occluded = task == "occluded"
    truths = [
        {
            "image_id": r["image_id"],
            "category_id": a["category_id"],
            "segmentation": a[key],
            "area": 1 - a["occlusion_rate"] if occluded else 1.0,
            "iscrowd": a["iscrowd"],
        }
        for r in records
        for a in r["annotations"]
    ]
    found = [
        {
            "image_id": p["image_id"],
            "category_id": p["category_id"],
            "segmentation": p[key],
            "area": visible_fraction(p) if occluded else 1.0,
            "score": p["score"],
            "iscrowd": 0,
        }
        for p in predictions
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco_eval = COCOeval(
            _coco(records, truths, num_classes), _coco(records, found, num_classes), "segm"
        )
        coco_eval.params.maxDets = list(MAX_DETECTIONS)
        coco_eval.params.areaRng = [[-np.inf, 1 - OCCLUSION_RATE if occluded else np.inf]]
        coco_eval.params.areaRngLbl = [task]
        coco_eval.evaluate()
        coco_eval.accumulate()
    precision = coco_eval.eval["precision"][..., 0, -1]  # (IoU thresholds, recalls, classes)
    recall = coco_eval.eval["recall"][..., 0, :]  # (IoU thresholds, classes, maxDets)

    def percent(values: np.ndarray) -> float | None:
        values = values[values > -1]  # COCO writes -1 for a class without objects
        return float(100 * values.mean()) if values.size else None

    return {
        "AP": percent(precision),
        "AP50": percent(precision[0]),
        "AP75": percent(precision[5]),
        **{f"AR@{m}": percent(recall[..., k]) for k, m in enumerate(MAX_DETECTIONS)},
    }


def _coco(records: Sequence[dict], annotations: list[dict], num_classes: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": r["image_id"], "height": r["height"], "width": r["width"]} for r in records
        ],
        "categories": [{"id": k} for k in range(num_classes)],
        # COCOeval reads the id 0 as "not matched", so ids start at 1.
        "annotations": [a | {"id": n} for n, a in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


# --- input --------------------------------------------------------------------------------------
def draw_maps(boxes: Tensor, hidden: Tensor) -> list[Tensor]:
    """Ellipses that fill their boxes, hidden from the left up to a share: amodal, visible and
    occlusion maps, float ``(R, M, M)``."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    radius = ((axis[:, None] * 2 - 1) ** 2 + (axis * 2 - 1) ** 2).sqrt()
    amodal = torch.sigmoid(12 * (0.95 - radius)).expand(len(boxes), SIDE, SIDE)
    cut = torch.sigmoid(40 * (axis - hidden[:, None, None])).expand_as(amodal)
    return [amodal.contiguous(), amodal * cut, amodal * (1 - cut)]


def draw_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes of street scenes: 16 to 300 pixels wide, inside the image."""
    size = torch.tensor([WIDTH, HEIGHT])
    side = torch.exp(torch.randn(count, 2, generator=generator) * 0.6 + torch.tensor([4.4, 4.0]))
    side = side.clamp(min=16).minimum(size * 0.8)
    corner = torch.rand(count, 2, generator=generator) * (size - side)
    return torch.cat([corner, corner + side], dim=1)


def draw_image(image_id: int, generator: torch.Generator) -> tuple[dict, list[dict]]:
    """A record of 12 objects, and 60 detections: most of them jittered objects, some false."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    boxes, hidden = draw_boxes(OBJECTS, generator), uniform(OBJECTS) * 0.9 - 0.2
    classes = torch.randint(CLASSES, (OBJECTS,), generator=generator)
    amodal, visible, _ = encode_mask_kinds(draw_maps(boxes, hidden), boxes, HEIGHT, WIDTH)
    visible = [
        mask_util.merge([a, v], intersect=True) for a, v in zip(amodal, visible, strict=True)
    ]
    annotations = [
        {
            "category_id": int(c),
            "segmentation": a,
            "visible_mask": v,
            "occlusion_rate": 1 - float(mask_util.area(v)) / float(mask_util.area(a)),
            "iscrowd": 0,
        }
        for c, a, v in zip(classes, amodal, visible, strict=True)
    ]
    record = {"image_id": image_id, "height": HEIGHT, "width": WIDTH, "annotations": annotations}

    source = torch.arange(DETECTIONS) % (OBJECTS * 2)  # the second half has no object
    base = torch.cat([boxes, draw_boxes(OBJECTS, generator)])[source]
    side = (base[:, 2:] - base[:, :2]).repeat(1, 2)
    base = base + (uniform(DETECTIONS, 4) - 0.5) * 0.25 * side
    hidden = torch.cat([hidden, uniform(OBJECTS) - 0.2])[source]
    kinds = encode_mask_kinds(
        draw_maps(base, hidden + 0.2 * (uniform(DETECTIONS) - 0.5)), base, HEIGHT, WIDTH
    )
    labels = torch.cat([classes, torch.randint(CLASSES, (OBJECTS,), generator=generator)])[source]
    scores = uniform(DETECTIONS)
    predictions = [
        {"image_id": image_id, "category_id": int(labels[d]), "score": float(scores[d])}
        | {key: rles[d] for key, rles in zip(MASK_KEYS.values(), kinds, strict=True)}
        for d in range(DETECTIONS)
    ]
    return record, predictions


def draw_set(images: int, pool: int = 64) -> tuple[list[dict], list[dict]]:
    """Records and predictions of so many images: copies of a pool of different ones, each with
    strings and scores of its own, so that neither memory nor order is spared."""
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_image(k, generator) for k in range(min(pool, images))]
    scores = np.random.default_rng(0).random((images, DETECTIONS)).tolist()
    records, predictions = [], []
    for n in range(images):
        record, found = json.loads(json.dumps(drawn[n % len(drawn)], default=_text))
        records.append(record | {"image_id": n})
        predictions += [
            p | {"image_id": n, "score": s} for p, s in zip(found, scores[n], strict=True)
        ]
    return records, predictions


def _text(counts: bytes) -> str:
    return counts.decode("ascii")


# --- measurements -------------------------------------------------------------------------------
def compare(
    name: str, peer: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> dict:
    """Run both in turns and take medians, in seconds; both draw the same random numbers."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for n in range(rounds):
        for side, call in (("peer", theirs), ("ours", ours)):
            np.random.seed(n)
            started = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - started)
    ours_s, peer_s = (statistics.median(times[side]) for side in ("ours", "peer"))
    return {
        "name": name,
        "ours_s": round(ours_s, 5),
        "peer_s": round(peer_s, 5),
        "peer": peer,
        "ratio": round(peer_s / ours_s, 2),
    }


def bench_encode_masks(rounds: int) -> dict:
    """Three kinds of mask of 60 detections at 1242 x 375."""
    generator = torch.Generator().manual_seed(0)
    boxes = draw_boxes(DETECTIONS, generator)
    maps = draw_maps(boxes, torch.rand(DETECTIONS, generator=generator))
    arguments = maps, boxes, HEIGHT, WIDTH
    if encode_mask_kinds(*arguments) != peer_encode(*arguments):
        raise AssertionError("the two sides encode different masks")
    return compare(
        "encode_masks",
        "detectron2.layers.paste_masks_in_image + pycocotools.mask.encode",
        lambda: encode_mask_kinds(*arguments),
        lambda: peer_encode(*arguments),
        rounds,
    )


def bench_evaluate(images: int, rounds: int) -> dict:
    """The paper's three tasks, with size splits and classes on our side."""
    records, predictions = draw_set(images)
    results = {}

    def ours() -> None:
        results["ours"] = evaluate(records, predictions, CLASSES, tasks=TASKS)

    def theirs() -> None:
        results["peer"] = {
            task: peer_evaluate(records, predictions, CLASSES, task) for task in TASKS
        }

    line = compare("evaluate", "pycocotools, once per protocol", ours, theirs, rounds)
    difference = max(
        abs(value - results["ours"][task][metric])
        for task, numbers in results["peer"].items()
        for metric, value in numbers.items()
    )
    if difference > 1e-9:
        raise AssertionError(f"the two sides differ by {difference}")
    return line | {"images": images, "detections": len(predictions)}


def mapper_sides(
    folder: Path, images: int
) -> tuple[list[dict], AmodalDatasetMapper, DatasetMapper]:
    """Records of made photos, written to ``folder``, the kit's mapper, and detectron2's.

    Both augment as in the training on COCOA-cls; detectron2's maps the amodal masks alone, as
    bitmasks.
    """
    records = load_annotations(write_made_photos(folder, images), folder).records
    sizes = (640, 672, 704, 736, 768, 800)
    augmentations = [T.ResizeShortestEdge(sizes, 1333, "choice"), T.RandomFlip()]
    ours = AmodalDatasetMapper(True, augmentations=augmentations)
    theirs = DatasetMapper(
        True,
        augmentations=augmentations,
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    return records, ours, theirs


def bench_mapper(images: int, rounds: int) -> dict:
    """Photos with three masks per object, against detectron2's mapper with one."""
    with tempfile.TemporaryDirectory() as folder:
        records, ours, theirs = mapper_sides(Path(folder), images)
        line = compare(
            "mapper",
            "detectron2.data.DatasetMapper, amodal mask alone",
            lambda: [ours(record) for record in records],
            lambda: [theirs(record) for record in records],
            rounds,
        )
    return line | {"images": images, "images_per_s": round(images / line["ours_s"], 1)}


def _alone(name: str, seconds: float) -> dict:
    """The line of a measurement that has no peer."""
    return {"name": name, "ours_s": round(seconds, 5), "peer_s": None, "peer": None, "ratio": None}


def bench_check(images: int) -> dict:
    """``python -m arcnn.data check`` of made records in the schema of KINS 2020.

    ``peak_mb`` sums the resident memory of the command's processes, five times a second; what they
    share is counted for each of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = write_made_kins(Path(folder) / "made.json", 2020, images)
        arguments = [sys.executable, "-m", "arcnn.data", "check", str(file)]
        said = Path(folder) / "said.txt"
        with said.open("wb") as out:
            started, peak = time.perf_counter(), 0
            command = psutil.Popen(arguments, stdout=out, stderr=subprocess.STDOUT)
            while command.poll() is None:
                peak = max(peak, _resident(command))
                time.sleep(0.2)
            seconds = time.perf_counter() - started
        if command.returncode:
            raise RuntimeError(f"the check of {images} made images failed: {said.read_text()}")
        megabytes = file.stat().st_size / 1e6
    return _alone("check", seconds) | {
        "images": images,
        "images_per_s": round(images / seconds, 1),
        "file_mb": round(megabytes, 1),
        "peak_mb": round(peak / 1e6),
        "cores": default_workers(),
    }


def _resident(process: psutil.Process) -> int:
    """Resident memory of a process and all that it started, bytes."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # gone in between
            total += one.memory_info().rss
    return total


def bench_synthesize(images: int, modal: Path | None) -> dict:
    """Amodal images with a longest side of 320 pixels, on one core: from opening a photo to the
    written JPEG and its annotations.

    Args:
        modal: folder of a COCO data set, ``annotations/instances_X.json`` and ``X/``; without:
            photos drawn by rule.
    """
    recipe = Recipe(image_size=320)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        if modal is None:
            file, photos = write_made_photos(made, 40), made
        else:
            file = min((modal / "annotations").glob("instances_*.json"))
            photos = modal / file.stem.removeprefix("instances_")
        times = []
        for number in (1, images + 1):  # the first for what is done once: reading and cutting
            started, worked = time.perf_counter(), time.process_time()
            make_amodal(
                file,
                photos,
                made / f"{number}",
                train_images=number,
                val_images=0,
                recipe=recipe,
                workers=1,
                progress=False,
            )
            times.append((time.perf_counter() - started, time.process_time() - worked))
    seconds, processor = np.subtract(times[1], times[0]).tolist()
    return _alone("synthesize", seconds) | {
        "images": images,
        "photos": "drawn by rule" if modal is None else str(modal),
        "images_per_s": round(images / seconds, 1),
        "images_per_processor_s": round(images / processor, 1),
        "cutting_s": round(times[0][0], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python tests/bench.py", description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="for evaluate; KINS has 7517")
    parser.add_argument("--rounds", type=int, default=3, help="of each side of evaluate")
    parser.add_argument("--check-images", type=int, default=1000, help="KINS has about 15000")
    parser.add_argument("--made-images", type=int, default=200, help="for synthesize")
    parser.add_argument("--modal", type=Path, help="COCO folder for synthesize (default: drawn)")
    benches = {
        "encode_masks": lambda: bench_encode_masks(15),
        "evaluate": lambda: bench_evaluate(options.images, options.rounds),
        "mapper": lambda: bench_mapper(16, 5),
        "check": lambda: bench_check(options.check_images),
        "synthesize": lambda: bench_synthesize(options.made_images, options.modal),
    }
    parser.add_argument("--only", choices=benches, help="one measurement alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # one core: the ratio should not hang on how many there are
    for name, bench in benches.items():
        if options.only in (None, name):
            print(json.dumps(bench()), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    line = {"name": "peak_memory", "ours_s": None, "peer_s": None, "peer": None, "ratio": None}
    print(json.dumps(line | {"gib": round(peak * unit / 2**30, 2)}))


if __name__ == "__main__":
    main()
