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
from arcnn.evaluation.protocol import evaluate
from arcnn.names import MASK_KEYS


def detections(instances: Instances, image_id: int) -> list[dict]:
    """A model's output on one image as COCO results, the three masks as RLE.

    Each has ``image_id``, ``category_id`` in [0, C), ``score``, ``bbox`` (XYWH, absolute pixels)
    and the RLEs ``segmentation`` (amodal), ``visible_mask`` and ``occlusion_mask``.
    """
    kinds = [instances.get(f"pred_{kind}_masks") for kind in MASK_KEYS]
    rles = encode_mask_kinds(kinds, instances.pred_boxes.tensor, *instances.image_size)
    masks = dict(zip(MASK_KEYS.values(), rles, strict=True))
    instances = instances.to("cpu")
    boxes = instances.pred_boxes.tensor
    return [
        {
            "image_id": image_id,
            "category_id": int(instances.pred_classes[k]),
            "score": float(instances.scores[k]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            **{key: encoded[k] for key, encoded in masks.items()},
        }
        for k, (x0, y0, x1, y1) in enumerate(boxes.tolist())
    ]


class PredictionCollector(DatasetEvaluator):
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


class AmodalEvaluator(PredictionCollector):
    """Collects the predictions, and scores them in the main process.

    Args:
        records: internal records of the images, the ground truth.
        num_classes: C.
        class_names: by contiguous id, for the numbers per class.
    """

    def __init__(
        self,
        records: Sequence[dict],
        num_classes: int,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.records = records
        self.num_classes = num_classes
        self.class_names = class_names

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """The metrics of :func:`arcnn.evaluation.evaluate`; nothing outside the main process."""
        predictions = super().evaluate()
        if not comm.is_main_process():
            return {}
        return evaluate(self.records, predictions, self.num_classes, class_names=self.class_names)


def predict(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Run ``model`` on the test split of ``cfg``, without scoring.

    Returns:
        The predictions of all processes, as in :mod:`arcnn.evaluation.predictions`, in the main
        process; an empty list in the others.
    """
    loader = build_detection_test_loader(
        split_records(cfg, "val"),
        mapper=AmodalDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    progress = tqdm(loader, desc="inference", unit="image", mininterval=2)
    return inference_on_dataset(model, progress, PredictionCollector())


def predict_and_evaluate(
    cfg: CfgNode, model: nn.Module
) -> tuple[dict[str, dict[str, Any]], list[dict]]:
    """:func:`predict`, then :func:`arcnn.evaluation.evaluate` with its default tasks.

    Returns:
        The metrics, and the predictions they were taken from; both empty outside the main process.
    """
    predictions = predict(cfg, model)
    if not comm.is_main_process():
        return {}, []
    classes = MetadataCatalog.get(split_name(cfg, "val")).thing_classes
    records = split_records(cfg, "val")
    metrics = evaluate(records, predictions, len(classes), class_names=classes)
    return metrics, predictions
