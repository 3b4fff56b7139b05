"""The models: three mask heads for stock detectron2, registered on import."""

from arcnn.modeling.backbone import build_short_resnet_fpn_backbone
from arcnn.modeling.losses import (
    MaskLogits,
    MaskTargets,
    mask_losses,
    mask_targets,
    own_class_losses,
)
from arcnn.modeling.mask_heads import (
    AmodalMaskHead,
    ARCNNAddMaskHead,
    ARCNNMaskHead,
    JigsawConv,
    ORCNNMaskHead,
    PiecesMaskHead,
)

__all__ = [
    "ARCNNAddMaskHead",
    "ARCNNMaskHead",
    "AmodalMaskHead",
    "JigsawConv",
    "MaskLogits",
    "MaskTargets",
    "ORCNNMaskHead",
    "PiecesMaskHead",
    "build_short_resnet_fpn_backbone",
    "mask_losses",
    "mask_targets",
    "own_class_losses",
]
