"""``make setup``: make the environment in .venv or bring it up to date; silent where it is ready.

Run as a file, by any Python from 3.8 on; it picks the one that the environment is made with:

    python arcnn/workshop/environment.py [PYTHON]     make .venv, with this Python if one is given
    python arcnn/workshop/environment.py --own BIN    only look at an environment of the user's own

Standard library only, in the syntax of Python 3.8. Where it fails, the exit code is not 0 and the
last line on stderr says what is wrong and what to do.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
# Everything runs in that folder; the other paths are relative to it.
VENV = Path(".venv")
PYTHON = VENV / "bin/python"
READY = VENV / ".ready"  # written when the environment is complete: what it was made from, where
LOCK = Path("requirements.lock")
DETECTRON2 = Path("arcnn/workshop/install_detectron2.py")
MADE_FROM = (LOCK, Path("pyproject.toml"), DETECTRON2)

CANDIDATES = ("python3", "python3.11", "python3.12", "python3.13", "python")
# Newer than 3.13: immutables, which Snakemake asks for, has no wheel for it yet.
SUPPORTED = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
# Prints where arcnn comes from, or an empty line if something is missing.
LOOK = """from importlib.util import find_spec
arcnn, *others = map(find_spec, ("arcnn", "detectron2", "torch"))
print(arcnn.origin if arcnn and all(others) else "")"""
# In MB: the Linux build of PyTorch brings its CUDA libraries along. make hands on another number.
SPACE_NEEDED = os.environ.get("space_needed", 7000 if sys.platform == "linux" else 2500)  # noqa: SIM112
AGAIN = "then run the same command again"


def failure(sentence: str) -> SystemExit:
    """What ends the program with a sentence that says what is wrong and what to do."""
    return SystemExit(f"Set-up: {sentence}")


def run(*command: str | Path, quiet: bool = False) -> bool:
    """Run a command as the set-up does; whether it could be run and ended well."""
    # What lies on PYTHONPATH, pip would take for installed. pip takes no orders from the user's
    # configuration that would break the set-up, and keeps quiet.
    settings = {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    environment = dict(os.environ, **settings, PIP_DISABLE_PIP_VERSION_CHECK="1")
    environment.pop("PYTHONPATH", None)
    try:
        ended = subprocess.run(command, env=environment, capture_output=quiet)
    except OSError:
        return False
    return ended.returncode == 0


def fingerprint() -> list[bytes]:
    """What the environment is made from, by contents, and where it lies: it cannot be moved."""
    contents = hashlib.sha256(b"".join(path.read_bytes() for path in MADE_FROM))
    return [contents.hexdigest().encode(), os.fsencode(os.getcwd())]


def claim() -> IO[bytes]:
    """Lock the folder while the result is open; two set-ups would pull the ground from under each
    other."""
    try:
        VENV.mkdir(exist_ok=True)
        held = LOCK.open("r+b")
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise failure(f"another set-up is at work here; wait for it, {AGAIN}.") from error
    except OSError as error:
        raise failure(
            f"{os.getcwd()} cannot be written to; copy the kit into a folder of yours, or give an "
            "environment of your own with BIN=<environment>/bin."
        ) from error
    return held


def choose_python(given: str) -> str:
    """The given Python, or the first that is new enough."""
    for candidate in [given] if given else CANDIDATES:
        if run(candidate, "-c", SUPPORTED, quiet=True):
            return candidate
    if given:
        raise failure(f"PYTHON={given} does not run or is not Python 3.11 to 3.13; give another.")
    raise failure(
        "no Python 3.11 to 3.13 was found; install one, or say where it is: make setup "
        "PYTHON=/path/to/python3."
    )


def make_anew(python: str) -> None:
    """Step 1: an empty environment in the place of whatever is there."""
    if not run(python, "-c", "import venv, ensurepip", quiet=True):
        raise failure(
            f"{python} cannot make environments (venv or ensurepip is missing); on Debian and "
            "Ubuntu install the package python3-venv, then try again."
        )
    free = shutil.disk_usage(".").free // 2**20
    if free < int(SPACE_NEEDED):
        raise failure(
            f"{free} MB are free here, about {SPACE_NEEDED} are needed; free some space, or put "
            "the kit on a larger disk."
        )
    print(f"Set-up 1/4: a new environment in .venv, with {python}.")
    if not run(python, "-m", "venv", "--clear", VENV):
        raise failure(f"the environment could not be made (see above); put that right, {AGAIN}.")


def install() -> None:
    """Steps 2 to 4: whatever the environment lacks, or has in another version than the lock."""
    pip_install = (PYTHON, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation")
    print("Set-up 2/4: the packages of requirements.lock, several minutes the first time.")
    # Some packages come as Python source alone. They are built with the setuptools of the lock,
    # installed first, not with whatever setuptools is the newest today.
    first = VENV / "setuptools.lock"
    first.write_text("".join(re.findall(r"(?ms)^setuptools==.*?(?=^[^ #]|\Z)", LOCK.read_text())))
    for lock in (first, LOCK):
        if not run(*pip_install, "--require-hashes", "--use-pep517", "--requirement", lock):
            raise failure(
                "the packages could not be installed (pip's words are above). Is the network up, "
                "and is there room in this folder and in the one for temporary files "
                f"({os.environ.get('TMPDIR') or '/tmp'})? Put that right, {AGAIN}."
            )
    print("Set-up 3/4: detectron2.")
    if not run(PYTHON, DETECTRON2):
        sys.exit(1)  # it has said what is wrong
    print("Set-up 4/4: this kit.")
    if not run(*pip_install, "--no-index", "--editable", "."):
        raise failure(f"this kit could not be installed; remove the folder {VENV}, {AGAIN}.")


def set_up(given: str = "") -> None:
    """See to it that .venv is complete and up to date; a new one is made with the given Python."""
    wanted = fingerprint()
    found = READY.read_bytes().split(b"\n", 1) if READY.is_file() else []
    # The environment's Python may be gone: an upgrade of the system takes it away.
    if found == wanted and os.access(PYTHON, os.X_OK):
        return
    with claim():
        # A finished environment of this very place is brought up to date; all else starts anew.
        if found[1:] == wanted[1:] and run(PYTHON, "-c", SUPPORTED, quiet=True):
            print("Set-up: what the environment is made from has changed; bringing it up to date.")
            READY.unlink()
        else:
            make_anew(choose_python(given))
        install()
        READY.write_bytes(b"\n".join(wanted))


def look_at(folder: str) -> None:
    """Check an environment of the user's own, given as BIN: its Python, and what that imports."""
    python = ROOT / folder / "python"
    if not run(python, "-c", SUPPORTED, quiet=True):
        raise SystemExit(
            f"BIN={folder} holds no Python 3.11 to 3.13; give the bin folder of an environment, "
            "or leave BIN out."
        )
    # Elsewhere, since -c would find what lies in this folder; PYTHONPATH is as make exports it.
    looked = subprocess.run([python, "-c", LOOK], cwd="/", stdout=subprocess.PIPE, text=True)
    origin = looked.stdout.strip()
    if not origin:
        raise SystemExit(
            f"The environment of BIN={folder} lacks arcnn, detectron2 or torch; see "
            "environment.yml for how to make one."
        )
    # Another clone's models and commit would stand in this one's results.
    if Path(origin).resolve() != ROOT / "arcnn/__init__.py":
        raise SystemExit(
            f"The environment of BIN={folder} imports arcnn from {origin}, not from {ROOT}; remove "
            f"it there ({folder}/python -m pip uninstall arcnn), {AGAIN}."
        )


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says."""
    os.chdir(ROOT)
    sys.stdout.reconfigure(line_buffering=True)  # before what the commands say
    try:
        if arguments[:1] == ["--own"]:
            look_at(arguments[1])
        else:
            set_up(*arguments)
    except OSError as error:
        raise failure(f"{error}; put that right, {AGAIN}.") from error
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    # Ended like that, it would leave pip at work; interrupted, it takes pip along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(sys.argv[1:])
