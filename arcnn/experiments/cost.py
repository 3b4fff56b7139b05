"""What a mask head costs: parameters, operations, and seconds beside a reference model's."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.errors import InputError, MissingError
from arcnn.files import read_table
from arcnn.training import build_optimizer, build_trainer
from arcnn.weights import TrainedModel

OBJECTS = 10  # whose masks are counted
FILE = "cost.csv"  # in a folder of results
COLUMNS = ("parameters", "in use", "operations", "training step", "image", "seconds")


def read_costs(results: Path) -> pd.DataFrame:
    """What :func:`costs` gave, as it lies in a folder of results.

    Raises:
        FileNotFoundError: it was not measured.
        ValueError: it is damaged, or has other columns.
    """
    file, cure = results / FILE, "`make reproduce` with this profile measures it."
    if not file.is_file():
        raise MissingError(f"{file} is not there: {cure}")
    bounds = {"model": None} | dict.fromkeys(COLUMNS, (0, 1e6))
    table = read_table(file, f"delete it, and {cure}", bounds)
    if table.empty or table.isna().any(axis=None) or table.model.duplicated().any():
        raise InputError(f"{file} has no row for each model: delete it, and {cure}")
    return table.set_index("model")


def costs(models: Mapping[str, TrainedModel], reference: str, *, rounds: int = 15) -> pd.DataFrame:
    """Measure trained models side by side, on the same images. They are trained on: do not keep
    them.

    Times are medians of ratios to the reference, which is run again before every other model:
    whatever slows the machine for a while slows both.

    Args:
        models: by name, their data set registered.
        reference: one of them.
        rounds: of a training step and an inference of each; fewer if the reference itself was
            trained for fewer steps, which is a trial.

    Returns:
        By model: ``parameters`` of the RoI heads beyond the reference's box head (million), and
        ``in use`` those of them that drawing masks takes; ``operations`` of the masks of ten
        objects (billion multiplications with their additions; without backbone, proposals and
        boxes); ``training step`` and ``image`` (seconds, as multiples of the reference's) and
        ``seconds``, those of the training step here.
    """
    box = sum(
        weight.numel()
        for name, weight in models[reference].model.roi_heads.named_parameters()
        if name.startswith("box_")
    )
    rows = {}
    for name, (_, model) in models.items():
        counted, used = operations(model)
        total = sum(weight.numel() for weight in model.roi_heads.parameters())
        rows[name] = {"parameters": (total - box) / 1e6, "in use": used / 1e6}
        rows[name]["operations"] = counted / 1e9
    timed = {name: _Timed(*trained) for name, trained in models.items()}
    rounds = min(rounds, models[reference].cfg.SOLVER.MAX_ITER)
    # All images first: whoever is trained finds other objects.
    for column, run in (("image", _Timed.infer), ("training step", _Timed.train)):
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for _ in range(rounds + 1):  # the first one warms up
            for name in models:
                seconds[name].append((run(timed[reference]), run(timed[name])))
        for name, runs in seconds.items():
            rows[name][column] = statistics.median(own / other for other, own in runs[1:])
            rows[name]["seconds"] = statistics.median(own for _, own in runs[1:])
    return pd.DataFrame.from_dict(rows, orient="index")


@torch.no_grad()
def operations(model: nn.Module) -> tuple[int, int]:
    """Multiplications, each with its addition, for the masks of ten objects in one small image; and
    the number of parameters that take part."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    side = 64 * model.roi_heads.box_pooler.output_size[0] // 7
    image = {"image": torch.zeros(3, 4 * side, 4 * side, dtype=torch.uint8)}
    found = Instances((4 * side, 4 * side))
    found.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 72.0, 72.0]]).expand(OBJECTS, 4).clone())
    found.pred_classes = torch.zeros(OBJECTS, dtype=torch.int64)
    found.scores = torch.ones(OBJECTS)
    features = model.backbone(model.preprocess_image([image]).tensor)
    used: dict[int, int] = {}  # parameters by the identity of each

    def note(module: nn.Module, *_: object) -> None:
        used.update({id(w): w.numel() for w in module.parameters(recurse=False)})

    for module in model.roi_heads.modules():
        module.register_forward_pre_hook(note)
    # Attention taken apart into the products that it consists of.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.roi_heads.forward_with_given_boxes(features, [found.to(model.device)])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2, sum(used.values())


class _Timed:
    """A model that takes a training step and looks at an image, by the clock."""

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        mapper = AmodalDatasetMapper(cfg, is_train=True)
        records = split_records(cfg, "train")[: cfg.SOLVER.IMS_PER_BATCH]
        self.batch = [mapper(record) for record in records]
        self.model = model
        optimizer = build_optimizer(cfg, model)
        self.trainer = build_trainer(cfg, model, optimizer)
        self.trainer.reset_data_loader(lambda: iter(lambda: self.batch, None))
        self.trainer.iter = 0

    def train(self) -> float:
        """Seconds of a training step."""
        self.model.train()
        with EventStorage():
            return _seconds(self.trainer.run_step)

    @torch.no_grad()
    def infer(self) -> float:
        """Seconds of an inference on one image."""
        self.model.eval()
        return _seconds(lambda: self.model(self.batch[:1]))


def _seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
