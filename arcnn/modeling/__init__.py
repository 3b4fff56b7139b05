"""The models, registered on import: the paper's three mask heads, other papers', and one's own.

Those of one's own lie in :func:`arcnn.files.own_models`.
"""

import importlib.util
import pkgutil
import sys

from arcnn.files import own_models
from arcnn.modeling import field
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs, piece_head
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


def import_own_models() -> None:
    """Import the files of :func:`arcnn.files.own_models` that are not imported yet."""
    for file in sorted(own_models().glob("*.py")):
        name = f"arcnn_models.{file.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


import_own_models()

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
