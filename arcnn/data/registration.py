"""Where the data sets' files lie, and their registration with detectron2."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from arcnn.data.reading import MAX_SKIPPED, load_annotations
from arcnn.data.tabletop import TABLETOP_CLASSES, make_tabletop
from arcnn.errors import InputError, MissingError
from arcnn.files import sha256

# What of an annotation a model is trained and scored with.
USED = ("id", "category_id", "bbox", "segmentation", "visible_mask", "iscrowd", "occlusion_rate")


class SplitFiles(NamedTuple):
    """Candidates for a split's annotation file, newest release first, and its image folder."""

    annotations: Sequence[str]
    images: str


FILES: dict[str, dict[str, SplitFiles]] = {
    "tabletop": {
        "train": SplitFiles(["tabletop_train.json"], "train"),
        "val": SplitFiles(["tabletop_val.json"], "val"),
    },
    "cocoa_cls": {
        "train": SplitFiles(["COCO_amodal_train2014_with_classes.json"], "train2014"),
        "val": SplitFiles(["COCO_amodal_val2014_with_classes.json"], "val2014"),
    },
    "kins": {
        "train": SplitFiles(["update_train_2020.json", "instances_train.json"], "training/image_2"),
        "val": SplitFiles(["update_test_2020.json", "instances_val.json"], "testing/image_2"),
    },
    # Without classes: things and stuff. Also one file per image, in a folder of that name.
    "cocoa": {
        "train": SplitFiles(["COCO_amodal_train2014.json", "COCO_amodal_train2014"], "train2014"),
        "val": SplitFiles(["COCO_amodal_val2014.json", "COCO_amodal_val2014"], "val2014"),
    },
    # The augmented file has 1,562 images of several objects; training_rot0 has 438 of nearly one.
    "d2sa": {
        "train": SplitFiles(
            ["D2S_amodal_augmented.json", "D2S_amodal_training_rot0.json"], "images"
        ),
        "val": SplitFiles(["D2S_amodal_validation.json"], "images"),
    },
    # Your own, and what `python -m arcnn.data synthesize` makes.
    "own": {
        "train": SplitFiles(["train.json"], "train"),
        "val": SplitFiles(["val.json"], "val"),
    },
}


def find_splits(dataset: str, root: str | Path) -> dict[str, tuple[Path, Path]]:
    """The annotation file and image folder of every split that is there, in ``root/<dataset>`` or
    ``root`` itself.

    Raises:
        FileNotFoundError: none is; names what was looked for, where, and what to do.
    """
    found, folders = {}, [Path(root) / dataset, Path(root)]
    for split, files in FILES[dataset].items():
        places = itertools.product(folders, files.annotations, ("", "annotations"))
        for folder, name, place in places:
            candidate = folder / place / name
            if candidate.is_file() or (candidate.is_dir() and dataset == "cocoa"):
                found[split] = candidate, folder / files.images
                break
    if not found:
        names = " or ".join(name for files in FILES[dataset].values() for name in files.annotations)
        cure = "data/README.md says where to get it; DATA_ROOT names another folder."
        if dataset == "tabletop":
            cure = "Notebook 01_prepare_data draws it."
        raise MissingError(f"{dataset}: no {names} in {folders[0]} or {folders[1]}. {cure}")
    return found


def register_dataset(
    dataset: str, root: str | Path, *, max_skipped: float = MAX_SKIPPED, draw: bool = False
) -> dict[str, str]:
    """Register the splits found under ``root`` with detectron2 as ``<dataset>_<split>``.

    Registering again, also with another root, replaces the registration. Images that are missing,
    cut off, of another size or outside their folder are left out with their objects.

    Args:
        max_skipped: share of the objects that may be left out, in [0, 1].
        draw: draw ``tabletop`` where it is missing, which takes half a minute.

    Returns:
        Registered names by split.

    Raises:
        FileNotFoundError: nothing of the data set is there, or no images beside annotations.
        AnnotationError: a file that cannot be used; see :func:`arcnn.data.load_annotations`.
        ValueError: ``tabletop`` has other classes than it is drawn with.
    """
    try:
        files = find_splits(dataset, root)
    except FileNotFoundError:
        if dataset != "tabletop" or not draw:
            raise
        make_tabletop(root)
        files = find_splits(dataset, root)
    names = {}
    for split, (json_file, image_root) in files.items():
        name = names[split] = f"{dataset}_{split}"
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        loaded = load_annotations(
            json_file, image_root, max_skipped=max_skipped, look_at_images=True
        )
        if dataset == "tabletop" and tuple(loaded.class_names) != TABLETOP_CLASSES:
            raise InputError(
                f"{json_file} has other classes than tabletop, which notebooks name. Move it away "
                "with its images: notebook 01_prepare_data draws tabletop, and your data are `own`."
            )
        DatasetCatalog.register(name, lambda records=loaded.records: records)
        MetadataCatalog.get(name).set(
            thing_classes=loaded.class_names,
            thing_dataset_id_to_contiguous_id={k: i for i, k in enumerate(loaded.category_ids)},
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="amodal",
        )
    return names


def split_name(cfg: CfgNode, split: str) -> str:
    """The registered name to train ("train") or to test ("val") on under this configuration.

    Raises:
        FileNotFoundError: it is not registered.
    """
    registered = DatasetCatalog.list()
    name = (cfg.DATASETS.TRAIN if split == "train" else cfg.DATASETS.TEST)[0]
    if cfg.DATASETS.OVERFIT_IMAGES:
        # One split serves both ends; COCOA-cls' public copies often hold the val file alone.
        candidates = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        name = next((each for each in candidates if each in registered), name)
    if name not in registered:
        raise MissingError(
            f"{name} is not there: notebook 01_prepare_data says what is missing and where to get "
            "it. With the one split at hand, the profile `overfit` checks the wiring."
        )
    return name


def split_records(cfg: CfgNode, split: str) -> list[dict]:
    """Internal records to train ("train") or to test ("val") on, cut to OVERFIT_IMAGES if set.

    Raises:
        FileNotFoundError: the split is not there.
        ValueError: it has another number of classes than the model.
    """
    name = split_name(cfg, split)
    check_class_count(cfg, name, len(MetadataCatalog.get(name).thing_classes))
    overfit = cfg.DATASETS.OVERFIT_IMAGES
    records = get_detection_dataset_dicts(name, filter_empty=split == "train" or bool(overfit))
    return records[: overfit or None]


def check_class_count(cfg: CfgNode, name: str, classes: int) -> None:
    """Raise ValueError where data and model do not have as many classes as each other."""
    heads = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if classes != heads:
        raise InputError(
            f"{name} has {classes} classes, the model {heads}: give the options "
            f'["MODEL.ROI_HEADS.NUM_CLASSES", {classes}].'
        )


def used_fingerprint(records: Sequence[dict]) -> dict[str, Any]:
    """What of a split is really used: ``images`` and ``objects`` counted, and ``used``, a SHA-256
    over their ids, sizes and masks. An image that was left out changes it."""
    digest, objects = hashlib.sha256(), 0
    for record in records:
        digest.update(f"{record['image_id']} {record['height']} {record['width']}".encode())
        for annotation in record["annotations"]:
            objects += 1
            digest.update(str([annotation[key] for key in USED]).encode())
    return {"images": len(records), "objects": objects, "used": digest.hexdigest()}


def fingerprint(dataset: str, root: str | Path) -> dict[str, dict[str, Any]]:
    """What a record names as its data.

    Returns:
        ``sha256`` of each annotation file found, by split; and ``used``, by registered split, the
        :func:`used_fingerprint` of its records.
    """
    files, registered = find_splits(dataset, root), DatasetCatalog.list()
    used = {split: f"{dataset}_{split}" for split in files if f"{dataset}_{split}" in registered}
    return {
        "sha256": {split: sha256(json_file) for split, (json_file, _) in files.items()},
        "used": {k: used_fingerprint(DatasetCatalog.get(name)) for k, name in used.items()},
    }


def split_fingerprint(cfg: CfgNode, split: str) -> dict[str, Any]:
    """:func:`used_fingerprint` of what this configuration trains or tests on, with the ``sha256``
    of its annotation file."""
    file = Path(MetadataCatalog.get(split_name(cfg, split)).json_file)
    return {"sha256": sha256(file)} | used_fingerprint(split_records(cfg, split))
