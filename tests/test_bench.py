"""The benchmarks: like is compared with like, and every line says what it is."""

import json
from pathlib import Path

import bench
import numpy as np
import pytest
import torch
from made import write_made_photos

from arcnn.workshop.check import check
from arcnn.workshop.cutouts import read_instances, read_photos

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


def test_both_sides_draw_the_same_random_numbers() -> None:
    drawn: dict[str, list[float]] = {"ours": [], "peer": []}
    line = bench.compare(
        "name",
        "the other",
        lambda: drawn["ours"].append(np.random.random()),
        lambda: drawn["peer"].append(np.random.random()),
        rounds=3,
    )
    assert drawn["ours"] == drawn["peer"] and len(set(drawn["ours"])) == 3
    assert set(line) == KEYS


def test_the_ratio_is_that_of_the_peer_to_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 6.0, 10.0, 13.0])  # the peer takes 6 s, ours 3 s
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    line = bench.compare("name", "the other", lambda: None, lambda: None, rounds=1)
    assert (line["peer_s"], line["ours_s"], line["ratio"]) == (6, 3, 2)


def test_made_photos_are_faultless_and_full_of_whole_objects(tmp_path: Path) -> None:
    file = write_made_photos(tmp_path, 2)
    report = check(file, tmp_path, progress=False, workers=1)
    assert report.usable and not report.problems and report.objects == 16
    photos, problems = read_photos(read_instances(file), tmp_path)
    assert not problems and sum(o.whole for p in photos for o in p.objects) == 16


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    bench.main(arguments)
    line, memory = map(json.loads, capsys.readouterr().out.splitlines())
    assert memory["name"] == "peak_memory"
    return line


def test_the_line_of_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    line = run(capsys, "--only", "check", "--check-images", "20")
    assert set(line) >= KEYS | {"images", "images_per_s", "file_mb", "peak_mb", "cores"}
    assert line["images"] == 20 and line["peer_s"] is line["peer"] is line["ratio"] is None
    assert 50 < line["peak_mb"] < 4000


def test_the_line_of_the_synthesis(capsys: pytest.CaptureFixture[str]) -> None:
    line = run(capsys, "--only", "synthesize", "--made-images", "4")
    assert set(line) >= KEYS | {"images", "images_per_s", "images_per_processor_s", "photos"}
    assert line["images"] == 4 and line["peer_s"] is line["peer"] is line["ratio"] is None
    assert line["photos"] == "drawn by rule"
