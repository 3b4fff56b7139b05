"""Install detectron2 without a compiler, where it is not there already.

detectron2 is not on the package index under its own name, and its source build needs a compiler
that matches PyTorch's. The wheel ``sal-detectron2`` 0.7.2, which is there, carries upstream's
Python files as of commit a59f0563 (17 April 2024), together with one extension module compiled
for CPython 3.10 alone. Everything that a Mask R-CNN with FPN needs runs without that extension
(what is lost: rotated boxes, deformable convolution, ``COCOeval_opt``), so this script

1. downloads that wheel with pip, by its SHA-256,
2. drops the extension and the stray top-level package ``tools``,
3. restores upstream's version string and rewrites the metadata: name ``detectron2``, any Python 3,
   no ``numpy<2``, no ``black``; the licence file stays,
4. writes the result as an ordinary pure-Python wheel and installs it with pip.

Run it as a file with the Python to install into (the package ``arcnn`` itself needs detectron2):

    python arcnn/workshop/install_detectron2.py

Where ``import detectron2`` already works (conda-forge, an official build) nothing is fetched.
Only the standard library and pip are used. The exit code is 0 or 1; on 1 the last line on stderr
says what is wrong and what to do.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = "sal-detectron2==0.7.2"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
SOURCE_INFO = "sal_detectron2-0.7.2.dist-info"
# The version that upstream's commit a59f0563 says it has, in the place of the repacker's.
VERSION_STRINGS = b'__version__ = "0.7.2"', b'__version__ = "0.6"'

VERSION = "0.6+a59f0563"
INFO = f"detectron2-{VERSION}.dist-info"
# Raise the number when what is repacked changes: an earlier edition is then replaced.
GENERATOR_NAME = "arcnn-install-detectron2"
GENERATOR = f"{GENERATOR_NAME} (1)"

# What becomes of METADATA: patterns of lines, and what takes their place.
METADATA_EDITS = {
    r"^Name: .*": "Name: detectron2",
    r"^Version: .*": f"Version: {VERSION}",
    r"^Summary: .*Detectron2 is ": "Summary: ",
    # Upstream's code runs on numpy 2 as it is, black only prints lazy configurations prettily, and
    # dataclasses was for Python 3.6.
    r"^Requires-Dist: (numpy|black|dataclasses)\b.*\n": "",
}
# Appended: what detectron2 imports and upstream's set-up asks for, but the source wheel forgot, and
# what was changed.
METADATA_END = f"""\
Requires-Dist: numpy
Requires-Dist: fvcore<0.1.6,>=0.1.5
Requires-Dist: iopath<0.1.11,>=0.1.7

Upstream's Python files as of commit a59f0563, repacked from {SOURCE} by
arcnn/workshop/install_detectron2.py. Changed: the compiled extension detectron2._C and the
top-level package "tools" were left out, detectron2.__version__ and this metadata were rewritten.
"""
WHEEL = f"Wheel-Version: 1.0\nGenerator: {GENERATOR}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class InstallError(Exception):
    """A step failed; the message is one sentence that says what is wrong and what to do."""


def usable_version() -> str | None:
    """Version of the detectron2 that this interpreter imports, or None if it must be installed.

    A repack made by another edition of this script (told by its Generator) counts as absent.
    """
    # In a fresh interpreter, since this one would not see what it has just installed.
    command = [sys.executable, "-c", "import detectron2; print(detectron2.__version__)"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return None
    try:
        installed = importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return result.stdout.strip()  # a source checkout on the path, say
    generator = installed.read_text("WHEEL") or ""
    if GENERATOR_NAME in generator and GENERATOR not in generator:
        return None
    return installed.version


def run_pip(task: str, *arguments: str | Path) -> None:
    """Run pip for this interpreter, quietly, for this package alone.

    Raises:
        InstallError: pip failed at the task.
    """
    command, *options = arguments
    command = [sys.executable, "-m", "pip", command, "-qq", "--no-deps", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise InstallError(explain_pip(result.stderr, task))


def explain_pip(stderr: str, task: str) -> str:
    """One sentence of cause and cure for what pip wrote to stderr when it failed at ``task``."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    if "DO NOT MATCH THE HASHES" in stderr:
        cure = "the file is not the one expected; do not use it, and ask your package index"
    elif "No module named pip" in stderr:
        cure = "this Python has no pip; add it with `python -m ensurepip`"
    else:
        cure = (
            "is the network up and the package index reached, is there room on the disk, and may "
            "you change this environment? Then run the set-up again"
        )
    said = (errors[:1] or lines[-1:] or ["nothing"])[0]
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


def new_members(source: Path) -> dict[str, bytes]:
    """Contents of the new wheel: member name -> bytes, RECORD last."""
    with zipfile.ZipFile(source) as archive:
        old = {name: archive.read(name) for name in archive.namelist()}
    members = {
        name: content
        for name, content in old.items()
        if name.startswith("detectron2/") and not name.endswith(("/", ".so"))
    }
    members["detectron2/__init__.py"] = old["detectron2/__init__.py"].replace(*VERSION_STRINGS)
    metadata = old[f"{SOURCE_INFO}/METADATA"].decode().rstrip("\n") + "\n"
    for pattern, replacement in METADATA_EDITS.items():
        metadata = re.sub(pattern, replacement, metadata, flags=re.MULTILINE)
    members[f"{INFO}/LICENSE"] = old[f"{SOURCE_INFO}/LICENSE"]
    members[f"{INFO}/METADATA"] = (metadata + METADATA_END).encode()
    members[f"{INFO}/WHEEL"] = WHEEL.encode()
    members[f"{INFO}/top_level.txt"] = b"detectron2\n"
    # RECORD: one line "path,sha256=urlsafe-base64,size" per member, its own without a hash.
    record = ""
    for name, content in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(content)}\n"
    record += f"{INFO}/RECORD,,\n"
    return dict(sorted(members.items())) | {f"{INFO}/RECORD": record.encode()}


def repack(source: Path, folder: Path) -> Path:
    """Write the pure-Python wheel made from the wheel ``source`` into ``folder``; return its path.

    The same source gives the same bytes: members are stored, not compressed, since compressors
    differ between systems, and have one time, one mode and one system.
    """
    target = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in new_members(source).items():
            info = zipfile.ZipInfo(name, (2024, 4, 17, 0, 0, 0))
            info.external_attr = 0o100644 << 16  # an ordinary file, rw-r--r--
            info.create_system = 3  # "Unix", whatever system this runs on
            archive.writestr(info, content)
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
