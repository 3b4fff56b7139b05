"""ASN: the occlusion branch, its label and loss, and what Multi-Level Coding hands over."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_roi_heads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F

from arcnn import get_config
from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.evaluation import predict
from arcnn.initial_weights import load_initial_weights
from arcnn.modeling import RoIs
from arcnn.modeling.field.asn import (
    CODING,
    ASNMaskHead,
    ASNROIHeads,
    MultiLevelCoding,
    occlusion_labels,
)
from arcnn.modeling.shared_masks import SharedMasks
from arcnn.training import train
from arcnn.weights import Checkpointer, load_trained

CLASSES, CHANNELS, IMAGE = 10, 16, (96, 96)
AUTOCAST = [False, True]


class Constant(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        return self.values


def roi_heads(cfg: CfgNode) -> ASNROIHeads:
    levels = zip(("p2", "p3", "p4", "p5"), (4, 8, 16, 32), strict=True)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return build_roi_heads(cfg, {p: ShapeSpec(channels=channels, stride=s) for p, s in levels})


def pyramid(images: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = {"p2": 24, "p3": 12}
    return {p: torch.randn(images, CHANNELS, s, s, generator=generator) for p, s in sides.items()}


def sampled(classes: list[int], occluded: list[bool] | None) -> Instances:
    """Proposals as they are sampled in training; ``None``: of an image without objects."""
    rois = len(classes)
    image = Instances(IMAGE)
    image.proposal_boxes = Boxes(torch.tensor([[10.0, 8.0, 58.0, 72.0]] * rois))
    image.gt_classes = torch.tensor(classes)
    if occluded is not None:
        amodal = torch.zeros(rois, *IMAGE, dtype=torch.bool)
        amodal[:, 8:72, 10:58] = True
        visible = amodal.clone()
        visible[:, 40:] = False
        image.gt_boxes = image.proposal_boxes.clone()
        image.gt_masks, image.gt_visible_masks = SharedMasks(amodal), SharedMasks(visible)
        image.gt_occluded = torch.tensor(occluded)
    return image


def losses_of(heads: ASNROIHeads, proposals: list[Instances]) -> dict[str, Tensor]:
    features = pyramid(len(proposals))
    with EventStorage():
        losses = heads.train()._forward_box(features, proposals)
        return losses | heads._forward_mask(features, proposals)


def test_an_object_is_occluded_if_more_than_a_twentieth_of_it_is_hidden() -> None:
    amodal = torch.zeros(4, 20, 20, dtype=torch.bool)
    amodal[:, :10, :10] = True  # 100 pixels
    visible = amodal.clone()
    for k, hidden in enumerate((0, 5, 6, 10)):
        visible[k, 0, :hidden] = False
    objects = Instances((20, 20))
    objects.gt_masks, objects.gt_visible_masks = SharedMasks(amodal), SharedMasks(visible)

    def label(options: list, rows: slice = slice(4)) -> list[bool]:
        cfg = get_config("kins", "asn", options=options, device="cpu")
        return ASNMaskHead.ground_truth(cfg, objects[rows], [])["occluded"].tolist()

    assert label([]) == [False, False, True, True]
    assert label(["MODEL.HEAD.OCCLUDED_RATE", 0.08]) == [False, False, False, True]
    assert label([], slice(0)) == []


def test_background_and_images_without_objects_are_not_occluded() -> None:
    image = sampled([3, CLASSES, 5, CLASSES], [True, True, False, False])
    empty = sampled([CLASSES, CLASSES], None)
    labels = occlusion_labels([image, empty], CLASSES)
    assert labels.tolist() == [1, 0, 0, 0, 0, 0] and labels.dtype == torch.int64


@pytest.mark.parametrize("weight", [8.0, 1.0])
def test_the_occlusion_loss_is_a_mean_over_all_rois_weighted_by_class(
    weight: float, tiny_config
) -> None:
    heads = roi_heads(tiny_config("asn", "MODEL.HEAD.OCCLUSION_LOSS_WEIGHT", weight))
    scores = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.0]])
    heads.box_occlusion_predictor = Constant(scores)
    loss = losses_of(heads, [sampled([3, CLASSES, 5], [True, True, False])])["loss_occluded"]
    occluded, background, unoccluded = -scores.log_softmax(1)
    total = weight * occluded[1] + background[0] + unoccluded[0]
    torch.testing.assert_close(loss, total / (weight + 2))


def test_both_branches_first_maps_reach_the_mask_head(tiny_config) -> None:
    heads = roi_heads(tiny_config("asn"))
    proposals = [sampled([3, CLASSES], [True, False]), sampled([CLASSES], None)]
    seen = []
    heads.mask_head.register_forward_hook(lambda _, inputs, __: seen.extend(inputs[1]))
    losses_of(heads, proposals)
    pooled = heads.box_pooler(list(pyramid(2).values()), [i.proposal_boxes for i in proposals])
    maps = [
        F.conv2d(pooled[:1], branch.conv1.weight, branch.conv1.bias, padding=1).relu()
        for branch in (heads.box_head, heads.box_occlusion_head)
    ]
    assert [len(image) for image in seen] == [1, 0]
    torch.testing.assert_close(seen[0].get(CODING), torch.cat(maps, dim=1))


def test_the_coding_is_upsampled_and_joined_with_the_mask_feature() -> None:
    fuse = MultiLevelCoding(6, 4)
    x, coding = torch.randn(2, 4, 14, 14), torch.randn(2, 6, 7, 7)
    first, deconv, _, second = fuse.upsample
    y = F.conv2d(coding, first.weight, first.bias, padding=1).relu()
    y = F.conv_transpose2d(y, deconv.weight, deconv.bias, stride=2).relu()
    y = torch.cat([F.conv2d(y, second.weight, second.bias, padding=1).relu(), x], dim=1)
    for conv in fuse.join:
        y = F.conv2d(y, conv.weight, conv.bias, padding=1).relu()
    torch.testing.assert_close(fuse(x, coding), y)


@pytest.mark.parametrize("fusion", [0, 2])
def test_the_fusion_comes_before_the_mask_convolution_of_the_option(
    fusion: int, tiny_config
) -> None:
    wider = ("MODEL.ROI_MASK_HEAD.CONV_DIM", 12)
    cfg = tiny_config("asn", "MODEL.HEAD.FUSION", fusion, *wider)
    head = ASNMaskHead(cfg, ShapeSpec(channels=CHANNELS, width=14, height=14))
    image = Instances(IMAGE)
    coding, x = torch.randn(1, 2 * CHANNELS, 7, 7), torch.randn(1, CHANNELS, 14, 14)
    image.set(CODING, coding)
    logits = head.logits(RoIs(x, torch.zeros(1).long(), instances=[image]))
    for kind, maps in logits.kinds().items():
        y, of_kind = x, getattr(head, f"{kind}_head")
        for conv in of_kind.conv_norm_relus[:fusion]:
            y = conv(y)
        y = getattr(head, f"{kind}_coding")(y, coding)
        for conv in of_kind.conv_norm_relus[fusion:]:
            y = conv(y)
        y = of_kind.predictor(of_kind.deconv(y).relu())
        torch.testing.assert_close(maps, y)
    assert set(logits.kinds()) == {"amodal", "visible"}


@pytest.mark.parametrize("extract", [0, 1])
def test_the_mask_losses_train_both_branches_up_to_the_maps(extract: int, tiny_config) -> None:
    heads = roi_heads(tiny_config("asn", "MODEL.HEAD.EXTRACT", extract))
    losses = losses_of(heads, [sampled([3, 5, CLASSES], [True, False, False])])
    (losses["loss_amodal_mask"] + losses["loss_visible_mask"]).backward()
    for branch in (heads.box_head, heads.box_occlusion_head):
        assert branch.conv1.weight.grad.abs().sum() > 0
        assert (branch.conv2.weight.grad is not None) == (extract == 1)
        assert branch.fc1.weight.grad is None
    assert heads.box_occlusion_predictor.weight.grad is None
    assert all(w.grad is not None for w in heads.mask_head.parameters())


def test_the_occlusion_loss_trains_its_own_branch_alone(tiny_config) -> None:
    heads = roi_heads(tiny_config("asn"))
    losses_of(heads, [sampled([3, CLASSES], [True, False])])["loss_occluded"].backward()
    reached = {name for name, w in heads.named_parameters() if w.grad is not None}
    assert reached == {n for n, _ in heads.named_parameters() if n.startswith("box_occlusion_")}


def test_given_boxes_get_the_masks_of_training(tiny_config) -> None:
    """The same maps and logits for the same boxes, however the mask head is reached."""
    heads = roi_heads(tiny_config("asn"))
    for predictor in (
        heads.mask_head.amodal_head.predictor,
        heads.mask_head.visible_head.predictor,
    ):
        nn.init.normal_(predictor.weight)
    seen = []
    heads.mask_head.amodal_head.predictor.register_forward_hook(lambda *call: seen.append(call[2]))
    proposals = sampled([3, 5], [True, False])
    losses_of(heads, [proposals])
    given = Instances(IMAGE)
    given.pred_boxes, given.pred_classes = proposals.proposal_boxes, proposals.gt_classes
    with torch.no_grad():
        (given,) = heads.eval().forward_with_given_boxes(pyramid(), [given])
    torch.testing.assert_close(seen[0], seen[1])
    own = seen[1][torch.arange(2), given.pred_classes].sigmoid()
    torch.testing.assert_close(given.pred_amodal_masks, own)
    rest = torch.minimum(given.pred_amodal_masks, 1 - given.pred_visible_masks)
    assert torch.equal(given.pred_occlusion_masks, rest)
    assert given.pred_visible_masks.std() > 0 and not given.has(CODING)
    (none,) = heads.forward_with_given_boxes(pyramid(), [given[:0]])
    assert len(none) == 0


@pytest.mark.parametrize("autocast", AUTOCAST)
def test_one_object_or_none_at_all(autocast: bool, tiny_config) -> None:
    cfg = tiny_config("asn")
    network = build_model(cfg).train()
    mapper = AmodalDatasetMapper(cfg, is_train=True)
    filled, empty = (mapper(record) for record in split_records(cfg, "train")[:2])
    filled["instances"] = filled["instances"][:1]
    empty["instances"] = empty["instances"][:0]
    for batch in ([filled, empty], [empty, empty]):
        network.zero_grad()
        with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = network(batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert all(w.grad is not None for w in network.roi_heads.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.HEAD.FUSION", 4), "FUSION is 4; MODEL.ROI_MASK_HEAD.NUM_CONV is 4"),
        (("MODEL.HEAD.EXTRACT", -1), "EXTRACT is -1; MODEL.ROI_BOX_HEAD.NUM_CONV is 4"),
        (("MODEL.ROI_BOX_HEAD.NUM_CONV", 0), "ROI_BOX_HEAD.NUM_CONV is 0"),
        (("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 16), "is 16; it has to be twice"),
        (("MODEL.ROI_HEADS.NAME", "StandardROIHeads"), "needs ASNROIHeads"),
        (("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True), "TRAIN_ON_PRED_BOXES"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: tuple, message: str, tiny_config) -> None:
    with pytest.raises(ValueError, match=message):
        roi_heads(tiny_config("asn", *options))


def test_number_of_weights_in_the_papers_configuration() -> None:
    def count(*parts: nn.Module) -> float:
        return sum(w.numel() for part in parts for w in part.parameters()) / 1e6

    heads = roi_heads(get_config("kins", "asn", device="cpu"))
    mask = heads.mask_head
    assert count(mask.amodal_coding) == pytest.approx(3.80, abs=0.005)
    assert count(mask.amodal_head, mask.amodal_coding) == pytest.approx(6.43, abs=0.01)
    assert count(mask) == pytest.approx(12.9, abs=0.05)
    assert count(heads.box_head) == pytest.approx(15.21, abs=0.005)
    assert count(heads.box_occlusion_head) == count(heads.box_head)


def test_the_published_schedule_sees_the_images_its_code_says() -> None:
    cfg = get_config("kins", "asn_published", device="cpu")
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (8, 0.02, 24000)
    assert cfg.SOLVER.STEPS == (20000, 22000) and cfg.MODEL.HEAD.OCCLUSION_LOSS_WEIGHT == 8.0
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 512
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 3000)


@pytest.mark.parametrize("part", ["", "#trunk"])
def test_it_starts_from_the_kits_own_network(part: str, tiny_config) -> None:
    tiny_config("asn")  # the data's classes are registered
    start = f"arcnn://data/start/tabletop.safetensors{part}"
    cfg = get_config("tabletop", "asn", options=["MODEL.WEIGHTS", start], device="cpu")
    network = build_model(cfg)
    before = {name: w.clone() for name, w in network.state_dict().items()}
    sentence = load_initial_weights(cfg, Checkpointer(network))
    new = sentence.split("new: ")[1].split("; not taken")[0].rstrip(".").split(", ")
    of_masks = {"the mask heads", "the amodal mask head", "the visible mask head"}
    assert set(new) == {"the box head", "the mask heads"} | (of_masks if part else set())
    loaded = {n for n, w in network.state_dict().items() if not torch.equal(w, before[n])}
    assert "backbone.fpn_lateral2.weight" in loaded
    # Its box branch is no stock one: the start's last layers would fit by shape, and mean nothing.
    assert not [name for name in loaded if "_coding" in name or "roi_heads.box_" in name]
    assert ("roi_heads.mask_head.amodal_head.mask_fcn1.weight" in loaded) == (not part)


def test_it_trains_and_predicts_three_masks(tiny_config) -> None:
    cfg = tiny_config("asn", "SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    train(cfg)
    predictions = predict(*load_trained(Path(cfg.OUTPUT_DIR).parent))
    assert {"segmentation", "visible_mask", "occlusion_mask"} < set(predictions[0])
