"""``make setup``: make the environment in .venv or bring it up to date; silent where it is ready.

Run as a file, by any Python from 3.8 on; it picks the one that the environment is made with:

    python arcnn/workshop/setup/environment.py [PYTHON [TORCH_CPU]]
    python arcnn/workshop/setup/environment.py --own BIN
    python arcnn/workshop/setup/environment.py --here

The first makes .venv, with this Python if one is given. TORCH_CPU, the address of an index of
PyTorch's CPU builds or a folder with them, makes it an environment without CUDA, and is remembered.
The second only looks at an environment of the user's own. The third installs what the kit needs
into the very Python that runs it, which brings its PyTorch, as that of a hosted notebook does:
PyTorch and what runs the notebook stay as they are.

Standard library only, in the syntax of Python 3.8. Where it fails, the exit code is not 0 and the
last line on stderr says what is wrong and what to do.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[3]
# Everything runs in that folder; the other paths are relative to it.
VENV = Path(".venv")
PYTHON = VENV / "bin/python"
READY = VENV / ".ready"  # written when the environment is complete: what it was made from, where
CPU_FROM = VENV / "torch-cpu"  # where the CPU builds of torch come from; empty without TORCH_CPU
LOCK = Path("requirements.lock")
DETECTRON2 = Path("arcnn/workshop/setup/install_detectron2.py")
MADE_FROM = (LOCK, Path("pyproject.toml"), DETECTRON2)

CANDIDATES = ("python3", "python3.11", "python3.12", "python3.13", "python")
# Newer than 3.13: immutables, which Snakemake asks for, has no wheel for it yet.
SUPPORTED = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
# Prints where arcnn comes from, or an empty line if something is missing.
LOOK = """from importlib.util import find_spec
arcnn, *others = map(find_spec, ("arcnn", "detectron2", "torch"))
print(arcnn.origin if arcnn and all(others) else "")"""
TORCH = ("torch", "torchvision")
OLDEST_TORCH = 2, 6  # before it, a file of weights may hold code that runs (CVE-2025-32434)
# What a host runs notebooks with, beside all that is called Jupyter; and what only `make reproduce`
# needs, which nobody calls there.
HOSTS = ("ipykernel", "ipython", "ipywidgets", "tornado", "traitlets", "pyzmq")
WORKFLOW = ("snakemake",)
# Whether what came as a CPU build is one, and works.
LOOK_AT_TORCH = """import torch, torchvision
raise SystemExit(torch.version.cuda and f"torch is built for CUDA {torch.version.cuda}.")"""
# In MB: the Linux build of PyTorch brings its CUDA libraries along.
SPACE_NEEDED, SPACE_NEEDED_CPU = 7000 if sys.platform == "linux" else 2500, 2500
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


def fingerprint(torch_cpu: str) -> list[bytes]:
    """What the environment is made from, by contents, and where it lies: it cannot be moved."""
    contents = hashlib.sha256(b"".join(path.read_bytes() for path in MADE_FROM))
    contents.update(os.fsencode(torch_cpu))
    return [contents.hexdigest().encode(), os.fsencode(os.getcwd())]


def choose_torch(given: str | None) -> str:
    """Where the CPU builds of torch come from: as given, else as remembered; empty for none."""
    if given is None:
        return CPU_FROM.read_text() if CPU_FROM.is_file() else ""
    if "://" in given:
        return given
    folder = Path(given).expanduser().resolve()
    if not (given and folder.is_dir()):
        raise failure(
            f"TORCH_CPU={given} is neither an address (https://...) nor a folder; give that of "
            "PyTorch's CPU builds, or leave TORCH_CPU out (and remove an environment that was made "
            "with it: make clean)."
        )
    return str(folder)


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


def make_anew(python: str, torch_cpu: str) -> None:
    """Step 1: an empty environment in the place of whatever is there."""
    if not run(python, "-c", "import venv, ensurepip", quiet=True):
        raise failure(
            f"{python} cannot make environments (venv or ensurepip is missing); on Debian and "
            "Ubuntu install the package python3-venv, then try again."
        )
    free = shutil.disk_usage(".").free // 2**20
    # make hands on another number.
    needed = os.environ.get("space_needed", SPACE_NEEDED_CPU if torch_cpu else SPACE_NEEDED)  # noqa: SIM112
    if free < int(needed):
        raise failure(
            f"{free} MB are free here, about {needed} are needed; free some space, or put the kit "
            "on a larger disk."
        )
    print(f"Set-up 1/4: a new environment in .venv, with {python}.")
    if not run(python, "-m", "venv", "--clear", VENV):
        raise failure(f"the environment could not be made (see above); put that right, {AGAIN}.")
    CPU_FROM.write_text(torch_cpu)  # interrupted, it goes on as it was begun


def without_cuda() -> tuple[list[str], list[str], str]:
    """What a CPU environment makes of requirements.lock.

    Returns:
        torch and torchvision as their CPU builds; the names of what only a CUDA build needs; the
        lock of all the rest.
    """
    entries = {}  # by text, the name
    on_linux = {}  # by name, who asks for it
    for entry in re.split(r"(?m)^(?=\w)", LOCK.read_text()):
        name = entries[entry] = entry.partition("==")[0]
        first, _, below = entry.partition("\n")
        if "sys_platform == 'linux'" in first:
            on_linux[name] = set(re.findall(r"[\w.-]+", below.partition("# via")[2]))
    # What torch alone asks for, at first or second hand, and on Linux alone.
    cuda = {"torch"}
    while more := {name for name, asked in on_linux.items() if set() < asked <= cuda} - cuda:
        cuda |= more
    # PyTorch marks its CPU builds for Linux; elsewhere there are no others.
    mark = "+cpu" if sys.platform == "linux" else ""
    builds = [entry.split()[0] + mark for entry, name in entries.items() if name in TORCH]
    rest = [entry for entry, name in entries.items() if name not in cuda | {*TORCH}]
    return builds, sorted(cuda - {*TORCH}), "".join(rest)


def install_torch(torch_cpu: str, *options: str) -> None:
    """The two packages that a CPU environment has from elsewhere; the lock has no hash of them."""
    builds = without_cuda()[0]
    where = ("--index-url",) if "://" in torch_cpu else ("--no-index", "--find-links")
    pip_install = (PYTHON, "-m", "pip", "install", "-qq", "--no-deps", *options)
    if not run(*pip_install, *where, torch_cpu, *builds):
        raise failure(
            f"TORCH_CPU={torch_cpu} did not give {' and '.join(builds)} (pip's words are above). "
            "Does it answer, has it these CPU builds for this Python and this machine, and is "
            f"there room? Give a place that has them, {AGAIN}."
        )


def install(torch_cpu: str) -> None:
    """Steps 2 to 4: whatever the environment lacks, or has in another version than the lock."""
    pip_install = (PYTHON, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation")
    locked = LOCK
    print("Set-up 2/4: the packages of requirements.lock, several minutes the first time.")
    if torch_cpu:
        print(f"torch and torchvision are CPU builds from {torch_cpu}.")
        install_torch(torch_cpu)  # first, since the address may be wrong
        _, cuda, rest = without_cuda()
        locked = VENV / "cpu.lock"
        locked.write_text(rest)
        run(PYTHON, "-m", "pip", "uninstall", "-qq", "--yes", *cuda)
    # Some packages come as Python source alone. They are built with the setuptools of the lock,
    # installed first, not with whatever setuptools is the newest today.
    first = VENV / "setuptools.lock"
    first.write_text("".join(re.findall(r"(?ms)^setuptools==.*?(?=^[^ #]|\Z)", LOCK.read_text())))
    for lock in (first, locked):
        if not run(*pip_install, "--require-hashes", "--use-pep517", "--requirement", lock):
            raise failure(
                "the packages could not be installed (pip's words are above). Is the network up, "
                "and is there room in this folder and in the one for temporary files "
                f"({os.environ.get('TMPDIR') or '/tmp'})? Put that right, {AGAIN}."
            )
    if torch_cpu and not run(PYTHON, "-c", LOOK_AT_TORCH):
        raise failure(
            f"what TORCH_CPU={torch_cpu} gave does not work as a CPU build of PyTorch (see above); "
            f"give another place, remove the folder {VENV}, {AGAIN}."
        )
    print("Set-up 3/4: detectron2.")
    if not run(PYTHON, DETECTRON2):
        sys.exit(1)  # it has said what is wrong
    print("Set-up 4/4: this kit.")
    if not run(*pip_install, "--no-index", "--editable", "."):
        raise failure(f"this kit could not be installed; remove the folder {VENV}, {AGAIN}.")


def set_up(given: str = "", torch_cpu: str | None = None) -> None:
    """See to it that .venv is complete and up to date; a new one is made with the given Python.

    ``torch_cpu``, where CPU builds of torch are, goes by what the environment was made with if it
    is left out.
    """
    torch_cpu = choose_torch(torch_cpu)
    wanted = fingerprint(torch_cpu)
    found = READY.read_bytes().split(b"\n", 1) if READY.is_file() else []
    # The environment's Python may be gone: an upgrade of the system takes it away.
    if found == wanted and os.access(PYTHON, os.X_OK):
        return
    with claim():
        # A finished environment of this very place is brought up to date; all else starts anew.
        if found[1:] == wanted[1:] and run(PYTHON, "-c", SUPPORTED, quiet=True):
            print("Set-up: what the environment is made from has changed; bringing it up to date.")
            if torch_cpu:
                install_torch(torch_cpu, "--dry-run")  # what is there, stays if the place is wrong
            READY.unlink()
        else:
            make_anew(choose_python(given), torch_cpu)
        install(torch_cpu)
        CPU_FROM.write_text(torch_cpu)
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


def canonical(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def stays(name: str) -> bool:
    """Whether a host brings a package, and would be broken by another version of it."""
    return name in (*TORCH, *HOSTS) or name.startswith(("nvidia-", "cuda-", "triton", "jupyter"))


def install_here() -> None:
    """Install into the Python that runs this, beside the PyTorch that it has.

    Not from the lock, whose pins would replace more than is needed: by the ranges that the code was
    written for.
    """
    if not run(sys.executable, "-c", SUPPORTED, quiet=True):
        raise failure(f"{sys.executable} is not Python 3.11 to 3.13; take a host that has one.")
    import tomllib  # not in the older ones

    found = {canonical(each.name): each.version for each in importlib.metadata.distributions()}
    if missing := [name for name in TORCH if name not in found]:
        raise failure(
            f"{sys.executable} has no {' and no '.join(missing)}, and --here leaves these to the "
            "host; where there is none, `make setup` makes an environment with them."
        )
    if tuple(map(int, found["torch"].split(".")[:2])) < OLDEST_TORCH:
        raise failure(
            f"{sys.executable} has torch {found['torch']}, and the kit needs "
            f"{'.'.join(map(str, OLDEST_TORCH))} or newer; take a host that has one."
        )
    asked = tomllib.loads(Path("pyproject.toml").read_text())
    asked, to_build = asked["project"], asked["build-system"]["requires"]
    asked = asked["dependencies"] + asked["optional-dependencies"]["detectron2"] + to_build
    wanted = []
    for requirement in asked:
        name = canonical(re.match(r"[\w.-]+", requirement)[0])
        if not stays(name) and name not in WORKFLOW:
            wanted.append(requirement)
    kept = [f"{name}=={version}\n" for name, version in found.items() if stays(name)]
    print(f"Set-up 1/3: {len(wanted)} packages, beside torch {found['torch']}, which stays.")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(kept))
        pip_install = (sys.executable, "-m", "pip", "install", "-qq", "--constraint", constraints)
        if not run(*pip_install, *wanted):
            raise failure(
                "the packages could not be installed (pip's words are above). Is the network up? "
                "If they do not go with what the host has, take a newer one of its runtimes."
            )
    print("Set-up 2/3: detectron2.")
    if not run(sys.executable, DETECTRON2):
        sys.exit(1)  # it has said what is wrong
    print("Set-up 3/3: this kit.")
    pip_install = (sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index")
    if not run(*pip_install, "--no-build-isolation", "--editable", "."):
        raise failure(f"this kit could not be installed (pip's words are above), {AGAIN}.")


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says."""
    os.chdir(ROOT)
    sys.stdout.reconfigure(line_buffering=True)  # before what the commands say
    try:
        if arguments[:1] == ["--own"]:
            look_at(arguments[1])
        elif arguments == ["--here"]:
            install_here()
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
