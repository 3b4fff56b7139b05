"""Archives, labelme and COCO files with a visible mask."""

import hashlib
import http.server
import io
import json
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from arcnn.data import decode_masks, load_annotations
from arcnn.data.__main__ import main
from arcnn.data.registration import FILES
from arcnn.files import ROOT
from arcnn.workshop.check import check
from arcnn.workshop.convert import ConversionError, coco_to_cocoa, labelme_to_cocoa
from arcnn.workshop.data_commands import parser
from arcnn.workshop.fetch import UnsafeArchive, fetch, unpack
from arcnn.workshop.sources import SOURCES, Source


def zip_of(path: Path, *names: str, content: bytes = b"x", link: bool = False) -> Path:
    """An archive of these files; of the last one, a link is made."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            if link and name == names[-1]:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, content)
    return path


def tar_of(path: Path, *members: tuple[str, bytes], mode: int = 0o644) -> Path:
    """An archive of members of these names and types, all links to /etc."""
    with tarfile.open(path, "w:gz") as file:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, "/etc", mode
            info.size = 4 if kind == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(b"some"))
    return path


def test_an_archive_is_unpacked_where_it_should_be(tmp_path: Path) -> None:
    unpack(zip_of(tmp_path / "a.zip", "train2014/1.jpg", content=b"one"), tmp_path / "out")
    assert (tmp_path / "out/train2014/1.jpg").read_bytes() == b"one"
    unpack(tar_of(tmp_path / "a.tgz", ("folder/b", tarfile.REGTYPE), mode=0o6777), tmp_path / "out")
    unpacked = tmp_path / "out/folder/b"
    assert unpacked.read_text() == "some"
    assert not unpacked.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)


REGULAR = ("good", tarfile.REGTYPE)
OUT, LINK = "leads out of the folder", "'x' is a link or a device"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        *((n, tarfile.REGTYPE, OUT) for n in ("../evil", "/evil", "a/../../evil", "C:\\evil")),
        ("..\\evil", tarfile.REGTYPE, OUT),
        *(("x", kind, LINK) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)),
    ],
)
def test_what_would_leave_the_folder_is_refused(name, kind, said, tmp_path: Path) -> None:
    # Of two called x the first is bad, and the second would be written where it leads.
    as_tar = tar_of(tmp_path / "a.tgz", REGULAR, (name, kind), (name, tarfile.REGTYPE))
    for archive in (zip_of(tmp_path / "a.zip", "good", name, link=said == LINK), as_tar):
        with pytest.raises(UnsafeArchive, match=f"{said}; nothing unpacked"):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_link_in_the_folder_leads_nothing_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/x").symlink_to(tmp_path / "elsewhere")
    archive = tar_of(tmp_path / "a.tgz", ("good", tarfile.REGTYPE), ("x/y", tarfile.REGTYPE))
    with pytest.raises(UnsafeArchive, match="outside the destination; nothing unpacked"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir()) and not (tmp_path / "out/good").exists()


def test_a_damaged_archive_is_a_sentence(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 40
    whole = zip_of(tmp_path / "a.zip", "1.jpg", "2.jpg", content=noise).read_bytes()
    place = whole.index(b"1.jpg") + len("1.jpg")
    damaged = whole[:place] + bytes(20) + whole[place + 20 :]
    as_tar = tar_of(tmp_path / "a.tgz", ("good", tarfile.REGTYPE)).read_bytes()
    wrong_sum = as_tar[:-8] + bytes(4) + as_tar[-4:]
    encrypted = bytearray(zip_of(tmp_path / "a.zip", "1.jpg").read_bytes())
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    broken = r"b cannot be unpacked \(.*fetch it again"
    cases = [(content, broken) for content in (damaged, as_tar[:-20], wrong_sum, bytes(encrypted))]
    none = "neither a zip nor a tar archive, or it is cut off"
    for content, said in [*cases, (b"no archive", none), (whole[:-30], none)]:
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            unpack(tmp_path / "b", tmp_path / "out")
    with pytest.raises(ValueError, match="No such file"):
        unpack(tmp_path / "absent.zip", tmp_path / "out")


class Server(http.server.ThreadingHTTPServer):
    """Has one archive: whole, and broken off. Remembers what was asked of it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.asked = content, []

    def source(self, name: str, known_hash: str = "") -> Source:
        address = f"http://127.0.0.1:{self.server_port}/{name}"
        own_hash = "md5:" + hashlib.md5(self.content).hexdigest()
        return Source("made", "images", "here", address, known_hash or own_hash)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in ("/a.zip", "/cut.zip"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        end = -10 if self.path == "/cut.zip" else None
        self.wfile.write(self.server.content[:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(zip_of(tmp_path / "served.zip", "train/1.jpg").read_bytes()) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.shutdown()


def test_what_is_fetched_is_unpacked_and_not_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "made", [server.source("a.zip")])
    for _ in range(2):
        assert fetch("made", tmp_path, yes=True) == [f"images: unpacked into {tmp_path / 'made'}."]
        assert (tmp_path / "made/train/1.jpg").read_bytes() == b"x"
    assert server.asked == ["/a.zip"]
    (tmp_path / "made/a.zip").write_bytes(server.content[:-10])  # by another program, say
    fetch("made", tmp_path, yes=True)
    assert (tmp_path / "made/a.zip").read_bytes() == server.content


def test_what_did_not_come_whole_is_a_sentence_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for source, said in (
        (server.source("cut.zip"), "cut.zip was not downloaded: .*starts from the beginning"),
        (server.source("absent.zip"), "absent.zip was not downloaded: 404"),
        (server.source("a.zip", "md5:" + "0" * 32), "does not match the known hash"),
    ):
        monkeypatch.setitem(SOURCES, "made", [source])
        assert main(["fetch", "made", "--yes", "--data-root", str(tmp_path)]) == 1
        assert re.search(said, capsys.readouterr().err)
        assert not list((tmp_path / "made").iterdir())


def test_nothing_is_fetched_that_was_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: pytest.fail("a download"))
    said = "\n".join(fetch("cocoa_cls", tmp_path))
    assert "Would download" in said and "By hand" in said and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="choose kins"):
        fetch("cityscapes", tmp_path)


def test_the_table_in_the_readme_says_what_the_sources_say() -> None:
    readme = (ROOT / "data/README.md").read_text(encoding="utf-8").replace("`", "")
    table = [line for line in readme.splitlines() if line.startswith("| ")]
    own = [line for line in table[1:] if line.startswith(("| tabletop/", "| own/"))]
    sources = [source for of_dataset in SOURCES.values() for source in of_dataset]
    assert all(bool(source.address) == bool(source.known_hash) for source in sources)
    rows = [
        f"| {s.put} | {s.what} | {s.where.replace(';', ' (direct);') if s.address else s.where} |"
        for s in sources
    ]
    assert [line for line in table[1:] if line not in own] == rows and len(own) == 2


@pytest.mark.parametrize("dataset", SOURCES)
def test_the_sources_name_every_file_that_is_looked_for(dataset: str) -> None:
    put = " ".join(source.put for source in SOURCES[dataset])
    for files in FILES[dataset].values():
        assert all(re.search(rf"\b{re.escape(name)}\b", put) for name in files.annotations)
        assert f"{dataset}/{files.images}" in put


def test_the_ways_in_need_no_heavy_library() -> None:
    code = "import sys, arcnn.workshop.convert, arcnn.workshop.fetch; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "detectron2", "pandas", "matplotlib"} & set(ran.stdout.split())


def test_a_check_allows_as_much_as_loading_does() -> None:
    assert parser().parse_args(["check", "a.json"]).max_skipped == 0.01


def labelme(*shapes: tuple) -> dict:
    return {
        "imagePath": "..\\photos\\desk.png",
        "imageHeight": 10,
        "imageWidth": 12,
        "shapes": [
            {"label": label, "group_id": group, "shape_type": "polygon", "points": points}
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


def test_what_is_wrong_with_labelme_files_is_listed_at_once(tmp_path: Path) -> None:
    line = [[2, 2], [8, 2], [5, 2]]
    content = labelme(
        *(("cup", 1, WHOLE), ("cup", 2, WHOLE), ("cup", 3, [[1, 2], [3]]), ("cup", [1], WHOLE)),
        *(("cup visible", None, SEEN), ("pen", None, line), ("cup amodal", 6, WHOLE)),
        *(
            ("pen visible", 7, SEEN),
            ("pen amodal", 9, SEEN),
            ("pen visible", 9, [[6, 2], *WHOLE[1:3]]),
        ),
    )
    del content["shapes"][0]["label"], content["shapes"][1]["points"]
    content["shapes"].append(5)
    texts = {"a": json.dumps(content), "b": json.dumps(labelme(("cup", None, WHOLE))), "c": "{}"}
    files = [tmp_path / f"{name}.json" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text)
    with pytest.raises(ConversionError) as caught:
        labelme_to_cocoa(files, tmp_path / "out.json")
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "a.json: shape 0 has no label",
        "a.json: shape 1 (cup) has no points x, y",
        "a.json: shape 2 (cup) has no points x, y",
        "a.json: shape 3 (cup) has a group_id that is no number: [1]",
        "a.json: shape 4 (cup visible) has no group_id",
        "a.json: shape 10 has no label",
        "a.json: group 6 has no visible outline",
        "a.json: group 7 has no amodal outline",
        "b.json: its image desk.png is that of a.json as well",
        "c.json: not a labelme file: KeyError('imageHeight')",
        "a.json: shape 5: the amodal mask has no pixel",
        "a.json: group 9: the visible mask lies apart from the amodal one",
    ]
    assert not (tmp_path / "out.json").exists()


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
    cup, pen = json.loads((tmp_path / "own.json").read_text())["annotations"]
    assert (cup["occlude_rate"], pen["occlude_rate"], pen["area"]) == (0.5, 0, 60)


def test_a_mask_may_be_told_by_a_flag_or_the_description(tmp_path: Path) -> None:
    names = ("cup Amodal ", "cup visible"), ("desk lamp", "desk lamp"), ("pen", "pen")
    shapes = [
        (n, k, p) for k, pair in enumerate(names) for n, p in zip(pair, (WHOLE, SEEN), strict=True)
    ]
    content = labelme(*shapes)
    for k, kind in enumerate(("amodal", "visible")):
        content["shapes"][2 + k]["flags"] = {kind: True, "other": False}
        content["shapes"][4 + k]["description"] = kind.upper()
    (tmp_path / "desk.json").write_text(json.dumps(content))
    call = ["convert", str(tmp_path / "desk.json"), "--out", str(tmp_path / "own.json")]
    assert main([*call, "--classes", "pen", "cup", "desk lamp"]) == 0
    converted = json.loads((tmp_path / "own.json").read_text())
    assert [a["category_id"] for a in converted["annotations"]] == [2, 3, 1]
    assert [a["occlude_rate"] for a in converted["annotations"]] == [0.5] * 3


def test_a_file_that_is_not_converted_leaves_the_last_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "own.json").write_text("the last one")
    shapes = [("cup amodal", 1, WHOLE), ("pen visible", 1, SEEN), ("pen", None, WHOLE)]
    (tmp_path / "desk.json").write_text(json.dumps(labelme(*shapes)))
    call = ["convert", str(tmp_path / "desk.json"), "--out", str(tmp_path / "own.json")]
    assert main([*call, "--classes", "cup"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'desk.json'}: group 1 has several labels, ['cup', 'pen']",
        "class 'pen' is not in classes",
    ]
    assert main(["convert", call[1], *call[1:], "--visible", "seen"]) == 1
    assert capsys.readouterr().err == "--visible converts one COCO file at a time\n"
    assert (tmp_path / "own.json").read_text() == "the last one"


def test_the_example_of_the_guide_is_a_good_file(tmp_path: Path) -> None:
    guide = ROOT / "data/reference/formats.md"
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
