"""Load instead of train: the kit's published models, for whoever has trained none.

Each is the network of the kit's own start (``data/start``), with a mask head of one of the paper's
models trained on its frozen features: seed 0 of the ablation's own runs, whose records and heads,
half a megabyte each, lie in ``results/reference``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from safetensors.torch import load_file

from arcnn.config import get_config, load_config
from arcnn.data import split_fingerprint, split_name
from arcnn.errors import InputError, MissingError
from arcnn.evaluation import predict, to_results
from arcnn.experiments.runs import HEAD
from arcnn.experiments.variants import DEFAULT
from arcnn.files import REFERENCE, run_folder, write_atomically, write_json
from arcnn.initial_weights import load_start, start_record
from arcnn.reporting import collect_runs, earlier_protocol, first_run
from arcnn.settings import write_settings
from arcnn.weights import CLASSES, FINAL_WEIGHTS, load_trained

VARIANT = {"arcnn": DEFAULT, "arcnn_add": "add-logits", "orcnn": "orcnn"}


def trained_or_published(
    results: Path, dataset: str, models: Sequence[str], seed: int = 0
) -> tuple[Path, str]:
    """The folder of results that a notebook goes on with, and a sentence that says which it is.

    Returns:
        ``results``, if any of ``models`` was trained there; else ``results/published``, into which
        the published models are written as runs of their own, in seconds.

    Raises:
        FileNotFoundError: nothing was trained, and nothing is published for this data set.
    """
    runs = [run_folder(results, dataset, model, seed) / "train" for model in models]
    if any((run / FINAL_WEIGHTS).is_file() for run in runs):
        return results, f"Your own trainings, in {results / 'runs'}."
    published = results / "published"
    for model in models:
        _publish(run_folder(published, dataset, model, seed), dataset, model)
    return published, (
        f"Nothing was trained in {results / 'runs'}: these are the published models, mask heads "
        "trained on the frozen network of data/start. Their numbers are not those of trainings."
    )


def results_or_reference(results: Path, needed: str, reference: str = "demo") -> tuple[Path, str]:
    """The results that hold files of a pattern, else the reference results of a profile, and which
    it is.

    Raises:
        FileNotFoundError: neither does.
    """
    for folder in (results, REFERENCE / reference):
        if next(folder.glob(needed), None):
            which = f"Numbers of {folder}."
            if folder != results:
                which = f"There is no {results / needed}: these are the kit's reference results."
            return folder, which
    raise MissingError(f"there is no {results / needed}, and no reference result")


def _publish(run: Path, dataset: str, model: str) -> None:
    """Write a published model as the run folder of a training."""
    kept = REFERENCE / "demo" / "ablation" / dataset / VARIANT.get(model, model) / "seed0"
    if not (kept / HEAD).is_file():
        raise MissingError(
            f"{run / 'train' / FINAL_WEIGHTS} is not there, and no {model} is published for "
            f"{dataset}: run notebook 04_train for it first."
        )
    record = json.loads((kept / "record.json").read_text())
    cfg = get_config(dataset, model)
    whole = load_start(dataset, device="cpu").model.state_dict()
    state = {key: value for key, value in whole.items() if "roi_heads.mask_head." not in key}
    head = load_file(kept / HEAD)
    state |= {f"roi_heads.mask_head.{key}": value.float() for key, value in head.items()}
    data = record["origin"]["dataset"]["used"]["train"] | {"start": start_record(cfg)["sha256"]}
    write_settings(cfg, run / "train" / "config.yaml")
    write_json(run / "train" / "data.json", data)
    write_json(run / "train" / CLASSES, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
    write_json(run / "train" / "record.json", record)
    file = run / "train" / FINAL_WEIGHTS
    write_atomically(file, lambda partial: torch.save({"model": state}, partial))


def runs_to_show(
    results: Path, dataset: str, models: Sequence[str], seed: int
) -> tuple[Path, list[str], list[str]]:
    """Whose predictions Figure 4 may set side by side; the data set is registered.

    Returns:
        The folder of results, see :func:`trained_or_published`; the models in it whose runs were
        made and measured alike; and sentences on which these are and what was left out.

    Raises:
        FileNotFoundError: trained, but not evaluated yet.
        ValueError: the data are not what the predictions were made on.
    """
    folder, which = trained_or_published(results, dataset, models, seed)
    if folder != results:
        for model in models:
            _predict(run_folder(folder, dataset, model, seed))
        return folder, list(models), [which]
    collected = collect_runs(results, [dataset], models, [seed])
    tested_on = first_run(collected.runs, collected.left_out).data
    shown = [model for _, model, _ in collected.runs]
    cfg = load_config(run_folder(results, dataset, shown[0], seed) / "train")
    if split_fingerprint(cfg, "val")["used"] != tested_on["used"]:
        raise InputError(
            f"{dataset} is not what the predictions were made on: run 05_evaluate again"
        )
    left_out = (f"left out: {sentence}" for sentence in collected.left_out)
    return results, shown, [which, *left_out, *earlier_protocol(collected)]


def _predict(run: Path) -> None:
    """Write ``predictions.json`` of a published model, unless it is there."""
    if not (run / "predictions.json").is_file():
        cfg, trained = load_trained(run)
        ids = MetadataCatalog.get(split_name(cfg, "val")).thing_dataset_id_to_contiguous_id
        own = {contiguous: number for number, contiguous in ids.items()}
        write_json(run / "predictions.json", to_results(predict(cfg, trained), own))
