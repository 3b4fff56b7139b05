"""Every configuration key that the kit adds to detectron2's, and the way to a ready config."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer

import arcnn.modeling  # noqa: F401 - registers the heads and the backbone that configs name
from arcnn.errors import InputError, MissingError
from arcnn.files import is_finite, is_whole, own_models, plain
from arcnn.modeling.amodal_head import mask_head_class
from arcnn.names import DATASETS, PUBLISHED
from arcnn.settings import read_configuration

CONFIG_DIR = Path(__file__).parent / "configs"
HEAD_OPTION = "MODEL.HEAD."

# Keys with a way of their own: as an option they would contradict it.
NO_OPTIONS = {
    "SEED": "it is the parameter `seed` (`seeds` in a profile)",
    "OUTPUT_DIR": "it follows from results folder, data set, model and seed",
    "DATASETS.TRAIN": "it follows from the data set",
    "DATASETS.TEST": "it follows from the data set",
    "MODEL.DEVICE": "the GPU is taken if there is one; CUDA_VISIBLE_DEVICES= in front of the "
    "command keeps a run on the CPU",
}

# detectron2's keys that nothing here reads.
NO_OPTIONS |= dict.fromkeys(
    ("DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD", "INPUT.CROP.ENABLED")
    + ("TEST.AUG.ENABLED", "TEST.PRECISE_BN.ENABLED", "TEST.EVAL_PERIOD"),
    "nothing in the kit reads it",
)


# The least and the most of settings, by the last part of their keys, whatever their type allows:
# beyond, a network is built or an image resized for ever, and nobody asks for that but by a slip.
LIMITS = {
    key: limits
    for limits, keys in {
        (0, 10**9): "BASE_LR STEPS WARMUP_ITERS OVERFIT_IMAGES",
        (1, 10**9): "MAX_ITER IMS_PER_BATCH CHECKPOINT_PERIOD",
        (1, 20_000): "MIN_SIZE_TRAIN MAX_SIZE_TRAIN MIN_SIZE_TEST MAX_SIZE_TEST",
        (1, 10_000): "NUM_CLASSES DETECTIONS_PER_IMAGE",
        (1, 4096): "CONV_DIM FC_DIM OUT_CHANNELS RES2_OUT_CHANNELS STEM_OUT_CHANNELS "
        "WIDTH_PER_GROUP NUM_GROUPS",
        (0, 256): "NUM_WORKERS NUM_CONV NUM_FC LAYERS ENCODER_CONVS",
        (0, 16): "POOLER_SAMPLING_RATIO",
        (0, 128): "TOKENS",
        (1, 64): "POOLER_RESOLUTION",
        (1, 100_000): "PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST",
        (0, 1): "SCORE_THRESH_TEST NMS_THRESH_TEST NMS_THRESH",
        (1e-6, 1e6): "PIXEL_STD",
        (0, 255): "PIXEL_MEAN",
        (1e-3, 1e3): "BBOX_REG_WEIGHTS",
    }.items()
    for key in keys.split()
}
ANYTHING = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)  # .inf is a norm
ANY = (-sys.float_info.max, sys.float_info.max)

# What reading a text that is none may end in; yacs evaluates texts in it, brackets in brackets too.
NO_CONFIGURATION = (AssertionError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError)
NO_CONFIGURATION += (MemoryError, RecursionError)


def models_of(dataset: str) -> tuple[str, ...]:
    """The models that can be trained on a data set.

    Each has a file in ``configs/models`` or in one's own folder (:func:`arcnn.files.own_models`),
    and ``<model>.<dataset>.yaml`` beside it where it differs on a data set. ``<model>_published``
    is the same model with the schedule of its own paper or code, where that tells one for this data
    set.

    Raises:
        ValueError: a model of one's own has the name of one of the kit's.
    """
    kits, own = (
        [file.stem for file in sorted(folder.glob("*.yaml")) if "." not in file.stem]
        for folder in (CONFIG_DIR / "models", own_models())
    )
    if taken := set(kits) & set(own):
        raise InputError(f"{own_models() / min(taken)}.yaml: the kit has a {min(taken)}; rename it")
    published = sorted(file.stem for file in (CONFIG_DIR / "published" / dataset).glob("*.yaml"))
    return (*kits, *own, *(f"{model}{PUBLISHED}" for model in published))


def add_arcnn_config(cfg: CfgNode) -> None:
    """Add the kit's keys, in place. What the paper leaves open is a switch here."""
    # ARCNN's 1x1 convolution, Eq. (1).
    cfg.MODEL.ARCNN = CfgNode()
    cfg.MODEL.ARCNN.BIAS = True  # add b_T; not said in the paper
    cfg.MODEL.ARCNN.OWN_CLASS = False  # True: only the class's own two maps, no context
    cfg.MODEL.ARCNN.INPUT = "logits"  # or "probs": what VM and OM are
    cfg.MODEL.ARCNN.INIT = "normal"  # N(0, 0.001), or "identity": start as ARCNN-add
    cfg.MODEL.ARCNN.DETACH = False  # True: L_AM trains the 1x1 convolution alone

    # ARCNN-add's sum.
    cfg.MODEL.ARCNN_ADD = CfgNode()
    cfg.MODEL.ARCNN_ADD.SUM = "logits"  # or "probs", "noisy_or"
    cfg.MODEL.ARCNN_ADD.DETACH = False  # True: L_AM trains nothing (only the sum is left)

    # ORCNN's third loss, on amodal - ReLU(visible).
    cfg.MODEL.ORCNN = CfgNode()
    cfg.MODEL.ORCNN.OCCLUSION_LOSS = True  # False: as the ARCNN paper describes ORCNN

    # Every other head declares its switches itself (AmodalMaskHead.OPTIONS).
    cfg.MODEL.HEAD = CfgNode(new_allowed=True)

    # "SGD" as in the paper, or "AdamW", which learns faster where nothing is pre-trained.
    cfg.SOLVER.OPTIMIZER = "SGD"

    # The wiring check: train and test on the first N images of the one split found. 0: off.
    cfg.DATASETS.OVERFIT_IMAGES = 0


def get_config(
    dataset: str,
    model: str,
    *,
    options: Sequence = (),
    seed: int = 0,
    device: str | None = None,
    output_dir: str | Path = "",
) -> CfgNode:
    """The configuration of one model on one data set, frozen.

    Args:
        dataset: one of :data:`arcnn.names.DATASETS`.
        model: one of :func:`models_of` the data set.
        options: detectron2 overrides, ``[KEY, VALUE, KEY, VALUE, ...]``.
        seed: of weights, data order and augmentation.
        device: "cuda" or "cpu"; by default the GPU if there is one.
        output_dir: where a training writes.

    Raises:
        ValueError: unknown data set, model or mask head; in ``options`` an unknown key, or one of
            :data:`NO_OPTIONS`.
    """
    if dataset not in DATASETS:
        raise InputError(f'unknown dataset "{dataset}"; choose one of {", ".join(DATASETS)}')
    if model not in (known := models_of(dataset)):
        raise InputError(f'unknown model "{model}"; {dataset} has {", ".join(known)}')
    for key in options[::2]:
        if key in NO_OPTIONS:
            raise InputError(f"options: {key} is none, {NO_OPTIONS[key]}.")
    cfg = get_cfg()
    add_arcnn_config(cfg)
    bare = model.removesuffix(PUBLISHED)
    # The kit's own, which may build on one another.
    cfg.merge_from_file(str(CONFIG_DIR / "datasets" / f"{dataset}.yaml"), allow_unsafe=False)
    names = (f"{bare}.yaml", f"{bare}.{dataset}.yaml")
    files = [folder / n for folder in (CONFIG_DIR / "models", own_models()) for n in names]
    if model != bare:
        files.append(CONFIG_DIR / "published" / dataset / f"{bare}.yaml")
    for file in files:
        if file.exists():
            _merge_file(cfg, file)
    of_head, others = _head_options_apart(options)
    try:
        cfg.merge_from_list(others)
        _merge_head_options(cfg, of_head)
    except (AssertionError, KeyError) as error:
        raise InputError(
            f"options {list(options)} do not fit: {error}. They are KEY, VALUE pairs of "
            "detectron2's configuration or of arcnn/config.py."
        ) from error
    _check_values(cfg)
    cfg.SEED = seed
    return _on_this_machine(cfg, device, output_dir)


def load_config(output_dir: str | Path, *, device: str | None = None) -> CfgNode:
    """The configuration that a training keeps beside its weights, ``config.yaml``, frozen.

    Raises:
        FileNotFoundError: nothing was trained there.
        ValueError: no configuration, or one of another version of the kit; names the file.
    """
    file = Path(output_dir) / "config.yaml"
    try:
        cfg = _read(plain(file).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{file} is not there: run notebook 04_train for it first.") from None
    except NO_CONFIGURATION as error:
        raise InputError(
            f"{file} is no configuration of this version of the kit ({shorten(str(error), 200)}). "
            f"To train it anew, delete {file.parent} and run notebook 04_train."
        ) from error
    return _on_this_machine(cfg, device, output_dir)


def for_processes(cfg: CfgNode, processes: int) -> CfgNode:
    """The configuration as so many processes train it together, each on a GPU of its own.

    They share the batch, and nothing else changes; unless ``SOLVER.REFERENCE_WORLD_SIZE`` says for
    how many processes the settings were made: then detectron2 scales the batch and the learning
    rate up, and the schedule down, with their number.

    Raises:
        ValueError: the batch cannot be shared equally.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference and cfg.SOLVER.IMS_PER_BATCH % reference:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH, {cfg.SOLVER.IMS_PER_BATCH}, is no multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE, {reference}."
        )
    cfg = DefaultTrainer.auto_scale_workers(cfg, processes)
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise InputError(
            f"{processes} processes cannot share a batch of {cfg.SOLVER.IMS_PER_BATCH} equally: "
            f"give a multiple of {processes} as SOLVER.IMS_PER_BATCH, or take fewer GPUs."
        )
    return cfg


def config_of_file(text: str, file: Path, *, device: str | None = None) -> CfgNode:
    """The configuration that an exported run has in it, frozen.

    Args:
        text: YAML.
        file: that holds it, for the sentence.

    Raises:
        ValueError: no configuration, or one of another version of the kit.
    """
    try:
        cfg = _read(text)
    except NO_CONFIGURATION as error:
        said = shorten(str(error), 200)
        raise InputError(f"{file} has no configuration that this kit reads: {said}") from error
    return _on_this_machine(cfg, device, "")


def _merge_file(cfg: CfgNode, file: Path) -> None:
    """Merge a model's file, which somebody may have sent."""
    try:
        cfg.merge_from_other_cfg(CfgNode(read_configuration(plain(file).read_text())))
    except NO_CONFIGURATION as error:
        said = shorten(str(error), 200)
        raise InputError(
            f"{file} is no configuration: {said}. Each key has to be one of detectron2's or of "
            "arcnn/config.py, and each value plain YAML."
        ) from error


def _read(text: str) -> CfgNode:
    """A whole configuration."""
    cfg = get_cfg()
    add_arcnn_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(read_configuration(text)))
    _merge_head_options(cfg, [])
    _check_values(cfg)
    names = cfg.DATASETS.TRAIN
    if not names or not all(isinstance(n, str) and n.isprintable() and len(n) < 99 for n in names):
        raise ValueError(f"DATASETS.TRAIN names no data set: {names!r:.99}")
    return cfg


def _check_values(cfg: CfgNode, above: str = "") -> None:
    """See to it that every number is one, and within :data:`LIMITS`.

    Raises:
        ValueError: one is not; or images are to be read in another order of colours than two.
    """
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            _check_values(value, f"{above}{key}.")
            continue
        name = f"{above}{key}"
        if name in ANYTHING:
            continue
        least, most = LIMITS.get(key, ANY)
        if name.startswith(HEAD_OPTION):  # a head knows its own; but no loop is endless
            if is_whole(value) and value > most:
                raise InputError(f"{name} is {value!r:.99}; it is {most} at most.")
            continue
        asked = f"{least} to {most}" if key in LIMITS else "a finite number"
        for one in _leaves(value):
            number = key in LIMITS or isinstance(one, float)
            if number and not (is_finite(one) and least <= one <= most):
                raise InputError(f"{name} is {value!r:.99}; it is {asked}.")
        if name == "INPUT.FORMAT" and value not in ("BGR", "RGB"):
            raise InputError(f"{name} is {value!r:.99}; it is BGR or RGB.")


def _leaves(value: Any) -> list:
    listed = isinstance(value, list | tuple)
    return [leaf for each in value for leaf in _leaves(each)] if listed else [value]


def _head_options_apart(options: Sequence) -> tuple[list, list]:
    """Those of the mask head, without their prefix, and the others."""
    of_head, others = [], []
    for place in range(0, len(options), 2):
        key, *value = options[place : place + 2]
        if str(key).startswith(HEAD_OPTION):
            of_head += [key.removeprefix(HEAD_OPTION), *value]
        else:
            others += [key, *value]
    return of_head, others


def _merge_head_options(cfg: CfgNode, options: Sequence) -> None:
    """The options that the mask head declares: as the file has them, then as ``options`` say."""
    head = mask_head_class(cfg)
    given = [word for pair in cfg.MODEL.HEAD.items() for word in pair] + list(options)
    cfg.MODEL.HEAD = CfgNode(head.OPTIONS)
    for key in given[::2]:
        if key not in head.OPTIONS:
            near = get_close_matches(str(key), head.OPTIONS, n=1, cutoff=0)
            cure = f"the nearest that it has is {near[0]}" if near else "it has none"
            raise InputError(f"{HEAD_OPTION}{key} is no option of {head.__name__}; {cure}.")
    cfg.MODEL.HEAD.merge_from_list(given)


def _on_this_machine(cfg: CfgNode, device: str | None, output_dir: str | Path) -> CfgNode:
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg.freeze()
    return cfg
