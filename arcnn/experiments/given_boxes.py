"""Masks in the true boxes, of the true classes: the upper bound of a head, as recent papers report.

AP asks for boxes, classes and scores too. Here every object is found beforehand, and what is left
is its masks.
"""

from pathlib import Path

import pandas as pd
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.layers import paste_masks_in_image
from torch import nn

from arcnn.data import split_records
from arcnn.errors import InputError
from arcnn.evaluation import piece_ious
from arcnn.experiments.runs import Collected
from arcnn.files import plain, read_table, run_folder, write_table
from arcnn.names import MASK_KINDS
from arcnn.predict import GivenBoxes
from arcnn.progress import tqdm
from arcnn.reporting.runs import Runs, read_complete, run_name, unlike_most
from arcnn.weights import load_trained

FILE = "given_boxes.csv"  # in a run's folder
AGAIN = "delete it, and `make reproduce` makes it again."
OF_OBJECT = ["image", "class", "rate"]
COLUMNS = [*OF_OBJECT, *MASK_KINDS]


def given_boxes(cfg: CfgNode, model: nn.Module) -> pd.DataFrame:
    """IoU of every object's masks, drawn in its true amodal box for its true class, percent.

    Args:
        cfg: of the model, its data set registered; the split is that of the evaluation.
        model: a trained one.

    Returns:
        A row for each object: ``image``, ``class``, ``rate`` and a column for each mask kind, over
        the pixels of the image; NaN where the object has no such part, or the model no such mask,
        and where nothing is drawn: a crowd, and a box without an area.
    """
    rows, records = [], split_records(cfg, "val")
    for record in tqdm(records, desc="given boxes", unit="image", mininterval=2):
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        drawn = GivenBoxes(cfg, record, objects).predict(model)
        found = {id(a): piece_ious(masks, a) for a, masks in drawn}
        for a in record["annotations"]:
            row = {"image": record["image_id"], "class": a["category_id"]}
            ious = {kind: 100 * iou for kind, iou in found.get(id(a), {}).items()}
            rows.append(row | {"rate": a["occlusion_rate"]} | ious)
    return pd.DataFrame(rows, columns=COLUMNS)


def soft_masks(cfg: CfgNode, model: nn.Module, record: dict, annotation: dict) -> dict:
    """An object's masks before they are thresholded, in its true amodal box, for its true class.

    Returns:
        By mask kind that the model predicts, probabilities in the image, float ``(H, W)``.
    """
    found = GivenBoxes(cfg, record, [annotation]).outputs(model)
    maps = {k: found.get(f"pred_{k}_masks") for k in MASK_KINDS if found.has(f"pred_{k}_masks")}
    pasted = {
        kind: paste_masks_in_image(probs, found.pred_boxes, found.image_size, threshold=-1)
        for kind, probs in maps.items()
    }
    return {kind: pixels[0].cpu().numpy() / 255 for kind, pixels in pasted.items()}


@torch.no_grad()
def region_logits(cfg: CfgNode, model: nn.Module, record: dict, annotation: dict) -> dict:
    """What a mask head says of an object's true amodal box, all classes' maps, before the sigmoid.

    Returns:
        By mask kind, float ``(C, M, M)``.
    """
    given = GivenBoxes(cfg, record, [annotation])
    boxes = [given.instances().pred_boxes.to(model.device)]
    with inference_context(model):
        features = model.backbone(model.preprocess_image([given.example]).tensor)
        heads = model.roi_heads
        x = heads.mask_pooler([features[level] for level in heads.mask_in_features], boxes)
        maps = heads.mask_head.layers(x).kinds()
    return {kind: logits[0].cpu().numpy() for kind, logits in maps.items()}


def collect_given_boxes(results: Path, runs: Runs, dataset: str) -> Collected:
    """What the runs of a table have, by (model, seed)."""
    bounds = dict.fromkeys(OF_OBJECT) | {"rate": (0, 1)} | dict.fromkeys(MASK_KINDS, (0, 100))

    def read(key: tuple[str, int]) -> pd.DataFrame:
        file = plain(run_folder(results, dataset, *key) / FILE)
        table, objects = read_table(file, AGAIN, bounds), runs.runs[dataset, *key].data["objects"]
        if len(table) != objects:
            raise InputError(f"{file} has {len(table)} rows for {objects} objects: {AGAIN}")
        # Crowds, and boxes without area, have a row, and no score.
        return table[COLUMNS].dropna(subset=[*MASK_KINDS], how="all").reset_index(drop=True)

    keys = [(model, seed) for of, model, seed in runs.runs if of == dataset]
    found, left_out = read_complete(keys, read)
    of = {k: t[OF_OBJECT].sort_values(OF_OBJECT, ignore_index=True) for k, t in found.items()}
    for key in unlike_most({k: {"objects": table.to_csv()} for k, table in of.items()}):
        left_out.append(f"{run_name(key)}: {FILE} has not the objects of most; {AGAIN}")
        del found[key]
    return Collected({}, found, left_out)


def write_given_boxes(run: Path) -> None:
    """:func:`given_boxes` of a finished run, whose data set is registered, into its folder."""
    write_table(run / FILE, given_boxes(*load_trained(run)).round(3))
