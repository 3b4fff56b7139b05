"""Inference by several processes, each with its share of the images."""

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from arcnn.evaluation.evaluator import predict


def predict_together(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """:func:`predict`, called by every process that :mod:`arcnn.launch` started.

    Returns:
        In the main process the list that one process alone would make, in its order; in the others
        an empty one.
    """
    # detectron2's loader gives each process an equal run of the images.
    return [prediction for share in comm.gather(predict(cfg, model)) for prediction in share]
