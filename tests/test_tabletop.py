"""The embedded data set: exact masks, the published order, the same bytes everywhere."""

import hashlib
import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from graphlib import TopologicalSorter

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from arcnn.data.tabletop import (
    TABLETOP_CLASSES,
    Scene,
    draw_scene,
    files,
    make_tabletop,
    occluder_probabilities,
)
from arcnn.data.tabletop.paint import GRID, fill_polygon
from arcnn.data.tabletop.scenes import MIN_VISIBLE_AREA, Layout, lay_out
from arcnn.data.tabletop.shapes import Dice

# Of the annotations of 12 training images with seed 0. It changes only together with VERSION.
DIGEST = "e7a96105257331fe4d33399f7b95088fef57b847a5b44ca1549205946d7db26b"
SMALL = {"train_images": 12, "val_images": 4, "workers": 1}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(0, "train", index) for index in range(40)]


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    """Scenes without their pixels, which are what takes time."""
    rngs = (np.random.default_rng([1, 0, index, 0]) for index in range(280))
    return [lay_out(Dice(rng), 160) for rng in rngs]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    return make_tabletop(tmp_path_factory.mktemp("small"), **SMALL)


def read(folder, split: str) -> dict:
    return json.loads((folder / f"tabletop_{split}.json").read_text())


def test_table_is_a_table_of_probabilities() -> None:
    table = occluder_probabilities()
    assert tuple(table.index) == tuple(table.columns) == TABLETOP_CLASSES
    p = table.to_numpy()
    total = p + p.T
    assert np.all(np.isclose(total, 1) | (total == 0))
    assert np.all(np.diag(p) == 0.5)
    assert table.loc["bread", "plate"] == table.loc["cat", "laptop"] == 1
    assert table.loc["person", "cat"] > table.loc["cat", "person"] > 0
    assert 3 <= (total == 0).sum() / 2 <= 8


def test_masks_follow_from_amodal_masks_and_order(scenes) -> None:
    for scene in scenes:
        assert scene.image.shape == (160, 160, 3) and scene.image.dtype == np.uint8
        owner = np.full((160, 160), -1)
        for i in scene.depth_order:  # a painter, back to front
            owner[scene.amodal_masks[i]] = i
        for i in range(len(scene.class_ids)):
            np.testing.assert_array_equal(scene.visible_masks[i], owner == i)
        assert not (scene.visible_masks & scene.occlusion_masks).any()
        union = scene.visible_masks | scene.occlusion_masks
        np.testing.assert_array_equal(union, scene.amodal_masks)


def test_in_front_names_each_overlapping_pair_once_without_cycle(scenes) -> None:
    for scene in scenes:
        masks = scene.amodal_masks
        n = len(masks)
        pairs = {(i, j) for i in range(n) for j in range(i) if (masks[i] & masks[j]).any()}
        assert {(max(p), min(p)) for p in scene.in_front} == pairs
        assert len(scene.in_front) == len(pairs)
        place = {i: k for k, i in enumerate(scene.depth_order)}
        assert sorted(place) == list(range(n))
        assert all(place[front] > place[behind] for front, behind in scene.in_front)


def test_layouts_hold_the_rules(layouts) -> None:
    rates = []
    for layout in layouts:
        graph: dict[int, set[int]] = {i: set() for i in range(len(layout.sprites))}
        for front, behind in layout.in_front:
            graph[front].add(behind)
        list(TopologicalSorter(graph).static_order())  # raises on a cycle
        assert 2 <= len(layout.sprites) <= 6
        for mask, hidden in zip(layout.masks, layout.hidden, strict=True):
            rates.append(hidden.sum() / mask.sum())
            assert (mask & ~hidden).sum() >= MIN_VISIBLE_AREA
    assert max(rates) <= 0.8
    assert 0.3 <= np.mean(np.array(rates) > 0.15) <= 0.5
    assert np.all(np.histogram(rates, np.linspace(0, 0.8, 9))[0] > 10)


def test_orders_follow_the_table(layouts) -> None:
    """Each pair of classes within 4 standard deviations, and all of them together."""
    table = occluder_probabilities().to_numpy()
    counts = np.zeros(table.shape, int)
    for layout in layouts:
        for front, behind in layout.in_front:
            counts[layout.sprites[front].class_id, layout.sprites[behind].class_id] += 1
    total = counts + counts.T
    assert np.all(total[(table + table.T) == 0] == 0)
    assert np.all(counts[table == 0] == 0)
    chance = np.triu((table > 0) & (table < 1), 1) & (total > 0)
    deviation = np.sqrt(total * table * (1 - table))[chance]
    z = (counts - total * table)[chance] / deviation
    assert np.abs(z).max() < 4
    assert np.mean(z**2) < 2  # 1 is expected, with a standard deviation of about 0.24
    assert np.all(counts.sum(axis=0) > 0) and np.all(counts.sum(axis=1) > 0)
    classes = Counter(sprite.class_id for layout in layouts for sprite in layout.sprites)
    assert min(classes.values()) > 0.4 * max(classes.values())  # large ones find less room


def test_fill_counts_sub_pixel_centres() -> None:
    square = GRID * np.array([(1, 1), (4, 1), (4, 3), (1, 3)])
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(fill_polygon(square, 5, 6), expected)
    np.testing.assert_array_equal(fill_polygon(square[::-1], 5, 6), expected)  # either turn


def test_scene_depends_on_its_key_alone() -> None:
    one, again = draw_scene(3, "val", 7), draw_scene(3, "val", 7)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.amodal_masks, again.amodal_masks)
    for other in (draw_scene(4, "val", 7), draw_scene(3, "train", 7), draw_scene(3, "val", 8)):
        assert not np.array_equal(one.image, other.image)


def test_a_moved_object_gives_back_what_it_hid(scenes) -> None:
    for scene in scenes[:8]:
        still = draw_scene(*scene.drawn_from, moved={0: (0, 0)})
        for name, value in vars(scene).items():
            assert np.array_equal(np.sort(getattr(still, name), 0), np.sort(value, 0)), name
    scene = next(scene for scene in scenes if scene.in_front)
    front, behind = scene.in_front[0]
    away = draw_scene(*scene.drawn_from, moved={front: (0, 500)})  # out of the image
    others = [k for k in range(len(scene.class_ids)) if k != front]
    assert np.array_equal(away.amodal_masks[others], scene.amodal_masks[others])
    assert not away.amodal_masks[front].any()
    assert away.in_front == [pair for pair in away.in_front if front not in pair]
    hid = scene.amodal_masks[front] & scene.amodal_masks[behind]
    seen = away.visible_masks[behind] & ~scene.visible_masks[behind]
    assert seen.any() and not (seen & ~hid).any()
    assert (away.visible_masks.sum(0) <= 1).all()


def test_scenes_of_another_size_or_split() -> None:
    scene = draw_scene(0, "train", 0, image_size=256)
    assert scene.image.shape == (256, 256, 3)
    assert scene.amodal_masks.sum((1, 2)).min() > 300 * (256 / 160) ** 2  # objects scale along
    with pytest.raises(ValueError, match="split 'test'"):
        draw_scene(0, "test", 0)
    with pytest.raises(ValueError, match="at least 64"):
        draw_scene(0, "train", 0, 32)


def test_annotations_are_the_same_bytes_everywhere(small) -> None:
    text = json.dumps(read(small, "train")["annotations"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == DIGEST


def test_file_decodes_to_the_scenes(small) -> None:
    content = read(small, "val")
    assert [c["name"] for c in content["categories"]] == list(TABLETOP_CLASSES)
    assert [c["id"] for c in content["categories"]] == list(range(1, 11))
    annotations = content["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    assert sorted(p.name for p in (small / "val").iterdir()) == [
        image["file_name"] for image in content["images"]
    ]
    for image in content["images"]:
        scene = draw_scene(0, "val", image["id"] - 1)
        records = [a for a in annotations if a["image_id"] == image["id"]]
        assert len(records) == len(scene.class_ids)
        for i, record in enumerate(records):
            assert record["category_id"] == scene.class_ids[i] + 1
            assert record["iscrowd"] is False
            amodal, hidden = scene.amodal_masks[i], scene.occlusion_masks[i]
            assert ("invisible_mask" in record) == hidden.any()
            kept = {"segmentation": amodal, "visible_mask": scene.visible_masks[i]}
            kept |= {"invisible_mask": hidden} if hidden.any() else {}
            for name, mask in kept.items():
                np.testing.assert_array_equal(mask_utils.decode(record[name]), mask)
            assert record["occlude_rate"] == scene.occlusion_rates[i]
            assert record["area"] == amodal.sum()
            rows, columns = np.nonzero(amodal)
            x, y, w, h = record["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())
            first = records[0]["id"]
            fronts = sorted(first + f for f, behind in scene.in_front if behind == i)
            assert record["occluders"] == fronts


def test_second_call_finds_the_first(small) -> None:
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    assert make_tabletop(small.parent, **SMALL) == small
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*")} == before


def test_workers_and_number_of_images_change_nothing(small, tmp_path) -> None:
    folder = make_tabletop(tmp_path, train_images=64, val_images=4, workers=2)
    assert (folder / "tabletop_val.json").read_text().split('"info"')[0] == (
        small / "tabletop_val.json"
    ).read_text().split('"info"')[0]
    few = read(small, "train")["annotations"]
    assert read(folder, "train")["annotations"][: len(few)] == few
    for name in ("train/000005.jpg", "val/000002.jpg"):
        assert (folder / name).read_bytes() == (small / name).read_bytes()


def test_what_is_not_the_set_that_was_asked_for_is_refused_and_kept(small, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"seed is 0, not 5.*Delete that folder"):
        make_tabletop(small.parent, **SMALL, seed=5)
    assert (small / "tabletop_train.json").is_file()
    folder = tmp_path / "tabletop"
    folder.mkdir()
    with pytest.raises(ValueError, match="holds no tabletop data set"):
        make_tabletop(tmp_path, **SMALL)
    folder.rmdir()
    shutil.copytree(small, folder)
    (folder / "val" / "000001.jpg").unlink()
    with pytest.raises(ValueError, match="damaged.*val"):
        make_tabletop(tmp_path, **SMALL)
    assert (folder / "val" / "000002.jpg").is_file()


def remains(root) -> list[str]:
    return [path.name for path in root.iterdir()]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(KeyboardInterrupt(), None), (OSError(28, "No space left"), "No space left. Free some space")],
)
def test_a_run_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, error, sentence) -> None:
    def stop(*args):
        raise error

    monkeypatch.setattr(files, "_write_image", stop)
    with pytest.raises(type(error), match=sentence):
        make_tabletop(tmp_path, **SMALL)
    assert remains(tmp_path) == []


def test_remains_of_a_killed_run_are_replaced(tmp_path) -> None:
    killed = tmp_path / "tabletop.partial"
    (killed / "train").mkdir(parents=True)
    (killed / "train" / "000009.jpg").write_text("half an image")
    folder = make_tabletop(tmp_path, train_images=2, val_images=1, workers=1)
    assert remains(tmp_path) == ["tabletop"]
    assert sorted(p.name for p in (folder / "train").iterdir()) == ["000001.jpg", "000002.jpg"]


def test_a_second_run_waits_for_the_first_and_takes_its_result(tmp_path, monkeypatch) -> None:
    at_work, go_on, drawn = threading.Event(), threading.Event(), []
    write_image = files._write_image

    def write(*args):
        drawn.append(args)
        at_work.set()
        assert go_on.wait(60)
        return write_image(*args)

    monkeypatch.setattr(files, "_write_image", write)
    few = {"train_images": 2, "val_images": 1, "workers": 1}
    with ThreadPoolExecutor(2) as runs:
        first = runs.submit(make_tabletop, tmp_path, **few)
        assert at_work.wait(60)
        second = runs.submit(make_tabletop, tmp_path, **few)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        go_on.set()
        assert first.result() == second.result() == tmp_path / "tabletop"
    assert len(drawn) == 3  # nothing twice
    assert remains(tmp_path) == ["tabletop"]


def test_unwritable_root_says_what_to_do(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a root that you may write to"):
        make_tabletop(tmp_path / "file" / "data", **SMALL)


@pytest.mark.parametrize("wrong", [{"train_images": 0}, {"image_size": 20}, {"seed": -1}])
def test_wrong_arguments_are_refused(tmp_path, wrong) -> None:
    with pytest.raises(ValueError, match="make_tabletop needs"):
        make_tabletop(tmp_path, **{**SMALL, **wrong})
