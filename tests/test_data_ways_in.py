"""Archives, labelme and COCO files with a visible mask."""

import hashlib
import http.server
import io
import json
import re
import shutil
import stat
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
from arcnn.errors import InputError
from arcnn.files import PHOTOS, ROOT
from arcnn.workshop.own_data import fetch as fetching
from arcnn.workshop.own_data.check import check
from arcnn.workshop.own_data.convert import ConversionError, coco_to_cocoa, labelme_to_cocoa
from arcnn.workshop.own_data.data_commands import parser
from arcnn.workshop.own_data.fetch import DOWNLOADS, UnsafeArchive, fetch, sources, unpack


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
    members = [(".", tarfile.DIRTYPE), ("./folder/b", tarfile.REGTYPE)]
    unpack(tar_of(tmp_path / "a.tgz", *members, mode=0o6777), tmp_path / "out")
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
        *((n, tarfile.REGTYPE, "'.*' is no name of a file") for n in (".", "")),
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
    tar = tar_of(tmp_path / "a.tgz", REGULAR, ("x/y", tarfile.REGTYPE))
    for archive in (tar, zip_of(tmp_path / "a.zip", "good", "x/y")):
        with pytest.raises(UnsafeArchive, match="'x/y' leads out of the folder; nothing unpacked"):
            unpack(archive, tmp_path / "out")
        assert not any((tmp_path / "elsewhere").iterdir())
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["x"]


def test_a_damaged_archive_is_a_sentence(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 40
    whole = zip_of(tmp_path / "a.zip", "1.jpg", "2.jpg", content=noise).read_bytes()
    place = whole.index(b"1.jpg") + len("1.jpg")
    damaged = whole[:place] + bytes(20) + whole[place + 20 :]
    as_tar = tar_of(tmp_path / "a.tgz", REGULAR).read_bytes()
    broken = r"b cannot be unpacked \(.*fetch it again"
    none = "neither a zip nor a tar archive, or it is cut off"
    cases = [(damaged, broken), (as_tar[:-20], none), (b"no archive", none), (whole[:-30], none)]
    for names in (("a", "a/b"), ("a/b", "a")):  # a file and a folder of one name
        cases.append((zip_of(tmp_path / "a.zip", *names).read_bytes(), broken))
    for content, said in cases:
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(InputError, match=said):
            unpack(tmp_path / "b", tmp_path / "out")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with pytest.raises(ValueError, match="No such file"):
        unpack(tmp_path / "absent.zip", tmp_path / "out")


class Handler(http.server.BaseHTTPRequestHandler):
    """Has one archive: whole, and broken off. The server remembers what was asked of it."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in ("/a.zip", "/cut.zip"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: -10 if self.path == "/cut.zip" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """``server.offer(name)`` makes that the download of the data set "own"."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.content = zip_of(tmp_path / "served.zip", "train/1.jpg").read_bytes()
        serving.asked = []
        own = "md5:" + hashlib.md5(serving.content).hexdigest()

        def offer(name: str, known_hash: str = own) -> None:
            address = f"http://127.0.0.1:{serving.server_port}/{name}"
            monkeypatch.setitem(DOWNLOADS, "own", {address: known_hash})

        serving.offer = offer
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield serving
        serving.shutdown()


def test_what_is_fetched_is_unpacked_and_not_fetched_again(server, tmp_path: Path) -> None:
    server.offer("a.zip")
    for _ in range(2):
        assert f"a.zip: unpacked into {tmp_path / 'own'}." in fetch("own", tmp_path, yes=True)[-1]
        assert (tmp_path / "own/train/1.jpg").read_bytes() == b"x"
    assert server.asked == ["/a.zip"]
    (tmp_path / "own/a.zip").write_bytes(server.content[:-10])  # by another program, say
    fetch("own", tmp_path, yes=True)
    assert (tmp_path / "own/a.zip").read_bytes() == server.content


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (["cut.zip"], "cut.zip was not downloaded: .*starts from the beginning"),
        (["absent.zip"], "absent.zip was not downloaded: 404"),
        (["a.zip", "md5:" + "0" * 32], "does not match the known hash"),
    ],
)
def test_what_did_not_come_whole_is_a_sentence_and_leaves_nothing(
    server, offered: list, said: str, tmp_path: Path, capsys
) -> None:
    server.offer(*offered)
    assert main(["fetch", "own", "--yes", "--data-root", str(tmp_path)]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not list((tmp_path / "own").iterdir())


def test_nothing_is_fetched_that_was_not_asked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetching.pooch, "retrieve", lambda *_, **__: pytest.fail("a download"))
    said = "\n".join(fetch("cocoa_cls", tmp_path))
    assert said.count("Would download http") == 2 and "MVTec's page for COCOA-cls" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="choose tabletop, kins"):
        fetch("cityscapes", tmp_path)


@pytest.mark.parametrize("dataset", FILES)
def test_the_table_of_the_readme_names_every_file_that_is_looked_for(dataset: str) -> None:
    put = " ".join(source["put"] for source in sources(dataset))
    for files in FILES[dataset].values() if dataset != "tabletop" else ():
        assert all(re.search(rf"\b{re.escape(name)}\b", put) for name in files.annotations)
        assert f"{dataset}/{files.images}" in put


def test_a_check_allows_as_much_as_loading_does() -> None:
    assert parser().parse_args(["check", "a.json"]).max_skipped == 0.01


WHOLE = [[2, 2], [8, 2], [8, 8], [2, 8]]
SEEN = [[2, 2], [5, 2], [5, 8], [2, 8]]


def shape(label: object, group: object = None, points: object = WHOLE, **fields: object) -> dict:
    row = {"label": label, "group_id": group, "shape_type": "polygon", "points": points}
    return row | fields


def labelme(file: Path, *shapes: object) -> Path:
    content = {"imagePath": "..\\photos\\desk.png", "imageHeight": 10, "imageWidth": 12}
    file.write_text(json.dumps(content | {"shapes": shapes}))
    return file


def test_what_is_converted_is_not_lost(tmp_path: Path, capsys) -> None:
    file = labelme(tmp_path / "desk.json", shape("cup"))
    before = file.read_bytes()
    for more in ([], ["--visible", "seen"]):
        assert main(["convert", str(file), "--out", str(file), *more]) == 1
        assert "desk.json is read, and would be lost" in capsys.readouterr().err
    assert main(["convert", str(file), "--out", "o.json", "--classes", "cup", "cup"]) == 1
    assert "classes are cup, cup: one is there twice" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_labelme_files_become_an_annotation_file(tmp_path: Path, capsys) -> None:
    shapes = [shape("cup Amodal ", 1), shape("cup visible", 1, SEEN), shape("desk lamp")]
    call = [
        str(labelme(tmp_path / "desk.json", *shapes)),
        "--out",
        str(tmp_path / "own/train.json"),
    ]
    assert main(["convert", *call, "--classes", "desk lamp", "pen", "cup"]) == 0
    assert capsys.readouterr().out == "1 images, 2 annotations, 3 classes\n"
    (tmp_path / "own/train").mkdir()
    Image.new("RGB", (12, 10)).save(tmp_path / "own/train/desk.png")
    report = check(tmp_path / "own/train.json", tmp_path / "own/train")
    assert report.usable and not report.problems
    loaded = load_annotations(tmp_path / "own/train.json", tmp_path)
    cup, lamp = loaded.records[0]["annotations"]
    assert loaded.class_names == ["desk lamp", "pen", "cup"]
    assert (cup["category_id"], lamp["category_id"]) == (2, 0)
    assert cup["occlusion_rate"] == pytest.approx(0.5) and lamp["occlusion_rate"] == 0
    assert decode_masks(cup)["occlusion"].sum() == 18
    sources = [
        a["source"] for a in json.loads((tmp_path / "own/train.json").read_text())["annotations"]
    ]
    assert sources == ["desk.json, group 1", "desk.json, shape 2"]


def test_the_photographs_of_the_kit_came_this_way(tmp_path: Path) -> None:
    target = tmp_path / "photos.json"
    assert labelme_to_cocoa(sorted(PHOTOS.glob("*.json")), target)["annotations"] == 6
    records, names, _, problems = load_annotations(target, PHOTOS)
    assert not problems
    rates = {
        names[a["category_id"]]: a["occlusion_rate"] for r in records for a in r["annotations"]
    }
    assert rates["helmet"] == 0 < rates["cup"] < 0.02 < rates["spoon"] < rates["saucer"] < 0.5
    assert sum(file.stat().st_size for file in PHOTOS.iterdir()) < 300_000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([{"points": WHOLE}], "shape 0 is not as labelme writes it: KeyError.*label"),
        ([shape("cup"), 5], "shape 1 is not as labelme writes it"),
        ([shape("cup", points=[[1, 2], [3]])], "shape 0 is not as labelme writes it"),
        ([shape("cup", shape_type="circle")], r"shape 0 \(cup\) is a circle, not a polygon"),
        ([shape("cup visible")], r"shape 0 \(cup visible\) has no group_id"),
        ([shape(" ")], "shape 0 has no class in its label"),
        ([shape("cup amodal", 6)], r"group 6 \(cup\) has no visible outline"),
        ([shape("cup visible", 6)], r"group 6 \(cup\) has no amodal outline"),
        (
            [shape("cup amodal", 1), shape("pen visible", 1)],
            r"shape 1 \(pen\) is in group 1, .*cup",
        ),
        ([shape("lamp")], "shape 0: class 'lamp' is not in classes"),
    ],
)
def test_what_is_wrong_with_a_labelme_file_is_named(wrong: list, said: str, tmp_path: Path) -> None:
    file, target = labelme(tmp_path / "a.json", *wrong), tmp_path / "own.json"
    target.write_text("the last one")
    with pytest.raises(ConversionError, match=f"a.json: {said}"):
        labelme_to_cocoa([file], target, ["cup", "pen"])
    assert target.read_text() == "the last one"


def test_two_labelme_files_of_one_image_and_a_file_of_another_kind_are_named(tmp_path) -> None:
    files = [labelme(tmp_path / name, shape("cup")) for name in ("a.json", "b.json")]
    with pytest.raises(ConversionError, match=r"b.json: its image desk.png is that of .*a.json"):
        labelme_to_cocoa(files, tmp_path / "own.json")
    files[1].write_text("{}")
    with pytest.raises(ConversionError, match="b.json: is not as labelme writes it.*imagePath"):
        labelme_to_cocoa(files, tmp_path / "own.json")


def test_the_example_of_the_guide_is_a_good_file(tmp_path: Path) -> None:
    guide = ROOT / "data/reference/formats.md"
    (example,) = re.findall(r"```json\n(.*?)```", guide.read_text(), re.DOTALL)
    (tmp_path / "train.json").write_text(example)
    (tmp_path / "train").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "train/desk.png")
    report = check(tmp_path / "train.json", tmp_path / "train")
    assert report.usable and not report.problems and report.instances == {"cup": 1}


FLAT = [[float(v) for p in points for v in p] for points in (WHOLE, SEEN)]
ROW = {"id": 1, "image_id": 3, "category_id": 1, "segmentation": FLAT[:1], "iscrowd": 0}
COCO = {
    "images": [{"id": 3, "file_name": "3.png", "height": 10, "width": 12}],
    "categories": [{"id": 1, "name": "cup"}],
    "annotations": [ROW | {"seen": FLAT[1:]}, ROW | {"id": 2}, ROW | {"id": 3, "seen": []}],
}


def test_a_coco_file_with_a_visible_mask_is_converted(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    call = ["convert", str(tmp_path / "coco.json"), "--out", str(tmp_path / "own.json")]
    assert main([*call, "--visible", "seen"]) == 0
    records = load_annotations(tmp_path / "own.json", tmp_path).records
    assert [a["occlusion_rate"] for a in records[0]["annotations"]] == pytest.approx([0.5, 0, 1])


def test_a_coco_file_without_the_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    said = r"coco.json: no annotation has the field 'wrong'; they have .*'seen'"
    with pytest.raises(ConversionError, match=said):
        coco_to_cocoa(tmp_path / "coco.json", tmp_path / "own.json", visible="wrong")


def test_one_coco_file_is_converted_at_a_time(capsys) -> None:
    assert main(["convert", "a.json", "b.json", "--out", "c.json", "--visible", "seen"]) == 1
    assert capsys.readouterr().err == "--visible converts one COCO file at a time\n"
