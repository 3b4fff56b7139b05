"""The numbers of other papers' heads, at the places where one more or less makes a difference."""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.structures import Boxes
from pycocotools import mask as mask_util
from torch.nn import functional as F

from arcnn import get_config
from arcnn.modeling import AmodalMaskHead
from arcnn.modeling.field.aisformer import AISFormerMaskHead
from arcnn.modeling.field.asn import ASNMaskHead
from arcnn.modeling.field.bcnet import BCNetMaskHead, Branch, NonLocalBlock
from arcnn.modeling.field.ground_truth import (
    check_occluders,
    neighbours,
    occluder_masks,
    those_with,
)
from arcnn.modeling.field.shape_prior import crop_masks, make_codebook
from arcnn.modeling.field.vrs_sp import Pass, VRSSPMaskHead, mask_iou

OPTIONS = {  # of the papers' codes; arcnn/modeling/field says which are not
    "AISFormerMaskHead": {
        **{"OCCLUDERS": "neighbours", "AMODAL_WEIGHT": 1.0, "VISIBLE_WEIGHT": 1.0},
        **{"OCCLUSION_WEIGHT": 0.25, "OCCLUDER_WEIGHT": 0.25, "HEADS": 2, "FFN": 8},
        **{"DROPOUT": 0.1, "TOKENS": 0},
    },
    "ASNMaskHead": {
        **{"OCCLUSION_LOSS_WEIGHT": 8.0, "OCCLUDED_RATE": 0.05, "FUSION": 0, "EXTRACT": 0}
    },
    "BCNetMaskHead": {
        **{"VISIBLE_HEAD": True, "OCCLUDERS": "neighbours", "BOUNDARY": "both"},
        **{"AMODAL_WEIGHT": 1.0, "OCCLUDER_WEIGHT": 0.25, "BOUNDARY_WEIGHT": 1.0},
        **{"OCCLUDER_BOUNDARY_WEIGHT": 1.0},
    },
    "SLNMaskHead": {"LAYERS": 2},
    "VRSSPMaskHead": {
        **{"REFINE": True, "SHAPE_PRIOR": True, "GROUND_TRUTH_PASS": True},
        **{"FEATURE_MATCHING": True, "RECLASSIFY": True, "RECLASSIFY_WEIGHT": 0.25},
        **{"RESCORE_BY_CLASS_TEST": False, "RESCORE_BY_PRIOR_TEST": True, "ALPHA_TEST": 3.0},
        **{"VISIBLE_TARGET_BUG": False, "NEAREST": 16, "CODES": 1024, "ENCODER_CONVS": 2},
        **{"PRIOR_EPOCHS": 10, "CODEBOOK": ""},
    },
}


def test_the_defaults_of_every_option() -> None:
    heads = {
        name: head.OPTIONS
        for name, head in ROI_MASK_HEAD_REGISTRY
        if issubclass(head, AmodalMaskHead) and head.__module__.startswith("arcnn.modeling.field")
    }
    assert {name: options for name, options in heads.items() if options} == OPTIONS
    head = "roi_heads.mask_head."
    assert (head, "roi_heads.box_") == ASNMaskHead.OWN_PARTS
    assert (head, f"{head}prior.") == VRSSPMaskHead.OWN_PARTS
    assert VRSSPMaskHead.MATCHING == {"conv": 0.01, "deconv": 0.05}


def an_object(box: tuple, number: int = 1, **fields: object) -> dict:
    """A full rectangle on an image of 40 x 40 pixels."""
    x0, y0, x1, y1 = box
    mask = np.zeros((40, 40), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    rle = mask_util.encode(mask)
    return {"id": number, "bbox": list(box), "segmentation": rle, "visible_mask": rle} | fields


@pytest.mark.parametrize(("pixels", "kept"), [(20, False), (21, True)])
def test_an_occluder_has_more_than_twenty_pixels_in_the_box(pixels: int, kept: bool) -> None:
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[1, 0, :pixels] = True
    boxes = Boxes(torch.tensor([[0.0, 0, 40, 40]] * 2))
    inside = occluder_masks(masks, boxes, torch.tensor([[False, True], [False, False]]))
    assert inside[0].sum() == (pixels if kept else 0) and not inside[1].any()


@pytest.mark.parametrize(("width", "near"), [(19.0, True), (20.0, False)])
def test_neighbours_overlap_by_more_than_a_twentieth(width: float, near: bool) -> None:
    wide, small = [0, 0, width, 1], [0.0, 0, 1, 1]
    found = neighbours(Boxes(torch.tensor([wide, wide])), Boxes(torch.tensor([small, small])))
    assert found.tolist() == [[False, near], [near, False]]


def test_two_objects_are_enough_for_an_occluder_and_one_is_not() -> None:
    one, other = an_object((0, 0, 20, 20)), an_object((10, 10, 30, 30), 2)
    check_occluders("neighbours", [{"annotations": [one, other]}])
    with pytest.raises(ValueError, match="has an occluder to learn from"):
        check_occluders("neighbours", [{"annotations": [one]}, {"annotations": [other]}])
    with pytest.raises(ValueError, match='of them, as MODEL.HEAD.OCCLUDERS "in_front" needs'):
        check_occluders("in_front", [{"annotations": [one, other]}])
    apart = [one | {"occluders": []}, other | {"occluders": []}]  # close, and none in front
    with pytest.raises(ValueError, match="has an occluder to learn from"):
        check_occluders("in_front", [{"annotations": apart}])


def test_the_mean_is_over_the_rois_with_a_mask_also_if_it_is_one() -> None:
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    assert those_with(masks).tolist() == [0, 0, 0]
    masks[0, 0, 0] = True
    assert those_with(masks).tolist() == [3, 0, 0]


@pytest.mark.parametrize("num_conv", [2, 3, 4])
def test_a_layer_of_bcnet_is_convolutions_with_relu_around_a_block(num_conv: int) -> None:
    branch = Branch(4, 6, 8, num_conv)
    kinds = [isinstance(layer, NonLocalBlock) for layer in branch.layers]
    assert kinds == [False, False, True, *[False] * (num_conv - 2)]
    convs = [layer for layer in branch.layers if not isinstance(layer, NonLocalBlock)]
    assert all(conv.activation is F.relu for conv in convs)
    features, *maps = branch(torch.randn(2, 4, 14, 14))
    assert features.shape == (2, 8, 14, 14) and {m.shape for m in maps} == {(2, 1, 28, 28)}
    block = branch.layers[2]
    assert all(getattr(block, k).bias is None for k in ("query", "key", "value", "output"))
    BCNetMaskHead(occluder=branch, occludee=branch, visible_head=None, weights={})


def test_aisformer_starts_as_its_code_and_takes_a_token_for_each_pixel(monkeypatch) -> None:
    small = ("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.HEAD.TOKENS")
    asked, interpolate = [], F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda *a, **k: asked.append(k) or interpolate(*a, **k))
    for tokens in (28, 7):
        cfg = get_config("tabletop", "aisformer", options=[*small, tokens], device="cpu")
        head = AISFormerMaskHead(cfg, ShapeSpec(channels=4))
        assert head.tokens == tokens
        head.layers(torch.randn(1, 4, 14, 14))
        assert head.pixel_embedding.weight.std().item() == pytest.approx(0.001, rel=0.2)
    assert [of["mode"] for of in asked] == ["bilinear"]  # of fewer tokens than pixels
    with pytest.raises(ValueError, match="TOKENS is 29"):
        cfg = get_config("tabletop", "aisformer", options=[*small, 29], device="cpu")
        AISFormerMaskHead(cfg, ShapeSpec(channels=4))


def test_every_class_has_codes_of_its_own_objects_and_crowds_have_none() -> None:
    """Six views of each object: of one object six codes, of three as many as there may be."""
    boxes = [(0, 0, 20, 20), (0, 0, 10, 30), (5, 5, 25, 15), (2, 2, 30, 12)]
    objects = [an_object(box, k, category_id=int(k > 0), iscrowd=0) for k, box in enumerate(boxes)]
    crowd = an_object((0, 0, 5, 5), 9, category_id=0, iscrowd=1)
    del objects[1]["iscrowd"]  # which is none
    records = [{"annotations": [*objects, crowd]}]
    masks, classes = crop_masks(records, 28)
    assert masks.shape == (4, 28, 28) and classes.tolist() == [0, 1, 1, 1]
    prior = make_codebook(records, 2, side=28, convs=2, codes=10, epochs=1)
    assert prior.counts.tolist() == [6, 10]


def test_the_occlusion_branch_of_asn_starts_near_zero() -> None:
    cfg = get_config("tabletop", "asn", device="cpu")
    predictor = build_model(cfg).roi_heads.box_occlusion_predictor
    assert predictor.weight.std().item() == pytest.approx(0.01, rel=0.2)


def test_an_overlap_of_one_pixel_is_whole() -> None:
    one = torch.zeros(2, 3, 3, dtype=torch.bool)
    one[0, 1, 1] = True
    assert mask_iou(one, one).tolist() == [1, 0]


def test_matching_is_the_mean_over_rois_of_one_minus_the_cosine() -> None:
    cfg = get_config("tabletop", "vrs_sp", options=["MODEL.ROI_MASK_HEAD.CONV_DIM", 8])
    head = VRSSPMaskHead(cfg, ShapeSpec(channels=8))
    same, turned = torch.ones(2, 8, 2, 2), torch.ones(2, 8, 2, 2)
    turned[0] *= -1  # a cosine of -1; the other RoI has 1
    of = [Pass(same, same, same), Pass(same, turned, turned)]
    assert head._matching(*of).item() == pytest.approx((0.01 + 0.05) * (2 + 0) / 2)
