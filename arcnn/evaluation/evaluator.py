"""The protocol as a detectron2 evaluator, and inference on a test split."""

import itertools
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from arcnn.data import AmodalDatasetMapper, split_name, split_records
from arcnn.evaluation.masks import encode_mask_kinds
from arcnn.evaluation.protocol import Metrics, evaluate
from arcnn.names import MASK_KEYS


def detections(instances: Instances, image_id: int) -> list[dict]:
    """A model's output on one image as :mod:`arcnn.evaluation.predictions`, with boxes."""
    kinds = [instances.get(f"pred_{kind}_masks") for kind in MASK_KEYS]
    rles = encode_mask_kinds(kinds, instances.pred_boxes.tensor, *instances.image_size)
    columns = (instances.pred_boxes.tensor, instances.pred_classes, instances.scores)
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "score": score,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            **dict(zip(MASK_KEYS.values(), masks, strict=True)),
        }
        for (x0, y0, x1, y1), category, score, *masks in zip(
            *(column.tolist() for column in columns), *rles, strict=True
        )
    ]


class _Collector(DatasetEvaluator):
    """Collects :func:`detections` of all images and processes; scores nothing."""

    def __init__(self) -> None:
        self.predictions: list[dict] = []

    def reset(self) -> None:
        self.predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for example, output in zip(inputs, outputs, strict=True):
            self.predictions += detections(output["instances"], example["image_id"])

    def evaluate(self) -> Any:
        """The predictions of all processes in the main one, nothing in the others."""
        comm.synchronize()
        self.predictions = list(itertools.chain(*comm.gather(self.predictions)))
        return self.predictions


class AmodalEvaluator(_Collector):
    """Collects the predictions, and scores them in the main process; there ``predictions`` has them
    all. The arguments are those of :class:`arcnn.evaluation.Evaluation`."""

    def __init__(
        self, records: Sequence[dict], num_classes: int, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.truth = records, num_classes, class_names

    def evaluate(self) -> Metrics:
        """The metrics of :func:`arcnn.evaluation.evaluate`; nothing outside the main process."""
        predictions = super().evaluate()
        if not comm.is_main_process():
            return {}
        records, num_classes, names = self.truth
        return evaluate(records, predictions, num_classes, class_names=names)


def predict(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """The predictions of ``model`` on the test split of ``cfg``, not scored; empty outside the main
    process."""
    return _run(cfg, model, _Collector())


def predict_and_evaluate(cfg: CfgNode, model: nn.Module) -> tuple[Metrics, list[dict]]:
    """The metrics of :func:`arcnn.evaluation.evaluate`, and the predictions they were taken from;
    both empty outside the main process."""
    records = split_records(cfg, "val")
    classes = MetadataCatalog.get(split_name(cfg, "val")).thing_classes
    evaluator = AmodalEvaluator(records, len(classes), classes)
    return _run(cfg, model, evaluator), evaluator.predictions


def _run(cfg: CfgNode, model: nn.Module, evaluator: DatasetEvaluator) -> Any:
    loader = build_detection_test_loader(
        split_records(cfg, "val"),
        mapper=AmodalDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    progress = tqdm(loader, desc="inference", unit="image", mininterval=2)
    return inference_on_dataset(model, progress, evaluator)
