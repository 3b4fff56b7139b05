"""Masks pasted and encoded inside their boxes, against detectron2 and pycocotools."""

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.structures import Boxes, Instances
from peers import peer_encode
from pycocotools import mask as mask_util

from arcnn.evaluation.evaluator import detections
from arcnn.evaluation.masks import _copied, _run_lengths, _windows, encode_mask_kinds


def maps(count: int, generator: torch.Generator) -> list[torch.Tensor]:
    noise = torch.rand(count, 28, 28, generator=generator)
    return [noise, torch.ones(count, 28, 28), torch.zeros(count, 28, 28), (noise > 0.5).float()]


def reference(probs: torch.Tensor, box: torch.Tensor, height: int, width: int) -> dict:
    """detectron2's paste on the CPU; where it refuses a box outside the image, its paste onto the
    whole image, which it uses on GPUs."""
    try:
        return peer_encode([probs], box, height, width)[0][0]
    except RuntimeError:
        pasted, _ = _do_paste_mask(probs[:, None], box, height, width, skip_empty=False)
        rle = mask_util.encode(np.asfortranarray((pasted[0] >= 0.5).numpy(), np.uint8))
        return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.mark.parametrize("seed", range(4))
def test_equal_bit_for_bit(seed: int):
    """Boxes in, across and outside the border, below a pixel, of no width: 3,000 masks a seed."""
    generator = torch.Generator().manual_seed(seed)
    for n in range(75):
        height, width = torch.randint(1, 80, (2,), generator=generator).tolist()
        size = torch.tensor([width, height])
        centre = (torch.rand(10, 2, generator=generator) * 1.6 - 0.3) * size
        side = torch.exp(torch.randn(10, 2, generator=generator) * 1.5 + 1.5)
        boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1)
        if n % 3 == 1:
            boxes = boxes.round()
        if n % 3 == 2:
            boxes = torch.minimum(boxes.clamp(min=0), size.repeat(2))
        kinds = maps(10, generator)
        for probs, encoded in zip(
            kinds, encode_mask_kinds(kinds, boxes, height, width), strict=True
        ):
            for r, rle in enumerate(encoded):
                expected = reference(probs[r : r + 1], boxes[r : r + 1], height, width)
                assert rle == expected, (boxes[r].tolist(), height, width)


@pytest.mark.parametrize(("at_once", "copies"), [(1, 7), (1000, 3), (2**28, 1)])
def test_windows_come_one_by_one_or_together(at_once: int, copies: int, monkeypatch) -> None:
    boxes = torch.tensor([[10.0, 10.0, 20.0, 18.0]]).repeat(8, 1)  # windows of 12 x 10, of 3 kinds
    boxes[3] += 1000  # outside: an empty window comes with the next
    stack = torch.rand(8, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = [(x, y, masks.numpy()) for x, y, masks in _windows(stack, boxes, 60, 80)]
    joined, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts, **_: joined.append(len(parts)) or cat(parts))
    found = list(_copied(((x, y, torch.from_numpy(m)) for x, y, m in expected), at_once))
    assert len(joined) == copies and sum(joined) == len(found) == 8
    for (*place, masks), (*true_place, true) in zip(found, expected, strict=True):
        assert place == true_place and np.array_equal(masks, true)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_pastes_the_same_masks_in_little_memory():
    generator = torch.Generator().manual_seed(5)
    height, width = 375, 1242
    centre = torch.rand(100, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([centre - 60, centre + 60], dim=1)
    kinds = [torch.rand(100, 28, 28, generator=generator) for _ in range(3)]
    expected = encode_mask_kinds(kinds, boxes, height, width)
    torch.cuda.reset_peak_memory_stats()
    on_gpu = encode_mask_kinds([k.cuda() for k in kinds], boxes.cuda(), height, width)
    assert torch.cuda.max_memory_allocated() < 1e9
    pairs = zip(sum(on_gpu, []), sum(expected, []), strict=True)
    ious = [mask_util.iou([a], [b], [0]).item() for a, b in pairs]  # rounding may move a pixel
    assert min(ious) > 0.98


def test_full_image_and_adjoining_columns():
    box = torch.tensor([[-4.0, -4.0, 12.0, 10.0]])
    ((rle,),) = encode_mask_kinds([torch.ones(1, 28, 28)], box, 6, 8)
    assert mask_util.decode(rle).all()
    assert (
        rle["counts"] == mask_util.encode(np.ones((6, 8), np.uint8, order="F"))["counts"].decode()
    )


def test_one_kind_is_the_first_of_many_and_none_is_none():
    generator = torch.Generator().manual_seed(0)
    kinds, box = maps(1, generator), torch.tensor([[3.0, 2.0, 17.5, 11.0]])
    assert encode_mask_kinds(kinds[:1], box, 20, 30) == encode_mask_kinds(kinds, box, 20, 30)[:1]
    assert encode_mask_kinds([torch.zeros(0, 28, 28)] * 3, torch.zeros(0, 4), 20, 30) == [[]] * 3


def test_detections_carry_three_masks():
    generator = torch.Generator().manual_seed(0)
    instances = Instances((20, 30))
    instances.pred_boxes = Boxes(torch.tensor([[3.0, 2.0, 17.5, 11.0]]))
    instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([2])
    amodal, visible, occlusion, _ = maps(1, generator)
    instances.pred_amodal_masks, instances.pred_visible_masks = amodal, visible
    instances.pred_occlusion_masks = occlusion
    (detection,) = detections(instances, 4)
    assert detection["bbox"] == [3.0, 2.0, 14.5, 9.0]
    assert detection["category_id"] == 2 and detection["image_id"] == 4
    assert mask_util.area(detection["visible_mask"]) == 15 * 9
    assert mask_util.area(detection["occlusion_mask"]) == 0


def test_run_lengths_by_hand():
    """A window of two columns at (1, 0) of an image of 3 x 4 pixels: a run goes on from the foot of
    the first column to the head of the second."""
    mask = np.array([[False, True, True], [True, False, False]])
    assert _run_lengths(mask, 1, 0, height=3, width=4).tolist() == [4, 3, 5]
    assert _run_lengths(~(mask | ~mask), 1, 0, height=3, width=4).tolist() == [12]
