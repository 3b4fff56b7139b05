"""A ResNet-FPN that ends where it is told to, for images too small for ResNet's last stage."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_resnet_backbone


@BACKBONE_REGISTRY.register()
def build_short_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """detectron2's ResNet-FPN with the levels of ``cfg.MODEL.FPN.IN_FEATURES`` and no others.

    The stock builder adds a level p6 above p5 and so cannot do without ``res5``: at 160 pixels
    a map of 5 x 5, with three quarters of a ResNet-18's weights.
    """
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
