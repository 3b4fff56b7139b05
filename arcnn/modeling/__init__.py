"""The models, registered on import: the paper's three mask heads, and other papers'.

Those of one's own, of :func:`arcnn.files.own_models`, are with the first configuration.
"""

import importlib
import pkgutil

from arcnn.modeling import field
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs, import_own_models, piece_head
from arcnn.modeling.backbone import build_short_resnet_fpn_backbone
from arcnn.modeling.losses import (
    MaskLogits,
    MaskTargets,
    mask_loss,
    mask_losses,
    mask_targets,
    own_class,
)
from arcnn.modeling.mask_heads import (
    ARCNNAddMaskHead,
    ARCNNMaskHead,
    JigsawConv,
    ORCNNMaskHead,
    PiecesMaskHead,
)

for _module in pkgutil.iter_modules(field.__path__, "arcnn.modeling.field."):
    importlib.import_module(_module.name)


__all__ = [
    "ARCNNAddMaskHead",
    "ARCNNMaskHead",
    "AmodalMaskHead",
    "JigsawConv",
    "MaskLogits",
    "MaskTargets",
    "ORCNNMaskHead",
    "PiecesMaskHead",
    "RoIs",
    "build_short_resnet_fpn_backbone",
    "import_own_models",
    "mask_loss",
    "mask_losses",
    "mask_targets",
    "own_class",
    "piece_head",
]
