"""The protocol as a detectron2 evaluator, and inference on a test split."""

import itertools
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from arcnn.data import AmodalDatasetMapper, split_name, split_records
from arcnn.evaluation.masks import encode_masks
from arcnn.evaluation.protocol import evaluate


def detections(instances: Instances, image_id: int) -> list[dict]:
    """A model's output on one image as COCO results, the three masks as RLE.

    Each has ``image_id``, ``category_id`` in [0, C), ``score``, ``bbox`` (XYWH, absolute pixels)
    and the RLEs ``segmentation`` (amodal), ``visible_mask`` and ``occlusion_mask``.
    """
    instances = instances.to("cpu")
    boxes = instances.pred_boxes.tensor
    masks = {
        key: encode_masks(instances.get(f"pred_{kind}_masks"), boxes, *instances.image_size)
        for key, kind in (
            ("segmentation", "amodal"),
            ("visible_mask", "visible"),
            ("occlusion_mask", "occlusion"),
        )
    }
    return [
        {
            "image_id": image_id,
            "category_id": int(instances.pred_classes[k]),
            "score": float(instances.scores[k]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            **{key: rles[k] for key, rles in masks.items()},
        }
        for k, (x0, y0, x1, y1) in enumerate(boxes.tolist())
    ]


class AmodalEvaluator(DatasetEvaluator):
    """Collects :func:`detections` of all images and processes, and scores them.

    Args:
        records: internal records of the images, the ground truth.
        num_classes: C.
    """

    def __init__(self, records: Sequence[dict], num_classes: int) -> None:
        self.records = records
        self.num_classes = num_classes
        self.predictions: list[dict] = []

    def reset(self) -> None:
        self.predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for example, output in zip(inputs, outputs, strict=True):
            self.predictions += detections(output["instances"], example["image_id"])

    def evaluate(self) -> dict[str, dict[str, float | None]]:
        comm.synchronize()
        self.predictions = list(itertools.chain(*comm.gather(self.predictions)))
        if not comm.is_main_process():
            return {}
        return evaluate(self.records, self.predictions, self.num_classes)


def predict_and_evaluate(
    cfg: CfgNode, model: nn.Module
) -> tuple[dict[str, dict[str, float | None]], list[dict]]:
    """Run ``model`` on the test split of ``cfg``.

    Returns:
        The metrics of :func:`arcnn.evaluation.evaluate`, and the predictions they were taken from.
    """
    records = split_records(cfg, "val")
    loader = build_detection_test_loader(
        records,
        mapper=AmodalDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    num_classes = len(MetadataCatalog.get(split_name(cfg, "val")).thing_classes)
    evaluator = AmodalEvaluator(records, num_classes)
    progress = tqdm(loader, desc="inference", unit="image", mininterval=2)
    metrics = inference_on_dataset(model, progress, evaluator)
    return metrics, evaluator.predictions
