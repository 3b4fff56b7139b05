"""Training with detectron2's engine: one function, an interrupted run goes on where it was."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from detectron2 import solver
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import get_cache_dir
from torch import nn
from tqdm import tqdm

from arcnn.data import AmodalDatasetMapper, split_name, split_records
from arcnn.files import sha256, write_whole
from arcnn.names import MASK_KINDS

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
LOG_PERIOD = 20  # iterations between two lines of metrics.json, detectron2's own default


class AtomicCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer; a file that it has named is complete, whatever interrupts it."""

    def save(self, name: str, **kwargs: object) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: part.state_dict() for key, part in self.checkpointables.items()}
        write_whole(
            Path(self.save_dir) / f"{name}.pth",
            lambda partial: torch.save(
                {"model": self.model.state_dict(), **state, **kwargs}, partial
            ),
        )

    def get_checkpoint_file(self) -> str:
        """The newest one that is there, "" if there is none. (The stock file that says which one
        is the last speaks of it also when it has been deleted since.)"""
        found = sorted(Path(self.save_dir).glob("model_*.pth"))  # numbers come before "final"
        return str(found[-1]) if found else ""

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())


class ProgressBar(HookBase):
    """One line in notebook and terminal: iterations, total loss, mask losses, time left."""

    def before_train(self) -> None:
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            mininterval=2,
        )

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % 5 == 0:
            latest = self.trainer.storage.latest_with_smoothing_hint(window_size=LOG_PERIOD)
            shown = [f"loss {latest['total_loss'][0]:.2f}"]
            for kind in MASK_KINDS:
                if f"loss_{kind}_mask" in latest:
                    shown.append(f"{kind} {latest[f'loss_{kind}_mask'][0]:.2f}")
            self.bar.set_postfix_str(", ".join(shown), refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()


def train(cfg: CfgNode) -> Path:
    """Train the model of ``cfg`` on its training split, into ``cfg.OUTPUT_DIR``.

    Goes on from the last checkpoint found there. On a CPU, the same seed and number of threads
    give the same weights to the last bit; a resumed run differs in the order of its images.

    Args:
        cfg: from :func:`arcnn.get_config`, with its data set registered.

    Returns:
        The final weights, ``OUTPUT_DIR/model_final.pth``. ``OUTPUT_DIR/metrics.json`` has the
        losses, one JSON object a line; read them with :func:`read_log`.

    Raises:
        FileNotFoundError: data or initial weights are missing; says what to put where.
        ValueError: the folder holds a run with another configuration or on other data.
        FloatingPointError: a loss became infinite or NaN.
    """
    output = Path(cfg.OUTPUT_DIR)
    output.mkdir(parents=True, exist_ok=True)
    _check_same_config(cfg, output / "config.yaml")
    _train(cfg, output)
    # The caller may be a notebook, which lives on: give the GPU's memory back.
    torch.cuda.empty_cache()
    return output / FINAL_WEIGHTS


def _train(cfg: CfgNode, output: Path) -> None:
    seed_all_rng(cfg.SEED)
    records = split_records(cfg, "train")
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)

    # The loader is attached below: what it draws depends on where the training starts.
    trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
    trainer = trainer_class(model, [], optimizer)
    checkpointer = AtomicCheckpointer(model, str(output), trainer=trainer)
    # Before loading: the hooks' state (the scheduler's) is part of the checkpoint.
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, scheduler),
            hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=1),
            hooks.PeriodicWriter([JSONWriter(str(output / "metrics.json"))], LOG_PERIOD),
            ProgressBar(),
        ]
    )
    start = 0
    if checkpointer.has_checkpoint():
        checkpointer.resume_or_load("", resume=True)
        start = trainer.iter + 1
        logger.info("resuming at iteration %d", start)
    elif cfg.MODEL.WEIGHTS:
        checkpointer.load(initial_weights(cfg))

    if start < cfg.SOLVER.MAX_ITER:
        # A resumed run shuffles anew instead of repeating the images that it began with.
        seed_all_rng(cfg.SEED + start)
        loader = build_detection_train_loader(
            records,
            mapper=AmodalDatasetMapper(cfg, is_train=True),
            sampler=TrainingSampler(len(records), seed=cfg.SEED + start),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        trainer.reset_data_loader(lambda: loader)
        trainer.train(start, cfg.SOLVER.MAX_ITER)
    elif not (output / FINAL_WEIGHTS).exists():  # deleted; the last checkpoint has the same
        checkpointer.save(Path(FINAL_WEIGHTS).stem, iteration=trainer.iter)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """detectron2's SGD, or AdamW with the same keys, as ``SOLVER.OPTIMIZER`` says."""
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return solver.build_optimizer(cfg, model)
    if cfg.SOLVER.OPTIMIZER != "AdamW":
        raise ValueError(f'SOLVER.OPTIMIZER is "{cfg.SOLVER.OPTIMIZER}"; choose "SGD" or "AdamW"')
    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(
        parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=True
    )


def _check_same_config(cfg: CfgNode, file: Path) -> None:
    """Never resume a run that was started with other settings or on other data."""
    ours = cfg.clone()
    ours.defrost()
    # Where a run lies and what it runs on may change between two starts of it.
    ours.OUTPUT_DIR, ours.MODEL.DEVICE, ours.SOLVER.AMP.ENABLED = "", "", False
    annotations = Path(MetadataCatalog.get(split_name(cfg, "train")).json_file)
    text = ours.dump() + f"# {annotations.name}: SHA-256 {sha256(annotations)}\n"
    if file.is_file() and file.read_text() != text:
        theirs = set(file.read_text().splitlines())
        changed = [line.strip() for line in text.splitlines() if line not in theirs]
        raise ValueError(
            f"{file.parent} holds a run with other settings or data (now: {', '.join(changed)}). "
            "Delete that folder to train anew, or choose another results folder to keep both."
        )
    write_whole(file, lambda partial: partial.write_text(text))


def initial_weights(cfg: CfgNode) -> str:
    """A local file with the weights that training starts from, fetched at first use.

    Raises:
        FileNotFoundError: not there and not to be fetched; says which file to put where.
    """
    weights = cfg.MODEL.WEIGHTS
    try:
        return PathManager.get_local_path(weights)
    except Exception as error:  # urllib, http and OS errors of every kind end up here
        if not weights.startswith(Detectron2Handler.PREFIX):
            raise FileNotFoundError(f"MODEL.WEIGHTS: {weights} is not there") from error
        name = weights.removeprefix(Detectron2Handler.PREFIX)
        place = Path(get_cache_dir()) / "detectron2" / name
        raise FileNotFoundError(
            f"The initial weights could not be fetched ({error}). Download "
            f"{Detectron2Handler.S3_DETECTRON2_PREFIX}{name} where there is a network and put it "
            f"at {place}, or name a local file with the option MODEL.WEIGHTS."
        ) from error


def load_trained(cfg: CfgNode) -> nn.Module:
    """The trained model of ``cfg.OUTPUT_DIR``, in inference mode.

    Raises:
        FileNotFoundError: it was not trained to its end yet.
    """
    weights = Path(cfg.OUTPUT_DIR) / FINAL_WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is not there: run notebook 04_train for it first.")
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(weights))
    return model.eval()


def _log_lines(log: Path) -> Iterator[dict]:
    for line in log.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            logger.info("%s: the last line was cut off by an interruption", log)


def read_log(output_dir: str | Path) -> pd.DataFrame:
    """The training log, indexed by iteration: every loss by name, learning rate, times."""
    log = pd.DataFrame(_log_lines(Path(output_dir) / "metrics.json"))
    # A resumed run has logged some iterations twice; the later line is the one that counts.
    return log.drop_duplicates("iteration", keep="last").set_index("iteration").sort_index()
