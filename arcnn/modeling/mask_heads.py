"""The three models of the paper as detectron2 mask heads: ARCNN, ARCNN-add and ORCNN.

Everything else of the network (backbone, FPN, RPN, box head) is stock detectron2. What a mask head
gets and gives is in :mod:`arcnn.modeling.amodal_head`; the heads of other papers are in
:mod:`arcnn.modeling.field`.

Shapes: R RoIs of all images together, C classes, M side of the mask maps (28 in the paper).
"""

import abc
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from torch import Tensor, nn

from arcnn.errors import InputError
from arcnn.modeling.amodal_head import AmodalMaskHead, piece_head, subtract
from arcnn.modeling.losses import MaskLogits
from arcnn.names import MASK_KINDS


@ROI_MASK_HEAD_REGISTRY.register()
class PiecesMaskHead(AmodalMaskHead):
    """One head for each mask kind, side by side: what the models start from, itself none of them.

    No joint and no subtraction takes part, so that none of the three is favoured: each takes the
    heads that it has, by their names.

    Args:
        heads: three equal heads by mask kind, each giving ``(R, C, M, M)`` logits.
    """

    @configurable
    def __init__(self, *, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        for kind, head in heads.items():
            self.add_module(f"{kind}_head", head)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {"heads": {kind: piece_head(cfg, input_shape) for kind in MASK_KINDS}}

    def layers(self, x: Tensor) -> MaskLogits:
        return MaskLogits(**{kind: getattr(self, f"{kind}_head").layers(x) for kind in MASK_KINDS})


class JigsawConv(nn.Module):
    """The amodal mask head: one 1x1 convolution over both pieces of all classes, Eq. (1).

    ``AM_T = sum_i VW_Ti * VM_i + OW_Ti * OM_i (+ b_T)``

    Args:
        num_classes: C.
        bias: add ``b_T``. The paper does not say. Without it, the sum over the own class's two
            logits cannot represent "visible or hidden" (notebook 03).
        own_class: only ``i = T`` takes part (2C weights instead of 2C^2): the jigsaw without any
            context from other classes.
        init: "normal" is N(0, 0.001), detectron2's start for mask predictors; "identity" has
            weight 1 on the class's own two pieces, so that training starts as ARCNN-add.
    """

    def __init__(self, num_classes: int, *, bias: bool, own_class: bool, init: str) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.own_class = own_class
        # One group per class sees its own two maps only; one single group sees all 2C of them.
        groups = num_classes if own_class else 1
        self.conv = nn.Conv2d(2 * num_classes, num_classes, kernel_size=1, bias=bias, groups=groups)
        if init == "normal":
            nn.init.normal_(self.conv.weight, std=0.001)
        elif init == "identity":
            with torch.no_grad():
                full = torch.eye(num_classes).repeat_interleave(2, dim=1)  # (C, 2C)
                start = torch.ones(num_classes, 2) if own_class else full
                self.conv.weight.copy_(start[:, :, None, None])
        else:
            raise InputError(f'MODEL.ARCNN.INIT is "{init}"; choose "normal" or "identity"')
        if bias:
            nn.init.zeros_(self.conv.bias)

    def forward(self, visible: Tensor, occlusion: Tensor) -> Tensor:
        """Join two ``(R, C, M, M)`` stacks to the amodal logits ``(R, C, M, M)``."""
        # Channels VM_1, OM_1, VM_2, OM_2, ...: the concatenation of the paper, class by class.
        pieces = torch.stack([visible, occlusion], dim=2).flatten(1, 2)  # (R, 2C, M, M)
        return self.conv(pieces)

    def weights(self) -> tuple[Tensor, Tensor]:
        """``VW`` and ``OW`` of Eq. (1), float ``(C, C)``: row T, column i."""
        own_or_all = self.conv.weight.detach().flatten(1).unflatten(1, (-1, 2))  # (C, 1 or C, 2)
        vw, ow = own_or_all.unbind(dim=2)
        return (vw[:, 0].diag(), ow[:, 0].diag()) if self.own_class else (vw, ow)


class JigsawMaskHead(AmodalMaskHead):
    """What ARCNN and ARCNN-add share: a visible and an occlusion head, and a joint of the two.

    Args:
        visible_head, occlusion_head: two equal heads giving ``(R, C, M, M)`` logits.
        detach: stop the amodal loss from flowing back into the two heads.
    """

    def __init__(
        self, *, visible_head: nn.Module, occlusion_head: nn.Module, detach: bool = False
    ) -> None:
        super().__init__()
        self.visible_head = visible_head
        self.occlusion_head = occlusion_head
        self.detach = detach

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {
            "visible_head": piece_head(cfg, input_shape),
            "occlusion_head": piece_head(cfg, input_shape),
        }

    @abc.abstractmethod
    def join(self, visible: Tensor, occlusion: Tensor) -> Tensor:
        """Amodal logits from the logits of the two pieces, ``(R, C, M, M)`` each."""

    def layers(self, x: Tensor) -> MaskLogits:
        visible = self.visible_head.layers(x)
        occlusion = self.occlusion_head.layers(x)
        pieces = (visible, occlusion)
        if self.detach:
            pieces = tuple(piece.detach() for piece in pieces)
        return MaskLogits(self.join(*pieces), visible, occlusion)


@ROI_MASK_HEAD_REGISTRY.register()
class ARCNNMaskHead(JigsawMaskHead):
    """ARCNN: the two pieces, joined by a learned 1x1 convolution (Figure 3).

    Args:
        amodal_head: the joint of Eq. (1).
        joint_input: join "logits" or "probs" (the paper does not say).
        pieces: see :class:`JigsawMaskHead`.
    """

    @configurable
    def __init__(
        self, *, amodal_head: JigsawConv, joint_input: str = "logits", **pieces: Any
    ) -> None:
        super().__init__(**pieces)
        if joint_input not in ("logits", "probs"):
            raise InputError(f'MODEL.ARCNN.INPUT is "{joint_input}"; choose "logits" or "probs"')
        self.amodal_head = amodal_head
        self.joint_input = joint_input

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        arcnn, pieces = cfg.MODEL.ARCNN, super().from_config(cfg, input_shape)
        joint = JigsawConv(
            cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            bias=arcnn.BIAS,
            own_class=arcnn.OWN_CLASS,
            init=arcnn.INIT,
        )
        return pieces | {
            "amodal_head": joint,
            "joint_input": arcnn.INPUT,
            "detach": arcnn.DETACH,
        }

    def join(self, visible: Tensor, occlusion: Tensor) -> Tensor:
        if self.joint_input == "probs":
            visible, occlusion = visible.sigmoid(), occlusion.sigmoid()
        return self.amodal_head(visible, occlusion)


@ROI_MASK_HEAD_REGISTRY.register()
class ARCNNAddMaskHead(JigsawMaskHead):
    """ARCNN-add: the same two pieces, put together by a plain sum (Section 4.5).

    Args:
        sum_of: "logits" (v + o), "probs" (p_v + p_o, at most 1) or "noisy_or"
            (1 - (1 - p_v)(1 - p_o)); the paper says only "directly adding the output".
        pieces: see :class:`JigsawMaskHead`.
    """

    @configurable
    def __init__(self, *, sum_of: str = "logits", **pieces: Any) -> None:
        super().__init__(**pieces)
        if sum_of not in ("logits", "probs", "noisy_or"):
            raise InputError(
                f'MODEL.ARCNN_ADD.SUM is "{sum_of}"; choose "logits", "probs" or "noisy_or"'
            )
        self.sum_of = sum_of

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return super().from_config(cfg, input_shape) | {
            "sum_of": cfg.MODEL.ARCNN_ADD.SUM,
            "detach": cfg.MODEL.ARCNN_ADD.DETACH,
        }

    def join(self, visible: Tensor, occlusion: Tensor) -> Tensor:
        v, o = visible, occlusion
        if self.sum_of == "logits":
            return v + o
        if self.sum_of == "probs":
            # No gradient beyond 1; float, since half precision rounds 1 - eps to 1.
            return torch.logit(v.float().sigmoid() + o.float().sigmoid(), eps=1e-6)
        # p = 1 - (1-p_v)(1-p_o) has the odds p/(1-p) = e^v + e^o + e^(v+o).
        return torch.stack([v, o, v + o]).logsumexp(dim=0)


@ROI_MASK_HEAD_REGISTRY.register()
class ORCNNMaskHead(AmodalMaskHead):
    """ORCNN (Follmann et al. 2019), the baseline: amodal and visible head, hidden = the rest.

    Args:
        amodal_head, visible_head: two equal heads giving ``(R, C, M, M)`` logits.
        occlusion_loss: train ``amodal - ReLU(visible)`` against the occlusion mask as ORCNN's
            public implementations do; the ARCNN paper describes it without.
    """

    @configurable
    def __init__(
        self, *, amodal_head: nn.Module, visible_head: nn.Module, occlusion_loss: bool = True
    ) -> None:
        super().__init__()
        self.amodal_head = amodal_head
        self.visible_head = visible_head
        self.occlusion_loss = occlusion_loss

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {
            "amodal_head": piece_head(cfg, input_shape),
            "visible_head": piece_head(cfg, input_shape),
            "occlusion_loss": cfg.MODEL.ORCNN.OCCLUSION_LOSS,
        }

    def layers(self, x: Tensor) -> MaskLogits:
        amodal = self.amodal_head.layers(x)
        visible = self.visible_head.layers(x)
        occlusion = amodal - visible.relu() if self.occlusion_loss else None
        return MaskLogits(amodal, visible, occlusion)

    def probs(self, logits: MaskLogits) -> dict[str, Tensor]:
        amodal, visible = logits.amodal.sigmoid(), logits.visible.sigmoid()
        return {"amodal": amodal, "visible": visible, "occlusion": subtract(amodal, visible)}
