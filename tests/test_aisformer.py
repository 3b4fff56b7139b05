"""AISFormer: its forward pass, its targets and its losses by hand, and every option of it."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as mask_util
from torch import Tensor, nn

from arcnn import get_config
from arcnn.data import split_records
from arcnn.evaluation import predict
from arcnn.logbook import read_log
from arcnn.modeling import MaskTargets, RoIs
from arcnn.modeling.field.aisformer import AISFormerMaskHead
from arcnn.training import train
from arcnn.weights import load_trained

WEIGHTS = {"amodal": 1.0, "visible": 1.0, "occlusion": 0.25, "occluder": 0.25}
KINDS = tuple(WEIGHTS)


def small_head(tokens: int = 4, dropout: float = 0.0, **given: object) -> AISFormerMaskHead:
    """3 channels, width 8, two attention heads, 4 x 4 maps; no weight is near zero."""
    torch.manual_seed(0)
    layer = {"nhead": 2, "dim_feedforward": 10, "dropout": dropout}
    sizes = {"channels": 3, "width": 8, "tokens": tokens, "transformer": layer}
    head = AISFormerMaskHead(**sizes | {"weights": WEIGHTS} | given)
    for weight in head.parameters():
        nn.init.normal_(weight, std=0.4)
    return head


def features(rois: int = 3) -> Tensor:
    return torch.randn(rois, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def all_maps(head: AISFormerMaskHead, x: Tensor) -> dict[str, Tensor]:
    logits = head.layers(x)
    return logits.kinds() | logits.further


def by_hand(head: AISFormerMaskHead, x: Tensor) -> dict[str, Tensor]:
    """The maps of one RoI ``(3, 2, 2)``, from its weights, without a layer of torch's."""
    w = dict(head.named_parameters())

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, v: Tensor) -> Tensor:
        centred = v - v.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attend(name: str, asking: Tensor, asked: Tensor) -> Tensor:
        weights, biases = w[f"{name}.in_proj_weight"].split(8), w[f"{name}.in_proj_bias"].split(8)
        q, k, v = (
            of @ weight.T + bias
            for of, weight, bias in zip((asking, asked, asked), weights, biases, strict=True)
        )
        halves = []
        for half in (slice(0, 4), slice(4, 8)):
            scores = (q[:, half] @ k[:, half].T / 2).exp()  # 2: the root of 4 channels a head
            halves.append(scores / scores.sum(1, keepdim=True) @ v[:, half])
        return linear(f"{name}.out_proj", torch.cat(halves, 1))

    def forward(name: str, v: Tensor) -> Tensor:
        return linear(f"{name}.linear2", linear(f"{name}.linear1", v).clamp(min=0))

    convolved = torch.zeros(8, 2, 2)
    for i in range(2):
        for j in range(2):
            window = nn.functional.pad(x, (1, 1, 1, 1))[:, i : i + 3, j : j + 3]
            convolved[:, i, j] = (w["conv.weight"] * window).sum((1, 2, 3)) + w["conv.bias"]
    convolved = convolved.clamp(min=0)
    pixels, places = [], []
    for i in range(4):
        for j in range(4):
            of_place = w["upsample.weight"][:, :, i % 2, j % 2]  # (in, out)
            pixels.append(convolved[:, i // 2, j // 2] @ of_place + w["upsample.bias"])
            places.append(torch.cat([w["rows"][i], w["columns"][j]]))
    pixels = torch.stack(pixels).clamp(min=0)

    tokens = pixels + torch.stack(places)
    tokens = norm("encoder.norm1", tokens + attend("encoder.self_attn", tokens, tokens))
    tokens = norm("encoder.norm2", tokens + forward("encoder", tokens))
    found = w["queries"]
    found = norm("decoder.norm1", found + attend("decoder.self_attn", found, found))
    found = norm("decoder.norm2", found + attend("decoder.multihead_attn", found, tokens))
    found = norm("decoder.norm3", found + forward("decoder", found))

    hidden = linear("mask_embedding.0", found).clamp(min=0)
    hidden = linear("mask_embedding.3", hidden).clamp(min=0)
    visible, occluder, amodal, _ = linear("mask_embedding.6", hidden)
    both = linear("subtraction.0", torch.cat([amodal, visible])).clamp(min=0)
    embeddings = (amodal, visible, linear("subtraction.3", both), occluder)
    pixels = linear("pixel_embedding", norm("norm", tokens + pixels))
    maps = [(pixels @ embedding).reshape(4, 4) for embedding in embeddings]
    return dict(zip(KINDS, maps, strict=True))


@pytest.mark.parametrize("rois", [1, 3])
def test_each_mask_is_the_dot_product_of_its_embedding_with_each_pixel(rois: int) -> None:
    head, x = small_head(), features(rois)
    for training in (True, False):  # no dropout: the same
        with torch.no_grad():
            found = all_maps(head.train(training), x)
            assert list(found) == list(KINDS)
            for k in range(rois):
                for kind, expected in by_hand(head, x[k]).items():
                    assert found[kind].shape == (rois, 1, 4, 4)
                    torch.testing.assert_close(found[kind][k, 0], expected, atol=1e-4, rtol=1e-4)


def test_what_each_mask_teaches() -> None:
    """All but the learned subtraction is everybody's; the invisible mask is taught through it."""
    head = small_head()
    for kind in KINDS:
        head.zero_grad()
        all_maps(head, features())[kind].square().sum().backward()
        untaught = {n for n, w in head.named_parameters() if w.grad is None or not w.grad.any()}
        subtraction = {f"subtraction.{layer}.{w}" for layer in (0, 3) for w in ("weight", "bias")}
        assert untaught == (set() if kind == "occlusion" else subtraction), kind


def rois_of(occluder: Tensor) -> RoIs:
    """Three 4 x 4 RoIs, whole object on the left half, its lower part hidden."""
    amodal = torch.zeros(3, 4, 4, dtype=torch.bool)
    amodal[:, :, :2] = True
    visible = amodal.clone()
    visible[:, 2:] = False
    targets = MaskTargets(amodal, visible, amodal & ~visible, {"occluder": occluder})
    return RoIs(features(), torch.tensor([2, 0, 1]), targets)


def test_the_four_losses_and_their_weights() -> None:
    weights = {"amodal": 2.0, "visible": 3.0, "occlusion": 0.5, "occluder": 0.75}
    head = small_head(weights=weights)
    occluder = torch.zeros(3, 4, 4, dtype=torch.bool)
    occluder[0, 3], occluder[2, :, 3] = True, True  # the second RoI has none
    rois = rois_of(occluder)
    logits = head.logits(rois)
    losses = head.losses(logits, rois)
    targets = {kind: getattr(rois.targets, kind) for kind in KINDS[:3]} | rois.targets.further
    assert len(losses) == 4
    for kind, maps in (logits.kinds() | logits.further).items():
        p, target = maps[:, 0].sigmoid(), targets[kind]
        entropy = -torch.where(target, p, 1 - p).log().mean((1, 2))  # (3,)
        mean = entropy[[0, 2]].mean() if kind == "occluder" else entropy.mean()
        torch.testing.assert_close(losses[f"loss_{kind}_mask"], weights[kind] * mean)


def test_without_any_occluder_its_loss_is_zero_with_a_gradient() -> None:
    head, rois = small_head(), rois_of(torch.zeros(3, 4, 4, dtype=torch.bool))
    loss = head.losses(head.logits(rois), rois)["loss_occluder_mask"]
    loss.backward()
    assert loss == 0 and head.queries.grad is not None and not head.queries.grad.any()


def three_objects() -> tuple[Instances, list[dict]]:
    """On 32 x 32 pixels: 0 is hidden in its right part by 1, which lies in front; 2 is far off."""
    amodal = torch.zeros(3, 32, 32, dtype=torch.bool)
    amodal[0, 4:20, 4:20] = True
    amodal[1, 4:20, 12:24] = True
    amodal[2, 26:31, 26:31] = True
    visible = amodal.clone()
    visible[0, :, 12:] = False
    instances = Instances((32, 32))
    instances.gt_masks, instances.gt_visible_masks = BitMasks(amodal), BitMasks(visible)
    instances.gt_boxes = BitMasks(amodal).get_bounding_boxes()
    instances.gt_classes = torch.zeros(3, dtype=torch.int64)
    named = zip((7, 8, 9), ([8], [], []), strict=True)
    return instances, [{"id": own, "occluders": fronts} for own, fronts in named]


def options(*given: object, dataset: str = "tabletop") -> CfgNode:
    return get_config(dataset, "aisformer", device="cpu", options=given)


def test_an_occluder_is_any_neighbour_or_one_that_the_data_name() -> None:
    instances, annotations = three_objects()
    near, in_front = options(), options("MODEL.HEAD.OCCLUDERS", "in_front")

    def found(cfg: CfgNode) -> Tensor:
        return AISFormerMaskHead.ground_truth(cfg, instances, annotations)["occluder"]

    expected = torch.zeros(3, 32, 32, dtype=torch.bool)
    expected[0, 4:20, 12:20] = True  # the object in front, inside the box of the one behind
    # What is seen of the object behind ends where the other's box begins: here no neighbour.
    assert torch.equal(found(near), expected)
    assert torch.equal(found(in_front), expected)

    # It is seen in an upper strip as well, so that its visible box reaches into the other's.
    instances.gt_visible_masks.tensor[0, 4:8, 4:20] = True
    instances.gt_visible_masks.tensor[1, 4:8, 12:20] = False
    expected[0, 4:8] = False
    assert torch.equal(found(in_front), expected)
    expected[1, 4:8, 12:20] = True  # behind counts as in front
    assert torch.equal(found(near), expected)

    nothing = instances[torch.zeros(3, dtype=torch.bool)]
    for cfg in (near, in_front):
        empty = AISFormerMaskHead.ground_truth(cfg, nothing, [])["occluder"]
        assert empty.shape == (0, 32, 32)


def record(occluders: bool = True, keep: tuple[int, ...] = (0, 1, 2)) -> dict:
    instances, annotations = three_objects()
    for k, annotation in enumerate(annotations):
        mask = instances.gt_visible_masks.tensor[k].numpy().astype("uint8")
        annotation |= {"visible_mask": mask_util.encode(mask.copy(order="F")), "iscrowd": 0}
        annotation["bbox"] = instances.gt_boxes.tensor[k].tolist()
        if not occluders:
            del annotation["occluders"]
    return {"annotations": [annotations[k] for k in keep]}


def test_data_to_learn_no_occluder_from_are_refused() -> None:
    near, named = options(), options("MODEL.HEAD.OCCLUDERS", "in_front")
    alone, silent = record(keep=(0,)), record(occluders=False)
    AISFormerMaskHead.prepare(near, [alone, silent])
    AISFormerMaskHead.prepare(named, [alone, record()])
    for lonely in ([], [alone], [record(keep=(0, 2))]):
        with pytest.raises(ValueError, match=r"training images has an occluder .* several objects"):
            AISFormerMaskHead.prepare(near, lonely)
    with pytest.raises(ValueError, match=r'is "in_front"\)'):
        AISFormerMaskHead.prepare(named, [record(keep=(1, 2))])
    with pytest.raises(
        ValueError, match=r'3 of 6 objects, annotation 7 .* "in_front" .*"neighbours"'
    ):
        AISFormerMaskHead.prepare(named, [record(), silent])
    crowd = record()
    crowd["annotations"][1]["iscrowd"] = 1
    with pytest.raises(ValueError, match="has an occluder to learn from"):
        AISFormerMaskHead.prepare(near, [crowd])


def build(*given: object, dataset: str = "tabletop") -> AISFormerMaskHead:
    cfg = options(*given, dataset=dataset)
    shape = ShapeSpec(channels=cfg.MODEL.FPN.OUT_CHANNELS, width=14, height=14)
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, shape)


def millions(*modules: nn.Module) -> float:
    return round(sum(w.numel() for m in modules for w in m.parameters()) / 1e6, 2)


@pytest.mark.parametrize("dataset", ["kins", "cocoa_cls"])
def test_number_of_weights(dataset: str) -> None:
    """Those of its public code at 256 channels; no class has any of its own."""
    head = build(dataset=dataset)
    assert (millions(head), millions(head.encoder), millions(head.decoder)) == (4.22, 1.32, 1.58)
    assert head.rows.shape == (28, 128)
    # A model zoo's Mask R-CNN has nothing that would be taken for a part of this one.
    cfg = options(dataset=dataset)
    stock = MaskRCNNConvUpsampleHead(cfg, ShapeSpec(channels=256, width=14, height=14))
    assert not set(stock.state_dict()) & set(head.state_dict())


def test_a_coarser_grid_of_tokens() -> None:
    head = small_head(tokens=2)
    seen = []
    head.encoder.register_forward_hook(lambda layer, given, made: seen.append(given[0].shape))
    maps = all_maps(head, features())
    assert seen == [(3, 4, 8)] and {m.shape for m in maps.values()} == {(3, 1, 4, 4)}
    assert not torch.allclose(maps["amodal"], all_maps(small_head(), features())["amodal"])
    assert build("MODEL.HEAD.TOKENS", 14).rows.shape == (14, 24)


def test_options_of_the_transformer() -> None:
    given = ("MODEL.HEAD.HEADS", 4, "MODEL.HEAD.FFN", 3, "MODEL.HEAD.DROPOUT", 0.5)
    for layer in (build(*given).encoder, build(*given).decoder):
        assert layer.self_attn.num_heads == 4 and layer.linear1.out_features == 3 * 48
        assert layer.dropout.p == 0.5
    head = small_head(dropout=0.5)
    drawn = [all_maps(head, features())["amodal"] for _ in range(2)]
    assert not torch.allclose(*drawn)
    weights = build("MODEL.HEAD.OCCLUDER_WEIGHT", 0.5, "MODEL.HEAD.VISIBLE_WEIGHT", 2.0).weights
    assert weights == {"amodal": 1, "visible": 2, "occlusion": 0.25, "occluder": 0.5}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("MODEL.HEAD.TOKENS", 29), "TOKENS is 29; choose 0 to 28"),
        (("MODEL.HEAD.HEADS", 5), "CONV_DIM is 48; .* multiple of MODEL.HEAD.HEADS, 5"),
        (("MODEL.ROI_MASK_HEAD.CONV_DIM", 7, "MODEL.HEAD.HEADS", 1), "CONV_DIM is 7; .* even"),
    ],
)
def test_a_bad_option_is_refused(given: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(*given)


def test_bfloat16_gives_nearly_the_same() -> None:
    head = build("MODEL.HEAD.DROPOUT", 0.0)
    x = torch.randn(2, 64, 14, 14)
    exact = head.layers(x).amodal
    with torch.autocast("cpu", torch.bfloat16):
        near = head.layers(x).amodal
    assert near.shape == (2, 1, 28, 28)
    torch.testing.assert_close(near.float(), exact, atol=0.1 * exact.std().item(), rtol=0.1)


@pytest.mark.parametrize(
    ("dataset", "batch", "rate", "last", "steps"),
    [
        ("kins", 1, 0.0025, 48_000, (30_000, 40_000)),
        ("cocoa_cls", 2, 0.0005, 20_000, (5_000, 8_000)),
        ("d2sa", 2, 0.005, 70_000, (40_000, 60_000)),
    ],
)
def test_its_own_schedules(dataset: str, batch: int, rate: float, last: int, steps: tuple) -> None:
    solver = get_config(dataset, "aisformer_published", device="cpu").SOLVER
    expected = {"IMS_PER_BATCH": batch, "BASE_LR": rate, "MAX_ITER": last, "STEPS": steps}
    assert {key: solver[key] for key in expected} == expected


def test_a_short_training_and_its_predictions(tiny_config) -> None:
    given = ("SOLVER.MAX_ITER", 2, "MODEL.HEAD.TOKENS", 7, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    given += ("TEST.DETECTIONS_PER_IMAGE", 5, "MODEL.HEAD.OCCLUDERS", "in_front")
    cfg = tiny_config("aisformer", *given)
    assert any(a["occluders"] for r in split_records(cfg, "train") for a in r["annotations"])
    train(cfg)
    log = read_log(Path(cfg.OUTPUT_DIR))
    assert {f"loss_{kind}_mask" for kind in KINDS} < set(log.columns)
    prediction = predict(*load_trained(Path(cfg.OUTPUT_DIR).parent))[0]
    assert {"segmentation", "visible_mask", "occlusion_mask"} < set(prediction)
