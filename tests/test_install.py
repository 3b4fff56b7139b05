"""The repacking of detectron2, on a tiny wheel of the same shape, and the one that is installed."""

import base64
import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from arcnn.workshop.setup import install_detectron2 as tool

SOURCE = {
    "detectron2/__init__.py": 'import os\n\n__version__ = "0.7.2"\n',
    "detectron2/layers/wrappers.py": "x = 1\n",
    "detectron2/model_zoo/configs/Base.yaml": "MODEL: {}\n",
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "ELF",
    "tools/train_net.py": "y = 2\n",
    tool.SOURCE_LICENSE: "Apache License\n",
    "sal_detectron2-0.7.2.dist-info/METADATA": "Name: sal-detectron2\nVersion: 0.7.2\n",
    "sal_detectron2-0.7.2.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: cp310-none-any\n",
    "sal_detectron2-0.7.2.dist-info/RECORD": "",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A wheel with every trait of the real one that the script deals with."""
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in SOURCE.items():
            archive.writestr(name, text)
    return path


def test_the_repacked_wheel_is_upstreams_python_and_its_record_complete(source, tmp_path):
    with zipfile.ZipFile(tool.repack(source, tmp_path)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    kept = "detectron2/layers/wrappers.py", "detectron2/model_zoo/configs/Base.yaml"
    assert all(members[name] == SOURCE[name].encode() for name in kept)
    assert members["detectron2/__init__.py"].decode().endswith('__version__ = "0.6"\n')
    assert members[f"{tool.INFO}/LICENSE"] == b"Apache License\n"
    metadata = Parser().parsestr(members[f"{tool.INFO}/METADATA"].decode())
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", tool.VERSION)
    assert {"numpy", "fvcore<0.1.6,>=0.1.5"} <= set(metadata.get_all("Requires-Dist"))
    assert "a59f0563" in metadata.get_payload() and tool.SOURCE in metadata.get_payload()
    wheel = members[f"{tool.INFO}/WHEEL"].decode()
    assert "Root-Is-Purelib: true\n" in wheel and "Tag: py3-none-any\n" in wheel
    record = members.pop(f"{tool.INFO}/RECORD").decode().splitlines()
    assert {line.split(",")[0] for line in record[:-1]} == set(members)
    assert {name.partition("/")[0] for name in members} == {"detectron2", tool.INFO}
    # pip checks none of these when it installs, so they are checked here.
    for line in record[:-1]:
        name, digest, size = line.split(",")
        assert int(size) == len(members[name]) and not name.endswith(".so")
        sha256 = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=")
        assert sha256 == hashlib.sha256(members[name]).digest()


def test_pip_installs_the_repacked_wheel(source: Path, tmp_path: Path):
    target = tmp_path / "site"
    wheel = tool.repack(source, tmp_path)
    tool.run_pip("install it", "install", "--no-index", "--target", target, wheel)
    (found,) = importlib.metadata.distributions(name="detectron2", path=[str(target)])
    assert found.version == tool.VERSION
    assert (target / "detectron2/layers/wrappers.py").is_file()


def test_only_the_file_with_the_hash_is_taken(source: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source.parent))
    folder = tmp_path / "download"
    folder.mkdir()
    with pytest.raises(tool.InstallError, match="download sal-detectron2.*do not use it"):
        tool.download(folder)
    monkeypatch.setattr(tool, "SOURCE_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    assert tool.download(folder).read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("ERROR: Could not find a version that satisfies x (from versions: none)", "network"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "room on the disk.*28"),
        ("", "network.*nothing"),
    ],
)
def test_what_pip_says_is_explained(said: str, cure: str):
    sentence = tool.explain_pip(said, "download it")
    assert re.match(f"pip could not download it: .*{cure}", sentence) and "\n" not in sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (tool.InstallError("no network."), "no network."),
        (OSError(28, "No space left on device", "/tmp/x"), "[Errno 28] .*'/tmp/x'; put that right"),
    ],
)
def test_failure_is_one_sentence_and_exit_code_1(error, sentence, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(tool, "usable_version", lambda: None)
    monkeypatch.setattr(tool, "download", fail)
    assert tool.main() == 1
    said = capsys.readouterr().err
    assert re.match(f"install_detectron2: {sentence}".replace("[E", r"\[E"), said)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("version", "code", "usable"),
    [
        (tool.VERSION, 0, True),
        ("0.6+cu124", 0, True),  # an official build
        (f"{tool.REPACKED}.99", 0, False),  # an earlier repack
        (tool.VERSION, 1, False),  # broken: cannot be imported
    ],
)
def test_a_detectron2_that_works_is_left_alone(version, code, usable, monkeypatch, capsys):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    ended = subprocess.CompletedProcess([], code, version, "")
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: ended)
    assert tool.usable_version() == (version if usable else None)
    if usable:
        monkeypatch.setattr(tool, "download", lambda _: pytest.fail("fetched"))
        assert tool.main() == 0 and "nothing to fetch" in capsys.readouterr().out


# --- what is installed ---------------------------------------------------------------------------


def test_installed_repack_is_whole():
    installed = importlib.metadata.distribution("detectron2")
    if installed.version != tool.VERSION:
        pytest.skip("this environment has a detectron2 of its own")
    assert "Apache License" in installed.read_text("LICENSE")
    assert importlib.util.find_spec("detectron2._C") is None
    assert not [file for file in installed.files if file.suffix in (".so", ".pyd")]


def test_model_zoo_and_layers_work_without_the_extension():
    import torch
    from detectron2 import model_zoo
    from detectron2.layers import ROIAlign

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "MaskRCNNConvUpsampleHead"
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])  # image index, x0, y0, x1, y1
    pooled = ROIAlign((2, 2), 1.0, 0)(torch.ones(1, 3, 8, 8), boxes)
    assert pooled.shape == (1, 3, 2, 2)


def test_pip_check_is_clean():
    result = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
