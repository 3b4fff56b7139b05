"""Inference: what a model says of the images of a test split."""

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.structures import Instances
from torch import nn

from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.evaluation.masks import encode_mask_kinds
from arcnn.names import MASK_KEYS
from arcnn.progress import tqdm


@torch.no_grad()
def predict(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """The predictions of ``model`` on the test split of ``cfg``, not scored."""
    loader = build_detection_test_loader(
        split_records(cfg, "val"),
        mapper=AmodalDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    predictions = []
    with inference_context(model):
        for examples in tqdm(loader, desc="inference", unit="image", mininterval=2):
            for example, output in zip(examples, model(examples), strict=True):
                predictions += detections(output["instances"], example["image_id"])
    return predictions


def detections(instances: Instances, image_id: int) -> list[dict]:
    """A model's output on one image as :mod:`arcnn.evaluation.predictions`, with boxes and the
    masks that the model predicts."""
    if not len(instances):
        return []
    keys = {kind: key for kind, key in MASK_KEYS.items() if instances.has(f"pred_{kind}_masks")}
    maps = [instances.get(f"pred_{kind}_masks") for kind in keys]
    rles = encode_mask_kinds(maps, instances.pred_boxes.tensor, *instances.image_size)
    columns = (instances.pred_boxes.tensor, instances.pred_classes, instances.scores)
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "score": score,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            **dict(zip(keys.values(), masks, strict=True)),
        }
        for (x0, y0, x1, y1), category, score, *masks in zip(
            *(column.tolist() for column in columns), *rles, strict=True
        )
    ]
