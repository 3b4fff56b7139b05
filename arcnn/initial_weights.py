"""What a training starts from: the kit's own start, a file of detectron2's model zoo, torchvision's
ResNets, or a file of one's own.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from arcnn.config import get_config
from arcnn.data.tabletop.scenes import VERSION as DRAWING_VERSION
from arcnn.errors import InputError, MissingError
from arcnn.files import ROOT, read_json, sha256, write_atomically
from arcnn.modeling.amodal_head import mask_head_class
from arcnn.weight_files import check_zoo
from arcnn.weights import Checkpointer, TrainedModel

KIT = "arcnn://"  # a file of the kit, wherever the kit lies
MASK_HEAD = "roi_heads.mask_head."
TRUNK = "#trunk"  # after a file's name: without what a mask head calls its own
TORCHVISION = "torchvision://"  # its ResNet of that name, trained on ImageNet
REMAKE_START = "get data/start from the kit's repository again, or make it with `make start`."
# Parts of a detector, as the sentence about a start names them.
PARTS = {
    "backbone.bottom_up": "the ResNet",
    "backbone": "the FPN",
    "proposal_generator": "the RPN",
    "roi_heads.box": "the box head",
    "roi_heads.mask_head.amodal_head.conv": "the joint",
    "roi_heads.mask_head.amodal_head": "the amodal mask head",
    "roi_heads.mask_head.visible_head": "the visible mask head",
    "roi_heads.mask_head.occlusion_head": "the occlusion mask head",
    "roi_heads.mask": "the mask heads",
}


class _KitFiles(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return [KIT]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(ROOT / path.removeprefix(KIT))


class _TorchvisionResNets(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return [TORCHVISION]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(TORCHVISION)
        file = Path(get_cache_dir()) / "arcnn" / f"{name}.pth"
        if not file.is_file():
            state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(
                progress=True, check_hash=True
            )
            layers = {k: v for k, v in state.items() if not k.startswith("fc.")}
            renamed = {f"backbone.bottom_up.{as_detectron2(k)}": v for k, v in layers.items()}
            write_atomically(file, lambda partial: torch.save(renamed, partial))
        return str(file)


def as_detectron2(key: str) -> str:
    """detectron2's name of a weight of torchvision's ResNets: "layer1.0.bn2.bias" is
    "res2.0.conv2.norm.bias"."""
    key = key if key.startswith("layer") else f"stem.{key}"
    key = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", key)
    key = re.sub(r"bn(\d)", r"conv\1.norm", key)
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


PathManager.register_handler(_KitFiles())
PathManager.register_handler(_TorchvisionResNets())


def initial_weights(cfg: CfgNode) -> str:
    """A local file with the weights that training starts from, fetched at first use.

    Raises:
        FileNotFoundError: not there and not to be fetched; says which file to put where.
    """
    weights = cfg.MODEL.WEIGHTS.removesuffix(TRUNK)
    try:
        return PathManager.get_local_path(weights)
    except Exception as error:  # urllib, http and OS errors of every kind end up here
        if not weights.startswith(Detectron2Handler.PREFIX):
            raise MissingError(f"MODEL.WEIGHTS: {weights} is not there ({error})") from error
        name = weights.removeprefix(Detectron2Handler.PREFIX)
        place = Path(get_cache_dir()) / "detectron2" / name
        raise MissingError(
            f"The initial weights could not be fetched ({error}). Download "
            f"{Detectron2Handler.S3_DETECTRON2_PREFIX}{name} where there is a network and put it "
            f"at {place}, or name a local file with the option MODEL.WEIGHTS."
        ) from error


def load_initial_weights(cfg: CfgNode, checkpointer: Checkpointer) -> str:
    """Load ``MODEL.WEIGHTS`` into the checkpointer's model.

    Returns:
        A sentence: what was loaded, which parts are new, and which of the file were not taken.

    Raises:
        FileNotFoundError: see :func:`initial_weights`.
        ValueError: a weight of the ResNet is missing or of another shape, of the kit's own start
            any weight that is not of a new mask head; or it is not the file of that name, holds
            more than numbers or is cut off; or see :func:`check_start`.
    """
    try:
        file = initial_weights(cfg)
    except FileNotFoundError as error:
        if not cfg.MODEL.WEIGHTS.startswith(TORCHVISION):
            raise
        return f"Started from random weights: {error}"  # a help, and no part of a published setting
    own, heads_own = cfg.MODEL.WEIGHTS.startswith(KIT), mask_head_class(cfg).OWN_PARTS
    if (zoo := cfg.MODEL.WEIGHTS.removesuffix(TRUNK)).startswith(Detectron2Handler.PREFIX):
        check_zoo(zoo.removeprefix(Detectron2Handler.PREFIX), Path(file))
    if own:
        check_start(Path(file), cfg)
    trunk = cfg.MODEL.WEIGHTS.endswith(TRUNK)
    # What a head brings along beside its mask heads would at best fit by accident.
    checkpointer.without = tuple(part for part in heads_own if trunk or part != MASK_HEAD)
    checkpointer.load(file, checkpointables=[])
    misfits = checkpointer.incompatible
    reshaped = [key for key, *_ in misfits.incorrect_shapes]
    # Some model zoos fold the statistics of normalisation layers into their weights.
    new = [*misfits.missing_keys, *reshaped]
    new = [key for key in new if ".norm.running_" not in key and "num_batches" not in key]
    # A detector of a model zoo has other classes, and so another last layer; the kit's has not.
    needed = [key for key in new if key.startswith("backbone.bottom_up")]
    if own:
        needed = [key for key in new if not key.startswith(heads_own)] + reshaped
    if needed := sorted(needed):
        more = f" and {len(needed) - 1} others" if len(needed) > 1 else ""
        raise InputError(
            f"MODEL.WEIGHTS, {cfg.MODEL.WEIGHTS}, does not fit this network: it has no "
            f"{needed[0]}{more} of this shape. Give weights of a ResNet-"
            f"{cfg.MODEL.RESNETS.DEPTH} as detectron2 or its model zoo names them, or "
            '"" to start from random weights.'
        )
    # What a classifier of images has beside a backbone is nobody's loss.
    left = [key for key in misfits.unexpected_keys if key.startswith(tuple(PARTS))]
    left = [key for key in left if "num_batches" not in key]
    left = f"; not taken: {_parts(left)}" if left else ""
    return f"Started from {cfg.MODEL.WEIGHTS}; new: {_parts(new)}{left}."


def _parts(keys: list[str]) -> str:
    names = (next((name for start, name in PARTS.items() if k.startswith(start)), k) for k in keys)
    return ", ".join(dict.fromkeys(names)) or "nothing"


def start_record(cfg: CfgNode) -> dict[str, Any]:
    """The record beside the kit's own start that ``cfg`` begins from; empty for another start.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not cfg.MODEL.WEIGHTS.startswith(KIT):
        return {}
    file = Path(initial_weights(cfg)).with_suffix(".json")
    return read_json(file, REMAKE_START, {"type": "object", "required": ["sha256"]})


def check_start(file: Path, cfg: CfgNode) -> None:
    """Is this the published start, for these classes and this drawing?

    Raises:
        FileNotFoundError: the file or its record is not there.
        ValueError: it is cut off or altered, or is for other data.
    """
    if not file.is_file():
        raise MissingError(f"{file} is not there: {REMAKE_START}")
    if sha256(file) != start_record(cfg)["sha256"]:
        raise InputError(f"{file} is cut off or altered: {REMAKE_START}")
    with safe_open(file, "pt") as weights:
        made_for = weights.metadata()
    classes = ",".join(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
    for what, now in (("classes", classes), ("drawing", str(DRAWING_VERSION))):
        if made_for.get(what) != now:
            raise InputError(
                f"{file} was trained on {what} {made_for.get(what)}, and the data have {now}. "
                'Make another start with `make start`, or take "" as MODEL.WEIGHTS.'
            )


def load_start(dataset: str, *, device: str | None = None) -> TrainedModel:
    """The network that trainings on a data set start from, in inference mode.

    Raises:
        FileNotFoundError, ValueError: see :func:`load_initial_weights`.
    """
    options = ["MODEL.WEIGHTS", f"{KIT}data/start/{dataset}.safetensors"]
    cfg = get_config(dataset, "pieces", options=options, device=device)
    model = build_model(cfg)
    load_initial_weights(cfg, Checkpointer(model))
    return TrainedModel(cfg, model.eval())


def load_start_of_head(cfg: CfgNode, head: nn.Module) -> None:
    """Load what the kit's own start has for the mask head of ``cfg``, if training begins there."""
    if cfg.MODEL.WEIGHTS.startswith(KIT) and not cfg.MODEL.WEIGHTS.endswith(TRUNK):
        start = load_file(initial_weights(cfg))
        of_heads = {k.removeprefix(MASK_HEAD): v for k, v in start.items() if MASK_HEAD in k}
        head.load_state_dict({k: v for k, v in of_heads.items() if k in head.state_dict()}, False)
