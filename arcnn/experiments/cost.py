"""What a mask head costs: parameters, operations, and seconds beside a reference model's."""

import statistics
import time
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.training import build_optimizer, build_trainer
from arcnn.weights import TrainedModel

OBJECTS = 10  # whose masks are counted


def costs(models: Mapping[str, TrainedModel], reference: str, *, rounds: int = 15) -> pd.DataFrame:
    """Measure trained models side by side, on the same images. They are trained on: do not keep
    them.

    Times are medians of ratios to the reference, which is run again before every other model:
    whatever slows the machine for a while slows both.

    Args:
        models: by name, their data set registered.
        reference: one of them.
        rounds: of a training step and an inference of each.

    Returns:
        By model: ``parameters`` of the mask head (million; a RoI head's further parts included),
        ``operations`` of the masks of ten objects (billion multiplications with their additions;
        without backbone, proposals and boxes), ``training step`` and ``image`` (seconds, as
        multiples of the reference's) and ``seconds``, those of the training step here.
    """
    rows = {
        name: {"parameters": own_parameters(model) / 1e6, "operations": operations(model) / 1e9}
        for name, (_, model) in models.items()
    }
    timed = {name: _Timed(*trained) for name, trained in models.items()}
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    for _ in range(rounds + 1):  # the first one warms up
        for name in models:
            seconds[name].append((*timed[reference].run(), *timed[name].run()))
    for name, runs in seconds.items():
        ratios = [(step / ref_step, image / ref) for ref_step, ref, step, image in runs[1:]]
        step, image = (statistics.median(column) for column in zip(*ratios, strict=True))
        rows[name] |= {"training step": step, "image": image}
        rows[name]["seconds"] = statistics.median(run[2] for run in runs[1:])
    return pd.DataFrame.from_dict(rows, orient="index")


def own_parameters(model: nn.Module) -> int:
    """Parameters of the RoI heads beside the stock box head and its predictor."""
    return sum(
        weight.numel()
        for name, weight in model.roi_heads.named_parameters()
        if not name.startswith(("box_head.", "box_predictor."))
    )


@torch.no_grad()
def operations(model: nn.Module) -> int:
    """Multiplications, each with its addition, for the masks of ten objects in one small image."""
    model.eval()
    side = 64 * model.roi_heads.box_pooler.output_size[0] // 7
    image = {"image": torch.zeros(3, 4 * side, 4 * side, dtype=torch.uint8)}
    found = Instances((4 * side, 4 * side))
    found.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 72.0, 72.0]]).expand(OBJECTS, 4).clone())
    found.pred_classes = torch.zeros(OBJECTS, dtype=torch.int64)
    found.scores = torch.ones(OBJECTS)
    images = model.preprocess_image([image])
    features = model.backbone(images.tensor)
    # Attention taken apart into the products that it consists of.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.roi_heads.forward_with_given_boxes(features, [found.to(model.device)])
    return counter.get_total_flops() // 2


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

    def run(self) -> tuple[float, float]:
        """Seconds of a training step, and of an inference on one image."""
        self.model.train()
        with EventStorage():
            step = _seconds(self.trainer.run_step)
        self.model.eval()
        with torch.no_grad():
            return step, _seconds(lambda: self.model(self.batch[:1]))


def _seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
