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
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.engine import TrainerBase
from detectron2.evaluation import inference_context
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
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
from torch import nn

from arcnn.config import get_config
from arcnn.data import AmodalDatasetMapper, load_annotations, register_dataset, split_records
from arcnn.data.tabletop import make_tabletop
from arcnn.evaluation import TASKS, evaluate
from arcnn.evaluation.evaluator import detections
from arcnn.evaluation.masks import encode_mask_kinds
from arcnn.initial_weights import load_initial_weights
from arcnn.modeling.amodal_head import mask_head_class
from arcnn.training import build_optimizer, build_trainer
from arcnn.weights import Checkpointer

# Those that differ from Mask R-CNN by their mask heads: notebook 13 compares the others.
MODELS = ("arcnn", "arcnn_add", "orcnn")


def compare(
    name: str, peer: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> dict:
    """Run both in turns and take medians, in seconds; both draw the same random numbers."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for n in range(rounds):
        for side, call in (("peer", theirs), ("ours", ours)):
            np.random.seed(n)
            torch.manual_seed(n)
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


def network_sides(
    model: str, folder: Path, images: int, options: Sequence = ()
) -> tuple[TrainerBase, TrainerBase]:
    """A training of a model on tabletop, and one of detectron2's Mask R-CNN on its amodal masks.

    Backbone, proposals and boxes have the published start's weights on both sides, and keep them:
    the learning rate is 0. So the two find the same regions, round after round.
    """
    if not list(folder.iterdir()):
        make_tabletop(folder, train_images=images, val_images=1, workers=1)
    register_dataset("tabletop", folder)
    options = ["SOLVER.IMS_PER_BATCH", images, "SOLVER.BASE_LR", 0.0, *options]
    cfg = get_config("tabletop", model, options=options, device="cpu", output_dir=folder / model)
    mask_head_class(cfg).prepare(cfg, split_records(cfg, "train"))
    np.random.seed(0)  # of the flips
    ours = [AmodalDatasetMapper(cfg)(record) for record in split_records(cfg, "train")]
    theirs = [example | {"instances": amodal_alone(example["instances"])} for example in ours]

    def side(cfg: CfgNode, start: CfgNode, batch: list[dict]) -> TrainerBase:
        network = build_model(cfg).train()
        load_initial_weights(start, Checkpointer(network, cfg.OUTPUT_DIR))
        trainer = build_trainer(cfg, network, build_optimizer(cfg, network))
        trainer.reset_data_loader(lambda: iter(lambda: batch, None))
        trainer.iter = 0
        return trainer

    stock = cfg.clone()
    stock.defrost()
    stock.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    start = get_config("tabletop", "mask_rcnn", options=options, device="cpu")
    return side(cfg, cfg, ours), side(stock, start, theirs)


def amodal_alone(instances: Instances) -> Instances:
    """What detectron2's own mapper gives: boxes, classes, and a bitmask of each object."""
    stock = Instances(instances.image_size)
    stock.gt_boxes, stock.gt_classes = instances.gt_boxes, instances.gt_classes
    stock.gt_masks = BitMasks(instances.gt_masks.tensor)
    return stock


def bench_training_step(model: str, rounds: int) -> dict:
    """A step on four images: forward, losses, backward, optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = network_sides(model, Path(folder), 4)

        def step(trainer: TrainerBase) -> None:
            with EventStorage():
                trainer.run_step()

        name, peer = f"training_step.{model}", "detectron2's Mask R-CNN, amodal mask alone"
        return compare(name, peer, lambda: step(ours), lambda: step(theirs), rounds)


def bench_inference(model: str, rounds: int) -> dict:
    """An image to encoded masks. ``masks_share``: of our time, what drawing and encoding takes."""
    with tempfile.TemporaryDirectory() as folder:
        options = ("SOLVER.AMP.ENABLED", False)  # as the kit infers
        ours, theirs = (s.model for s in network_sides(model, Path(folder), 4, options))
        batch = split_records(get_config("tabletop", model), "train")
        batch = [AmodalDatasetMapper(True, augmentations=[])(record) for record in batch]
    drawing: list[float] = []

    @torch.no_grad()
    def infer(network: nn.Module, encode: Callable[[Instances, int], list]) -> None:
        with inference_context(network):
            for example in batch:
                (output,) = network([example])
                started = time.perf_counter()
                encode(output["instances"], 0)
                if network is ours:
                    drawing.append(time.perf_counter() - started)

    line = compare(
        f"inference.{model}",
        "detectron2's Mask R-CNN and instances_to_coco_json, one mask",
        lambda: infer(ours, detections),
        lambda: infer(theirs, instances_to_coco_json),
        rounds,
    )
    share = statistics.median(drawing) * len(batch) / line["ours_s"]
    speed = {"images_per_s": round(len(batch) / line["ours_s"], 1)}
    return line | speed | {"masks_share": round(share, 3)}


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
    for model in MODELS:
        benches |= {
            f"training_step.{model}": lambda m=model: bench_training_step(m, 5 * options.rounds),
            f"inference.{model}": lambda m=model: bench_inference(m, 5 * options.rounds),
        }
    parser.add_argument("--only", choices=benches, help="one measurement alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # one core: the ratio should not hang on how many there are
    for name, bench in benches.items():
        if options.only in (None, name):
            print(json.dumps(bench()), flush=True)


if __name__ == "__main__":
    main()
