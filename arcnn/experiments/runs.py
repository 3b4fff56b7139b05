"""The ablation's runs on disk: make one, gather them all.

``<results>/ablation/<dataset>/`` holds ``features.train.pt``, ``features.val.pt`` and their record
``features.json``; below it ``<variant>/seed<k>/`` each run's ``head.safetensors``,
``objects.csv`` (IoU by object) and ``record.json``.
"""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from detectron2.config import CfgNode
from safetensors.torch import save_file

from arcnn.config import get_config
from arcnn.data import register_dataset
from arcnn.errors import InputError, MissingError
from arcnn.evaluation import intervals, mean_of_trainings
from arcnn.experiments.frozen import (
    SCORES,
    RoIFeatures,
    extract,
    predict,
    score,
    scored,
    summary,
    train_head,
)
from arcnn.experiments.order import constant_context, take_apart
from arcnn.experiments.variants import DEFAULT, VARIANTS
from arcnn.files import (
    object_of,
    plain,
    read_json,
    read_table,
    run_folder,
    sha256,
    write_atomically,
    write_table,
)
from arcnn.initial_weights import initial_weights, load_start
from arcnn.modeling.mask_heads import ARCNNMaskHead
from arcnn.names import MASK_KINDS, SPLITS
from arcnn.reporting import collect_runs, write_record
from arcnn.reporting.runs import (
    OF_THE_HEAD,
    PERCENT,
    Runs,
    few,
    read_complete,
    run_name,
    unlike_most,
)
from arcnn.settings import MAX_ITER, Settings, differences, for_training, settings
from arcnn.weight_files import read_checkpoint
from arcnn.weights import FINAL_WEIGHTS, load_trained

FEATURES = "features.{}.pt"  # of a split
MAKE_FEATURES = "Delete the folder's features.*, and `make ablation` makes them again."
ANEW = "delete its folder, and `make ablation` makes it again."
HEAD = "head.safetensors"  # a run's trained head, float16
CONSTANT_CONTEXT = "amodal, constant context"  # a column of objects.csv, ARCNN's variants only
# What a record has of a joint.
JOINT = ("VW", "OW", "bias", "mean context", "context deviation", "own deviation")
_JOINT = {name: {"type": "number" if "deviation" in name else "array"} for name in JOINT}
RECORD = object_of(
    metrics=object_of(**dict.fromkeys(SCORES, PERCENT)),
    joint=object_of(**_JOINT) | {"type": ["object", "null"]},
    settings={"type": "object"},
)


class Collected(NamedTuple):
    """The runs of an ablation by (variant, seed), and sentences on those that were left out."""

    records: dict[tuple[str, int], dict]
    objects: dict[tuple[str, int], pd.DataFrame]
    left_out: list[str]


def make_features(
    folder: Path, results: Path, dataset: str, *, data_root: Path, trunk: str, max_skipped: float
) -> None:
    """Freeze a trained model's trunk and write what it says about both splits.

    Args:
        folder: of the ablation on this data set.
        results: the profile's results.
        trunk: "start", the kit's own, or a model with a run in ``results``, seed 0.
        max_skipped: see :func:`arcnn.data.register_dataset`.

    Raises:
        FileNotFoundError: the trunk isn't trained.
    """
    started = time.time()
    register_dataset(dataset, data_root, max_skipped=max_skipped)
    if trunk == "start":
        cfg, model = load_start(dataset)
        weights = Path(initial_weights(cfg))
    else:
        run = run_folder(results, dataset, trunk, 0)
        cfg, model = load_trained(run)
        weights = run / "train" / FINAL_WEIGHTS
    for split in SPLITS:
        content = extract(cfg, model, split)._asdict()
        write_atomically(folder / FEATURES.format(split), functools.partial(torch.save, content))
    write_record(
        folder / "features.json",
        started=started,
        parameters={"dataset": dataset, "trunk": trunk, "seed": 0},
        dataset=dataset,
        data_root=data_root,
        trunk_sha256=sha256(weights),
    )


def head_config(dataset: str, variant: str, options: Sequence, seed: int = 0) -> CfgNode:
    """The configuration of a variant's head.

    A longer training is the same one stretched: its steps of the learning rate move along.

    Args:
        variant: a name of :data:`VARIANTS`.
        options: detectron2 overrides shared by all variants (solver, sizes).

    Raises:
        ValueError: no such variant.
    """
    if variant not in VARIANTS:
        raise InputError(f'unknown variant "{variant}"; choose one of {", ".join(VARIANTS)}')
    chosen = VARIANTS[variant]
    options = [*options, *chosen.options]
    # On a CPU, since the heads are small and the features are there.
    cfg = get_config(dataset, chosen.model, options=options, seed=seed, device="cpu")
    cfg.defrost()
    cfg.SOLVER.MAX_ITER *= chosen.times
    cfg.SOLVER.STEPS = tuple(step * chosen.times for step in cfg.SOLVER.STEPS)
    cfg.freeze()
    return cfg


def head_settings(dataset: str, variant: str, options: Sequence) -> Settings:
    """The settings that decide what a variant's head learns, the same for all seeds."""
    all_of_them = for_training(settings(head_config(dataset, variant, options)))
    return {key: value for key, value in all_of_them.items() if key != "SEED"}


def run_variant(
    folder: Path, dataset: str, variant: str, seed: int, options: Sequence
) -> dict[str, float]:
    """Train a head (:func:`head_config`) on the frozen features, score it and write its files.

    Returns:
        The run's scores, percent.

    Raises:
        ValueError: no such variant.
        FileNotFoundError: no features yet.
        ValueError: they cannot be read.
    """
    started = time.time()
    cfg = head_config(dataset, variant, options, seed)
    files = [folder / FEATURES.format(split) for split in SPLITS]
    if missing := [file for file in files if not file.is_file()]:
        raise MissingError(f"{missing[0]} is not there: `make ablation` makes it.")
    train, val = map(_read_features, files)
    origin = read_json(folder / "features.json", MAKE_FEATURES)
    head = train_head(cfg, train)
    masks = predict(head, val)
    objects = score(masks, val)
    joint = None
    if isinstance(head, ARCNNMaskHead):
        joint, without = _read_joint(head, train.batch(torch.arange(len(train.classes))[:600]), val)
        objects[CONSTANT_CONTEXT] = score(masks._replace(amodal=without), val).amodal
    run, chosen = folder / run_name((variant, seed)), VARIANTS[variant]
    parameters = {"dataset": dataset, "variant": variant, "seed": seed, "model": chosen.model}
    parameters |= {"variant options": list(chosen.options), "options": list(options)}
    parameters |= {"steps": cfg.SOLVER.MAX_ITER}
    weights = {key: value.half() for key, value in head.state_dict().items()}
    write_atomically(run / HEAD, lambda partial: save_file(weights, partial))
    write_table(run / "objects.csv", objects.round(2).assign(rate=objects.rate.round(4)))
    write_record(
        run / "record.json",
        started=started,
        parameters=parameters,
        metrics=summary(objects),
        joint=joint,
        settings=head_settings(dataset, variant, options),
        origin={key: origin[key] for key in ("parameters", "dataset", "trunk_sha256")},
    )
    return summary(objects)


def _read_features(file: Path) -> RoIFeatures:
    content = read_checkpoint(file, MAKE_FEATURES)
    try:
        return RoIFeatures(**content)
    except TypeError as error:
        raise InputError(f"{file} holds no features ({error}). {MAKE_FEATURES}") from error


def _read_joint(
    head: ARCNNMaskHead, train: RoIFeatures, val: RoIFeatures
) -> tuple[dict[str, list], torch.Tensor]:
    """The joint's weights and context, and the amodal masks with the context held constant."""
    vw, ow = head.amodal_head.weights()
    bias = head.amodal_head.conv.bias
    means = constant_context(take_apart(head, train)[1], train.classes, len(vw))
    own, context = take_apart(head, val)
    constant = means[val.classes, None, None]
    numbers = {
        "VW": vw.tolist(),
        "OW": ow.tolist(),
        "bias": torch.zeros(len(vw)).tolist() if bias is None else bias.tolist(),
        "mean context": means.tolist(),
        # Logits, over the pixels of all objects: how much of the context is not constant?
        "context deviation": float((context - constant).std()),
        "own deviation": float(own.std()),
    }
    return numbers, own + constant > 0


def collect(folder: Path, variants: Sequence[str] = tuple(VARIANTS)) -> Collected:
    """All complete runs of an ablation.

    A run is left out, and named, if a file of it is missing or cut off, or if its features, data
    or shared options are not those of most runs: it would be compared with its like no more.
    """
    keys = [(variant, seed) for variant in variants for seed in _seeds(folder / variant)]
    left_out = [f"{v}: no run" for v in variants if v not in dict(keys)]

    def read(key: tuple[str, int]) -> tuple[dict, pd.DataFrame, dict]:
        run = folder / run_name(key)
        record = read_json(plain(run / "record.json"), ANEW, RECORD)
        for there, names in ((record["metrics"], SCORES), (record["joint"] or JOINT, JOINT)):
            if missing := [name for name in names if name not in there]:
                raise KeyError(f"{missing[0]} in record.json")
        scores = [*MASK_KINDS, *([CONSTANT_CONTEXT] if record["joint"] else [])]
        bounds = {"image": None, "rate": (0, 1)} | dict.fromkeys(scores, (0, 100))
        objects = read_table(plain(run / "objects.csv"), ANEW, bounds)
        return record, objects, _made_with(record)

    runs, not_whole = read_complete(keys, read)
    left_out += not_whole
    for key, what in unlike_most({key: run[2] for key, run in runs.items()}).items():
        left_out.append(f"{run_name(key)}: without the features or settings of most runs ({what})")
        del runs[key]
    records, objects = ({key: run[k] for key, run in runs.items()} for k in (0, 1))
    return Collected(records, objects, left_out)


def _made_with(record: dict) -> dict[str, Any]:
    """What all heads must have in common: features, data, and settings but those compared."""
    shared = _without_head(record["settings"])
    del shared["SOLVER.STEPS"]
    shared[MAX_ITER] /= VARIANTS[record["parameters"]["variant"]].times
    return shared | {key: record["origin"][key] for key in ("trunk_sha256", "dataset")}


def _without_head(of: Settings) -> Settings:
    return {key: value for key, value in of.items() if not key.startswith(OF_THE_HEAD)}


def head_differences(
    collected: Collected, score: str, reference: str = DEFAULT, *, samples: int = 2000
) -> pd.DataFrame:
    """Every variant's score and its difference from a reference, with 95 % intervals.

    The intervals come from drawing images and trainings anew, together: an object's IoU is compared
    with that of the same object and the same seed. A longer training is compared with the longer
    training of the reference.

    Args:
        score: one of :data:`arcnn.experiments.SCORES`.
        reference: the variant to compare with.
        samples: draws.

    Returns:
        By variant: ``score`` (percent, mean over seeds), ``spread`` (standard deviation over
        seeds), ``seeds``, ``difference``, ``low``, ``high`` (points; NaN for the reference, and
        where it was not trained as long).
    """
    tables: dict[str, dict] = {}
    for (variant, k), objects in collected.objects.items():
        by_image = scored(objects, score).groupby(objects.image)
        tables.setdefault(variant, {})[k] = by_image.sum(), by_image.count()
    if reference not in tables:
        raise InputError(f"the reference {reference} has no run to compare with")
    rng = np.random.default_rng(0)
    rows = {}
    for variant, runs in tables.items():
        # A head without such masks has no score, and is compared with nobody.
        scores = pd.Series(
            [sums.sum() / (counts.sum() or np.nan) for sums, counts in runs.values()]
        )
        row = {"score": scores.mean(), "spread": scores.std(), "seeds": len(scores)}
        like = f"{reference}-long" if variant.endswith("-long") else reference
        other = tables.get(like, {})
        shared = sorted(runs.keys() & other.keys())
        if variant != like and shared and scores.notna().all():
            gains = np.array([runs[k][0] - other[k][0] for k in shared])  # (S, images)
            counts = runs[shared[0]][1].to_numpy()
            drawn = []
            for _ in range(samples):
                seeds, images = (rng.integers(n, size=n) for n in gains.shape)
                drawn.append(gains[seeds][:, images].sum() / (len(seeds) * counts[images].sum()))
            row["difference"] = gains.sum() / (len(shared) * counts.sum())
            row["low"], row["high"] = np.percentile(drawn, [2.5, 97.5])
        rows[variant] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def network_differences(results: Path, dataset: str) -> tuple[pd.DataFrame, list[str]]:
    """Whole networks of some variants (``results/networks/<variant>``) against the kit's ARCNN.

    Returns:
        By (variant, column of Table 1): ``score`` (percent, mean over seeds), ``difference``,
        ``low``, ``high`` (points, 95 % interval over images and trainings), ``seeds``; and what
        was left out, and why.
    """
    own = _all_seeds(results, dataset, "arcnn")
    rows, left_out = {}, own.left_out
    for folder in sorted((results / "networks").glob("*/")):
        if folder.name not in VARIANTS:
            left_out.append(f"{folder.name}: no variant of the ablation")
            continue
        model = VARIANTS[folder.name].model
        found = _all_seeds(folder, dataset, model)
        left_out += [f"{folder.name}: {sentence}" for sentence in found.left_out]
        runs, references = found.of(dataset, model), own.of(dataset, "arcnn")
        shared = sorted(runs.keys() & references.keys())
        for seed in shared[:1]:  # all of a kind have the same settings
            one, other = (_without_head(each[seed].settings) for each in (runs, references))
            if differs := differences(one, other):
                made = "made with other data or settings than the kit's ARCNN"
                left_out.append(f"{folder.name}: {made} ({few(differs)})")
                shared = []
        if shared:
            draws = [[each[seed].draws for seed in shared] for each in (runs, references)]
            # Their trainings are not paired, so each side's are drawn by themselves.
            mean, other = (mean_of_trainings(side, seed=k) for k, side in enumerate(draws))
            for column, interval in intervals(mean - other).items():
                if interval:
                    row = {"score": mean[column].iloc[0], "difference": interval.value}
                    row |= {"low": interval.low, "high": interval.high, "seeds": len(shared)}
                    rows[folder.name, column] = row
    return pd.DataFrame.from_dict(rows, orient="index"), left_out


def _seeds(folder: Path) -> list[int]:
    names = (run.name.removeprefix("seed") for run in folder.glob("seed*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _all_seeds(results: Path, dataset: str, model: str) -> Runs:
    seeds = _seeds(run_folder(results, dataset, model, 0).parent)
    return collect_runs(results, [dataset], [model], seeds)
