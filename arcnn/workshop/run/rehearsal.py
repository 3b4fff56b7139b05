"""One process of ``make rehearse``: a few steps of a training and a few images, measured.

``python -m arcnn.workshop.run.rehearsal ORDER`` reads its order, a JSON file, and writes what it
has measured beside it after every part, so that a process that the system ends leaves what it knew.
"""

import contextlib
import functools
import itertools
import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from torch import nn

from arcnn.config import get_config
from arcnn.data import AmodalDatasetMapper, register_dataset, split_name, split_records
from arcnn.data.masks import to_json_rle
from arcnn.evaluation import Evaluation, image_draws, to_results
from arcnn.files import write_json
from arcnn.predict import GivenBoxes
from arcnn.training import Stopped, train
from arcnn.weights import FINAL_WEIGHTS, Checkpointer, load_trained

MEASURED = "measured.json"
STEPS, IMAGES, EVALUATED = 60, 8, 48  # at most: steps, images of inference, and of evaluation
DRAWS, SAMPLES = 500, 20  # drawings of the images that notebook 05 makes, and that are measured
DETECTIONS = 3  # for each true object, which nobody knows before a training; on tabletop it is 1.7


class Measured(dict):
    """What was measured so far, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def note(self, **what: Any) -> None:
        self.update(what)
        write_json(self.file, self)


class Looking(HookBase):
    """Times steps of a training for so many seconds (one is made at least), then a checkpoint and
    the hardest batch, and stops it."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        hardest: list[dict],
        workers: int,
        seconds: float,
        measured: Measured,
    ) -> None:
        self.checkpointer, self.hardest, self.workers = checkpointer, hardest, workers
        self.seconds, self.measured = seconds, measured
        self.steps: list[float] = []

    def before_train(self) -> None:
        began = psutil.Process().create_time()
        self.measured.note(part="training", start_seconds=time.time() - began)

    def before_step(self) -> None:
        self.began = _now()

    def after_step(self) -> None:
        self.steps.append(_now() - self.began)
        made = len(self.steps)
        if made < min(STEPS, self.trainer.max_iter) and sum(self.steps) < self.seconds:
            return
        children = psutil.Process().children()  # the workers
        theirs = sum(child.memory_full_info().uss for child in children)
        # The first ask for memory, and find batches that workers made before the training began.
        self.measured.note(steps=self.steps[min(2 + 2 * self.workers, made // 2) :])
        began = _now()
        self.checkpointer.save("rehearsed")
        self.measured.note(save_seconds=_now() - began)
        self.checkpointer.save_weights(Path(FINAL_WEIGHTS).stem)
        torch.save(self.hardest, self.checkpointer.file("batch"))
        for what in ("rehearsed", "model_final", "batch"):
            self.measured.note(**{f"{what}_bytes": self.checkpointer.file(what).stat().st_size})
        self.measured.note(part="training on the hardest batch")
        self.trainer.reset_data_loader(lambda: itertools.repeat(self.hardest))
        for _ in range(2 if self.steps[-1] < self.seconds / 4 else 1):  # the first is slower
            began = _now()
            self.trainer.run_step()
            self.measured.note(hardest_seconds=_now() - began)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.measured.note(cpu_bytes=own * (1 if sys.platform == "darwin" else 1024) + theirs)
        raise Stopped("Enough was seen.")


def hardest_batch(cfg: CfgNode, records: Sequence[dict]) -> list[dict]:
    """A batch of the images with most objects, at the largest size, with as many objects as RoIs
    are trained as objects at most: in the first steps few proposals meet an object, and the mask
    heads have little to do."""
    largest = cfg.clone()
    largest.defrost()
    largest.INPUT.MIN_SIZE_TRAIN = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
    mapper = AmodalDatasetMapper(largest, is_train=True)
    most = sorted(records, key=lambda record: -len(record["annotations"]))
    count = cfg.SOLVER.IMS_PER_BATCH
    batch = [mapper(record) for record in itertools.islice(itertools.cycle(most[:count]), count)]
    rois = int(cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION)
    for example in batch:
        objects = example["instances"]
        if 0 < len(objects) < rois:
            example["instances"] = objects[torch.arange(rois) % len(objects)]
    return batch


def rehearse(order: dict[str, Any], measured: Measured, place: Path) -> None:
    """A few steps from the real initial weights, then a few images.

    Args:
        order: ``dataset``, ``model``, ``options``, ``data_root`` and ``max_skipped`` of a profile;
            ``seconds``, of the steps; ``images``, to be evaluated on, or 0: all that are there.
    """
    measured.note(part="reading the data")
    register_dataset(order["dataset"], order["data_root"], max_skipped=order["max_skipped"])
    # After a few steps a network finds anything or nothing. Nothing it shall be: masks are measured
    # in given boxes.
    options = [*order["options"], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0]
    cfg = get_config(order["dataset"], order["model"], options=options, output_dir=place / "train")
    records = split_records(cfg, "val")
    measured.note(part="the start of the training", images=order["images"] or len(records))
    hardest = hardest_batch(cfg, split_records(cfg, "train"))
    looking = functools.partial(
        Looking,
        hardest=hardest,
        workers=cfg.DATALOADER.NUM_WORKERS,
        seconds=order["seconds"],
        measured=measured,
    )
    with contextlib.suppress(Stopped):
        train(cfg, watch=looking)
    measured.note(part="inference")
    model = load_trained(place).model
    measured.note(image_seconds=time_images(cfg, model, records, order["seconds"]))
    used = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    measured.note(part="evaluation", gpu_bytes=used, held_bytes=psutil.Process().memory_info().rss)
    measured.note(**measure_evaluation(cfg, records, place))
    measured.note(part="done")


def time_images(
    cfg: CfgNode, model: nn.Module, records: Sequence[dict], limit: float
) -> list[float]:
    """Seconds of inference, image by image, with the masks of :data:`DETECTIONS`."""
    mapper, seconds = AmodalDatasetMapper(cfg, is_train=False), []
    for record in [record for record in records if record["annotations"]][: IMAGES + 1]:
        objects = (record["annotations"] * DETECTIONS)[: cfg.TEST.DETECTIONS_PER_IMAGE]
        began = _now()
        with inference_context(model), torch.no_grad():
            model([mapper(record)])
        times = [_now()]
        for given in (objects[:1], objects):
            GivenBoxes(cfg, record, given).predict(model)
            times.append(_now())
        one, all_of_them = times[1] - times[0], times[2] - times[1]
        seconds.append(times[0] - began + max(all_of_them - one, 0))
        if sum(seconds) > limit:
            break
    return seconds[1:] or seconds


def measure_evaluation(cfg: CfgNode, records: Sequence[dict], place: Path) -> dict[str, float]:
    """What protocol, intervals and predictions.json take, for each image, and what is fixed."""
    metadata = MetadataCatalog.get(split_name(cfg, "val"))
    ids = {i: k for k, i in metadata.thing_dataset_id_to_contiguous_id.items()}

    def evaluate(count: int) -> float:
        some = records[:count]
        found = [p for record in some for p in stand_ins(record)[: cfg.TEST.DETECTIONS_PER_IMAGE]]
        began = time.perf_counter()
        evaluation = Evaluation(some, found, len(metadata.thing_classes))
        evaluation.metrics()
        write_json(place / "predictions.json", to_results(found, ids))
        seconds, began = time.perf_counter() - began, time.perf_counter()
        image_draws(evaluation, samples=SAMPLES)
        return seconds + (time.perf_counter() - began) * DRAWS / SAMPLES

    many = min(EVALUATED, len(records))
    evaluate(1)  # with what is only done once
    fixed, seconds = evaluate(1), evaluate(many)
    fixed = min(fixed, seconds)
    tracemalloc.start()  # which makes it slower
    evaluate(many)
    return {
        "fixed_seconds": fixed,
        "evaluation_seconds": (seconds - fixed) / many,
        "evaluation_bytes": tracemalloc.get_traced_memory()[1] / many,
        "predictions_bytes": (place / "predictions.json").stat().st_size / many,
    }


def stand_ins(record: dict) -> list[dict]:
    """Predictions of an image: its objects, several times. Their visible parts
    stand in for the hidden ones too."""
    kept = {"segmentation": "segmentation", "visible_mask": "visible_mask"}
    kept["occlusion_mask"] = "visible_mask"
    return [
        {key: to_json_rle(annotation[of]) for key, of in kept.items()}
        | {"category_id": annotation["category_id"], "bbox": annotation["bbox"]}
        | {"image_id": record["image_id"], "score": 0.9 / (1 + again)}
        for annotation in record["annotations"]
        for again in range(DETECTIONS)
    ]


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(order: Path) -> None:
    measured = Measured(order.with_name(MEASURED))
    try:
        rehearse(json.loads(order.read_text()), measured, order.parent)
    except Exception as error:
        short = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        short |= "allocate memory" in str(error)  # a CPU's allocator has no exception of its own
        measured.note(problem=f"{error or type(error).__name__}", out_of_memory=short)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
