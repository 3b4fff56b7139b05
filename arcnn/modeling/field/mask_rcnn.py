"""Amodal Mask R-CNN, the baseline of the field: Mask R-CNN's own head, trained on whole masks."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from torch import Tensor, nn

from arcnn.modeling.amodal_head import AmodalMaskHead, piece_head
from arcnn.modeling.losses import MaskLogits


@ROI_MASK_HEAD_REGISTRY.register()
class AmodalMaskRCNNHead(AmodalMaskHead):
    """The amodal mask alone. It believes nothing of occlusion: what is hidden is to be learned like
    anything else, and is not told apart from what is seen.

    VRS&SP's authors got the visible number of this row from a second network, trained on visible
    masks in the same amodal boxes. Here it has none.

    Args:
        amodal_head: gives ``(R, C, M, M)`` logits.
    """

    @configurable
    def __init__(self, *, amodal_head: nn.Module) -> None:
        super().__init__()
        self.amodal_head = amodal_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {"amodal_head": piece_head(cfg, input_shape)}

    def layers(self, x: Tensor) -> MaskLogits:
        return MaskLogits(amodal=self.amodal_head.layers(x))
