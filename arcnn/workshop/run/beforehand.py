"""What can be known before the first step of ``make reproduce``, so that no day of computing ends
with a sentence about a file.

Errors are one sentence each: what is wrong, and what to do. What a run costs is said, as far as
it can be told from its settings.
"""

import functools
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from arcnn.config import get_config
from arcnn.data import AnnotationError, find_splits
from arcnn.data.image_files import missing_images
from arcnn.data.index import FileIndex, index_files
from arcnn.data.registration import FILES, check_class_count
from arcnn.files import data_folder, results_folder
from arcnn.initial_weights import TORCHVISION, initial_weights
from arcnn.workshop.run.estimate import (
    MB,
    Cost,
    Planned,
    between,
    built,
    cost,
    is_long,
    to_train,
    total,
)
from arcnn.workshop.run.folders import check_writable
from arcnn.workshop.run.profiles import ProfileError

SHARED_MEMORY = Path("/dev/shm")


def check_folders(profile: dict) -> Path:
    """Check that results can be written and that real data is there; returns the results folder.

    Raises:
        OSError, ProfileError: naming the folder or file and the cure.
    """
    results = results_folder(profile["profile"], profile["results_root"])
    check_writable(results)
    for dataset in profile["datasets"]:
        try:
            find_splits(dataset, data_folder(profile["data_root"]))
        except FileNotFoundError as error:
            if dataset != "tabletop":  # which is drawn where it is missing
                raise ProfileError(str(error)) from error
    return results


def name_own_classes(profile: dict) -> None:
    """Give the network as many classes as the data set ``own`` has, unless the profile says."""
    key = "MODEL.ROI_HEADS.NUM_CLASSES"
    if profile["datasets"] != ["own"] or key in profile["options"]:
        return
    file, _ = next(iter(find_splits("own", data_folder(profile["data_root"])).values()))
    profile["options"] = [*profile["options"], key, len(_index(file).category_ids)]


def check_data(profile: dict) -> dict[str, int]:
    """Check the annotation files and image folders of every data set that is not drawn: both
    splits, of one release, whole, with their images; their number of classes, and the class that
    the profile names.

    Returns:
        Images to be evaluated on, by data set.

    Raises:
        ProfileError, ValueError: names the first that is not as it should be.
    """
    evaluated = {}
    one_will_do = "DATASETS.OVERFIT_IMAGES" in profile["options"]
    for dataset in profile["datasets"]:
        if dataset == "tabletop":
            continue
        splits = find_splits(dataset, data_folder(profile["data_root"]))
        for split, files in FILES[dataset].items():
            if split not in splits and not one_will_do:
                raise ProfileError(
                    f"{dataset}: no {' or '.join(files.annotations)}, the {split} split; "
                    "data/README.md says where to get it."
                )
        indices = {split: _index(file) for split, (file, _) in splits.items()}
        for split, (file, images) in splits.items():
            if sentence := missing_images(images):
                raise ProfileError(f"{dataset}, {split}: {sentence}.")
            if not indices[split].images:
                raise ProfileError(f"{file} lists no image; get it again.")
        releases = {index.schema.title for index in indices.values()}
        names = [index.class_names for index in indices.values()]
        if len(releases) > 1 or any(of_split != names[0] for of_split in names):
            listed = " and ".join(str(file) for file, _ in splits.values())
            raise ProfileError(
                f"{listed} are of two releases, or their classes differ; take both from one."
            )
        cfg = get_config(dataset, profile["models"][0], options=profile["options"])
        check_class_count(cfg, dataset, len(names[0]))
        shown = profile["figure5_class"].get(dataset)
        if shown and shown not in names[0]:
            raise ProfileError(
                f"profile {profile['profile']}: figure5_class is {shown!r}, and {dataset} has the "
                f"classes {', '.join(names[0])}."
            )
        evaluated[dataset] = len(indices["val" if "val" in indices else "train"].images)
    return evaluated


@functools.cache
def _index(file: Path) -> FileIndex:
    for index in index_files(file):
        if isinstance(index, AnnotationError):
            raise ProfileError(str(index))
        return index


def check_training(profile: dict, results: Path) -> None:
    """Check what the trainings that are still to come need: GPUs, settings that train, and weights
    to start from, which are fetched.

    Raises:
        ProfileError, ValueError: names the setting, or the weights and where to put them.
    """
    wanted, there = profile["num_gpus"], torch.cuda.device_count()
    if wanted > max(there, 1):
        raise ProfileError(f"num_gpus is {wanted}, and this machine has {there}.")
    for cfg in (run.cfg for run in to_train(profile, results)):
        built(cfg)
        if cfg.MODEL.WEIGHTS:
            try:
                file = Path(initial_weights(cfg))
            except FileNotFoundError as error:
                if cfg.MODEL.WEIGHTS.startswith(TORCHVISION):
                    continue  # a help: without, a training starts from random weights, and says so
                raise ProfileError(str(error)) from error
            _check_weights(file)


def _check_weights(file: Path) -> None:
    """A look at the ends of a file of weights: a web page, or half a download, is neither."""
    with file.open("rb") as opened:
        head = opened.read(8)
        opened.seek(-1, os.SEEK_END)
        end = opened.read()
    # A pickle begins with its protocol and ends with STOP; newer files are zip archives.
    pickled = head[:1] == b"\x80" and end == b"."
    if not (pickled or zipfile.is_zipfile(file) or file.suffix == ".safetensors"):
        raise ProfileError(
            f"{file} is not a file of weights, or only a part of it; delete it, and it is fetched "
            "again, or put a whole one there."
        )
    # "Any model on this page contains its md5 prefix in its file name" (the zoo's MODEL_ZOO.md).
    if named := re.search(r"_([0-9a-f]{6})\.pkl$", file.name):
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "md5").hexdigest()
        if not found.startswith(named[1]):
            raise ProfileError(
                f"{file} is damaged: its MD5 begins with {found[:6]}. Delete it, and it is fetched "
                "again, or put a whole one there."
            )


def costs(
    profile: dict,
    results: Path,
    evaluated: Mapping[str, int],
    rehearsal: Mapping[str, Any],
    side_by_side: int = 1,
) -> list[str]:
    """Sentences on what the trainings that are still to come take, and whether there is as much.

    Args:
        evaluated: images by data set, from :func:`check_data`.
        rehearsal: of :func:`arcnn.workshop.run.estimate.find_rehearsal`.
        side_by_side: trainings at a time.

    Raises:
        ProfileError: the disk has no room for them.
    """
    runs = to_train(profile, results)
    if not runs:
        return []
    each = [(run, cost(run, rehearsal, evaluated.get(run.dataset, 0))) for run in runs]
    sentences = _how_long(profile, each, rehearsal, side_by_side)
    disk = sum(of.weights + of.predictions for _, of in each)
    # The weights in the end, and meanwhile a checkpoint and the next one beside it.
    disk += 2 * side_by_side * max(of.checkpoint for _, of in each)
    need, free = int(disk) // MB, shutil.disk_usage(results).free // MB
    if need > free:
        raise ProfileError(
            f"{results} has room for {free:,} MB, and weights, checkpoints and predictions take "
            f"{need:,} MB; free some space, or choose another folder with RESULTS=<folder>."
        )
    if need > 1000:
        sentences.append(f"Weights, checkpoints and predictions: {need:,} MB of {free:,} MB.")
    shared = int(side_by_side * max(of.shared for _, of in each))
    if SHARED_MEMORY.is_dir():
        there = shutil.disk_usage(SHARED_MEMORY).total
        if shared > there:
            sentences.append(
                f"The loaders' workers take up to {shared // MB:,} MB of shared memory, and "
                f"{SHARED_MEMORY} has {there // MB:,} MB: a bus error would end the run. Give a "
                'container more (--shm-size), or the options ["DATALOADER.NUM_WORKERS", 0].'
            )
    return sentences


def _how_long(
    profile: dict,
    each: Sequence[tuple[Planned, Cost]],
    rehearsal: Mapping[str, Any],
    side_by_side: int,
) -> list[str]:
    if rehearsed := [of for _, of in each if of.evaluation is not None]:
        others = len(each) - len(rehearsed)
        time, day = between(total(rehearsed, side_by_side)), rehearsal["started"][:10]
        return [
            f"Trainings and evaluations to come: {len(rehearsed)}, which take {time} as rehearsed "
            f"here on {day}"
            + (f"; and {others} that were not rehearsed with these settings." if others else ".")
        ]
    sentences = [
        f"No GPU is at work here, and {run.dataset} asks for {run.cfg.SOLVER.MAX_ITER:,} steps: "
        f"some {of.training[0] / 86_400:,.0f} days for each training."
        for run, of in each
        if of.training is not None and is_long(run.cfg)
    ]
    if not rehearsal and any(is_long(run.cfg) for run, _ in each):
        name = profile["profile"]
        sentences.append(f"`make rehearse PROFILE={name}` measures in minutes what it takes here.")
    return list(dict.fromkeys(sentences))
