"""Weights on disk: checkpoints, what a training starts from, and what it ended with."""

import hashlib
import json
import mmap
import pickle
import re
import zipfile
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from arcnn.config import config_of_file, get_config, load_config
from arcnn.data.tabletop.scenes import VERSION as DRAWING_VERSION
from arcnn.errors import InputError, MissingError
from arcnn.exchange import Papers, read_papers, read_weights
from arcnn.files import ROOT, read_json, sha256, write_atomically
from arcnn.modeling.amodal_head import mask_head_class

FINAL_WEIGHTS = "model_final.pth"
CLASSES = "classes.json"  # beside the weights: what the classes are called
KIT = "arcnn://"  # a file of the kit, wherever the kit lies
MASK_HEAD = "roi_heads.mask_head."
TRUNK = "#trunk"  # after a file's name: without what a mask head calls its own
TORCHVISION = "torchvision://"  # its ResNet of that name, trained on ImageNet
# What the zoo's files are that configs start from, as others who fetched them have it; the zoo
# itself gives the beginning of an MD5, in the name, and of the first file nothing.
ZOO = {
    "ImageNetPretrained/MSRA/R-50.pkl": "md5:6652b4a9c782d82bb3d42118be74d79b",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl": "sha256:"
    "3c25caca37baabbff3e22cc9eb0923db165a0c18b867871a3bf3570bac9b7ef0",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl": "sha256:"
    "9a737e290372f1f70994ebcbd89d8004dbb3ae30a605fd915a190fa4a782dd66",
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


class TrainedModel(NamedTuple):
    """A model, and the configuration that it was trained with."""

    cfg: CfgNode
    model: nn.Module


class Checkpointer(DetectionCheckpointer):
    """detectron2's; a file that it has named is complete, and it keeps what did not fit."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write weights, trainer state and ``kwargs`` to ``<name>.pth``, in one piece."""
        state = {key: part.state_dict() for key, part in self.checkpointables.items()}
        self._write(name, {"model": self.model.state_dict(), **state, **kwargs})

    def save_weights(self, name: str) -> None:
        """Write the weights alone."""
        self._write(name, {"model": self.model.state_dict()})

    def _write(self, name: str, content: dict) -> None:
        write_atomically(self.file(name), lambda partial: torch.save(content, partial))

    def file(self, name: str) -> Path:
        """Where a name lies."""
        return Path(self.save_dir) / f"{name}.pth"

    def checkpoints(self) -> list[Path]:
        """Those to go on from, oldest first."""
        return sorted(Path(self.save_dir).glob("model_[0-9]*.pth"))

    def get_checkpoint_file(self) -> str:
        """The newest one that is there, "" if there is none. (The stock file that says which one
        is the last speaks of it also when it has been deleted since.)"""
        return str(self.checkpoints()[-1]) if self.checkpoints() else ""

    def has_checkpoint(self) -> bool:
        return bool(self.checkpoints())

    without: tuple[str, ...] = ()  # parts of a network that are not loaded

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """detectron2's; with the trainer's state, it is that of this very network.

        Raises:
            ValueError: the file holds more than numbers, is cut off, or of something else.
        """
        try:
            rest = super().load(path, checkpointables)
        except InputError:
            raise
        except BROKEN as error:
            said = shorten(f"{type(error).__name__}: {error}", 200)
            raise InputError(f"{path} holds no weights of a network ({said}). {CURE}") from error
        if checkpointables is None and (misfits := sum(map(len, self.incompatible))):
            raise InputError(f"{path} is of another network: {misfits} weights do not fit. {CURE}")
        return rest

    def _load_file(self, filename: str) -> dict:
        if filename.endswith(".pkl"):
            check_pickle(Path(filename))
            content = super()._load_file(filename)
        elif filename.endswith(".safetensors"):
            content = {"model": read_tensors(Path(filename))}
        else:
            content = read_checkpoint(Path(filename), CURE)
            content = content if "model" in content else {"model": content}
        if self.without:
            weights = content["model"].items()
            content["model"] = {k: v for k, v in weights if not k.startswith(self.without)}
        return content

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        self.incompatible = incompatible  # in the place of a coloured line for each key


# What reading numbers that are none may end in.
BROKEN = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
CURE = (
    "Delete it, and get it again where it comes from; where it is a checkpoint of a training, that "
    "goes on from an earlier one, or from the start."
)


def read_checkpoint(file: Path, cure: str) -> dict[str, Any]:
    """What ``torch.save`` wrote: a dictionary of tensors and plain values, on the CPU.

    It is a pickle; torch opens it as one that names no code. What would be larger in memory than on
    disk is refused before: compressed archives, and texts that ask for so many empty bytes.

    Args:
        cure: what to do, for the sentence.

    Raises:
        ValueError: it is something else, or cut off; names the file.
    """
    try:
        if not file.is_file():
            raise ValueError("no file")
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(each.compress_type for each in archive.infolist()):
                    raise ValueError("it is compressed, as torch.save does not")
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as all_of,
        ):
            if all_of.find(b"bytearray") >= 0:
                raise ValueError("it asks for builtins.bytearray")
        content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError("no dictionary")
    except Exception as error:  # a pickle, a zip or a tensor that is broken may raise anything
        # torch's own words are a page, and tell how to run the code.
        said = str(error) if isinstance(error, ValueError) else "it is cut off, or none"
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            said = f"it asks for {asked[1]}"
        raise InputError(f"{file} cannot be read as PyTorch's weights ({said}). {cure}") from error
    return content


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is none, or cut off; names the file.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is no safetensors file, or cut off ({error}). {CURE}") from error


def check_zoo(name: str, file: Path) -> None:
    """Is this the file that detectron2's model zoo has under a name?

    Args:
        name: as ``detectron2://`` has it, a key of :data:`ZOO`; of others nothing is known.

    Raises:
        ValueError: it is not.
    """
    if name in ZOO:
        kind, _, known = ZOO[name].partition(":")
        with file.open("rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if found != known:
            raise InputError(
                f"{file} is not the model zoo's {name}: its {kind.upper()} is {found}, and was "
                f"{known}. Delete it, and it is fetched again; or give a file of your own by its "
                "path, as MODEL.WEIGHTS."
            )


# What arrays, and containers of them, are pickled as: by numpy 1 and 2, Python 2 and 3.
ARRAYS = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def check_pickle(file: Path) -> None:
    """Refuse a ``.pkl`` that holds anything but arrays, before detectron2 opens it: a pickle may
    run any code. (A ``.pth`` is opened by torch, which sees to that itself.)

    Raises:
        ValueError: it does, or cannot be read.
    """
    try:
        with file.open("rb") as content:
            _ArraysOnly(content, encoding="latin1").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise InputError(
            f"{file} is not opened: a model zoo's .pkl holds arrays and nothing else, and here "
            f"{error}. Get it again where it comes from."
        ) from error


class Checkpoints(HookBase):
    """One checkpoint at a time, every ``period`` iterations; in the end the weights alone."""

    def __init__(self, checkpointer: Checkpointer, period: int) -> None:
        self.checkpointer, self.period = checkpointer, period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        earlier = self.checkpointer.checkpoints()
        if done == self.trainer.max_iter:
            self.checkpointer.save_weights(Path(FINAL_WEIGHTS).stem)
        elif done % self.period == 0:
            name = f"model_{self.trainer.iter:07d}"
            self.checkpointer.save(name, iteration=self.trainer.iter)
            earlier = [file for file in earlier if file.stem != name]
        else:
            return
        for file in earlier:
            file.unlink(missing_ok=True)


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


def _parts(keys: list[str]) -> str:
    names = (next((name for start, name in PARTS.items() if k.startswith(start)), k) for k in keys)
    return ", ".join(dict.fromkeys(names)) or "nothing"


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


def start_record(cfg: CfgNode) -> dict[str, Any]:
    """The record beside the kit's own start that ``cfg`` begins from; empty for another start.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not cfg.MODEL.WEIGHTS.startswith(KIT):
        return {}
    file = Path(initial_weights(cfg)).with_suffix(".json")
    if not file.is_file():
        raise MissingError(f"{file} is not there: {REMAKE_START}")
    return json.loads(file.read_text())


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


REMAKE_START = "get data/start from the kit's repository again, or make it with `make start`."


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


def load_trained(run: str | Path, *, device: str | None = None) -> TrainedModel:
    """A trained model from its run alone, in inference mode.

    Its configuration is the one that lies beside the weights, so that no option of the training
    has to be, or can be, repeated.

    Args:
        run: ``results/<profile>/runs/<dataset>/<model>/seed<k>``, or the one file that such a run
            was exported as (:mod:`arcnn.exchange`).
        device: "cuda" or "cpu"; by default the GPU if there is one.

    Raises:
        FileNotFoundError: it was not trained to its end yet.
        ValueError: weights and configuration are not of one model; names the first that is
            missing, left over, or of another shape. Or a file is no exported run, or not whole.
    """
    run = Path(run)
    weights = weights_file(run)
    if weights == run:
        state, papers = read_weights(run), read_papers(run)
        cfg = config_of_file(papers.config, run, device=device)
        if (names := len(papers.classes)) != (classes := cfg.MODEL.ROI_HEADS.NUM_CLASSES):
            raise InputError(f"{run} names {names} classes of {classes}. {ITS_OWN[1]}")
        # Before anything is built: what sizes a file asks for is its own affair.
        _check_fit(_outline(cfg, run), state, run, *ITS_OWN)
    else:
        if not weights.is_file():
            raise MissingError(f"{weights} is not there: run notebook 04_train for it first.")
        cfg = load_config(weights.parent, device=device)
        state = read_checkpoint(weights, "Train it again, or get the run again.").get("model")
        if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
            raise InputError(f"{weights} holds no weights. Train it again, or get the run again.")
    model = build_model(cfg)
    _check_fit(model.state_dict(), state, weights, *(ITS_OWN if weights == run else BESIDE_IT))
    model.load_state_dict(state)
    return TrainedModel(cfg, model.eval())


def weights_file(run: str | Path) -> Path:
    """Where the weights of a run lie: in its folder, or in the file that it was exported as."""
    run = Path(run)
    return run if run.is_file() else run / "train" / FINAL_WEIGHTS


def run_papers(run: str | Path) -> Papers:
    """What is known of a run beside its weights, from its folder or from an exported file.

    The classes of a run that was made before they were noted are called by their numbers.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_trained`.
    """
    run = Path(run)
    if run.is_file():
        return read_papers(run)
    cfg = load_config(run / "train", device="cpu")
    classes = [f"class {k}" for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
    cure = "train and evaluate it again."
    if (run / "train" / CLASSES).is_file():
        classes = read_json(run / "train" / CLASSES, cure)
    records = {"training": run / "train" / "record.json", "evaluation": run / "record.json"}
    records = {of: read_json(file, cure) for of, file in records.items() if file.is_file()}
    return Papers((run / "train" / "config.yaml").read_text(), classes, records)


def _outline(cfg: CfgNode, file: Path) -> dict[str, torch.Tensor]:
    """The names and sizes of a network's weights, without room for any."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            return build_model(cfg).state_dict()
    except InputError:
        raise
    except Exception as error:  # whatever detectron2 says of settings that do not go together
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"the settings in {file} make no network ({said}).") from error


# What is wrong if weights do not fit their settings, and what to do.
ITS_OWN = "does not fit the settings in it", "Get the file again, or export the run again."
BESIDE_IT = (
    "does not fit the config.yaml beside it",
    "One of the two is of another run; train it again, or bring back the file that belongs there.",
)


def _check_fit(wanted: dict, given: dict, file: Path, misfit: str, cure: str) -> None:
    misfits = [f"{key} is missing" for key in wanted if key not in given]
    misfits += [f"{key} is left over" for key in given if key not in wanted]
    misfits += [
        f"{key} is {list(given[key].shape)}, not {list(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise InputError(f"{file} {misfit}: {misfits[0]}{more}. {cure}")
