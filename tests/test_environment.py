"""The lock, the conda file, the ignore list and the set-up of the Makefile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Packages with another name on conda-forge, and those that only the conda file names.
CONDA_NAMES = {"torch": "pytorch", "snakemake": "snakemake-minimal"}
CONDA_ONLY = {"python", "pip", "detectron2"}


def requirements() -> list[Requirement]:
    """All requirements of pyproject.toml, extras included."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines]


def lock_entries() -> list[str]:
    """The lock, one string per pinned package: its first line and the hashes below."""
    return [entry for entry in re.split(r"\n(?=[A-Za-z0-9])", LOCK) if not entry.startswith("#")]


def test_lock_pins_every_package_with_hashes():
    for entry in lock_entries():
        assert re.match(r"[\w.-]+==[\w.+!-]+( ;[^\n]*)? \\\n", entry), entry.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]


def test_lock_names_no_place():
    assert "://" not in LOCK
    assert not re.search(r"^\s*-(-index-url|-extra-index-url|-find-links|i|f|e)\b", LOCK, re.M)


def test_lock_has_what_pyproject_asks_for():
    pins: dict[str, list[str]] = {}
    for entry in lock_entries():
        name, version = re.match(r"([\w.-]+)==([\w.+!-]+)", entry).groups()
        pins.setdefault(canonicalize_name(name), []).append(version)
    for requirement in requirements():
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement} is not in requirements.lock; run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions), (
            f"{requirement} is locked as {versions}; run `make lock`"
        )


@pytest.mark.parametrize("version", ["3.11.0", "3.11.9", "3.12.4", "3.13.1"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_lock_pins_a_package_once_per_python_and_system(version: str, platform: str):
    environment = {
        "python_version": version.rpartition(".")[0],
        "python_full_version": version,
        "sys_platform": platform,
        "platform_machine": "aarch64" if platform == "linux" else "arm64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "platform_system": "Linux" if platform == "linux" else "Darwin",
        "os_name": "posix",
    }
    seen = []
    for entry in lock_entries():
        first = entry.splitlines()[0].rstrip(" \\")
        pin, _, marker = first.partition(" ; ")
        if not marker or Marker(marker).evaluate(environment):
            seen.append(pin.partition("==")[0])
    assert sorted(seen) == sorted(set(seen))
    assert {"torch", "numpy", "snakemake", "setuptools"} <= set(seen)


def test_conda_file_has_the_packages_of_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    lines = [
        line
        for entry in conda["dependencies"]
        for line in (entry["pip"] if isinstance(entry, dict) else [entry])
    ]
    names = [re.split(r"[ <>=]", line.rpartition("::")[2])[0] for line in lines]
    assert len(names) == len(set(names))
    expected = {CONDA_NAMES.get(r.name, canonicalize_name(r.name)) for r in requirements()}
    assert {canonicalize_name(name) for name in names} - CONDA_ONLY == expected


def test_conda_and_pip_ask_for_the_same_python():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python {PROJECT['requires-python']}" in conda["dependencies"]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/tabletop/train/000001.jpg", True),
        ("data/README.md", False),
        ("results/demo/table1.md", True),
        ("results/README.md", False),
        ("arcnn/data/tabletop/occluder_probabilities.csv", False),
        ("arcnn/data/tabletop/__init__.py", False),
        (".venv/bin/python", True),
        (".snakemake/log", True),
    ],
)
def test_what_runs_write_is_ignored(path: str, ignored: bool):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    result = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT)
    assert (result.returncode == 0) is ignored


# --- `make setup`, with a stand-in for Python that only notes what it is asked ------------------

STAND_IN = """\
#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin; rm -rf .venv/.[!.]* .venv/whole
               cp "$0" .venv/bin/python ;;
  *"-r requirements.lock"*|*"--requirement requirements.lock"*)
               [ ! -e "{fail}" ] || {{ echo "ERROR: no network" >&2; exit 1; }} ;;
  *--version*) echo "Python 3.11.0" ;;
esac
"""


class Setup:
    """A copy of what set-up reads, in a folder of its own, and a fake Python that takes notes."""

    def __init__(self, folder: Path) -> None:
        self.kit = folder / "a kit"  # with a space, as in "My Documents"
        (self.kit / "arcnn/tools").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.kit)
        for name in ("requirements.lock", "pyproject.toml", "arcnn/workshop/install_detectron2.py"):
            (self.kit / name).write_text(f"# {name}\n")
        self.log, self.fail = folder / "log", folder / "fail"
        self.python = self.executable(folder / "python-stand-in", STAND_IN)

    def executable(self, path: Path, text: str) -> Path:
        path.write_text(text.format(log=self.log, fail=self.fail))
        path.chmod(0o755)
        return path

    def make(self, *arguments: str, path: str | None = None) -> tuple[int, str, list[str]]:
        """Exit code, all output, and what the stand-in was asked to do, version checks left out."""
        self.log.write_text("")
        environment = {"PATH": path or os.environ["PATH"], "HOME": "/nonexistent"}
        result = subprocess.run(
            [shutil.which("make"), *arguments],
            cwd=self.kit,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        asked = [line for line in self.log.read_text().splitlines() if not line.startswith("-c ")]
        return result.returncode, result.stdout + result.stderr, asked

    def setup(self, *arguments: str) -> tuple[int, str, list[str]]:
        return self.make("setup", f"PYTHON={self.python}", "space_needed=0", *arguments)

    @property
    def stamps(self) -> list[str]:
        return sorted(path.name for path in self.kit.glob(".venv/.ready-*"))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Setup(tmp_path)


def test_setup_does_every_step_once(setup: Setup):
    code, said, asked = setup.setup()
    assert code == 0, said
    steps = ["-m venv --clear .venv", "--requirement requirements.lock"]
    steps += ["arcnn/workshop/install_detectron2.py", "--editable .", "-m pip check"]
    positions = [next(i for i, line in enumerate(asked) if step in line) for step in steps]
    assert positions == sorted(positions)
    assert all("--require-hashes" in line for line in asked if "--requirement" in line)
    assert len(setup.stamps) == 1

    code, said, asked = setup.setup()
    assert (code, asked) == (0, [])


@pytest.mark.parametrize("misspelt", ["PROFLE=smoke", "profile=smoke"])
def test_an_unknown_variable_is_refused(setup: Setup, misspelt: str):
    code, said, asked = setup.make("reproduce", misspelt)
    assert code != 0 and asked == []
    assert f"unknown: {misspelt.split('=')[0]}; make takes PROFILE" in said


def test_setup_looks_at_contents_not_times(setup: Setup):
    setup.setup()
    (before,) = setup.stamps
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (setup.kit / name).touch()
    assert setup.setup()[2] == []

    (setup.kit / "requirements.lock").write_text("# changed\n")
    code, said, asked = setup.setup()
    assert code == 0 and "up to date" in said
    assert not any("-m venv" in line for line in asked)  # kept, not made anew
    assert any("--requirement requirements.lock" in line for line in asked)
    assert len(setup.stamps) == 1 and setup.stamps != [before]


def test_interrupted_setup_is_not_taken_for_finished(setup: Setup):
    setup.fail.touch()
    code, said, _ = setup.setup()
    assert code != 0 and not setup.stamps
    assert "ERROR: no network" in said and "Is the network up" in said

    setup.fail.unlink()
    code, said, asked = setup.setup()
    assert code == 0, said
    assert any("-m venv --clear" in line for line in asked)  # from the start
    assert len(setup.stamps) == 1


def test_interrupted_update_is_not_taken_for_finished(setup: Setup):
    setup.setup()
    setup.fail.touch()
    (setup.kit / "requirements.lock").write_text("# changed\n")
    assert setup.setup()[0] != 0 and not setup.stamps


def test_moved_environment_is_made_anew(setup: Setup):
    setup.setup()
    setup.kit = setup.kit.rename(setup.kit.with_name("moved"))
    code, _, asked = setup.setup()
    assert code == 0 and any("-m venv --clear" in line for line in asked)


def test_environment_without_its_python_is_made_anew(setup: Setup):
    setup.setup()
    (setup.kit / ".venv/bin/python").unlink()
    code, _, asked = setup.setup()
    assert code == 0 and any("-m venv --clear" in line for line in asked)


def test_two_setups_at_once_are_refused(setup: Setup):
    (setup.kit / ".venv").mkdir()
    (setup.kit / ".venv/.busy").write_text(f"{os.getpid()}\n")
    code, said, asked = setup.setup()
    assert code != 0 and "another set-up" in said and asked == []


def test_python_too_old_or_absent(setup: Setup):
    old = setup.executable(setup.python.with_name("old"), "#!/bin/sh\nexit 1\n")
    for python in (old, setup.kit / "nothing"):
        code, said, _ = setup.make("setup", f"PYTHON={python}")
        assert code != 0 and "is not Python 3.11" in said


def test_first_python_that_runs_and_is_new_enough_is_taken(setup: Setup, tmp_path: Path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "uname", "mkdir", "touch", "rm", "ls", "df", "awk", "cp"):
        (tools / name).symlink_to(shutil.which(name))
    code, said, _ = setup.make("setup", path=str(tools))
    assert code != 0 and "no Python 3.11 to 3.13 was found" in said

    setup.executable(tools / "python3", "#!/bin/sh\nexit 127\n")  # a shim with nothing behind it
    setup.executable(tools / "python3.12", STAND_IN)
    code, said, asked = setup.make("setup", "space_needed=0", path=str(tools))
    assert code == 0, said
    assert any("-m venv" in line for line in asked)


def test_python_without_venv(setup: Setup):
    text = '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n'
    python = setup.executable(setup.python.with_name("bare"), text)
    code, said, _ = setup.make("setup", f"PYTHON={python}")
    assert code != 0 and "python3-venv" in said


def test_disk_too_small(setup: Setup):
    code, said, _ = setup.setup("space_needed=999999999")
    assert code != 0 and "free some space" in said and not setup.stamps


def test_folder_that_cannot_be_written_to(setup: Setup):
    (setup.kit / ".venv").write_text("in the way\n")  # root may write anywhere, but not here
    code, said, _ = setup.setup()
    assert code != 0 and "cannot be written to" in said


def test_environment_of_ones_own_is_only_looked_at(setup: Setup, tmp_path: Path):
    own = tmp_path / "own"
    own.mkdir()
    code, said, _ = setup.make("setup", f"BIN={own}")
    assert code != 0 and "holds no Python" in said
    setup.executable(own / "python", STAND_IN)
    code, said, asked = setup.make("setup", f"BIN={own}")
    assert (code, asked) == (0, []), said
    assert not (setup.kit / ".venv").exists()


def test_reproduce_passes_on_what_was_given(setup: Setup):
    _, said, asked = setup.setup("reproduce")
    assert asked[-1] == "-m arcnn.workshop.reproduce --profile demo"
    given = ["PROFILE=overfit", "DATASET=cocoa_cls", "DATA_ROOT=/my data", "RESULTS=out", "CORES=4"]
    _, said, asked = setup.setup("reproduce", *given)
    assert asked == [
        "-m arcnn.workshop.reproduce --profile overfit --dataset cocoa_cls --data-root /my data "
        "--results-root out --cores 4"
    ]


def test_clean_keeps_data_and_results(setup: Setup):
    for name in ("data/tabletop", "results/demo", ".snakemake", "tests"):
        (setup.kit / name).mkdir(parents=True)
    setup.setup()
    assert setup.make("clean")[0] == 0
    assert not (setup.kit / ".venv").exists()
    assert all((setup.kit / name).exists() for name in ("data/tabletop", "results/demo"))
    assert setup.make("clean-results", "PROFILE=../data")[0] != 0
    assert setup.make("clean-results", "PROFILE=demo")[0] == 0
    assert not (setup.kit / "results/demo").exists() and (setup.kit / "results").exists()
