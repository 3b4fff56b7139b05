"""How fast the kit is, beside what one would use without it: ``python tests/bench.py``.

Prints one JSON object a line: ``{"name", "ours_s", "peer_s", "peer", "ratio", ...}``. Both sides
run in one process on the same input, in turns; the times are medians, the ratio is peer / ours.
The input is drawn by rule (``peers.py``), for the mapper photos of COCO's size (``made.py``).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from made import write_made_photos
from peers import (
    CLASSES,
    DETECTIONS,
    HEIGHT,
    WIDTH,
    draw_boxes,
    draw_maps,
    draw_set,
    peer_encode,
    peer_evaluate,
)

from arcnn.data import AmodalDatasetMapper, load_annotations
from arcnn.evaluation import TASKS, evaluate
from arcnn.evaluation.masks import encode_mask_kinds


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
    """Three kinds of mask of 60 detections at 1242 x 375.

    Raises:
        AssertionError: the two sides encode different masks.
    """
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
    """The paper's three tasks, with size splits and classes on our side.

    Raises:
        AssertionError: a number differs by more than 1e-9.
    """
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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python tests/bench.py", description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="for evaluate; KINS has 7517")
    what = "of each side; encode_masks takes five times as many"
    parser.add_argument("--rounds", type=int, default=3, help=what)
    benches = {
        "encode_masks": lambda: bench_encode_masks(5 * options.rounds),
        "evaluate": lambda: bench_evaluate(options.images, options.rounds),
        "mapper": lambda: bench_mapper(16, 5),
    }
    parser.add_argument("--only", choices=benches, help="one measurement alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # one core: the ratio should not hang on how many there are
    for name, bench in benches.items():
        if options.only in (None, name):
            print(json.dumps(bench()), flush=True)


if __name__ == "__main__":
    main()
