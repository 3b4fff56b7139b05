"""BCNet: its two layers, what they learn from, and what is added for the visible mask."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from arcnn import get_config
from arcnn.config import models_of
from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.evaluation import predict
from arcnn.modeling import MaskLogits, MaskTargets, RoIs
from arcnn.modeling.field.bcnet import BCNetMaskHead, NonLocalBlock, boundaries
from arcnn.training import train
from arcnn.weights import load_trained

MAPS = ("amodal", "boundary", "occluder", "occluder_boundary")
WEIGHTS = {"amodal": 1.0, "boundary": 1.0, "occluder": 0.25, "occluder_boundary": 1.0}


def head_of(*options: object, dataset: str = "tabletop", channels: int = 16) -> BCNetMaskHead:
    small = ("MODEL.ROI_MASK_HEAD.CONV_DIM", 12) if dataset == "tabletop" else ()
    cfg = get_config(dataset, "bcnet", options=[*small, *options], device="cpu")
    return BCNetMaskHead(cfg, ShapeSpec(channels=channels))


def masks(*drawings: str) -> Tensor:
    """Bool ``(R, M, M)`` of drawings such as "## ##" (rows of "#" and ".")."""
    return torch.tensor([[[c == "#" for c in row] for row in d.split()] for d in drawings])


def rois_of(x: Tensor, occluder: Tensor) -> RoIs:
    """RoIs whose object is the left half of the box, hidden by the ``occluder``."""
    amodal = torch.zeros_like(occluder)
    amodal[:, :, : amodal.shape[2] // 2] = True
    hidden = amodal & occluder
    targets = MaskTargets(amodal, amodal & ~hidden, hidden, {"occluder": occluder})
    return RoIs(x, torch.zeros(len(x), dtype=torch.int64), targets)


def gradient(module: nn.Module) -> float:
    return sum(w.grad.abs().sum().item() for w in module.parameters() if w.grad is not None)


def test_the_inner_boundary_is_the_mask_without_its_erosion() -> None:
    """In the middle a hole of one pixel: all around it see it, over corners too."""
    mask = masks("....... .#####. .#####. .##.##. .#####. .#####. .......")
    assert boundaries(mask, "inner").equal(
        masks("....... .#####. .#####. .##.##. .#####. .#####. .......")
    )
    whole = masks("....... .#####. .#####. .#####. .#####. .#####. .......")
    assert boundaries(whole, "inner").equal(
        masks("....... .#####. .#...#. .#...#. .#...#. .#####. .......")
    )


def test_the_public_codes_boundary_has_both_sides() -> None:
    corner = masks("....... ....... ..###.. ..###.. ..###.. ....... .......")
    assert boundaries(corner, "both").equal(
        masks("....... ..###.. .#####. .##.##. .#####. ..###.. .......")
    )


@pytest.mark.parametrize(("sides", "expected"), [("inner", ".#.. "), ("both", ".##. ")])
def test_the_edge_of_the_box_is_no_boundary(sides: str, expected: str) -> None:
    half, full, none = masks("##.. " * 4, "#### " * 4, ".... " * 4)[:, None]
    assert boundaries(half, sides).equal(masks(expected * 4))
    assert not boundaries(full, sides).any() and not boundaries(none, sides).any()


def test_the_non_local_block_is_attention_over_all_places() -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(4).eval()
    nn.init.uniform_(block.norm.running_mean)
    x = torch.randn(2, 4, 3, 3)
    q, k, v, out = (
        layer.weight[:, :, 0, 0] for layer in (block.query, block.key, block.value, block.output)
    )
    expected = torch.empty_like(x)
    for r in range(2):
        places = x[r].reshape(4, 9)
        for i in range(9):
            alike = torch.stack(
                [(q @ places[:, i]) @ (k @ places[:, j]) / 4**0.5 for j in range(9)]
            )
            found = sum(p * (v @ places[:, j]) for j, p in enumerate(alike.softmax(0)))
            normed = (out @ found - block.norm.running_mean) / (1 + 1e-4) ** 0.5
            expected[r, :, i // 3, i % 3] = places[:, i] + normed
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_the_four_losses_by_hand() -> None:
    """Three RoIs, the second without an occluder: it takes no part in the occluder's losses."""
    torch.manual_seed(0)
    occluder = masks(".... .... #### ####", ".... " * 4, "#### .... .... ....")
    maps = {name: torch.randn(3, 1, 4, 4) for name in MAPS}
    logits = MaskLogits(maps["amodal"], further={n: maps[n] for n in MAPS[1:]})
    head = head_of(
        "MODEL.HEAD.AMODAL_WEIGHT",
        2.0,
        "MODEL.HEAD.BOUNDARY_WEIGHT",
        0.5,
        "MODEL.HEAD.BOUNDARY",
        "inner",
    )
    losses = head.losses(logits, rois_of(torch.zeros(3, 1, 2, 2), occluder))
    bce, rows = F.binary_cross_entropy_with_logits, [0, 2]
    whole, edge = masks("##.. " * 4).float().expand(3, 4, 4), masks(".#.. " * 4).float()
    rim = masks(".... .... #### ....", "#### .... .... ....").float()
    expected = {
        "loss_amodal_mask": 2.0 * bce(maps["amodal"][:, 0], whole),
        "loss_boundary": 0.5 * bce(maps["boundary"][:, 0], edge.expand(3, 4, 4)),
        "loss_occluder": 0.25 * bce(maps["occluder"][rows, 0], occluder[rows].float()),
        "loss_occluder_boundary": bce(maps["occluder_boundary"][rows, 0], rim),
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


def test_the_default_weights_are_those_of_the_public_code() -> None:
    assert head_of().weights == WEIGHTS


def test_without_an_occluder_its_losses_are_zero_with_a_gradient() -> None:
    head = head_of()
    rois = rois_of(torch.randn(2, 16, 14, 14), torch.zeros(2, 28, 28, dtype=torch.bool))
    losses = head.losses(head.logits(rois), rois)
    assert losses["loss_occluder"] == 0 and losses["loss_occluder_boundary"] == 0
    sum(losses.values()).backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in head.parameters())
    assert gradient(head.occluder.mask) == gradient(head.occluder.boundary) == 0
    assert gradient(head.occluder.layers) > 0  # of the occludee's losses


def test_the_occluder_helps_the_occludee_and_not_the_other_way_round() -> None:
    torch.manual_seed(0)
    head = head_of()
    parts = {"occluder": head.occluder, "occludee": head.occludee, "visible": head.visible_head}
    reached = {
        "loss_amodal_mask": {"occluder", "occludee"},
        "loss_boundary": {"occluder", "occludee"},
        "loss_occluder": {"occluder"},
        "loss_occluder_boundary": {"occluder"},
        "loss_visible_mask": {"visible"},
    }
    x, occluder = torch.randn(2, 16, 14, 14), torch.rand(2, 28, 28) > 0.5
    for name, expected in reached.items():
        head.zero_grad()
        rois = rois_of(x, occluder)
        head.losses(head.logits(rois), rois)[name].backward()
        assert {part for part, module in parts.items() if gradient(module)} == expected, name


def test_the_second_layer_sees_features_and_the_first_layers_output() -> None:
    head = head_of().eval()
    x = torch.randn(1, 16, 14, 14)  # a single RoI
    found = head.occluder.layers(x)
    with torch.no_grad():
        logits = head.layers(x)
        torch.testing.assert_close(
            logits.amodal, head.occludee.mask.layers(head.occludee.layers(x + found))
        )
        torch.testing.assert_close(logits.further["occluder"], head.occluder.mask.layers(found))
    assert {m.shape for m in (logits.amodal, *logits.further.values())} == {(1, 1, 28, 28)}
    assert logits.occlusion is None and set(logits.further) == set(MAPS) - {"amodal"}


@pytest.mark.parametrize("dataset", ["kins", "cocoa_cls"])
def test_the_head_of_the_paper_has_6_30_million_weights(dataset: str) -> None:
    """Of whatever number of classes: its maps are for all classes."""
    head = head_of("MODEL.HEAD.VISIBLE_HEAD", False, dataset=dataset, channels=256)
    assert round(sum(w.numel() for w in head.parameters()) / 1e6, 2) == 6.30
    assert not any(model == "bcnet_published" for model in models_of(dataset))


def test_what_is_hidden_is_the_rest_if_there_is_a_visible_mask() -> None:
    a, v = torch.tensor([2.0, 2.0, -2.0]), torch.tensor([-3.0, 3.0, -1.0])
    amodal, visible = a.view(3, 1, 1, 1), v.view(3, 1, 1, 1).expand(3, 10, 1, 1)
    probs = head_of().probs(MaskLogits(amodal, visible))
    expected = torch.minimum(a.sigmoid(), 1 - v.sigmoid()).view(3, 1, 1, 1).expand(3, 10, 1, 1)
    torch.testing.assert_close(probs["occlusion"], expected)
    assert (probs["occlusion"][:, 0, 0, 0] > 0.5).tolist() == [True, False, False]
    without = head_of("MODEL.HEAD.VISIBLE_HEAD", False)
    assert without.layers(torch.zeros(1, 16, 14, 14)).visible is None
    assert set(without.probs(MaskLogits(amodal))) == {"amodal"}


def test_it_computes_in_bfloat16() -> None:
    torch.manual_seed(0)
    head, x = head_of(), torch.randn(3, 16, 14, 14)
    rois = rois_of(x, torch.rand(3, 28, 28) > 0.5)
    exact = head.losses(head.logits(rois), rois)
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.losses(head.logits(rois), rois)
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.02), name


def objects() -> tuple[Instances, list[dict]]:
    """On 20 x 20 pixels: 1 in front of 0, whose lower half it hides; 2 far away."""
    amodal = torch.zeros(3, 20, 20, dtype=torch.bool)
    amodal[0, 0:10, 0:10] = amodal[1, 5:15, 0:10] = amodal[2, 16:20, 16:20] = True
    visible = amodal.clone()
    visible[0] &= ~amodal[1]
    instances = Instances((20, 20))
    instances.gt_masks, instances.gt_visible_masks = BitMasks(amodal), BitMasks(visible)
    instances.gt_boxes = Boxes(torch.tensor([[0, 0, 10, 10], [0, 5, 10, 15], [16, 16, 20, 20.0]]))
    return instances, [{"id": 5 + k, "occluders": ids} for k, ids in enumerate([[6], [], []])]


@pytest.mark.parametrize("choice", ["neighbours", "in_front"])
def test_occluders_are_whole_masks_inside_the_box(choice: str) -> None:
    """The IoU of 0's amodal and 1's visible box is 1/3; of 1's amodal and 0's visible box 0."""
    instances, annotations = objects()
    cfg = get_config("tabletop", "bcnet", options=["MODEL.HEAD.OCCLUDERS", choice], device="cpu")
    occluder = BCNetMaskHead.ground_truth(cfg, instances, annotations)["occluder"]
    expected = torch.zeros(3, 20, 20, dtype=torch.bool)
    expected[0, 5:10, 0:10] = True
    assert occluder.equal(expected)
    # With 7 of 0's 10 rows in sight both are near each other; in front is still 1 alone.
    instances.gt_visible_masks.tensor[0, 5:7, 0:10] = True
    if choice == "neighbours":
        expected[1, 5:10, 0:10] = True  # whole: 2 of these 5 rows are in sight
    assert BCNetMaskHead.ground_truth(cfg, instances, annotations)["occluder"].equal(expected)
    empty = BCNetMaskHead.ground_truth(cfg, instances[:0], [])["occluder"]
    assert empty.shape == (0, 20, 20)


def test_data_without_occluders_are_refused_with_what_would_be_needed(tiny_config) -> None:
    cfg = tiny_config("bcnet")
    records = copy.deepcopy(split_records(cfg, "train"))
    BCNetMaskHead.prepare(cfg, records)
    told = tiny_config("bcnet", "MODEL.HEAD.OCCLUDERS", "in_front")
    BCNetMaskHead.prepare(told, records)
    crowds = copy.deepcopy(records)
    for record in crowds:
        for annotation in record["annotations"][1:]:
            annotation["iscrowd"] = 1
        record["annotations"][0]["occluders"] = []
    for config in (cfg, told):
        with pytest.raises(
            ValueError, match="8 training images has an occluder .* several objects"
        ):
            BCNetMaskHead.prepare(config, crowds)
    lone = records[-1]["annotations"][-1]
    del lone["occluders"]
    BCNetMaskHead.prepare(cfg, records)
    with pytest.raises(
        ValueError, match=f'annotation {lone["id"]} .*"in_front" needs.*"neighbours" does'
    ):
        BCNetMaskHead.prepare(told, records)
    with pytest.raises(ValueError, match='"behind"; choose "neighbours" or "in_front"'):
        BCNetMaskHead.prepare(tiny_config("bcnet", "MODEL.HEAD.OCCLUDERS", "behind"), records)
    with pytest.raises(ValueError, match='BOUNDARY is "outer"; choose "inner" or "both"'):
        head_of("MODEL.HEAD.BOUNDARY", "outer")


def test_without_the_visible_head_the_whole_mask_alone_is_predicted() -> None:
    head, image = head_of("MODEL.HEAD.VISIBLE_HEAD", False).eval(), Instances((20, 20))
    image.pred_classes = torch.tensor([3])
    image.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]]))
    (found,) = head(torch.zeros(1, 16, 14, 14), [image])
    assert found.pred_amodal_masks.shape == (1, 28, 28)
    assert not found.has("pred_visible_masks") and not found.has("pred_occlusion_masks")


def test_it_trains_and_predicts(tiny_config) -> None:
    options = ("MODEL.HEAD.OCCLUDERS", "in_front", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    cfg = tiny_config("bcnet", *options, "SOLVER.MAX_ITER", 2, "TEST.DETECTIONS_PER_IMAGE", 10)
    example = AmodalDatasetMapper(cfg, is_train=True)(split_records(cfg, "train")[0])
    assert example["instances"].gt_occluder_masks.tensor.any()
    train(cfg)
    predictions = predict(*load_trained(Path(cfg.OUTPUT_DIR).parent))
    assert predictions and {"segmentation", "visible_mask", "occlusion_mask"} < set(predictions[0])
