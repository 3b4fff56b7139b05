"""VRS&SP's passes, losses and scores by hand, and its codebook of shapes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from arcnn import get_config
from arcnn.config import models_of
from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.evaluation import predict
from arcnn.modeling import MaskLogits, MaskTargets, RoIs
from arcnn.modeling.field.shape_prior import ShapePrior, crop_masks, make_codebook, variants
from arcnn.modeling.field.vrs_sp import Pass, VRSSPMaskHead, attention, mask_iou, run_piece
from arcnn.training import train
from arcnn.weights import load_trained

OWN = "MODEL.HEAD."
SMALL = (f"{OWN}CODES", 4, f"{OWN}PRIOR_EPOCHS", 1, f"{OWN}NEAREST", 3)
NO_SHAPES = (f"{OWN}SHAPE_PRIOR", False, f"{OWN}RESCORE_BY_PRIOR_TEST", False)
NO_THIRD = (f"{OWN}GROUND_TRUTH_PASS", False, f"{OWN}FEATURE_MATCHING", False)
R, C, M = 3, 10, 28


def own_cfg(tiny_config: Callable, *options: object, **where: object) -> CfgNode:
    return tiny_config("vrs_sp", *SMALL, *options, **where)


@pytest.fixture
def make_head(tiny_config: Callable) -> Callable[..., VRSSPMaskHead]:
    def make(*options: object) -> VRSSPMaskHead:
        torch.manual_seed(0)
        cfg = own_cfg(tiny_config, *options)
        head = VRSSPMaskHead(cfg, ShapeSpec(channels=16, height=14, width=14))
        for piece in (head.amodal_head, head.visible_head):
            piece.predictor.weight.data.mul_(200)  # maps that are not all one half
        if head.prior is not None:  # two shapes for each class
            shapes = (torch.rand(2 * C, M, M) > 0.5).float()
            with torch.no_grad():
                head.prior.codes[:, :2] = head.prior.encode(shapes).unflatten(0, (C, 2))
            head.prior.counts.fill_(2)
        return head

    return make


def rois(count: int = R) -> RoIs:
    generator = torch.Generator().manual_seed(1)
    amodal = torch.rand(count, M, M, generator=generator) > 0.4
    visible = amodal & (torch.rand(count, M, M, generator=generator) > 0.3)
    x = torch.randn(count, 16, 14, 14, generator=generator)
    targets = MaskTargets(amodal, visible, amodal & ~visible)
    return RoIs(x, torch.arange(count) * 4 % C, targets)


def attended(x: Tensor, masks: Tensor) -> Tensor:
    """Independent of :func:`attention`: the mean of each 2x2 cell, one RoI after the other."""
    cells = [m[0::2, 0::2] + m[1::2, 0::2] + m[0::2, 1::2] + m[1::2, 1::2] for m in masks.float()]
    return torch.stack([roi * cell / 4 for roi, cell in zip(x, cells, strict=True)])


def own(maps: Tensor, classes: Tensor) -> Tensor:
    return torch.stack([of_roi[c] for of_roi, c in zip(maps, classes.tolist(), strict=True)])


def test_attention_and_iou_by_hand() -> None:
    mask = torch.tensor([[[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]])
    assert attention(mask).tolist() == [[[[0.75, 0.0], [0.0, 0.5]]]]
    a = torch.tensor([[[True, True], [False, False]], [[False, False], [False, False]]])
    b = torch.tensor([[[True, False], [True, False]], [[False, False], [False, False]]])
    assert mask_iou(a, b).tolist() == [pytest.approx(1 / 3), 0.0]


def test_a_run_with_features_is_the_piece_heads_own(make_head: Callable) -> None:
    head, x = make_head().visible_head, rois().x
    ran = run_piece(head, x)
    torch.testing.assert_close(ran.maps, head.layers(x))
    assert ran.conv.shape == (R, 16, 14, 14) and ran.deconv.shape == (R, 16, M, M)
    assert ran.conv.min() == 0 and ran.deconv.min() == 0  # after the ReLUs


@pytest.mark.parametrize("with_shapes", [True, False])
def test_the_three_passes_by_hand(make_head: Callable, with_shapes: bool) -> None:
    head, given = make_head(*(() if with_shapes else NO_SHAPES)), rois()
    x, classes, (amodal, visible, *_) = given.x, given.classes, given.targets
    whole, seen = head.amodal_head.layers, head.visible_head.layers
    coarse = whole(x)

    def prior(features: Tensor) -> Tensor:
        if not with_shapes:
            return features
        shapes = head.prior.nearest(own(coarse, classes), classes, 3)
        shapes = torch.stack([attended(torch.ones(R, 1, 14, 14), s)[:, 0] for s in shapes])
        return head.fuse(torch.cat([features, shapes], dim=1))

    expected_visible = seen(attended(x, own(coarse, classes).sigmoid()))
    expected_amodal = whole(prior(attended(x, own(expected_visible, classes).sigmoid())))
    logits = head.train().logits(given)
    torch.testing.assert_close(logits.visible, expected_visible)
    torch.testing.assert_close(logits.amodal, expected_amodal)
    torch.testing.assert_close(logits.further["coarse_amodal"], coarse)
    torch.testing.assert_close(logits.further["coarse_visible"], seen(x))
    for name, masks in (("true", visible), ("predicted", own(expected_visible, classes).sigmoid())):
        answer = head.classifier(head.box_head(attended(x, masks)))
        torch.testing.assert_close(logits.further[f"class_of_{name}"], answer)
    torch.testing.assert_close(logits.further["third_visible"], seen(attended(x, amodal)))
    torch.testing.assert_close(logits.further["third_amodal"], whole(prior(attended(x, visible))))
    assert not torch.allclose(logits.amodal, coarse, atol=1e-3)

    inferred = head.eval().logits(RoIs(x, classes))
    torch.testing.assert_close(inferred.amodal, expected_amodal)
    assert set(inferred.further) == {"coarse_amodal", "coarse_visible"}
    assert head.fuse is None or head.fuse.in_channels == 16 + 3


def test_without_a_second_look_the_first_pair_is_the_answer(make_head: Callable) -> None:
    head, given = make_head("MODEL.HEAD.REFINE", False, *NO_SHAPES).eval(), rois()
    logits = head.logits(RoIs(given.x, given.classes))
    torch.testing.assert_close(logits.amodal, head.amodal_head.layers(given.x))
    torch.testing.assert_close(logits.visible, head.visible_head.layers(given.x))


def test_losses_by_hand(make_head: Callable) -> None:
    """R = 1, C = 10, M = 2: the object is the upper row, its right pixel hidden."""
    amodal, visible = torch.tensor([[[1, 1], [0, 0]]]) > 0, torch.tensor([[[1, 0], [0, 0]]]) > 0
    classes = torch.tensor([4])
    given = RoIs(torch.zeros(1), classes, MaskTargets(amodal, visible, amodal & ~visible))

    def maps(values: list[float]) -> Tensor:
        stack = torch.full((1, C, 2, 2), 9.0)  # no other class's map is looked at
        stack[0, 4] = torch.tensor(values).view(2, 2)
        return stack

    names = ("coarse_amodal", "coarse_visible", "third_amodal", "third_visible")
    values = ([1.0, -1, -1, -1], [1.0, 1, 1, -1], [2.0, 2, -2, -2], [3.0, -3, -3, -3])
    further = {name: maps(of_map) for name, of_map in zip(names, values, strict=True)}
    further |= {"matching": torch.tensor(0.125)}
    further |= {"class_of_predicted": torch.zeros(1, C), "class_of_true": torch.zeros(1, C)}
    logits = MaskLogits(maps([1.0, 1, -1, -1]), maps([2.0, -2, -2, -2]), further=further)
    losses = make_head().losses(logits, given)

    def wrong_by(*margins: float) -> float:  # cross entropy of logits with these margins
        return float(np.mean(np.log1p(np.exp(-np.array(margins)))))

    expected = {
        "loss_amodal_mask": wrong_by(1, 1, 1, 1) * 1 / 3,  # IoU of coarse visible: 1 of 3
        "loss_visible_mask": wrong_by(2, 2, 2, 2) * 1 / 2,  # IoU of coarse amodal: 1 of 2
        "loss_coarse_amodal_mask": wrong_by(1, -1, 1, 1),
        "loss_coarse_visible_mask": wrong_by(1, -1, -1, 1),
        "loss_third_amodal_mask": wrong_by(2, 2, 2, 2),
        "loss_third_visible_mask": wrong_by(3, 3, 3, 3),
        "loss_matching": 0.125,
        "loss_reclassify": (0.25 + 0.1) * np.log(10),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    bug = make_head(f"{OWN}VISIBLE_TARGET_BUG", True).losses(logits, given)
    # The hidden pixel counts as visible for the third pass, and for it alone.
    assert bug.pop("loss_third_visible_mask").item() == pytest.approx(wrong_by(3, -3, 3, 3))
    assert {k: v.item() for k, v in bug.items()} == pytest.approx(
        {k: v for k, v in expected.items() if k != "loss_third_visible_mask"}
    )


def test_features_of_the_first_look_are_drawn_to_those_of_the_third(make_head: Callable) -> None:
    ways = [torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]]]])]
    coarse, third = (Pass(t, t.clone(), 5 * t) for t in ways)
    coarse, third = (Pass(*(t.requires_grad_() for t in p)) for p in (coarse, third))
    coarse, third = coarse._replace(deconv=third.deconv * 2), third
    loss = make_head()._matching(coarse, third)
    loss.backward()
    assert loss.item() == pytest.approx(0.01 * (1 - 2**-0.5), abs=1e-6)  # deconv: the same way
    assert coarse.conv.grad.abs().sum() > 0 and third.conv.grad is None


def test_what_gets_a_gradient(make_head: Callable) -> None:
    head, given = make_head().train(), rois()
    losses = head.losses(head.logits(given), given)
    sum(losses.values()).backward()
    learned = {name for name, weight in head.named_parameters() if weight.grad is not None}
    frozen = {name for name, _ in head.named_parameters()} - learned
    assert frozen and all(name.startswith("prior.") for name in frozen)
    assert head.fuse.weight.grad[:, 16:].abs().sum() > 0  # the shapes are looked at
    # The shapes are looked up without a way back to the map that they are looked up for.
    maps = torch.zeros(1, C, M, M, requires_grad=True)
    assert not head._near_shapes(maps, torch.tensor([0])).requires_grad


@pytest.mark.parametrize(
    ("options", "losses"),
    [
        ((), {"coarse_amodal_mask", "third_amodal_mask", "matching", "reclassify"}),
        ((f"{OWN}FEATURE_MATCHING", False), {"coarse_amodal_mask", "third_amodal_mask"}),
        (NO_THIRD, {"coarse_amodal_mask", "reclassify"}),
        ((f"{OWN}REFINE", False, *NO_SHAPES), {"third_amodal_mask", "matching", "reclassify"}),
        ((f"{OWN}REFINE", False, f"{OWN}RECLASSIFY", False, *NO_SHAPES, *NO_THIRD), set()),
    ],
)
def test_every_stage_is_a_switch(make_head: Callable, options: tuple, losses: set) -> None:
    head, given = make_head(*options).train(), rois(1)
    given_losses = head.losses(head.logits(given), given)
    names = {name.removeprefix("loss_") for name in given_losses}
    assert losses | {"amodal_mask", "visible_mask"} <= names
    all_of_them = {"coarse_amodal_mask", "third_amodal_mask", "matching", "reclassify"}
    for name in all_of_them - losses - {"reclassify"}:
        assert name not in names
    assert (head.classifier is None) == ("reclassify" not in names)
    if not losses:  # two heads side by side
        torch.testing.assert_close(head.logits(given).amodal, head.amodal_head.layers(given.x))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((f"{OWN}GROUND_TRUTH_PASS", False), "FEATURE_MATCHING is on and GROUND_TRUTH_PASS is off"),
        ((f"{OWN}REFINE", False), "SHAPE_PRIOR is on and REFINE is off"),
        ((f"{OWN}SHAPE_PRIOR", False), "RESCORE_BY_PRIOR_TEST is on and SHAPE_PRIOR is off"),
        ((f"{OWN}RECLASSIFY", False, f"{OWN}RESCORE_BY_CLASS_TEST", True), "RECLASSIFY is off"),
        ((f"{OWN}ALPHA_TEST", 1.0), "ALPHA_TEST is 1.0; it is greater than 1"),
        ((f"{OWN}CODES", 0), "CODES is 0; it is at least 1"),
    ],
)
def test_stages_that_do_not_fit_are_refused(
    make_head: Callable, options: tuple, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_head(*options)


@pytest.mark.parametrize("autocast", [True, False])
def test_one_region_in_either_precision(make_head: Callable, autocast: bool) -> None:
    head, given = make_head().train(), rois(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = head.losses(head.logits(given), given)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_matching"].dtype == torch.float32
    sum(losses.values()).backward()


def test_scores_by_class_and_by_shape_by_hand(make_head: Callable) -> None:
    head = make_head(f"{OWN}RESCORE_BY_CLASS_TEST", True, f"{OWN}ALPHA_TEST", 2.0).eval()
    head.prior.counts[9] = 0  # a class without shapes: no judgement
    images = [Instances((32, 32)) for _ in range(3)]
    for image, of_image in zip(images, ([0, 9], [], [5]), strict=True):
        image.pred_classes = torch.tensor(of_image, dtype=torch.int64)
        image.pred_boxes = Boxes(torch.tensor([[0.0, 0, 20, 20]] * len(of_image)).view(-1, 4))
        image.scores = torch.tensor([0.6, 0.5][: len(of_image)])
        image.place = torch.arange(len(of_image))
    with torch.no_grad():
        results = head(rois().x, images)
    assert [len(image) for image in results] == [2, 0, 1]
    for image, x in zip((images[0], images[2]), (rois().x[:2], rois().x[2:]), strict=True):
        result = results[0] if image is images[0] else results[2]
        expected = []
        for k, c in enumerate(image.pred_classes.tolist()):
            visible, amodal = image.pred_visible_masks[k], image.pred_amodal_masks[k]
            features = attended(x[k : k + 1], visible[None])
            with torch.no_grad():
                prob = head.classifier(head.box_head(features))[0].softmax(0)[c].item()
                codes = head.prior.codes[c, :2]
                away = (codes - head.prior.encode(amodal[None])).norm(dim=1)
                shape = head.prior.decode(codes[away.argmin()][None])[0]
            near = max(np.log(2 - (shape - amodal).abs().mean().item()) / np.log(2), 0)
            factors = (0.6 + 0.4 * prob) * (1 if c == 9 else near)
            expected.append(([0.6, 0.5][k] * factors) ** (1 / 3))
        order = np.argsort(expected)[::-1]
        assert result.place.tolist() == order.tolist()
        assert result.scores.tolist() == pytest.approx([expected[k] for k in order], rel=1e-5)
    occlusion = torch.minimum(results[0].pred_amodal_masks, 1 - results[0].pred_visible_masks)
    torch.testing.assert_close(results[0].pred_occlusion_masks, occlusion)


def test_one_known_shape_is_enough_and_a_class_without_any_needs_no_file(
    make_head: Callable,
) -> None:
    head, given = make_head(), rois()
    head.prior.counts.fill_(0)
    head.prior.counts[0] = 1
    head.train().logits(given)  # there is no codebook to be loaded
    found = Instances((28, 28), scores=torch.full((2,), 0.5), pred_classes=torch.tensor([0, 1]))
    found.pred_amodal_masks = found.pred_visible_masks = torch.rand(2, M, M)
    known, unknown = head.eval()._rescored(found.scores, given.x[:2], [found]).tolist()
    assert unknown == pytest.approx(0.5**0.5) and known < 0.99 * unknown


def test_without_rescoring_scores_stay(make_head: Callable) -> None:
    head, image = make_head(f"{OWN}RESCORE_BY_PRIOR_TEST", False).eval(), Instances((32, 32))
    image.pred_classes, image.scores = torch.tensor([1, 2, 3]), torch.tensor([0.9, 0.4, 0.3])
    with torch.no_grad():
        (result,) = head(rois().x, [image])
    assert result.scores.tolist() == pytest.approx([0.9, 0.4, 0.3])


@pytest.mark.parametrize(
    ("dataset", "classes", "convs", "encoder"), [("kins", 7, 2, 1905), ("d2sa", 60, 3, 3073)]
)
def test_number_of_weights(dataset: str, classes: int, convs: int, encoder: int) -> None:
    cfg = get_config(dataset, "vrs_sp_published", device="cpu")
    with torch.device("meta"):  # 58 million numbers that nobody reads
        parts = VRSSPMaskHead.from_config(cfg, ShapeSpec(channels=256, height=14, width=14))

    def count(*names: str) -> int:
        return sum(w.numel() for name in names for w in parts[name].parameters())

    assert count("prior") == encoder and convs == cfg.MODEL.HEAD.ENCODER_CONVS
    assert 5.25e6 - 5e3 < count("amodal_head", "visible_head") < 5.29e6 + 5e3
    assert count("fuse") == pytest.approx(0.627e6, abs=5e2)
    assert count("box_head", "classifier") == pytest.approx(52.4e6, abs=1e5)
    length = {2: 392, 3: 128}[convs]
    assert parts["prior"].codes.shape == (classes, 1024, length)


def test_the_published_settings() -> None:
    def cfg(dataset: str) -> CfgNode:
        assert "vrs_sp_published" in models_of(dataset)
        return get_config(dataset, "vrs_sp_published", device="cpu")

    kins, cocoa_cls, d2sa = map(cfg, ("kins", "cocoa_cls", "d2sa"))
    assert (kins.SOLVER.IMS_PER_BATCH, kins.SOLVER.MAX_ITER) == (1, 48000)
    assert [c.MODEL.HEAD.RESCORE_BY_CLASS_TEST for c in (kins, cocoa_cls, d2sa)] == [
        False,
        True,
        True,
    ]
    assert [c.MODEL.HEAD.ALPHA_TEST for c in (kins, cocoa_cls, d2sa)] == [3, 2, 2]
    assert [c.MODEL.HEAD.RECLASSIFY_WEIGHT for c in (kins, cocoa_cls, d2sa)] == [0.25, 0.25, 0.1]
    assert "vrs_sp_published" not in models_of("tabletop")


@pytest.mark.parametrize(("side", "convs"), [(28, 2), (28, 3), (14, 3)])
def test_masks_come_back_at_their_size(side: int, convs: int) -> None:
    prior = ShapePrior(1, side=side, convs=convs, codes=1)
    codes = prior.encode(torch.rand(2, side, side))
    assert codes.shape == (2, prior.codes.shape[2])
    assert prior.decode(codes).shape == (2, side, side)


def test_the_nearest_shapes_are_of_the_own_class_nearest_first() -> None:
    torch.manual_seed(0)
    prior = ShapePrior(3, side=8, convs=2, codes=4)
    masks = (torch.rand(5, 8, 8) > 0.5).float()
    codes = prior.encode(masks)
    prior.codes[0, :3], prior.codes[1, :2] = codes[:3], codes[3:]
    prior.counts.copy_(torch.tensor([3, 2, 0]))
    decoded = prior.decode(codes)
    found = prior.nearest(masks[[1, 1, 1]], torch.tensor([0, 1, 2]), 4)
    order = (codes[:3] - codes[1]).norm(dim=1).argsort().tolist()
    assert order[0] == 1
    torch.testing.assert_close(found[0], decoded[[*order, order[0]]])
    first, second = (3 + (codes[3:] - codes[1]).norm(dim=1).argsort()).tolist()
    torch.testing.assert_close(found[1], decoded[[first, second, first, second]])
    assert not found[2].any()


def test_masks_are_turned_and_flipped() -> None:
    six = variants(torch.tensor([[[1, 2], [3, 4]]]))[:, 0].tolist()
    assert six[0] == [[1, 2], [3, 4]] and [[3, 4], [1, 2]] in six and [[2, 1], [4, 3]] in six
    turns = ([[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]])
    assert len(six) == 6 and all(turn in six for turn in turns)


def test_a_codebook_learns_the_shapes_and_follows_from_the_data_alone(tiny_config) -> None:
    cfg = own_cfg(tiny_config)
    records = split_records(cfg, "train")
    masks, classes = crop_masks(records, M)
    assert masks[0].any(0)[[0, -1]].all() and masks[0].any(1)[[0, -1]].all()  # fills its box
    settings = {"side": M, "convs": 2, "codes": 4}
    torch.manual_seed(5)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = make_codebook(records, C, epochs=1, **settings)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numbers, np.random.get_state()[1])
    torch.manual_seed(6)
    again = make_codebook(records, C, epochs=1, **settings)
    assert all(torch.equal(a, again.state_dict()[k]) for k, a in one.state_dict().items())
    counts = [min(4, 6 * int(n)) for n in classes.bincount(minlength=C)]
    assert one.counts.tolist() == counts and not one.codes[one.counts == 0].any()

    def error(prior: ShapePrior) -> float:
        return (prior.decode(prior.encode(masks.float())) - masks.float()).square().mean().item()

    learned = make_codebook(records, C, epochs=25, **settings)
    assert error(learned) < 0.7 * error(one)
    with pytest.raises(ValueError, match="No object of the training split"):
        make_codebook([{"annotations": []}], C, epochs=1, **settings)


def test_a_codebook_is_shared_and_another_one_refused(tiny_config, tmp_path: Path) -> None:
    file = tmp_path / "shared" / "shapes.safetensors"
    cfg = own_cfg(tiny_config, f"{OWN}CODEBOOK", str(file))
    records = split_records(cfg, "train")
    VRSSPMaskHead.prepare(cfg, records)
    made, state = file.read_bytes(), load_file(file)
    with safe_open(file, "pt") as stored:
        assert stored.metadata()["classes"] == "10" and "laptop" in stored.metadata()["class names"]
    other_seed = own_cfg(tiny_config, f"{OWN}CODEBOOK", str(file), seed=7, run="other")
    VRSSPMaskHead.prepare(other_seed, records)
    assert file.read_bytes() == made and not list(tmp_path.glob("other/**/*.safetensors"))
    alone = own_cfg(tiny_config, seed=7, run="other")
    VRSSPMaskHead.prepare(alone, records)
    alone = load_file(Path(alone.OUTPUT_DIR) / "codebook.safetensors")
    assert all(torch.equal(tensor, alone[name]) for name, tensor in state.items())

    with pytest.raises(ValueError, match=r"shapes.safetensors is .* other training data.*Delete"):
        VRSSPMaskHead.prepare(cfg, records[1:])
    fewer = own_cfg(tiny_config, f"{OWN}CODEBOOK", str(file), f"{OWN}CODES", 3)
    with pytest.raises(ValueError, match="of other codes: 4, and this training has 3"):
        VRSSPMaskHead.prepare(fewer, records)
    file.write_bytes(made[:-1000])
    with pytest.raises(ValueError, match=r"shapes.safetensors is cut off.*MODEL.HEAD.CODEBOOK"):
        VRSSPMaskHead.prepare(cfg, records)


def test_an_image_without_objects_and_a_missing_codebook(tiny_config) -> None:
    cfg = own_cfg(tiny_config)
    records = split_records(cfg, "train")
    network, mapper = build_model(cfg).train(), AmodalDatasetMapper(cfg, is_train=True)
    filled, empty = (mapper(record) for record in records[:2])
    empty["instances"] = empty["instances"][:0]
    with EventStorage():
        with pytest.raises(FileNotFoundError, match=r"codebook.safetensors is not there.*prepare"):
            network([filled, empty])
        VRSSPMaskHead.prepare(cfg, records)
        for batch in ([empty, filled], [empty, empty]):
            losses = network(batch)
            assert all(torch.isfinite(loss) for loss in losses.values())
        losses["loss_amodal_mask"].backward()  # zero, and with a gradient all the same
    fuse = network.roi_heads.mask_head.fuse.weight
    assert losses["loss_amodal_mask"] == 0 and not fuse.grad.any()


def test_it_trains_and_opens_from_its_weights_alone(tiny_config) -> None:
    options = ("SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    assert train(own_cfg(tiny_config, *options)).steps == 2
    cfg = own_cfg(tiny_config, *options, f"{OWN}RESCORE_BY_CLASS_TEST", True)
    assert train(cfg).steps == 0  # scores can be made in another way without another training
    file = Path(cfg.OUTPUT_DIR) / "codebook.safetensors"
    codes = load_file(file)["codes"]
    file.unlink()
    again = load_trained(Path(cfg.OUTPUT_DIR).parent)
    assert torch.equal(again.model.roi_heads.mask_head.prior.codes.cpu(), codes) and codes.any()
    predictions = predict(*again)
    assert {"segmentation", "visible_mask", "occlusion_mask"} < set(predictions[0])
    scores = [p["score"] for p in predictions if p["image_id"] == predictions[0]["image_id"]]
    assert scores == sorted(scores, reverse=True) and 0 < scores[0] < 1
