"""AISFormer (Tran et al., BMVC 2022): a query for each mask of an object, among them its occluder.

"Its public code" is UARK-AICV/AISFormer. Shapes: R RoIs of all images together, M side of the mask
maps, T side of the grid of tokens (both 28 in its code), d width.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MLP

from arcnn.errors import InputError
from arcnn.modeling.amodal_head import AmodalMaskHead, RoIs
from arcnn.modeling.field.ground_truth import check_occluders, occluder_masks, occluders, those_with
from arcnn.modeling.losses import MaskLogits, mask_loss

QUERIES = 4  # visible, occluder, amodal, and one whose answer nobody reads, as in its public code


@ROI_MASK_HEAD_REGISTRY.register()
class AISFormerMaskHead(AmodalMaskHead):
    """Queries ask the features of a region for its masks. It believes that the masks explain each
    other: whoever sees the occluder knows where its object is hidden.

    Each mask is the dot product of one embedding with the embedding of every pixel. The invisible
    mask's embedding is made from the amodal and the visible one: a subtraction that is learned.
    All classes share their maps.

    Args:
        channels: of the RoI features.
        width: d, even and a multiple of the number of attention heads.
        tokens: T.
        transformer: ``nhead``, ``dim_feedforward`` and ``dropout`` of the two layers.
        weights: of the losses, for amodal, visible, occlusion and occluder.
    """

    OPTIONS = {
        # Who counts as an occluder: "neighbours", behind as well as in front (its public code), or
        # "in_front", those that the data name.
        "OCCLUDERS": "neighbours",
        "AMODAL_WEIGHT": 1.0,
        "VISIBLE_WEIGHT": 1.0,
        "OCCLUSION_WEIGHT": 0.25,
        "OCCLUDER_WEIGHT": 0.25,
        "HEADS": 2,
        "FFN": 8,  # hidden units per unit of width: 2048 of 256 in its public code
        "DROPOUT": 0.1,
        "TOKENS": 0,  # side of the grid that attention is on; 0: that of the mask, as published
    }

    @configurable
    def __init__(
        self,
        *,
        channels: int,
        width: int,
        tokens: int,
        transformer: Mapping[str, float],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.tokens, self.weights = tokens, dict(weights)
        self.conv = Conv2d(channels, width, kernel_size=3, padding=1, activation=F.relu)
        # No `deconv`: weights of a model zoo have one, and would be taken for it.
        self.upsample = ConvTranspose2d(width, width, kernel_size=2, stride=2)
        # DEVIATION: as many places as there are tokens; its public code has 50 for its 28.
        self.rows = nn.Parameter(torch.rand(tokens, width // 2))
        self.columns = nn.Parameter(torch.rand(tokens, width // 2))
        self.queries = nn.Parameter(torch.randn(QUERIES, width))
        self.encoder = nn.TransformerEncoderLayer(width, **transformer, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(width, **transformer, batch_first=True)
        self.mask_embedding = MLP(width, [width] * 3)
        self.subtraction = MLP(2 * width, [width] * 2)
        self.norm = nn.LayerNorm(width)
        self.pixel_embedding = nn.Linear(width, width)  # the 1x1 convolution, pixel by pixel
        # Starts as in its public code.
        c2_msra_fill(self.conv)
        c2_msra_fill(self.upsample)
        nn.init.normal_(self.pixel_embedding.weight, std=0.001)
        nn.init.zeros_(self.pixel_embedding.bias)
        for part in (*self.mask_embedding, *self.subtraction):
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        options, width = cfg.MODEL.HEAD, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
        side = 2 * cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        _check(options, width, side)
        kinds = ("amodal", "visible", "occlusion", "occluder")
        return {
            "channels": input_shape.channels,
            "width": width,
            "tokens": options.TOKENS or side,
            "transformer": {
                "nhead": options.HEADS,
                "dim_feedforward": options.FFN * width,
                "dropout": options.DROPOUT,
            },
            "weights": {kind: options[f"{kind.upper()}_WEIGHT"] for kind in kinds},
        }

    @classmethod
    def prepare(cls, cfg: CfgNode, records: Sequence[dict]) -> None:
        check_occluders(cfg.MODEL.HEAD.OCCLUDERS, records)

    @classmethod
    def ground_truth(
        cls, cfg: CfgNode, instances: Instances, annotations: Sequence[dict]
    ) -> dict[str, Tensor]:
        of = occluders(cfg.MODEL.HEAD.OCCLUDERS, instances, annotations)
        visible = instances.gt_visible_masks.tensor
        return {"occluder": occluder_masks(visible, instances.gt_boxes, of)}

    def layers(self, x: Tensor) -> MaskLogits:
        features = self.upsample(self.conv(x)).relu()  # (R, d, M, M)
        pixels = features.flatten(2).transpose(1, 2)  # (R, M * M, d)
        grid = (self.tokens, self.tokens)
        # DEVIATION: its public code, like DETR, adds positions and queries inside the layers, to
        # what attention compares and not to what it passes on; stock layers have them as input.
        tokens = F.adaptive_avg_pool2d(features, grid).flatten(2).transpose(1, 2) + self.positions()
        encoded = self.encoder(tokens)  # (R, T * T, d)
        found = self.decoder(self.queries.expand(len(x), -1, -1), encoded)  # (R, 4, d)

        visible, occluder, amodal, _ = self.mask_embedding(found).unbind(dim=1)  # (R, d) each
        invisible = self.subtraction(torch.cat([amodal, visible], dim=1))
        embeddings = torch.stack([amodal, visible, invisible, occluder], dim=1)

        context = encoded.transpose(1, 2).unflatten(2, grid)
        if context.shape != features.shape:
            context = F.interpolate(context, size=features.shape[2:], mode="bilinear")
        pixels = self.pixel_embedding(self.norm(context.flatten(2).transpose(1, 2) + pixels))
        maps = (embeddings @ pixels.transpose(1, 2)).unflatten(2, features.shape[2:])
        *three, occluder = maps.split(1, dim=1)  # (R, 1, M, M) each
        return MaskLogits(*three, further={"occluder": occluder})

    def positions(self) -> Tensor:
        """The learned code of each token's place, float ``(T * T, d)``, row by row."""
        rows = self.rows.repeat_interleave(self.tokens, dim=0)
        return torch.cat([rows, self.columns.repeat(self.tokens, 1)], dim=1)

    def losses(self, logits: MaskLogits, rois: RoIs) -> dict[str, Tensor]:
        losses = super().losses(logits, rois)
        maps, target = logits.further["occluder"], rois.targets.further["occluder"]
        # DEVIATION: the mean over the RoIs that have an occluder, each once; its public code fills
        # the places of those without by counting the first RoIs of the batch twice.
        losses["loss_occluder_mask"] = mask_loss(maps, target, rois.classes, those_with(target))
        return {f"loss_{k}_mask": w * losses[f"loss_{k}_mask"] for k, w in self.weights.items()}


def _check(options: CfgNode, width: int, side: int) -> None:
    if width % 2 or width % options.HEADS:
        raise InputError(
            f"MODEL.ROI_MASK_HEAD.CONV_DIM is {width}; it has to be even, and a multiple of "
            f"MODEL.HEAD.HEADS, {options.HEADS}"
        )
    if not 0 <= options.TOKENS <= side:
        raise InputError(f"MODEL.HEAD.TOKENS is {options.TOKENS}; choose 0 to {side}")
