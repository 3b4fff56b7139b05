"""Install detectron2 without a compiler, where it is not there already.

detectron2 is not on the package index under its own name, and its source build needs a compiler
that matches PyTorch's. The wheel ``sal-detectron2`` 0.7.2, which is there, carries upstream's
Python files as of commit a59f0563 (17 April 2024), together with one extension module compiled
for CPython 3.10 alone. Everything that a Mask R-CNN with FPN needs runs without that extension
(what is lost: rotated boxes, deformable convolution, ``COCOeval_opt``), so this script

1. downloads that wheel with pip, by its SHA-256,
2. takes the package ``detectron2`` without the extension, and the licence file,
3. restores upstream's version string and writes new metadata: name ``detectron2``, any Python 3,
   no ``numpy<2``, no ``black``,
4. writes the result as an ordinary pure-Python wheel and installs it with pip.

Run it as a file with the Python to install into (the package ``arcnn`` itself needs detectron2):

    python arcnn/workshop/setup/install_detectron2.py

Where ``import detectron2`` already works (conda-forge, an official build) nothing is fetched.
Only the standard library and pip are used. The exit code is 0 or 1; on 1 the last line on stderr
says what is wrong and what to do.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = "sal-detectron2==0.7.2"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
SOURCE_LICENSE = "sal_detectron2-0.7.2.dist-info/LICENSE"
# The version that upstream's commit says it has, in the place of the repacker's.
VERSION_STRINGS = b'__version__ = "0.7.2"', b'__version__ = "0.6"'

REPACKED = "0.6+a59f0563"  # how the versions of all repacks begin
VERSION = REPACKED  # with ".2", ".3" when what is repacked changes: an earlier one is then replaced
INFO = f"detectron2-{VERSION}.dist-info"
WHEEL = "Wheel-Version: 1.0\nGenerator: arcnn\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# What detectron2 imports, as upstream's set-up asks for it; not numpy<2, since its code runs on
# numpy 2 as it is, nor black, which only prints lazy configurations prettily.
NEEDED = (
    "Pillow>=7.1 matplotlib pycocotools>=2.0.2 termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle "
    "tqdm>4.29.0 tensorboard omegaconf<2.4,>=2.1 hydra-core>=1.1 packaging numpy "
    "fvcore<0.1.6,>=0.1.5 iopath<0.1.11,>=0.1.7"
)
REQUIRES = "\n".join(f"Requires-Dist: {name}" for name in NEEDED.split())
METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: FAIR's next-generation research platform for object detection and segmentation.
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
Requires-Python: >=3.8
License-File: LICENSE
{REQUIRES}

Upstream's Python files as of commit a59f0563, repacked from {SOURCE} by
arcnn/workshop/setup/install_detectron2.py. Changed: the compiled extension detectron2._C and the
top-level package "tools" were left out, detectron2.__version__ and this metadata were rewritten.
"""


class InstallError(Exception):
    """A step failed; the message is one sentence that says what is wrong and what to do."""


def usable_version() -> str | None:
    """Version of the detectron2 that this interpreter imports, or None if it must be installed.

    A repack made by another edition of this script counts as absent.
    """
    # In a fresh interpreter, since this one would not see what it has just installed.
    command = [sys.executable, "-c", "import detectron2; print(detectron2.__version__)"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        return None
    try:
        found = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return ran.stdout.strip()  # a source checkout on the path, say
    return None if found.startswith(REPACKED) and found != VERSION else found


def run_pip(task: str, *arguments: str | Path) -> None:
    """Run pip for this interpreter, quietly, for this package alone.

    Raises:
        InstallError: pip failed at the task; says what to do.
    """
    command, *options = arguments
    command = [sys.executable, "-m", "pip", command, "-qq", "--no-deps", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise InstallError(explain_pip(result.stderr, task))


def explain_pip(stderr: str, task: str) -> str:
    """One sentence of cause and cure for what pip wrote to stderr when it failed at ``task``."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["nothing"]
    said = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
    cure = (
        "is the network up and the package index reached, is there room on the disk, and may you "
        "change this environment? Then run the set-up again"
    )
    if "DO NOT MATCH THE HASHES" in stderr:
        cure = "the file is not the one expected; do not use it, and ask your package index"
    return f"pip could not {task}: {cure}. (pip said: {said})"


def download(folder: Path) -> Path:
    """Fetch the source wheel into ``folder`` with pip, by hash; return its path.

    pip is told to choose as for Python 3.10 on any platform, the tag in the file's name: it then
    takes the file on every system and with every Python.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n")
    options = "--require-hashes --only-binary :all: --implementation cp --python-version 3.10"
    options = [*options.split(), "--platform", "any", "--dest", folder]
    run_pip(f"download {SOURCE}", "download", *options, "--requirement", requirements)
    (wheel,) = folder.glob("*.whl")
    return wheel


def repack(source: Path, folder: Path) -> Path:
    """Write the pure-Python wheel made from the wheel ``source`` into ``folder``."""
    with zipfile.ZipFile(source) as archive:
        kept = [n for n in archive.namelist() if n.startswith("detectron2/") and n[-3:] != ".so"]
        members = {name: archive.read(name) for name in kept if not name.endswith("/")}
        members[f"{INFO}/LICENSE"] = archive.read(SOURCE_LICENSE)
    members["detectron2/__init__.py"] = members["detectron2/__init__.py"].replace(*VERSION_STRINGS)
    members |= {f"{INFO}/METADATA": METADATA.encode(), f"{INFO}/WHEEL": WHEEL.encode()}
    # RECORD: one line "path,sha256=urlsafe-base64,size" per member, its own without a hash.
    record = ""
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(content)}\n"
    members[f"{INFO}/RECORD"] = f"{record}{INFO}/RECORD,,\n".encode()
    target = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def main() -> int:
    """Make ``import detectron2`` work in the running interpreter; return the exit code."""
    try:
        version = usable_version()
        if version is not None:
            print(f"detectron2 {version} is there already; nothing to fetch.")
            return 0
        # Everything happens in a folder that goes away, so an interrupted run leaves nothing.
        with tempfile.TemporaryDirectory(prefix="arcnn-detectron2-") as name:
            wheel = repack(download(Path(name)), Path(name))
            run_pip(f"install {wheel.name}", "install", "--no-index", "--force-reinstall", wheel)
        if usable_version() is None:
            raise InstallError(
                "detectron2 was installed, but `import detectron2` fails: run that line to see why "
                "(is torch installed, and requirements.lock whole?)."
            )
    except (InstallError, OSError) as error:
        # An OSError names the file, in the folder for temporary files, and the system's words.
        cure = "; put that right (TMPDIR names the folder to use) and run the set-up again."
        sentence = f"{error}{cure}" if isinstance(error, OSError) else error
        print(f"install_detectron2: {sentence}", file=sys.stderr)
        return 1
    print(f"detectron2 {VERSION} is installed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
