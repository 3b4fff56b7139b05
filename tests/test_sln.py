"""SLN: layers by the number of objects in front, their partition on the RoI grid, and the sum."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from arcnn import get_config
from arcnn.data import AmodalDatasetMapper, split_records
from arcnn.evaluation import predict
from arcnn.modeling import MaskTargets, RoIs, mask_targets
from arcnn.modeling.field.sln import SLNMaskHead, layer_targets
from arcnn.modeling.shared_masks import SharedMasks
from arcnn.training import train
from arcnn.weights import load_trained


class Constant(nn.Module):
    """A stand-in for the trunk: gives the maps it was made with."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.Parameter(maps)

    def layers(self, x: Tensor) -> Tensor:
        return self.maps


def head_of(*logits: float) -> SLNMaskHead:
    """One RoI of one pixel, a logit per layer."""
    return SLNMaskHead(trunk=Constant(torch.tensor(logits).view(1, -1, 1, 1)))


def rois_of(depth: int, layers: int) -> RoIs:
    """One RoI of one pixel of this depth."""
    pixel = [torch.full((1, 1, 1), on) for on in (True, depth == 0, depth > 0)]
    further = {f"behind_{d}": torch.full((1, 1, 1), depth >= d) for d in range(2, layers)}
    return RoIs(torch.zeros(1), torch.tensor([3]), MaskTargets(*pixel, further))


def options(layers: int) -> tuple:
    return ("MODEL.HEAD.LAYERS", layers)


def config(layers: int = 2, dataset: str = "tabletop") -> CfgNode:
    return get_config(dataset, "sln", options=options(layers), device="cpu")


def pile() -> tuple[Instances, list[dict]]:
    """A strip of 8 pixels. 40 lies lowest, then 30, 20 and 10, each of which leaves more free; the
    last pixel is hidden too, by nobody who has a name."""
    amodal = torch.zeros(4, 1, 8, dtype=torch.bool)
    for k, right in enumerate((2, 4, 6, 8)):
        amodal[k, :, :right] = True
    visible = amodal.clone()
    for k, left in enumerate((0, 2, 4, 6)):
        visible[k, :, :left] = False
    visible[3, :, 7] = False
    instances = Instances((1, 8))
    instances.gt_classes = torch.arange(4)
    instances.gt_masks, instances.gt_visible_masks = SharedMasks(amodal), SharedMasks(visible)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    fronts = [(10, []), (20, [10]), (30, [20, 10, 99]), (40, [30, 10, 20])]
    return instances, [{"id": k, "occluders": names} for k, names in fronts]


@pytest.mark.parametrize(
    ("layers", "depths"), [(2, "11111101"), (3, "22221101"), (4, "33221101"), (6, "33221101")]
)
def test_a_pixels_layer_is_the_number_of_objects_in_front_of_it(layers: int, depths: str) -> None:
    instances, annotations = pile()
    made = SLNMaskHead.ground_truth(config(layers), instances, annotations)
    assert list(made) == [f"behind_{d}" for d in range(2, layers)]
    for name, masks in made.items():
        instances.set(f"gt_{name}_masks", SharedMasks(masks))
    lowest = instances[3:]
    lowest.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 8.0, 1.0]]))
    target = layer_targets(mask_targets([lowest], side=8), layers)
    assert target.shape == (1, layers, 8, 8)
    assert (target.sum(1) == 1).all()
    assert target.long().argmax(1)[0, 0].tolist() == [int(d) for d in depths]


def test_layers_partition_the_amodal_mask_on_every_grid() -> None:
    """Noise cropped to odd boxes: what is rounded there fits nowhere by itself."""
    noise = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    amodal, visible = noise[0] < 0.7, noise[1] < 0.5
    instances = Instances((40, 40))
    instances.gt_masks, instances.gt_visible_masks = (
        SharedMasks(amodal),
        SharedMasks(visible & amodal),
    )
    instances.gt_behind_2_masks = SharedMasks(noise[2] < 0.6)
    instances.gt_behind_3_masks = SharedMasks(noise[2] < 0.4)
    boxes = [[1.3, 2.7, 31.1, 22.9], [0.0, 0.0, 17.3, 39.0], [5.5, 8.1, 12.2, 19.9]]
    instances.proposal_boxes = Boxes(torch.tensor(boxes))
    targets = mask_targets([instances], side=14)
    target = layer_targets(targets, 4)
    assert torch.equal(target.sum(1), targets.amodal.long())
    assert torch.equal(target[:, 0], targets.visible)
    assert torch.equal(target[:, 1:].any(1), targets.occlusion)
    assert target.flatten(2).any(2).any(0).all()  # no layer is empty: there was something to test


def test_layers_go_through_the_mappers_flip(tiny_config) -> None:
    cfg = tiny_config("sln", *options(3))
    records = split_records(cfg, "train")
    both = [
        AmodalDatasetMapper(
            True,
            augmentations=augmentations,
            ground_truth=lambda *objects: SLNMaskHead.ground_truth(cfg, *objects),
        )
        for augmentations in ([], [T.RandomFlip(prob=1.0)])
    ]
    pixels = 0
    for record in records:
        plain, flipped = (mapper(record)["instances"] for mapper in both)
        deep = plain.gt_behind_2_masks.tensor
        assert torch.equal(deep.flip(-1), flipped.gt_behind_2_masks.tensor)
        ids = [a["id"] for a in record["annotations"]]
        for k, annotation in enumerate(record["annotations"]):
            fronts = [plain.gt_masks.tensor[ids.index(front)] for front in annotation["occluders"]]
            covering = sum((mask.long() for mask in fronts), torch.zeros_like(deep[k]).long())
            assert torch.equal(deep[k], covering > 1)
        pixels += deep.sum().item()
    assert pixels > 0


def test_the_amodal_logit_is_the_sum_of_the_layers() -> None:
    logits = head_of(1.5, -4.0, 0.75).layers(None)
    assert logits.amodal.item() == -1.75 and logits.visible.item() == 1.5
    assert logits.occlusion is None
    assert {name: maps.item() for name, maps in logits.further.items()} == {
        "layer_1": -4.0,
        "layer_2": 0.75,
    }
    two = head_of(1.5, -4.0).layers(None)
    assert (two.amodal.item(), two.visible.item(), two.occlusion.item()) == (-2.5, 1.5, -4.0)
    assert not two.further


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_losses_by_hand(depth: int) -> None:
    logits = (0.5, -1.0, 2.0)
    head = head_of(*logits)
    losses = head.losses(head.layers(None), rois_of(depth, 3))

    def cross_entropy(logit: float, true: bool) -> float:
        p = torch.tensor(logit).sigmoid()
        return -(p if true else 1 - p).log().item()

    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {
            "loss_amodal_mask": cross_entropy(1.5, True),
            "loss_visible_mask": cross_entropy(0.5, depth == 0),
            "loss_layer_1_mask": cross_entropy(-1.0, depth == 1),
            "loss_layer_2_mask": cross_entropy(2.0, depth == 2),
        }
    )


def test_two_layers_have_the_three_losses_of_all_models() -> None:
    head = head_of(0.5, -1.0)
    losses = head.losses(head.layers(None), rois_of(1, 2))
    assert set(losses) == {"loss_amodal_mask", "loss_visible_mask", "loss_occlusion_mask"}


@pytest.mark.parametrize(
    ("loss", "reached"),
    [
        ("loss_amodal_mask", [True, True, True]),
        ("loss_visible_mask", [True, False, False]),
        ("loss_layer_1_mask", [False, True, False]),
        ("loss_layer_2_mask", [False, False, True]),
    ],
)
def test_a_layers_loss_is_its_own_and_the_amodal_one_is_all_layers(
    loss: str, reached: list[bool]
) -> None:
    head = head_of(0.5, -1.0, 2.0)
    head.losses(head.layers(None), rois_of(1, 3))[loss].backward()
    assert (head.trunk.maps.grad.flatten() != 0).tolist() == reached


def test_hidden_is_the_noisy_or_of_the_hidden_layers() -> None:
    odds = torch.tensor([0.2, 0.4, 0.5]).logit().tolist()
    head = head_of(*odds)
    probs = {kind: maps.item() for kind, maps in head.probs(head.layers(None)).items()}
    together = 0.25 * (0.4 / 0.6) * 1.0  # the odds of a sum of logits are the product
    assert probs == pytest.approx(
        {"visible": 0.2, "occlusion": 1 - 0.6 * 0.5, "amodal": together / (1 + together)}
    )
    two = head_of(*odds[:2])
    assert two.probs(two.layers(None))["occlusion"].item() == pytest.approx(0.4)


@pytest.mark.parametrize("dataset", ["kins", "cocoa_cls"])  # 7 and 80 classes
@pytest.mark.parametrize("layers", [2, 4])
def test_number_of_weights(dataset: str, layers: int) -> None:
    head = SLNMaskHead(config(layers, dataset), ShapeSpec(channels=256, width=14, height=14))
    convs, deconv = 4 * (256 * 256 * 9 + 256), 256 * 256 * 4 + 256
    ours = sum(weight.numel() for weight in head.parameters())
    assert ours == convs + deconv + layers * (256 + 1)
    # Its paper's head reads 183 more maps, and has batch norm after each of the four convolutions.
    assert ours + 183 * 256 * 9 + 4 * 2 * 256 == pytest.approx(3.05e6, abs=0.005e6)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_roi_in_half_precision_too(dtype: torch.dtype, layers: int) -> None:
    cfg = config(layers)
    head = SLNMaskHead(cfg, ShapeSpec(channels=64, width=14, height=14))
    x = torch.randn(1, 64, 14, 14, generator=torch.Generator().manual_seed(0))
    targets = rois_of(1, layers).targets
    wide = {name: masks.expand(1, 28, 28) for name, masks in targets.further.items()}
    targets = MaskTargets(*(masks.expand(1, 28, 28) for masks in targets[:3]), wide)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = head.layers(x)
        losses = head.losses(logits, RoIs(x, torch.tensor([9]), targets))
        probs = head.probs(logits)
    assert logits.visible.dtype == dtype
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    assert {maps.shape for maps in probs.values()} == {(1, 1, 28, 28)}
    sum(losses.values()).backward()
    assert all(weight.grad is not None for weight in head.parameters())


def test_an_image_without_objects_takes_part_in_a_batch(tiny_config) -> None:
    cfg = tiny_config("sln", *options(3))
    network, mapper = build_model(cfg).train(), AmodalDatasetMapper(cfg, is_train=True)
    filled, empty = (mapper(record) for record in split_records(cfg, "train")[:2])
    empty["instances"] = empty["instances"][:0]
    for batch in ([filled, empty], [empty, filled], [empty, empty]):
        with EventStorage():
            total = sum(network(batch).values())
        assert torch.isfinite(total)
        total.backward()
    assert not SLNMaskHead.ground_truth(cfg, pile()[0][:0], [])["behind_2"].numel()


@pytest.mark.parametrize("layers", [2, 4])
def test_training_gives_a_model_that_predicts_three_masks(layers: int, tiny_config) -> None:
    more = ("SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    cfg = tiny_config("sln", *options(layers), *more)
    train(cfg)
    again = load_trained(Path(cfg.OUTPUT_DIR).parent)
    assert again.model.roi_heads.mask_head.trunk.predictor.out_channels == layers
    predictions = predict(*again)
    assert predictions
    assert {"segmentation", "visible_mask", "occlusion_mask"} < set(predictions[0])


def test_data_without_an_order_are_refused_beyond_two_layers(tiny_config) -> None:
    told, silent = {"id": 1, "occluders": []}, {"id": 7}
    crowd = {"id": 8, "iscrowd": 1}
    records = [{"annotations": [told, crowd]}, {"annotations": [silent]}]
    sentence = (
        r"1 of 2 objects, annotation 7 .*LAYERS above 2 needs.*KINS of 2020.*LAYERS 2 does without"
    )
    with pytest.raises(ValueError, match=sentence):
        SLNMaskHead.prepare(config(3), records)
    SLNMaskHead.prepare(config(2), records)
    SLNMaskHead.prepare(config(3), records[:1])
    cfg = tiny_config("sln", *options(3))
    SLNMaskHead.prepare(cfg, split_records(cfg, "train"))


def test_fewer_than_two_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"LAYERS is 1; give 2"):
        build_model(config(1))


def test_the_published_schedule_of_d2sa() -> None:
    cfg = get_config("d2sa", "sln_published", device="cpu")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    schedule = build_lr_scheduler(cfg, optimizer)
    rates = {}
    for step in range(cfg.SOLVER.MAX_ITER):
        rates[step] = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
    steps = (0, 12_499, 12_500, 14_999)  # no warm-up; a tenth in the last 2,500
    assert [rates[step] for step in steps] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "SLNMaskHead"
