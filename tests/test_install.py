"""The repacking of detectron2, on a tiny wheel of the same shape, and the one that is installed."""

from __future__ import annotations

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

from arcnn.workshop import install_detectron2 as tool

METADATA = """\
Metadata-Version: 2.1
Name: sal-detectron2
Version: 0.7.2
Summary: Somebody's package of: Detectron2 is a research platform.
License-File: LICENSE
Requires-Dist: Pillow>=7.1
Requires-Dist: numpy<2
Requires-Dist: dataclasses; python_version < "3.7"
Requires-Dist: omegaconf<2.4,>=2.1
Requires-Dist: black
Provides-Extra: dev
Requires-Dist: black==23.3.0; extra == "dev"
Requires-Dist: isort==5.12.0; extra == "dev"
"""
INFO = "sal_detectron2-0.7.2.dist-info"
SOURCE = {
    "detectron2/__init__.py": 'import os\n\n__version__ = "0.7.2"\n',
    "detectron2/layers/wrappers.py": "x = 1\n",
    "detectron2/model_zoo/configs/Base.yaml": "MODEL: {}\n",
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "ELF",
    "tools/train_net.py": "y = 2\n",
    f"{INFO}/LICENSE": "Apache License\n",
    f"{INFO}/METADATA": METADATA,
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp310-cp310-linux_x86_64\n",
    f"{INFO}/top_level.txt": "detectron2\ntools\n",
    f"{INFO}/RECORD": "",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A wheel with every trait of the real one that the script deals with."""
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in SOURCE.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def members(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """The repacked wheel's contents."""
    with zipfile.ZipFile(tool.repack(source, tmp_path)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_is_repacked_is_upstreams_python(members: dict[str, bytes]):
    assert not [name for name in members if name.endswith(".so") or name.startswith("tools")]
    kept = "detectron2/layers/wrappers.py", "detectron2/model_zoo/configs/Base.yaml"
    assert all(members[name] == SOURCE[name].encode() for name in kept)
    assert members["detectron2/__init__.py"].decode().endswith('__version__ = "0.6"\n')
    assert members[f"{tool.INFO}/LICENSE"] == b"Apache License\n"


def test_metadata_says_what_it_is(members: dict[str, bytes]):
    metadata = Parser().parsestr(members[f"{tool.INFO}/METADATA"].decode())
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", tool.VERSION)
    assert metadata["Summary"] == "a research platform."
    assert metadata.get_all("Requires-Dist") == [
        "Pillow>=7.1",
        "omegaconf<2.4,>=2.1",
        'isort==5.12.0; extra == "dev"',
        "numpy",  # any
        "fvcore<0.1.6,>=0.1.5",
        "iopath<0.1.11,>=0.1.7",
    ]
    assert "a59f0563" in metadata.get_payload() and tool.SOURCE in metadata.get_payload()


def test_wheel_is_pure_python_and_its_record_complete(members: dict[str, bytes]):
    wheel = members[f"{tool.INFO}/WHEEL"].decode()
    assert "Root-Is-Purelib: true\n" in wheel and "Tag: py3-none-any\n" in wheel
    record = members.pop(f"{tool.INFO}/RECORD").decode().splitlines()
    assert [line.split(",")[0] for line in record[:-1]] == sorted(members)
    # pip checks none of these when it installs, so they are checked here.
    for line in record[:-1]:
        name, digest, size = line.split(",")
        assert int(size) == len(members[name])
        sha256 = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=")
        assert sha256 == hashlib.sha256(members[name]).digest()


def test_pip_installs_the_repacked_wheel_which_is_the_same_every_time(source: Path, tmp_path: Path):
    wheel = tool.repack(source, tmp_path)
    first = wheel.read_bytes()
    assert tool.repack(source, tmp_path).read_bytes() == first
    target = tmp_path / "site"
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
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "not use it"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "room on the disk.*28"),
        ("/usr/bin/python3: No module named pip", "ensurepip"),
        ("", "network.*nothing"),
    ],
)
def test_what_pip_says_is_explained(said: str, cure: str):
    sentence = tool.explain_pip(said, "download it")
    assert re.match(f"pip could not download it: .*{cure}", sentence)
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (tool.InstallError("no network."), "no network."),
        (
            OSError(28, "No space left on device", "/tmp/x"),
            "[Errno 28] No space left on device: '/tmp/x'; put that right (TMPDIR names the folder "
            "to use) and run the set-up again.",
        ),
    ],
)
def test_failure_is_one_sentence_and_exit_code_1(error, sentence, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(tool, "usable_version", lambda: None)
    monkeypatch.setattr(tool, "download", fail)
    assert tool.main() == 1
    assert capsys.readouterr().err == f"install_detectron2: {sentence}\n"


def test_another_edition_of_the_repack_is_replaced(monkeypatch):
    assert tool.usable_version() == importlib.metadata.version("detectron2")
    if tool.GENERATOR_NAME not in importlib.metadata.distribution("detectron2").read_text("WHEEL"):
        pytest.skip("this environment has a detectron2 of its own")
    monkeypatch.setattr(tool, "GENERATOR", f"{tool.GENERATOR_NAME} (another)")
    assert tool.usable_version() is None


# --- what is installed ---------------------------------------------------------------------------


def test_detectron2_that_is_there_is_left_alone(monkeypatch, capsys):
    def never(_):
        raise AssertionError("fetched, though detectron2 is there")

    monkeypatch.setattr(tool, "download", never)
    assert tool.main() == 0
    assert "nothing to fetch" in capsys.readouterr().out


def test_installed_repack_is_whole():
    installed = importlib.metadata.distribution("detectron2")
    if tool.GENERATOR_NAME not in (installed.read_text("WHEEL") or ""):
        pytest.skip("this environment has a detectron2 of its own")
    assert installed.version == tool.VERSION
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
