"""One process of ``make rehearse``: a few steps of a training, or a few evaluations, measured.

``python -m arcnn.workshop.rehearsal ORDER`` reads its order, a JSON file, and writes what it has
measured beside it after every part, so that one that the system ends leaves what it knew. Each data
set and model has a process of its own, so that its peak memory is its own.
"""

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from torch import nn

from arcnn.config import get_config
from arcnn.data import (
    AmodalDatasetMapper,
    decode_masks,
    register_dataset,
    split_name,
    split_records,
)
from arcnn.data.masks import encode
from arcnn.evaluation import Evaluation, image_draws, to_results
from arcnn.evaluation.evaluator import detections
from arcnn.files import write_json
from arcnn.names import MASK_KEYS
from arcnn.predict import GivenBoxes
from arcnn.training import Diverged, Stopped, precision, train
from arcnn.weights import FINAL_WEIGHTS, Checkpointer, load_trained
from arcnn.workshop.estimate import DETECTIONS

STEPS, IMAGES = 60, 8  # at most
WARM_UP = 2  # steps that are not counted: memory is still being asked for
SAMPLES, DRAWS = 10, 500  # drawings of the images: measured here, made by notebook 05
MEASURED = "measured.json"


class Measured(dict):
    """What was measured so far, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def note(self, **what: Any) -> None:
        """Add something to it."""
        self.update(what)
        write_json(self.file, self)


class Looking(HookBase):
    """Times the steps of a training, then a step on the hardest batch and a checkpoint, and stops.

    Args:
        checkpointer: of the training.
        hardest: a batch.
        limit: seconds, of the steps in all; at least one is made.
        measured: is told.
    """

    def __init__(
        self, checkpointer: Checkpointer, hardest: list[dict], limit: float, measured: Measured
    ) -> None:
        self.checkpointer, self.hardest = checkpointer, hardest
        self.limit, self.measured = limit, measured
        self.steps: list[float] = []
        self.at_work = 0.0  # processor time of them

    def before_train(self) -> None:
        self.measured.note(part="training", start_seconds=seconds_since(self.measured["began"]))

    def before_step(self) -> None:
        self.began, self.worked = _now(), time.process_time()

    def after_step(self) -> None:
        self.steps.append(_now() - self.began)
        self.at_work += time.process_time() - self.worked
        done = len(self.steps)
        if done < min(STEPS, self.trainer.max_iter) and sum(self.steps) < self.limit:
            return
        ahead = WARM_UP + 2 * len(multiprocessing.active_children())  # fetched before the first
        training = {"steps": self.steps[min(ahead, max(done // 3, min(done - 1, 1))) :]}
        training |= {"first": self.steps[0], "workers_bytes": _workers_bytes()}
        # Less than one for each thread: something else was at work, or it waited for images.
        training["cores_used"] = self.at_work / sum(self.steps)
        training |= {"batch_bytes": batch_bytes(self.hardest), "batch": len(self.hardest)}
        training |= self._save() | _peaks()
        training["cut_short"] = done < min(STEPS, self.trainer.max_iter)
        self.measured.note(part="training on the hardest batch", training=training)
        if self.steps[-1] < self.limit:
            self.trainer.reset_data_loader(lambda: itertools.repeat(self.hardest))
            began = _now()
            self.trainer.run_step()
            if _now() - began < self.limit / 10:  # once more, without what is only done once
                began = _now()
                self.trainer.run_step()
            training |= {"hardest_seconds": _now() - began} | _peaks()
        self.measured.note(training=training)
        raise Stopped("Enough was seen.")

    def _save(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.checkpointer.save("rehearsed")
        seconds = time.perf_counter() - began
        self.checkpointer.save_weights(Path(FINAL_WEIGHTS).stem)
        files = (self.checkpointer.file("rehearsed"), self.checkpointer.file("model_final"))
        checkpoint, weights = (file.stat().st_size for file in files)
        files[0].unlink()
        return {
            "save_seconds": seconds,
            "checkpoint_bytes": checkpoint,
            "weights_bytes": weights,
        }


def hardest_batch(cfg: CfgNode, records: Sequence[dict]) -> list[dict]:
    """A batch of the images with most pixels of masks, at the largest size, and with as many
    objects as RoIs are trained as objects at most: what a later step may meet.

    In the first steps few proposals meet an object, and the mask heads have little to do.
    """
    largest = cfg.clone()
    largest.defrost()
    largest.INPUT.MIN_SIZE_TRAIN = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
    mapper = AmodalDatasetMapper(largest, is_train=True)

    def pixels(record: dict) -> float:
        sides = sorted((record["height"], record["width"]))
        short, long = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
        scale = min(short / sides[0], long / sides[1])
        return sides[0] * sides[1] * scale**2 * len(record["annotations"])

    batch = [
        mapper(record)
        for record in sorted(records, key=pixels, reverse=True)[: cfg.SOLVER.IMS_PER_BATCH]
    ]
    batch = list(itertools.islice(itertools.cycle(batch), cfg.SOLVER.IMS_PER_BATCH))
    heads = cfg.MODEL.ROI_HEADS
    rois = int(heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION)
    for example in batch:
        objects = example["instances"]
        if 0 < len(objects) < rois:
            example["instances"] = objects[torch.arange(rois) % len(objects)]
    return batch


def batch_bytes(batch: Sequence[dict]) -> int:
    """Bytes of the images and masks of a batch."""
    found = [example["image"] for example in batch]
    for example in batch:
        for value in example["instances"].get_fields().values():
            found.append(getattr(value, "objects", value))  # masks, each object's once
    return sum(t.nbytes for t in found if isinstance(t, torch.Tensor))


def rehearse_training(order: dict[str, Any], measured: Measured, place: Path) -> None:
    """A few steps from the real initial weights, and a few images with what came of them."""
    cfg = get_config(
        order["dataset"], order["model"], options=order["options"], output_dir=place / "train"
    )
    _register(order, measured)
    records = split_records(cfg, "train")
    hardest = hardest_batch(cfg, records)
    measured.note(
        part="the start of the training",
        began=time.time(),
        precision=str(precision(cfg)).removeprefix("torch."),
    )
    looking = functools.partial(Looking, hardest=hardest, limit=order["seconds"], measured=measured)
    try:
        train(cfg, watch=looking)
    except Stopped:
        pass
    except Diverged as error:
        measured.note(problem=str(error))
        if "training" not in measured:
            return
    del looking, hardest, records
    torch.cuda.empty_cache()
    measured.note(part="inference")
    cfg, model = load_trained(place)
    measured.note(inference=_inference(cfg, model, order["seconds"] / 2))


def _inference(cfg: CfgNode, model: nn.Module, limit: float) -> dict[str, Any]:
    """Seconds of each image without masks' share, which follows from how many are drawn.

    A network of a few steps finds next to nothing. So its masks are measured in given boxes.
    """
    _forget_peaks()
    records = [record for record in split_records(cfg, "val") if record["annotations"]]
    mapper, seconds, began = AmodalDatasetMapper(cfg, is_train=False), [], _now()
    for record in records[: IMAGES + 1]:
        started = _now()
        example = mapper(record)
        with inference_context(model), torch.no_grad():
            detections(model([example])[0]["instances"], record["image_id"])
        seconds.append(_now() - started)
        if _now() - began > limit:
            break
    of_masks = []
    many = cfg.TEST.DETECTIONS_PER_IMAGE
    for record in records[: max(1, min(IMAGES, len(seconds)) // 2)]:
        objects = record["annotations"]
        few, full = (
            GivenBoxes(cfg, record, list(itertools.islice(itertools.cycle(objects), count)))
            for count in (1, many)
        )
        times = []
        for given in (few, full):
            started = _now()
            given.predict(model)
            times.append(_now() - started)
        of_masks.append(max(times[1] - times[0], 0) / max(many - 1, 1))
    return {
        "images": seconds[1:] or seconds,
        "seconds_per_detection": sum(of_masks) / len(of_masks),
        **_peaks(),
    }


def rehearse_evaluation(order: dict[str, Any], measured: Measured, place: Path) -> None:
    """Protocol, intervals and predictions.json, on detections that stand in for a model's: each
    object of the test split several times. More and more images, until the time is up; the growth
    between the last two tells what an image more takes."""
    cfg = get_config(order["dataset"], order["model"], options=order["options"])
    _register(order, measured)
    records = split_records(cfg, "val")
    metadata = MetadataCatalog.get(split_name(cfg, "val"))
    ids = {i: k for k, i in metadata.thing_dataset_id_to_contiguous_id.items()}
    objects = sum(len(record["annotations"]) for record in records) / len(records)
    images = order["images"] or len(records)
    measured.note(images=images, objects=objects * images)
    points, began, count = [], time.perf_counter(), min(8, max(1, len(records) // 2))
    while True:
        some = records[:count]
        found = [p for record in some for p in stand_ins(record, cfg.TEST.DETECTIONS_PER_IMAGE)]
        started = time.perf_counter()
        evaluation = Evaluation(some, found, len(metadata.thing_classes))
        evaluation.metrics()
        drawing = time.perf_counter()
        image_draws(evaluation, samples=SAMPLES)
        drawn = (time.perf_counter() - drawing) * (DRAWS - SAMPLES) / (SAMPLES + 1)
        write_json(place / "predictions.json", to_results(found, ids))
        seconds = time.perf_counter() - started + drawn
        written = (place / "predictions.json").stat().st_size
        points.append((len(found), seconds, peak_bytes(), written))
        measured.note(part="evaluation", on_images=count, **_growth(points))
        if count == len(records) or time.perf_counter() - began > order["seconds"] / 4:
            break
        count = min(4 * count, len(records))


def _growth(points: Sequence[tuple[int, float, int, int]]) -> dict[str, float]:
    """What a detection more takes, and what there is without any."""
    many, seconds, memory, written = points[-1]
    before = points[-2] if len(points) > 1 else (0, 0.0, memory, 0)
    more = max(many - before[0], 1)
    each = max(seconds - before[1], 0) / more
    return {
        "seconds_per_detection": each,
        "seconds_fixed": max(seconds - each * many, 0),
        "bytes_per_detection": written / max(many, 1),
        "memory_per_detection": max(memory - before[2], 0) / more,
    }


def stand_ins(record: dict, most: int) -> list[dict]:
    """As many predictions of an image as a model may make: its objects, several times."""
    found = []
    for k, annotation in enumerate(record["annotations"]):
        masks = {kind: mask.astype(bool) for kind, mask in decode_masks(annotation).items()}
        rles = {MASK_KEYS[kind]: encode(mask[None])[0] for kind, mask in masks.items()}
        for again in range(round(DETECTIONS)):
            found.append(
                {"image_id": record["image_id"], "category_id": annotation["category_id"]}
                | {"score": 0.9 / (1 + again) / (1 + k / 100), "bbox": list(annotation["bbox"])}
                | rles
            )
    return sorted(found, key=lambda p: -p["score"])[:most]


# --- what a process takes ----------------------------------------------------------------------


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    status = Path("/proc/self/status")
    if status.is_file():  # which, other than getrusage, knows nothing of the process that began it
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _peaks() -> dict[str, int | None]:
    on_gpu = torch.cuda.is_available()
    return {
        "cpu_bytes": peak_bytes(),
        # What torch has asked for, not only what it used: the device has to have it.
        "gpu_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
    }


def _forget_peaks() -> None:
    """An evaluation is a process of its own: what the training took is not its memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Where Linux does not let one, the training's peak counts here too, which is at most too much.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _workers_bytes() -> int:
    """Memory of the loader's workers; what they share with this process counts by its share."""
    found = 0
    for worker in multiprocessing.active_children():
        file = Path(f"/proc/{worker.pid}/smaps_rollup")
        lines = file.read_text().splitlines() if file.is_file() else []
        found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return found


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_since(moment: float) -> float:
    return time.time() - moment


def _register(order: dict[str, Any], measured: Measured) -> None:
    measured.note(part="reading the data")
    began = time.perf_counter()
    register_dataset(order["dataset"], order["data_root"], max_skipped=order["max_skipped"])
    measured.note(register_seconds=time.perf_counter() - began)


WORK = {"training": rehearse_training, "evaluation": rehearse_evaluation}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.workshop.rehearsal", description=__doc__)
    parser.add_argument("order", type=Path)
    file = parser.parse_args(arguments).order
    order, measured = json.loads(file.read_text()), Measured(file.with_name(MEASURED))
    try:
        WORK[order["work"]](order, measured, file.parent)
    except torch.cuda.OutOfMemoryError as error:
        measured.note(out_of_memory=str(error))
    except (OSError, ValueError, RuntimeError) as error:
        # A CPU's allocator has no exception of its own.
        short = "allocate memory" in str(error)
        measured.note(**{"out_of_memory" if short else "problem": str(error)})
    except MemoryError as error:
        measured.note(out_of_memory=str(error) or "no memory is left")
    else:
        measured.note(part="done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
