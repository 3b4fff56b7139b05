"""Trained weights: checkpoints of a training, and the model that it ended with."""

from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from torch import nn

from arcnn.config import config_of_file, load_config
from arcnn.errors import InputError, MissingError
from arcnn.exchange import CLASS_NAMES, RECORD, Papers, read_papers, read_weights
from arcnn.files import plain, read_json, write_atomically
from arcnn.weight_files import CURE, check_pickle, read_checkpoint, read_tensors

FINAL_WEIGHTS = "model_final.pth"
CLASSES = "classes.json"  # beside the weights: what the classes are called
# What reading numbers that are none may end in.
BROKEN = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Of the weights of a run; torch has many more, which few of its functions take.
DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
DTYPES |= {torch.int8, torch.int16, torch.int32, torch.int64}
# What is wrong if weights do not fit their settings, and what to do.
ITS_OWN = "does not fit the settings in it", "Get the file again, or export the run again."
BESIDE_IT = (
    "does not fit the config.yaml beside it",
    "One of the two is of another run; train it again, or bring back the file that belongs there.",
)
AGAIN = "Train it again, or get the run again."


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


class Checkpoints(HookBase):
    """One checkpoint at a time, every ``period`` iterations; in the end the weights alone.

    The last of all hooks: a training that has its weights has all that the others write.
    """

    def __init__(self, checkpointer: Checkpointer, period: int) -> None:
        self.checkpointer, self.period = checkpointer, period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 and done < self.trainer.max_iter:
            name = f"model_{self.trainer.iter:07d}"
            self.checkpointer.save(name, iteration=self.trainer.iter)
            self._remove_checkpoints(but=name)

    def after_train(self) -> None:
        if self.trainer.iter == self.trainer.max_iter:  # also called when a step failed
            self.checkpointer.save_weights(Path(FINAL_WEIGHTS).stem)
            self._remove_checkpoints()

    def _remove_checkpoints(self, but: str = "") -> None:
        for file in self.checkpointer.checkpoints():
            if file.stem != but:
                file.unlink(missing_ok=True)


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
            missing, left over, of another shape, or not finite. Or a file is no exported run, or
            not whole.
    """
    run = Path(run)
    weights = weights_file(run)
    if weights == run:
        state, file, wrong = read_weights(run), run, ITS_OWN
        cfg = config_of_file(run_papers(run).config, run, device=device)
    else:
        file, wrong = weights.with_name("config.yaml"), BESIDE_IT
        if not weights.exists():
            raise MissingError(f"{weights} is not there: run notebook 04_train for it first.")
        cfg = load_config(weights.parent, device=device)
        state = read_checkpoint(weights, AGAIN).get("model")
    if not isinstance(state, dict) or not all(map(_is_dense, state.values())):
        raise InputError(f"{weights} holds no weights. {AGAIN}")
    # Of a file that somebody sent, before anything is built: what sizes it asks for is its affair.
    model = None if weights == run else _built(cfg, file)
    _check_fit(model.state_dict() if model else _outline(cfg, file), state, weights, *wrong)
    model = model or build_model(cfg)
    model.load_state_dict(state)
    if broken := [key for key, value in model.named_parameters() if not value.isfinite().all()]:
        raise InputError(f"{weights}: {broken[0]} is not finite, the training diverged. {AGAIN}")
    return TrainedModel(cfg, model.eval())


def _is_dense(value: Any) -> bool:
    """Whether it is a tensor of plain numbers on the CPU."""
    dense = torch.is_tensor(value) and value.layout == torch.strided and not value.is_nested
    return dense and value.device.type == "cpu" and value.dtype in DTYPES


def weights_file(run: str | Path) -> Path:
    """Where the weights of a run lie: in its folder, or in the file that it was exported as.

    Raises:
        OSError: it is a pipe or a device.
    """
    run = Path(run)
    return plain(run) if run.exists() and not run.is_dir() else run / "train" / FINAL_WEIGHTS


def run_papers(run: str | Path) -> Papers:
    """What is known of a run beside its weights, from its folder or from an exported file.

    The classes of a run that was made before they were noted are called by their numbers.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_trained`; or there are not as many classes
            as the model knows.
    """
    run = Path(run)
    if weights_file(run) == run:
        papers, file, cure = read_papers(run), run, ITS_OWN[1]
        cfg = config_of_file(papers.config, run, device="cpu")
    else:
        cfg = load_config(run / "train", device="cpu")
        classes = [f"class {k}" for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
        file, cure = run / "train" / CLASSES, "Delete it, and they are called by their numbers."
        if file.exists():
            classes = read_json(file, cure, CLASS_NAMES)
        records = {"training": run / "train" / "record.json", "evaluation": run / "record.json"}
        records = {k: read_json(f, AGAIN, RECORD) for k, f in records.items() if f.exists()}
        papers = Papers((run / "train" / "config.yaml").read_text(), classes, records)
    if (names := len(papers.classes)) != (classes := cfg.MODEL.ROI_HEADS.NUM_CLASSES):
        raise InputError(f"{file} names {names} classes of {classes}. {cure}")
    return papers


def _outline(cfg: CfgNode, file: Path) -> dict[str, torch.Tensor]:
    """The names and sizes of a network's weights, without room for any."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return _built(cfg, file).state_dict()


def _built(cfg: CfgNode, file: Path) -> nn.Module:
    """The network of the settings in a file."""
    try:
        return build_model(cfg)
    except InputError:
        raise
    except Exception as error:  # whatever detectron2 says of settings that do not go together
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"the settings in {file} make no network ({said}).") from error


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
