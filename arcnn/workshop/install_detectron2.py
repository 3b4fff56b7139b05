"""Install detectron2 without a compiler, where it is not there already.

detectron2 is not on the package index under its own name, and its source build needs a compiler
that matches PyTorch's. The wheel ``sal-detectron2`` 0.7.2, which is there, carries upstream's
Python files as of commit a59f0563 (17 April 2024), together with one extension module compiled
for CPython 3.10 alone. Everything that a Mask R-CNN with FPN needs runs without that extension
(what is lost: rotated boxes, deformable convolution, ``COCOeval_opt``), so this script

1. downloads that wheel and checks it against the SHA-256 below,
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
import errno
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

SOURCE = "sal-detectron2==0.7.2"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
SOURCE_VERSION = "0.7.2"

UPSTREAM_VERSION = "0.6"  # what detectron2/__init__.py says in upstream's commit a59f0563
NAME, VERSION = "detectron2", "0.6+a59f0563"
WHEEL_NAME = f"{NAME}-{VERSION}-py3-none-any.whl"
DIST_INFO = f"{NAME}-{VERSION}.dist-info"
# Raise the number when what is repacked changes: an earlier edition is then replaced.
GENERATOR_NAME = "arcnn-install-detectron2"
GENERATOR = f"{GENERATOR_NAME} (1)"

# Requirements of the source wheel that are dropped: upstream's code runs on numpy 2 as it is, black
# only prints lazy configurations prettily, and dataclasses was for Python 3.6.
DROPPED = ("numpy", "black", "dataclasses")
# Imported by detectron2, asked for by upstream's own set-up, forgotten in the source wheel.
ADDED = ("numpy", "fvcore<0.1.6,>=0.1.5", "iopath<0.1.11,>=0.1.7")

# A zip file holds a time per member; a fixed one gives the same wheel, byte for byte, every time
# (members are stored, not compressed: compressors differ between systems).
TIMESTAMP = (2024, 4, 17, 0, 0, 0)

NOTE = """\
Upstream's Python files as of commit a59f0563, repacked from {source} by
arcnn/workshop/install_detectron2.py. Changed: the compiled extension detectron2._C and the
top-level package "tools" were left out, detectron2.__version__ and this metadata were rewritten.
"""


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
        installed = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        return result.stdout.strip()  # a source checkout on the path, say
    generator = installed.read_text("WHEEL") or ""
    if GENERATOR_NAME in generator and GENERATOR not in generator:
        return None
    return installed.version


def download(folder: Path) -> Path:
    """Fetch the source wheel into ``folder`` with pip, by hash; return its path.

    pip is told to choose as for Python 3.10 on any platform, the tag in the file's name: it then
    takes the file on every system and with every Python.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.10"]
    command += ["--platform", "any", "--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise InstallError(explain_pip(result.stderr, f"download {SOURCE}"))
    (wheel,) = folder.glob("*.whl")
    check_hash(wheel)
    return wheel


def check_hash(wheel: Path, expected: str = SOURCE_SHA256) -> None:
    """Raise InstallError unless the SHA-256 of the file is the expected one."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != expected:
        raise InstallError(
            f"{wheel.name} is not the file this kit was built on (SHA-256 {found}, expected "
            f"{expected}): do not use it; try again, and if it stays so, ask your package index."
        )


def explain_pip(stderr: str, task: str) -> str:
    """One sentence of cause and cure for what pip wrote to stderr when it failed at ``task``."""
    said = stderr.lower()
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    detail = next((line for line in lines if line.startswith("ERROR:")), lines[-1:] and lines[-1])
    if "no space left" in said or "disk quota" in said:
        cure = "the disk is full; free some space and run the set-up again"
    elif "read-only file system" in said or "permission denied" in said:
        cure = "a folder cannot be written to; use an environment that you may change"
    elif "do not match the hashes" in said:
        cure = "the file is not the one expected; do not use it, and ask your package index"
    elif "no module named pip" in said:
        cure = "this Python has no pip; add it with `python -m ensurepip`"
    else:
        cure = "is the network up and the package index reached? Then run the set-up again"
    return f"pip could not {task}: {cure}. (pip said: {detail or 'nothing'})"


def is_kept(member: str) -> bool:
    """Whether a member of the source wheel goes into the new one unchanged."""
    top = member.split("/", 1)[0]
    return top == NAME and not member.endswith(("/", ".so", ".pyd", ".dylib"))


def drop_requirement(requirement: str) -> bool:
    """Whether a Requires-Dist line of the source wheel is left out (by its project's name)."""
    name = requirement.replace("[", " ").replace("<", " ").replace(">", " ").replace("=", " ")
    return name.replace(";", " ").split()[0].lower() in DROPPED


def rewrite_metadata(text: str) -> str:
    """METADATA of the new wheel from that of the source wheel."""
    old = Parser().parsestr(text)
    new = Message()
    for key, value in old.items():
        if key == "Name":
            value = NAME
        elif key == "Version":
            value = VERSION
        elif key == "Summary":
            value = value.rpartition("Detectron2 is ")[2]
        elif key == "Requires-Dist" and drop_requirement(value):
            continue
        new[key] = value
    for requirement in ADDED:
        new["Requires-Dist"] = requirement
    new.set_payload(NOTE.format(source=SOURCE))
    return new.as_string()


def restore_version(text: str) -> str:
    """detectron2/__init__.py with upstream's version string in the place of the repacker's."""
    old, new = (f'__version__ = "{version}"' for version in (SOURCE_VERSION, UPSTREAM_VERSION))
    if old not in text:
        raise InstallError(f"{SOURCE} does not look as expected: no {old} in its __init__.py.")
    return text.replace(old, new)


def new_members(wheel: Path) -> dict[str, bytes]:
    """Contents of the new wheel, RECORD left out: member name -> bytes."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        members = {name: archive.read(name) for name in names if is_kept(name)}
        (old_info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = archive.read(f"{old_info}/METADATA").decode()
        licence = archive.read(f"{old_info}/LICENSE")
    init = f"{NAME}/__init__.py"
    members[init] = restore_version(members[init].decode()).encode()
    members[f"{DIST_INFO}/LICENSE"] = licence
    members[f"{DIST_INFO}/METADATA"] = rewrite_metadata(metadata).encode()
    members[f"{DIST_INFO}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {GENERATOR}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ).encode()
    members[f"{DIST_INFO}/top_level.txt"] = f"{NAME}\n".encode()
    return members


def record_of(members: dict[str, bytes]) -> bytes:
    """RECORD: one line "path,sha256=urlsafe-base64,size" per member, its own without a hash."""
    lines = []
    for name, content in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(content)}")
    lines.append(f"{DIST_INFO}/RECORD,,")
    return ("\n".join(lines) + "\n").encode()


def repack(source: Path, folder: Path) -> Path:
    """Write the pure-Python wheel made from the wheel ``source`` into ``folder``; return its path.

    The same source gives the same bytes. The file gets its name only when it is complete.
    """
    members = new_members(source)
    record = record_of(members)
    target = folder / WHEEL_NAME
    unfinished = target.with_suffix(".part")
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name in [*sorted(members), f"{DIST_INFO}/RECORD"]:
                info = zipfile.ZipInfo(name, TIMESTAMP)
                info.external_attr = 0o100644 << 16  # an ordinary file, rw-r--r--
                info.create_system = 3  # "Unix", whatever system this runs on
                archive.writestr(info, members.get(name, record))
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def pip_install(wheel: Path) -> None:
    """Install the wheel into the running interpreter's environment, its requirements left alone."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index"]
    result = subprocess.run(
        [*command, "--force-reinstall", str(wheel)], capture_output=True, text=True
    )
    if result.returncode != 0:
        raise InstallError(explain_pip(result.stderr, f"install {wheel.name}"))


def explain_os_error(error: OSError) -> str:
    """One sentence of cause and cure for a file that could not be read or written."""
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full{place}: free some space and run the set-up again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"A folder cannot be written to{place}: point TMPDIR at one that can, and use an "
            "environment that you may change."
        )
    return f"The set-up of detectron2 failed{place}: {error.strerror or error}."


def main() -> int:
    """Make ``import detectron2`` work in the running interpreter; return the exit code."""
    try:
        version = usable_version()
        if version is not None:
            print(f"detectron2 {version} is there already; nothing to fetch.")
            return 0
        # Everything happens in a folder that goes away, so an interrupted run leaves nothing.
        with tempfile.TemporaryDirectory(prefix="arcnn-detectron2-") as name:
            folder = Path(name)
            pip_install(repack(download(folder), folder))
        if usable_version() is None:
            raise InstallError(
                "detectron2 was installed, but `import detectron2` fails: run that line to see why "
                "(is torch installed, and requirements.lock whole?)."
            )
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"install_detectron2: {explain_os_error(error)}", file=sys.stderr)
        return 1
    print(f"detectron2 {VERSION} is installed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
