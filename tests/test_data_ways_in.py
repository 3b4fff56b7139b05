"""Archives, labelme and COCO files with a visible mask."""

import http.server
import json
import re
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import arcnn
from arcnn.data import decode_masks, load_annotations
from arcnn.workshop.check import check
from arcnn.workshop.convert import ConversionError, coco_to_cocoa, labelme_to_cocoa
from arcnn.workshop.fetch import UnsafeArchive, download, fetch, unpack


def test_an_archive_is_unpacked_where_it_should_be(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("train2014/1.jpg", b"one")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out/train2014/1.jpg").read_bytes() == b"one"
    (tmp_path / "b.txt").write_text("two")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        file.add(tmp_path / "b.txt", "folder/b.txt")
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/folder/b.txt").read_text() == "two"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_a_path_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("good", b"x")
        file.writestr(name, b"x")
    with pytest.raises(UnsafeArchive, match="nothing unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_and_broken_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    with pytest.raises(UnsafeArchive, match="link"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    (tmp_path / "a.txt").write_text("no archive")
    with pytest.raises(ValueError, match="neither"):
        unpack(tmp_path / "a.txt", tmp_path / "out")


class _Server(http.server.BaseHTTPRequestHandler):
    content, asked = b"0123456789" * 1000, []

    def do_GET(self) -> None:
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:])

    def log_message(self, *_: object) -> None:
        pass


def test_a_download_goes_on_where_it_was_and_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/data.bin"
    try:
        (tmp_path / "data.bin.part").write_bytes(_Server.content[:4000])
        assert download(url, tmp_path).read_bytes() == _Server.content
        assert _Server.asked == [4000]
        with pytest.raises(ValueError, match="hash"):
            download(url, tmp_path / "other", "md5:" + "0" * 32)
    finally:
        server.shutdown()
        server.server_close()


def test_nothing_is_fetched_that_was_not_asked_for(tmp_path: Path) -> None:
    said = "\n".join(fetch("cocoa_cls", tmp_path))
    assert "Would download" in said and "By hand" in said and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="choose kins"):
        fetch("cityscapes", tmp_path)


def labelme(*shapes: tuple) -> dict:
    return {
        "imagePath": "..\\photos\\desk.png",
        "imageHeight": 10,
        "imageWidth": 12,
        "shapes": [
            {
                "label": label,
                "group_id": group,
                "shape_type": "polygon",
                "flags": {},
                "points": points,
            }
            for label, group, points in shapes
        ],
    }


WHOLE = [[2, 2], [8, 2], [8, 8], [2, 8]]
SEEN = [[2, 2], [5, 2], [5, 8], [2, 8]]


def test_labelme_files_become_an_annotation_file(tmp_path: Path) -> None:
    shapes = [("cup amodal", 1, WHOLE), ("cup visible", 1, SEEN), ("desk lamp", None, SEEN)]
    (tmp_path / "desk.json").write_text(json.dumps(labelme(*shapes)))
    counts = labelme_to_cocoa([tmp_path / "desk.json"], tmp_path / "own/train.json")
    assert counts == {"images": 1, "annotations": 2, "classes": 2, "mended": 0}
    (tmp_path / "own/train").mkdir()
    Image.new("RGB", (12, 10)).save(tmp_path / "own/train/desk.png")
    report = check(tmp_path / "own/train.json", tmp_path / "own/train", progress=False)
    assert report.usable and not report.problems
    loaded = load_annotations(tmp_path / "own/train.json", tmp_path)
    cup, lamp = loaded.records[0]["annotations"]
    assert loaded.class_names == ["cup", "desk lamp"]
    assert cup["occlusion_rate"] == pytest.approx(0.5) and lamp["occlusion_rate"] == 0
    assert decode_masks(cup)["occlusion"].sum() == 18


def test_what_is_wrong_with_labelme_files_is_listed(tmp_path: Path) -> None:
    shapes = [("cup amodal", 1, WHOLE), ("cup visible", None, SEEN), ("pen visible", 2, SEEN)]
    (tmp_path / "a.json").write_text(json.dumps(labelme(*shapes)))
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ConversionError) as caught:
        labelme_to_cocoa([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "out.json")
    text = str(caught.value)
    assert "no group_id" in text and "group 1 has no visible" in text
    assert "group 2 has no amodal" in text and "b.json: not a labelme file" in text


def test_shapes_that_say_too_little_are_listed(tmp_path: Path) -> None:
    content = labelme(("cup", 1, WHOLE), ("cup", 2, WHOLE), ("cup", 3, [[1, 2], [3]]))
    del content["shapes"][0]["label"], content["shapes"][1]["points"]
    content["shapes"] += [5, content["shapes"][2] | {"points": WHOLE, "group_id": [1]}]
    flat = labelme(("cup", None, [[2, 2], [8, 2], [5, 2]]))["shapes"][0]
    aside = labelme(("pen amodal", 9, SEEN), ("pen visible", 9, [[6, 2], [8, 2], [8, 8]]))["shapes"]
    content["shapes"] += [flat, *aside]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text(json.dumps(labelme(("cup", None, WHOLE))))
    with pytest.raises(ConversionError) as caught:
        labelme_to_cocoa([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "out.json")
    text = str(caught.value)
    for said in ("shape 0 has no label", "shape 1 (cup) has no points", "shape 2 (cup) has no"):
        assert said in text
    assert "shape 3 has no label" in text and "shape 4 (cup) has a group_id" in text
    assert "the amodal mask has no pixel" in text and "apart from the amodal" in text
    assert f"b.json: its image desk.png is that of {tmp_path / 'a.json'}" in text


def test_what_a_conversion_mends_is_listed_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = [[0, 2], [5, 2], [5, 8], [0, 8]]
    far = [[2, 2], [90, 2], [90, 8], [2, 8]]
    shapes = [("cup amodal", 1, WHOLE), ("cup visible", 1, wide), ("pen", None, far)]
    (tmp_path / "desk.json").write_text(json.dumps(labelme(*shapes)))
    assert labelme_to_cocoa([tmp_path / "desk.json"], tmp_path / "own.json")["mended"] == 2
    assert "group 1: visible mask: 12 of 30 pixels outside, cut away" in caplog.text
    assert "leaves the image" in caplog.text and "desk.json" in caplog.text


def test_the_example_of_the_guide_is_a_good_file(tmp_path: Path) -> None:
    guide = Path(arcnn.__file__).parents[1] / "data/reference/formats.md"
    (example,) = re.findall(r"```json\n(.*?)```", guide.read_text(), re.DOTALL)
    (tmp_path / "train.json").write_text(example)
    (tmp_path / "train").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "train/desk.png")
    report = check(tmp_path / "train.json", tmp_path / "train", progress=False)
    assert report.usable and not report.problems and report.instances == {"cup": 1}


def test_a_coco_file_with_a_visible_mask_is_converted(tmp_path: Path) -> None:
    flat = [[float(v) for p in points for v in p] for points in (WHOLE, SEEN)]
    row = {"id": 1, "image_id": 3, "category_id": 1, "segmentation": [flat[0]], "iscrowd": 0}
    content = {
        "images": [{"id": 3, "file_name": "3.png", "height": 10, "width": 12}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [row | {"seen": [flat[1]]}, row | {"id": 2}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    coco_to_cocoa(tmp_path / "coco.json", tmp_path / "own.json", visible="seen")
    first, second = load_annotations(tmp_path / "own.json", tmp_path).records[0]["annotations"]
    assert first["occlusion_rate"] == pytest.approx(0.5) and second["occlusion_rate"] == 0
    content["annotations"] += [row | {"id": 3, "seen": None}, {"id": 4, "image_id": 3}]
    content["annotations"] += [row | {"id": 5, "image_id": 9}, row | {"id": 6, "seen": 5}]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError) as caught:
        coco_to_cocoa(tmp_path / "bad.json", tmp_path / "own.json", visible="seen")
    assert str(caught.value).splitlines() == [
        "annotation 4 of image 3: no category_id, no segmentation",
        "annotation 5 of image 9: no such image",
        "annotation 6 of image 3: neither RLE nor polygons",
    ]
    del content["images"][0]["height"]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError, match="image sizes"):
        coco_to_cocoa(tmp_path / "bad.json", tmp_path / "own.json", visible="seen")
    with pytest.raises(ConversionError, match="no annotation has the field"):
        coco_to_cocoa(tmp_path / "coco.json", tmp_path / "own.json", visible="wrong")
