"""Eq. (1), Eq. (2) and the three models, with every reading that the paper leaves open."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import arcnn
from arcnn.config import CONFIG_DIR, models_of
from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.errors import FileError
from arcnn.evaluation import evaluate, predict
from arcnn.modeling import (
    ARCNNAddMaskHead,
    ARCNNMaskHead,
    JigsawConv,
    MaskLogits,
    ORCNNMaskHead,
    PiecesMaskHead,
    mask_loss,
    mask_losses,
    mask_targets,
)
from arcnn.modeling.amodal_head import import_own_models
from arcnn.modeling.shared_masks import SharedMasks
from arcnn.names import MASK_KINDS
from arcnn.training import train
from arcnn.weights import load_trained
from arcnn.workshop.run import reproduce
from arcnn.workshop.run.profiles import check_choices, load_profile


class Constant(nn.Module):
    """A stand-in for a mask head: gives the maps it was made with."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.Parameter(maps.clone())

    def layers(self, x: Tensor) -> Tensor:
        return self.maps


def random_maps(rois: int = 3, classes: int = 5, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, rois, classes, side, side, generator=generator))


def jigsaw(classes: int = 5, **kwargs: object) -> JigsawConv:
    return JigsawConv(classes, **{"bias": True, "own_class": False, "init": "normal"} | kwargs)


@pytest.mark.parametrize("own_class", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equation_1_is_the_explicit_double_sum(own_class: bool, bias: bool) -> None:
    joint = jigsaw(own_class=own_class, bias=bias)
    nn.init.normal_(joint.conv.weight)
    if bias:
        nn.init.normal_(joint.conv.bias)
    visible, occlusion = random_maps()
    vw, ow = joint.weights()
    expected = torch.zeros_like(visible)
    for t in range(5):
        for i in range(5):
            expected[:, t] += vw[t, i] * visible[:, i] + ow[t, i] * occlusion[:, i]
        if bias:
            expected[:, t] += joint.conv.bias[t]
    pieces = {"visible_head": Constant(visible), "occlusion_head": Constant(occlusion)}
    joined = ARCNNMaskHead(**pieces, amodal_head=joint).layers(None).amodal
    for amodal in (joint(visible, occlusion), joined):  # VW of the visible map, in the model too
        torch.testing.assert_close(amodal, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "own_class", "weights"), [(7, False, 98), (80, False, 12_800), (7, True, 14)]
)
def test_number_of_weights(classes: int, own_class: bool, weights: int) -> None:
    assert jigsaw(classes, own_class=own_class).conv.weight.numel() == weights
    assert jigsaw(classes, own_class=own_class, bias=False).conv.bias is None


def test_normal_start_is_near_zero_and_an_unknown_one_is_refused() -> None:
    weight = jigsaw(80).conv.weight
    assert weight.std().item() == pytest.approx(0.001, rel=0.1)
    with pytest.raises(ValueError, match="normal"):
        jigsaw(init="zeros")


@pytest.mark.parametrize("own_class", [False, True])
def test_identity_start_is_arcnn_add(own_class: bool) -> None:
    visible, occlusion = random_maps()
    pieces = {"visible_head": Constant(visible), "occlusion_head": Constant(occlusion)}
    start = jigsaw(init="identity", own_class=own_class)
    arcnn_logits = ARCNNMaskHead(**pieces, amodal_head=start).layers(None)
    add_logits = ARCNNAddMaskHead(**pieces).layers(None)
    torch.testing.assert_close(arcnn_logits.amodal, add_logits.amodal)
    vw, ow = start.weights()
    assert torch.equal(vw, torch.eye(5)) and torch.equal(ow, torch.eye(5))


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("joint_input", ["logits", "probs"])
def test_the_amodal_loss_reaches_the_pieces_unless_detached(detach: bool, joint_input: str) -> None:
    visible, occlusion = random_maps()
    head = ARCNNMaskHead(
        visible_head=Constant(visible),
        occlusion_head=Constant(occlusion),
        amodal_head=jigsaw(),
        joint_input=joint_input,
        detach=detach,
    )
    head.layers(None).amodal.square().sum().backward()
    assert head.amodal_head.conv.weight.grad.abs().sum() > 0
    for piece in (head.visible_head, head.occlusion_head):
        assert (piece.maps.grad is None) if detach else (piece.maps.grad.abs().sum() > 0)


def test_joining_probabilities_differs_from_joining_logits() -> None:
    visible, occlusion = random_maps()
    joint = jigsaw(init="identity")
    pieces = {"visible_head": Constant(visible), "occlusion_head": Constant(occlusion)}
    amodal = ARCNNMaskHead(**pieces, amodal_head=joint, joint_input="probs").layers(None).amodal
    torch.testing.assert_close(amodal, visible.sigmoid() + occlusion.sigmoid())


def test_the_three_sums_of_arcnn_add() -> None:
    visible, occlusion = random_maps()
    pieces = {"visible_head": Constant(visible), "occlusion_head": Constant(occlusion)}

    def probs(sum_of: str) -> Tensor:
        head = ARCNNAddMaskHead(**pieces, sum_of=sum_of)
        return head.layers(None).amodal.sigmoid().detach()

    p_v, p_o = visible.sigmoid(), occlusion.sigmoid()
    torch.testing.assert_close(probs("logits"), (visible + occlusion).sigmoid())
    torch.testing.assert_close(probs("noisy_or"), 1 - (1 - p_v) * (1 - p_o))
    torch.testing.assert_close(probs("probs"), (p_v + p_o).clamp(max=1), atol=2e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="noisy_or"):
        ARCNNAddMaskHead(**pieces, sum_of="max")


def test_a_sum_of_logits_lets_a_confident_piece_outshout_the_other() -> None:
    """The two examples of the model notes: (+10, -10) and (+2, -6)."""
    pair = torch.tensor([10.0, 2.0]), torch.tensor([-10.0, -6.0])
    maps = [p.view(1, 2, 1, 1) for p in pair]
    head = ARCNNAddMaskHead(visible_head=Constant(maps[0]), occlusion_head=Constant(maps[1]))
    p = head.layers(None).amodal.sigmoid().flatten()
    assert p[0].item() == pytest.approx(0.5) and p[1].item() == pytest.approx(0.018, abs=1e-3)


def test_orcnn_subtracts() -> None:
    amodal, visible = random_maps()
    head = ORCNNMaskHead(amodal_head=Constant(amodal), visible_head=Constant(visible))
    logits = head.layers(None)
    torch.testing.assert_close(logits.occlusion, amodal - visible.clamp(min=0))
    hidden = head.probs(logits)["occlusion"] > 0.5
    assert torch.equal(hidden, (amodal > 0) & (visible < 0))


def test_orcnn_without_its_third_loss() -> None:
    amodal, visible = random_maps()
    head = ORCNNMaskHead(
        amodal_head=Constant(amodal), visible_head=Constant(visible), occlusion_loss=False
    )
    losses = losses_of(head.layers(None), proposals(3))
    assert set(losses) == {"loss_amodal_mask", "loss_visible_mask"}
    assert set(head.probs(head.layers(None))) == {"amodal", "visible", "occlusion"}


def proposals(rois: int) -> Instances:
    """Proposals on an 8x8 image: the whole object is the left half, its lower part hidden."""
    amodal = torch.zeros(rois, 8, 8, dtype=torch.bool)
    amodal[:, :, :4] = True
    visible = amodal.clone()
    visible[:, 4:] = False
    instances = Instances((8, 8))
    instances.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 8.0, 8.0]] * rois))
    instances.gt_classes = torch.arange(rois) % 5
    instances.gt_masks, instances.gt_visible_masks = SharedMasks(amodal), SharedMasks(visible)
    return instances


def losses_of(logits: MaskLogits, instances: Instances) -> dict[str, Tensor]:
    targets = mask_targets([instances], side=logits.amodal.shape[-1])
    return mask_losses(logits, targets, instances.gt_classes)


def test_targets_fit_like_a_jigsaw() -> None:
    targets = mask_targets([proposals(2)], side=4)
    assert targets.amodal[0].tolist() == [[True, True, False, False]] * 4
    assert torch.equal(targets.visible | targets.occlusion, targets.amodal)
    assert not (targets.visible & targets.occlusion).any()
    assert targets.occlusion[0, 2:, :2].all() and not targets.occlusion[0, :2].any()


def test_a_visible_pixel_outside_the_whole_is_no_target() -> None:
    instances = proposals(1)
    instances.gt_visible_masks.tensor[:, :, 6:] = True
    targets = mask_targets([instances], side=4)
    assert torch.equal(targets.visible | targets.occlusion, targets.amodal)


def test_equation_2_is_the_cross_entropy_of_the_true_class() -> None:
    instances = proposals(3)
    maps = torch.zeros(3, 5, 4, 4)
    maps[torch.arange(3), instances.gt_classes] = 2.0
    losses = losses_of(MaskLogits(maps, maps, maps), instances)
    p = torch.tensor(2.0).sigmoid()
    expected = {"amodal": 0.5, "visible": 0.25, "occlusion": 0.25}  # share of true pixels
    for kind, share in expected.items():
        value = -(share * p.log() + (1 - share) * (1 - p).log())
        torch.testing.assert_close(losses[f"loss_{kind}_mask"], value)


def test_weights_of_rois_are_factors_of_their_losses() -> None:
    maps, target = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1), torch.ones(2, 1, 1)
    classes = torch.zeros(2, dtype=torch.int64)
    each = -maps.flatten().sigmoid().log()
    weighted = mask_loss(maps, target, classes, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(weighted, (2 * each[0] + 0.5 * each[1]) / 2)
    torch.testing.assert_close(mask_loss(maps, target, classes), each.mean())


def test_targets_of_several_images_follow_the_proposals() -> None:
    """Of the second image the whole object is visible; the third shows none."""
    first, second = proposals(2), proposals(3)
    second.gt_visible_masks = second.gt_masks
    together = mask_targets([first, second, proposals(1)[:0]], side=4)
    for kind in ("amodal", "visible", "occlusion"):
        alone = [getattr(mask_targets([image], side=4), kind) for image in (first, second)]
        assert torch.equal(getattr(together, kind), torch.cat(alone))
    assert together.occlusion[:2].any() and not together.occlusion[2:].any()


def test_a_pixel_that_is_half_covered_belongs_to_the_target() -> None:
    half = torch.tensor([[[True, False]]])
    shared, box = SharedMasks(half), torch.tensor([[0.0, 0.0, 2.0, 1.0]])
    assert shared.crop_and_resize(box, 1).tolist() == [[[True]]]
    assert BitMasks(half).crop_and_resize(box, 1).equal(shared.crop_and_resize(box, 1))
    assert tuple(shared.image_size) == (1, 2)


def test_without_a_map_of_the_hidden_part_it_is_whole_and_not_visible() -> None:
    amodal, visible = random_maps()
    head = ARCNNAddMaskHead(visible_head=Constant(visible), occlusion_head=Constant(visible))
    probs = head.probs(MaskLogits(amodal, visible))
    torch.testing.assert_close(probs["amodal"], amodal.sigmoid())
    torch.testing.assert_close(probs["visible"], visible.sigmoid())
    expected = torch.minimum(amodal.sigmoid(), 1 - visible.sigmoid())
    torch.testing.assert_close(probs["occlusion"], expected)
    assert set(head.probs(MaskLogits(amodal))) == {"amodal"}
    own = head.probs(MaskLogits(amodal, visible, visible))["occlusion"]
    torch.testing.assert_close(own, visible.sigmoid())


def test_where_nothing_is_found_nothing_is_drawn() -> None:
    head = ARCNNAddMaskHead(visible_head=nn.Conv2d(4, 5, 1), occlusion_head=nn.Conv2d(4, 5, 1))
    nothing = [Instances((8, 8))]
    nothing[0].pred_classes = torch.zeros(0, dtype=torch.int64)
    assert head.eval()(torch.zeros(0, 4, 2, 2), nothing) is nothing


def test_the_amodal_loss_reaches_the_pieces_by_default() -> None:
    visible, occlusion = random_maps()
    pieces = {"visible_head": Constant(visible), "occlusion_head": Constant(occlusion)}
    ARCNNAddMaskHead(**pieces).layers(None).amodal.sum().backward()
    assert all(piece.maps.grad.abs().sum() > 0 for piece in pieces.values())


def test_the_pieces_that_models_start_from_are_one_head_for_each_mask() -> None:
    cfg, shape = arcnn.get_config("tabletop", "pieces", device="cpu"), ShapeSpec(channels=64)
    head = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, shape)
    assert [name for name, _ in head.named_children()] == [f"{kind}_head" for kind in MASK_KINDS]
    maps = {kind: torch.full((1, 2, 4, 4), float(k)) for k, kind in enumerate(MASK_KINDS)}
    of_kinds = PiecesMaskHead(heads={kind: Constant(m) for kind, m in maps.items()}).layers(None)
    assert all(torch.equal(m, maps[kind]) for kind, m in of_kinds.kinds().items())
    assert PiecesMaskHead.OWN_PARTS == ("roi_heads.mask_head.",)


def test_the_choices_of_arcnn_are_named() -> None:
    visible, occlusion = random_maps()
    pieces = {"visible_head": Constant(visible), "occlusion_head": Constant(occlusion)}
    with pytest.raises(ValueError, match='MODEL.ARCNN.INPUT is "maps"'):
        ARCNNMaskHead(**pieces, amodal_head=jigsaw(), joint_input="maps")


def test_no_foreground_gives_a_zero_loss_with_a_gradient_for_every_weight() -> None:
    head = ARCNNAddMaskHead(visible_head=nn.Conv2d(4, 5, 1), occlusion_head=nn.Conv2d(4, 5, 1))
    ((name, loss),) = head(torch.zeros(0, 4, 2, 2), []).items()
    assert name == "loss_amodal_mask"
    loss.backward()
    assert loss == 0 and all(weight.grad is not None for weight in head.parameters())


@pytest.mark.parametrize("dataset", arcnn.DATASETS)
@pytest.mark.parametrize("model", arcnn.MODELS)
def test_every_configuration_builds_its_head(dataset: str, model: str) -> None:
    cfg = arcnn.get_config(dataset, model, device="cpu")
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    head = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(
        cfg, ShapeSpec(channels=channels, width=14, height=14)
    )
    logits = head.layers(torch.zeros(2, channels, 14, 14))
    assert {maps.shape for maps in logits.kinds().values()} == {
        (2, cfg.MODEL.ROI_HEADS.NUM_CLASSES, 28, 28)
    }


def test_an_unknown_choice_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="orcnn"):
        arcnn.get_config("tabletop", "panet")
    with pytest.raises(ValueError, match="cocoa_cls"):
        arcnn.get_config("cityscapes", "arcnn")
    with pytest.raises(ValueError, match="MODEL.ARCNN.BAIS"):
        arcnn.get_config("tabletop", "arcnn", options=["MODEL.ARCNN.BAIS", False])


@pytest.mark.parametrize(
    ("option", "cure"),
    [(("SEED", 7), "parameter `seed`"), (("MODEL.DEVICE", "cpu"), "CUDA_VISIBLE_DEVICES")]
    + [(("OUTPUT_DIR", "somewhere"), "follows from results folder")],
)
def test_an_option_that_would_be_ignored_is_refused(option: tuple, cure: str) -> None:
    with pytest.raises(ValueError, match=rf"options: {option[0]} is none, .*{cure}"):
        arcnn.get_config("tabletop", "arcnn", options=["SOLVER.MAX_ITER", 3, *option])


def test_overfitting_without_any_data_is_a_sentence() -> None:
    for name in ("d2sa_train", "d2sa_val"):
        DatasetCatalog.pop(name, None)
    cfg = arcnn.get_config("d2sa", "arcnn", options=["DATASETS.OVERFIT_IMAGES", 5])
    with pytest.raises(FileNotFoundError, match="d2sa_train is not there: notebook 01_prepare"):
        split_records(cfg, "train")


def batch_of(cfg: CfgNode, images: int) -> list[dict]:
    mapper = AmodalDatasetMapper(cfg, is_train=True)
    return [mapper(record) for record in split_records(cfg, "train")[:images]]


@pytest.mark.parametrize("model", arcnn.MODELS)
def test_an_image_without_objects_takes_part_in_a_batch(model: str, tiny_config) -> None:
    """The mapper makes such images: an object that vanishes in resizing has no box."""
    cfg = tiny_config(model)
    network = build_model(cfg).train()
    filled, empty = batch_of(cfg, 2)
    empty["instances"] = empty["instances"][:0]
    for batch in ([filled, empty], [empty, filled], [empty, empty]):
        with EventStorage():
            losses = network(batch)
        total = sum(losses.values())
        assert torch.isfinite(total) and "loss_amodal_mask" in losses
        total.backward()


@pytest.mark.parametrize("model", arcnn.MODELS)
def test_fifteen_steps_on_one_image_lower_every_loss(model: str, tiny_config) -> None:
    seed_all_rng(0)
    wide = ("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.ROI_BOX_HEAD.FC_DIM", 256)  # as in the demo
    mask_heads = ("MODEL.ROI_MASK_HEAD.CONV_DIM", 32)
    cfg = tiny_config(model, *wide, *mask_heads, "INPUT.RANDOM_FLIP", "none")
    network = build_model(cfg).train()
    example = batch_of(cfg, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    history = []
    with EventStorage():
        for _ in range(15):
            losses = network(example)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            history.append({name: loss.item() for name, loss in losses.items()})
    assert {"loss_amodal_mask", "loss_visible_mask", "loss_occlusion_mask"} < set(history[0])
    for name in history[0]:
        first, last = history[0][name], sum(h[name] for h in history[-3:]) / 3
        assert last < first, f"{name} went from {first:.3f} to {last:.3f}"


def test_another_papers_head_is_one_class_and_a_yaml(
    tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fourth model: everything downstream works from layers() alone."""

    class WholeOnly(ARCNNAddMaskHead):
        def layers(self, x: Tensor) -> MaskLogits:
            whole = self.visible_head.layers(x)
            return MaskLogits(whole, whole, -whole)

    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs" / "models" / "whole_only.yaml").write_text(
        "VERSION: 2\nMODEL: {ROI_MASK_HEAD: {NAME: WholeOnly}}\n"
    )
    monkeypatch.setattr("arcnn.config.CONFIG_DIR", tmp_path / "configs")
    monkeypatch.setitem(ROI_MASK_HEAD_REGISTRY._obj_map, "WholeOnly", WholeOnly)
    assert "whole_only" in models_of("tabletop")
    check_choices(load_profile("demo") | {"models": ["whole_only"]})
    cfg = tiny_config("whole_only", "SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    train(cfg)
    predictions = predict(*load_trained(Path(cfg.OUTPUT_DIR).parent))
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    metrics = evaluate(split_records(cfg, "val"), predictions, classes)
    assert metrics["amodal"]["AP"] is not None
    assert {"segmentation", "visible_mask", "occlusion_mask"} < set(predictions[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\nb = (\n", "line 2: SyntaxError: '\\(' was never closed"),
        (
            "\nimport no_such_module",
            "line 2: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("def f():\n    return 1 / 0\n\nf()", "line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "line 1: SystemExit: 0"),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
        (None, "is no plain file"),
    ],
)
def test_a_model_of_ones_own_that_fails_is_named_with_its_line(
    text: str | None, said: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    file = tmp_path / "mine.py"
    os.mkfifo(file) if text is None else file.write_text(text)
    monkeypatch.setenv("ARCNN_MODELS", str(tmp_path))
    for _ in range(2):  # what failed is not taken for imported
        with pytest.raises(FileError, match=f"mine.py.*{said}.*[.]$"):
            arcnn.get_config("tabletop", "arcnn")
    assert reproduce.main(["--profile", "smoke"]) == 2
    assert re.search(f"^make reproduce .*mine.py.*{said}", capsys.readouterr().err)


def test_a_second_model_of_ones_own_is_imported_beside_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCNN_MODELS", str(tmp_path))
    for name in ("own_one", "own_two"):
        (tmp_path / f"{name}.py").write_text("times = []")
        import_own_models()
    own = [sys.modules.pop(f"arcnn_models.own_{k}") for k in ("one", "two")]
    assert all(module.times == [] for module in own)
