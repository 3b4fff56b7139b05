"""The benchmarks: like is compared with like, and every line says what it is."""

import json
from pathlib import Path

import bench
import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

KEYS = {"name", "ours_s", "peer_s", "peer", "ratio"}


def test_the_mapper_benchmark_compares_like_with_like(tmp_path: Path) -> None:
    """Both sides read the same photos, draw the same sizes and flips, and map the same objects."""
    records, ours, theirs = bench.mapper_sides(tmp_path, images=2)
    for seed, record in enumerate(records):
        examples = []
        for mapper in (ours, theirs):
            np.random.seed(seed)
            examples.append(mapper(record))
        mine, peer = examples
        assert torch.equal(mine["image"], peer["image"])
        assert mine["image"].shape[1] in range(640, 801)  # the shorter side: COCOA-cls' sizes
        mine, peer = mine["instances"], peer["instances"]
        assert len(mine) == len(peer) == 8
        assert torch.equal(mine.gt_classes, peer.gt_classes)
        assert torch.equal(mine.gt_masks.tensor, peer.gt_masks.tensor)
        assert torch.allclose(mine.gt_boxes.tensor, peer.gt_boxes.tensor)


def test_both_sides_of_a_training_step_find_the_same_regions(tmp_path: Path) -> None:
    found = []
    for trainer in bench.network_sides("arcnn", tmp_path, images=2):
        batch = next(trainer._data_loader_iter)
        torch.manual_seed(0)
        with EventStorage():
            found.append(trainer.model(batch))
    ours, theirs = found
    assert set(theirs) - set(ours) == {"loss_mask"}
    for name in set(theirs) & set(ours):
        assert ours[name] == theirs[name], name


def test_both_sides_draw_the_same_numbers_and_the_ratio_is_that_of_the_peer_to_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 6.0, 10.0, 13.0] * 2)  # the peer takes 6 s, ours 3 s
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    ours, peer = [], []
    calls = (lambda: ours.append(np.random.random())), (lambda: peer.append(np.random.random()))
    line = bench.compare("name", "the other", *calls, rounds=2)
    assert ours == peer and len(set(ours)) == 2
    assert (line["peer_s"], line["ours_s"], line["ratio"]) == (6, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--only", "encode_masks", "--rounds", "1"], set()),
        (["--only", "evaluate", "--images", "4", "--rounds", "1"], {"images", "detections"}),
        (["--only", "inference.arcnn", "--rounds", "1"], {"images_per_s", "masks_share"}),
    ],
)
def test_a_measurement_prints_its_line(
    arguments: list[str], more: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(arguments)
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(line) == KEYS | more
    assert line["name"] == arguments[1] and line["peer"]
    assert min(line["ours_s"], line["peer_s"], line["ratio"]) > 0


def test_a_wrong_number_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "peer_evaluate", lambda *_: {"AP": 101.0})
    with pytest.raises(AssertionError, match="the two sides differ"):
        bench.bench_evaluate(images=1, rounds=1)
