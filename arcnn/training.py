"""Training with detectron2's engine: one function, an interrupted run goes on where it was.

``python -m arcnn.training`` trains in several processes, see :mod:`arcnn.launch`.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from detectron2 import solver
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from arcnn.config import for_processes
from arcnn.data.loader import build_train_loader, seed_of
from arcnn.data.registration import split_fingerprint, split_name, split_records
from arcnn.errors import InputError, Told
from arcnn.files import hold, read_json, write_json
from arcnn.film import Camera, Filming, Show, Showing
from arcnn.initial_weights import load_initial_weights, start_record
from arcnn.logbook import LOG_PERIOD, LogWindow, LogWriter, ProgressBar, Session, read_log
from arcnn.modeling.amodal_head import mask_head_class
from arcnn.settings import (
    MAX_ITER,
    differences,
    read_settings,
    settings,
    training_differences,
    write_settings,
)
from arcnn.weights import CLASSES, FINAL_WEIGHTS, Checkpointer, Checkpoints

logger = logging.getLogger(__name__)
# detectron2 prints the traceback of what ends a training, and then raises it: once will do.
logging.getLogger(TrainerBase.__module__).setLevel(logging.CRITICAL)


Watch = Callable[[Checkpointer], HookBase]


class Training(NamedTuple):
    """What :func:`train` did."""

    weights: Path  # OUTPUT_DIR/model_final.pth
    steps: int  # that this call made; 0 if the run was complete already
    start: str  # a sentence: what the weights started from


class Stopped(Told, KeyboardInterrupt):
    """Somebody stopped a training: no fault."""


class Diverged(Told, FloatingPointError):
    """A loss is infinite or no number."""


class Failed(Told, RuntimeError):
    """What a training needs of the machine is not there any more: memory, or a process."""


def train(cfg: CfgNode, *, show: Show | None = None, watch: Watch | None = None) -> Training:
    """Train the model of ``cfg`` on its training split, into ``cfg.OUTPUT_DIR``.

    Goes on from the last checkpoint found there. On a CPU, the same seed and number of threads
    give the same weights to the last bit, interrupted or not: the order of the images, their
    augmentation and every other draw follow from the seed and the iteration alone.

    ``OUTPUT_DIR`` then holds ``model_final.pth``, the weights; ``config.yaml``, all settings;
    ``metrics.json``, the losses, one JSON object a line (:func:`read_log`); ``data.json``, the
    fingerprint of the training split; ``classes.json``, what its classes are called;
    ``sessions.json``, when what was trained on which device; and ``film.npz``, what it drew
    meanwhile (:mod:`arcnn.film`).

    Processes that :mod:`arcnn.launch` started train together: each calls this, with the same
    configuration, and the main one alone writes.

    Args:
        cfg: from :func:`arcnn.get_config`, with its data set registered.
        show: called now and then with the log and the masks of now, for somebody who looks on.
        watch: makes a hook that comes before all others, given what writes the checkpoints.

    Raises:
        FileNotFoundError: data or initial weights are missing; says what to put where.
        ValueError: the folder holds a run with other settings or on other data, or the initial
            weights do not fit the backbone; names them. Or the data lack what the mask head
            learns from.
        BlockingIOError: another process trains in this folder.
        FloatingPointError: a loss became infinite or NaN.
        RuntimeError: the GPU's memory is too small, or a process that loads images died.
        Stopped: it was interrupted; a second call goes on.
    """
    cfg, asked_for = for_processes(cfg, comm.get_world_size()), cfg
    output = Path(cfg.OUTPUT_DIR)
    main = comm.is_main_process()
    scaled = differences(settings(cfg), settings(asked_for))
    with hold(output / ".lock", "trains") if main else nullcontext():
        if main:
            for left in output.glob("*.partial-*"):  # by a process that was killed
                left.unlink()
            _check_same_run(cfg, output)
        trained = _train(cfg, output, show, watch, scaled)
    # The caller may be a notebook, which lives on: give the GPU's memory back.
    torch.cuda.empty_cache()
    return trained


def _train(
    cfg: CfgNode, output: Path, show: Show | None, watch: Watch | None, scaled: list[str]
) -> Training:
    weights, last, main = output / FINAL_WEIGHTS, cfg.SOLVER.MAX_ITER, comm.is_main_process()
    _agree(sorted(file.name for file in output.glob("model_*.pth")), output)
    if weights.is_file():
        if main:
            weights.touch()  # as new as what was changed without a difference to it
            for left in output.glob("model_[0-9]*.pth"):  # by a process that was killed just then
                left.unlink()
        return Training(weights, 0, "The run was complete already.")
    seed_all_rng(cfg.SEED)
    records = split_records(cfg, "train")
    if main:
        mask_head_class(cfg).prepare(cfg, records)
    comm.synchronize()
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)

    # The loader is attached below: what it gives depends on where the training starts.
    trainer = build_trainer(cfg, shared(cfg, model), optimizer)
    checkpointer = Checkpointer(model, str(output), trainer=trainer)
    # Before loading: the hooks' state (the scheduler's) is part of the checkpoint.
    trainer.register_hooks(
        [
            watch(checkpointer) if watch else None,
            SeedEveryStep(cfg.SEED),
            LogWindow(),
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
        ]
    )
    first, start = 0, "Started from random weights."
    if checkpointer.has_checkpoint():
        checkpointer.resume_or_load("", resume=True)
        first = trainer.iter + 1
        start = f"Went on at iteration {first}."
    elif cfg.MODEL.WEIGHTS:
        start = load_initial_weights(cfg, checkpointer)
    _agree(start, output)
    if main:
        trainer.register_hooks(
            [
                hooks.PeriodicWriter([LogWriter(output, first)], LOG_PERIOD),
                ProgressBar(),
                *_filming(cfg, model, output, show),
                # Last: log and film of a training that goes on from here are complete until here.
                Checkpoints(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            ]
        )

    loader = build_train_loader(cfg, records, first)
    trainer.reset_data_loader(lambda: loader)
    computed_in = str(precision(cfg)).removeprefix("torch.")
    session = Session(output, start, first, computed_in, scaled) if main else None
    with _sentences(cfg, trainer):
        trainer.train(first, last)
    if session:
        session.end(last)
    comm.synchronize()  # what the main process writes is there
    return Training(weights, last - first, start)


def shared(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model with gradients averaged over all processes; the model itself where there is one.

    A batch norm that learns its statistics takes them from each process's own images; those of the
    main process are kept.
    """
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    return create_ddp_model(model, device_ids=[comm.get_local_rank()] if on_gpu else None)


def _agree(found: object, output: Path) -> None:
    """Make sure that all processes see the same run, and start from the same weights."""
    others = [other for other in comm.all_gather(found) if other != found]
    if others:
        raise InputError(
            f"One process finds in {output}: {found}; another: {others[0]}. All machines need the "
            "same results folder, and the same initial weights."
        )


@contextmanager
def _sentences(cfg: CfgNode, trainer: TrainerBase) -> Iterator[None]:
    """What ends a training early, said in a sentence."""
    last, period = cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(
            f"Stopped at iteration {trainer.iter} of {last}. Run it again, and it goes on from the "
            f"last checkpoint, of which there is one every {period} iterations."
        ) from None
    except FloatingPointError as error:
        computed_in = str(precision(cfg)).removeprefix("torch.")
        raise Diverged(
            f"{error}\nIt was computed in {computed_in}: the options "
            '["SOLVER.AMP.ENABLED", False] compute in float32; a lower SOLVER.BASE_LR may help too.'
        ) from error
    except torch.cuda.OutOfMemoryError as error:
        half = "" if cfg.SOLVER.AMP.ENABLED else ", or set SOLVER.AMP.ENABLED"
        raise Failed(
            f"The GPU's memory was too small at iteration {trainer.iter} "
            f"({shorten(str(error), 120)}). Lower SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN"
            f"{half}, in another results folder; or, with settings as they are, share the batch "
            "among more GPUs (num_gpus): the last checkpoint is kept, and goes on."
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise Failed(
            f"A process that loads images died at iteration {trainer.iter} "
            f"({shorten(str(error), 120)}). Most often memory is short, or shared memory: the "
            'options ["DATALOADER.NUM_WORKERS", 0] '
            "take none. The last checkpoint is kept, and goes on."
        ) from error


def _filming(cfg: CfgNode, model: nn.Module, output: Path, show: Show | None) -> list[HookBase]:
    """The hooks that look on. They are no part of a training: what cannot be filmed is trained."""
    try:
        camera = Camera(cfg, model)
    except (OSError, ValueError) as error:
        logger.warning("no film of this training: %s", error)
        return []
    showing = [Showing(camera, show, lambda: read_log(output))] if show else []
    return [Filming(camera, output), *showing]


def precision(cfg: CfgNode) -> torch.dtype:
    """What a training of this configuration computes in, on this machine.

    With ``SOLVER.AMP.ENABLED`` float16 on a GPU, and bfloat16 on a CPU that has instructions for
    it (AVX512_BF16 or AMX, asked of torch); float32 otherwise.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return torch.float32
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def build_trainer(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainerBase:
    """detectron2's trainer for the :func:`precision`, still without a loader."""
    if precision(cfg) == torch.float16:
        return _AMPTrainer(model, [], optimizer)
    if precision(cfg) == torch.bfloat16:  # which needs no scaling of the loss
        return SimpleTrainer(_InBFloat16(model), [], optimizer)
    return SimpleTrainer(model, [], optimizer)


class _InBFloat16(nn.Module):
    """A model whose convolutions and linear layers are computed in bfloat16, on a CPU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(batch)


class _AMPTrainer(AMPTrainer):
    """Goes on also from a checkpoint that was made without mixed precision, on a CPU."""

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict({"grad_scaler": self.grad_scaler.state_dict()} | state_dict)


class SeedEveryStep(HookBase):
    """What a step draws (RoIs among the proposals, for instance) follows from its number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        rank = comm.get_rank()  # processes draw apart
        torch.manual_seed(seed_of(self.seed, 0, self.trainer.iter, *([rank] if rank else [])))


def _check_same_run(cfg: CfgNode, output: Path) -> None:
    """Never go on with a run that was started with other settings or on other data."""
    file, data_file = output / "config.yaml", output / "data.json"
    now, data = settings(cfg), trained_on(cfg)
    if next(output.glob("model_*.pth"), None) and not (file.is_file() and data_file.is_file()):
        raise InputError(
            f"{output} holds weights without the config.yaml and data.json that tell of them. "
            "Delete that folder to train anew, or choose another results folder to keep it."
        )
    if file.is_file():
        before = read_settings(file)
        changed = training_differences(now, before)
        if (output / FINAL_WEIGHTS).is_file() and now[MAX_ITER] != before.get(MAX_ITER):
            # Finished weights have left the optimizer's state behind.
            changed = changed or [f"{MAX_ITER}: now {now[MAX_ITER]}, and the run is complete"]
        if data_file.is_file():
            before = read_json(data_file, "delete its folder to train anew.", {"type": "object"})
            changed += _data_difference(data, before)
        if changed:
            raise InputError(
                f"{output} holds a run with other settings or data ({'; '.join(changed)}). "
                "Delete that folder to train anew, or choose another results folder to keep both."
            )
    write_settings(cfg, file)
    write_json(data_file, data)
    # For whoever gives the model an image of another data set, or of none.
    write_json(output / CLASSES, MetadataCatalog.get(split_name(cfg, "train")).thing_classes)


def trained_on(cfg: CfgNode) -> dict[str, Any]:
    """The content of ``data.json``: the fingerprint of the training split, and the SHA-256 of the
    kit's own start, if a training begins there."""
    return split_fingerprint(cfg, "train") | {"start": start_record(cfg).get("sha256")}


def _data_difference(now: dict, before: dict) -> list[str]:
    if now["start"] != before.get("start"):
        return ["the kit's start is another file now"]
    if now["used"] == before.get("used"):
        return []
    counts = (f"{d.get('images')} images with {d.get('objects')} objects" for d in (now, before))
    return [f"training data: now {next(counts)}, before {next(counts)}, not the same ones"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """detectron2's SGD, or AdamW with the same keys, as ``SOLVER.OPTIMIZER`` says."""
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return solver.build_optimizer(cfg, model)
    if cfg.SOLVER.OPTIMIZER != "AdamW":
        raise InputError(f'SOLVER.OPTIMIZER is "{cfg.SOLVER.OPTIMIZER}"; choose "SGD" or "AdamW"')
    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(
        parameters,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        # A fused step takes the loss's scale out of the gradients only after they were clipped.
        fused=precision(cfg) != torch.float16,
    )


if __name__ == "__main__":
    from arcnn.launch import main

    sys.exit(main())
