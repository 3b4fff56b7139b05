"""The lock, the conda file, the ignore list, the set-up and the Makefile."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from arcnn.workshop.setup import audit, environment

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Packages with another name on conda-forge, and those that only the conda file names.
CONDA_NAMES = {
    "playwright": "playwright-python",
    "torch": "pytorch",
    "snakemake": "snakemake-minimal",
}
CONDA_ONLY = {"python", "pip", "detectron2"}


def requirements() -> list[Requirement]:
    """All requirements of pyproject.toml, extras included."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines]


def lock_entries() -> list[str]:
    """The lock, one string per pinned package: its first line and the hashes below."""
    return [entry for entry in re.split(r"\n(?=[A-Za-z0-9])", LOCK) if not entry.startswith("#")]


def test_lock_pins_what_pyproject_asks_for_with_hashes_and_names_no_place():
    pins: dict[str, list[str]] = {}
    for entry in lock_entries():
        pin = re.match(r"([\w.-]+)==([\w.+!-]+)( ;[^\n]*)? \\\n", entry)
        assert pin and re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]
        pins.setdefault(canonicalize_name(pin[1]), []).append(pin[2])
    for requirement in requirements():
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions and all(map(requirement.specifier.contains, versions)), (
            f"{requirement} is locked as {versions}; run `make lock`"
        )
    assert "://" not in LOCK
    assert not re.search(r"^\s*-(-index-url|-extra-index-url|-find-links|i|f|e)\b", LOCK, re.M)


def test_cpu_environment_lacks_what_only_cuda_needs(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(environment.sys, "platform", "linux")
    builds, cuda, rest = environment.without_cuda()
    assert builds == CPU_BUILDS
    # As they stand in the lock, with their hashes.
    dropped = {*cuda, "torch", "torchvision"}
    kept = [entry for entry in lock_entries() if entry.partition("==")[0] not in dropped]
    assert rest.rstrip("\n") == "\n".join(kept).rstrip("\n")
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in cuda)
    # torch's own word on what it needs, and on what of it on Linux alone.
    for needed in map(Requirement, importlib.metadata.requires("torch")):
        if "extra" not in str(needed.marker):
            on_linux_alone = "Linux" in str(needed.marker)
            assert (canonicalize_name(needed.name) in cuda) == on_linux_alone, needed


def test_what_others_ask_for_too_is_no_part_of_cuda(kit: Path):
    linux = "==1 ; sys_platform == 'linux' \\\n    --hash=sha256:0\n    # via"
    environment.LOCK.write_text(
        f"a{linux} b\nb{linux} torch\nc{linux}\n    #   arcnn (pyproject.toml)\n    #   torch\n"
        f"d{linux}\n    #   a\n    #   b\ne==1 \\\n    # via torch\nf{linux} c\ntorch==2 \\\n"
    )
    _, cuda, rest = environment.without_cuda()
    assert cuda == ["a", "b", "d"] and re.findall(r"(?m)^\w", rest) == ["c", "e", "f"]


def test_conda_file_has_the_packages_and_the_python_of_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    assert f"python {PROJECT['requires-python']}" in conda["dependencies"]
    lines = [
        line
        for entry in conda["dependencies"]
        for line in (entry["pip"] if isinstance(entry, dict) else [entry])
    ]
    names = [re.split(r"[ <>=]", line.rpartition("::")[2])[0] for line in lines]
    assert len(names) == len(set(names))
    expected = {CONDA_NAMES.get(r.name, canonicalize_name(r.name)) for r in requirements()}
    assert {canonicalize_name(name) for name in names} - CONDA_ONLY == expected


# --- the set-up, in a kit of its own ------------------------------------------------------------

STEPS = ["-m venv --clear .venv", "setuptools.lock", "requirements.lock", "install_detectron2.py"]
STEPS += ["--editable ."]
# With TORCH_CPU, and how the first of them is begun where an environment is there already.
CPU_BUILDS = [f"{requirement}+cpu" for requirement in PROJECT["dependencies"][:2]]
CPU_STEPS = [STEPS[0], " ".join(CPU_BUILDS), "--yes cuda-", STEPS[1], "cpu.lock", "import torch"]
CPU_STEPS += STEPS[3:]
TRIED = "--dry-run"
CHANGED, GONE = "echo >> requirements.lock", "rm -r .venv"


@pytest.fixture
def kit(tmp_path: Path, monkeypatch) -> Path:
    """The current folder, with what the set-up and make need."""
    kit = tmp_path / "a kit"  # with a space, as in "My Documents"
    (kit / "arcnn/workshop/setup").mkdir(parents=True)
    for path in (*environment.MADE_FROM, Path("arcnn/__init__.py")):
        (kit / path).write_text(f"# {path}\n")
    for path in ("Makefile", "arcnn/workshop/setup/environment.py"):
        shutil.copy(ROOT / path, kit / path)
    monkeypatch.chdir(kit)
    return kit


def set_up(monkeypatch, fails: str = "nothing", torch_cpu: str | None = None) -> list[str]:
    """Set up with a stand-in for all commands, where those with ``fails`` in them fail.

    Returns:
        the steps that were made.
    """
    made = []

    def run(command: tuple, env: dict, **_) -> subprocess.CompletedProcess:
        line = " ".join(map(str, command))
        steps = [TRIED] if TRIED in line else dict.fromkeys(STEPS + CPU_STEPS)
        made.extend(step for step in steps if step in line)
        with pytest.raises(SystemExit, match="another set-up is at work here; wait for it"):
            environment.claim()
        assert env["PIP_USER"] == "0" and "PYTHONPATH" not in env
        assert "--require-hashes" in line or "--requirement" not in line
        if STEPS[0] in line and fails not in line:
            shutil.rmtree(".venv")
            Path(".venv/bin").mkdir(parents=True)
            environment.PYTHON.touch(mode=0o755)
        return subprocess.CompletedProcess(command, int(fails in line), "", "")

    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", "elsewhere")
        patch.setattr(environment.subprocess, "run", run)
        patch.setenv("space_needed", str(10**9 if fails == "disk" else 0))
        environment.set_up("", torch_cpu)
    return made


def test_setup_makes_every_step_once(kit: Path, monkeypatch, capfd):
    environment.LOCK.write_text(LOCK)
    assert set_up(monkeypatch) == STEPS
    assert re.findall(r"Set-up (\d)/4: ", capfd.readouterr().out) == list("1234")
    assert Path(".venv/setuptools.lock").read_text().rstrip() in lock_entries()
    assert set_up(monkeypatch) == [] and capfd.readouterr().out == ""


# What happens to a finished environment, which command fails then, the steps or the sentence.
@pytest.mark.parametrize(
    ("happens", "fails", "ends"),
    [
        ("touch requirements.lock pyproject.toml", "nothing", []),
        (CHANGED, "nothing", STEPS[1:]),
        ("mv ../*kit ../moved", "nothing", STEPS),
        ("rm .venv/bin/python", ".venv/bin/python -c", STEPS),
        (CHANGED, ".venv/bin/python -c", STEPS),  # too old by now, say
        (GONE, "(3, 11)", "no Python 3.11 to 3.13 was found; install one"),
        (GONE, "import venv, ensurepip", "python3 cannot make environments"),
        (GONE, "disk", "MB are free here, about 1000000000 are needed"),
        (GONE, STEPS[0], "the environment could not be made"),
        (GONE, STEPS[1], "Is the network up"),
        (CHANGED, STEPS[2], "Is the network up"),
        (CHANGED, STEPS[3], "^1$"),  # the exit code alone; this step says itself what is wrong
        (CHANGED, STEPS[4], "this kit could not be installed; remove the folder .venv"),
        # root may write anywhere, but not here
        (f"{GONE}; touch .venv", "nothing", "a kit cannot be written to"),
    ],
)
def test_setup_goes_by_what_it_finds(kit: Path, monkeypatch, happens, fails, ends):
    set_up(monkeypatch)
    subprocess.run(happens, shell=True, check=True)
    if isinstance(ends, list):
        assert set_up(monkeypatch, fails) == ends
        assert set_up(monkeypatch) == []
    else:
        with pytest.raises(SystemExit, match=ends):
            set_up(monkeypatch, fails)
        if fails != "nothing":
            assert set_up(monkeypatch) == STEPS  # from the start


@pytest.fixture
def wheels(kit: Path, monkeypatch) -> str:
    """A folder for CPU builds, beside a kit with the real lock, on Linux."""
    monkeypatch.setattr(environment.sys, "platform", "linux")
    environment.LOCK.write_text(LOCK)
    (kit / "wheels").mkdir()
    return "wheels"


def test_cpu_environment_stays_one(kit: Path, wheels: str, monkeypatch, capfd):
    assert set_up(monkeypatch, torch_cpu=wheels) == CPU_STEPS
    assert re.findall(r"Set-up (\d)/4: ", capfd.readouterr().out) == list("1234")
    assert Path(".venv/cpu.lock").read_text() == environment.without_cuda()[2]
    assert set_up(monkeypatch) == set_up(monkeypatch, torch_cpu=f"{kit}/wheels") == []
    subprocess.run(CHANGED, shell=True, check=True)
    assert set_up(monkeypatch) == [TRIED, *CPU_STEPS[1:]]
    subprocess.run("mv ../*kit ../moved", shell=True, check=True)
    assert set_up(monkeypatch) == CPU_STEPS
    shutil.rmtree(".venv")
    assert set_up(monkeypatch) == STEPS


def test_interrupted_it_goes_on_as_cpu_environment(wheels: str, monkeypatch):
    with pytest.raises(SystemExit, match="Is the network up"):
        set_up(monkeypatch, "cpu.lock", torch_cpu=wheels)
    assert set_up(monkeypatch) == CPU_STEPS


def test_without_cuda_less_room_is_needed(wheels: str, monkeypatch):
    monkeypatch.delenv("space_needed", raising=False)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(SystemExit, match=f"about {environment.SPACE_NEEDED} are"):
        environment.make_anew(sys.executable, "")
    with pytest.raises(SystemExit, match=f"about {environment.SPACE_NEEDED_CPU} are"):
        environment.make_anew(sys.executable, wheels)


def test_finished_environment_becomes_one_without_cuda(wheels: str, monkeypatch):
    set_up(monkeypatch)
    with pytest.raises(SystemExit, match="TORCH_CPU=https://no.such did not give torch==2"):
        set_up(monkeypatch, TRIED, torch_cpu="https://no.such")
    assert set_up(monkeypatch) == []  # that took nothing away
    assert set_up(monkeypatch, torch_cpu=wheels) == [TRIED, *CPU_STEPS[1:]]
    assert set_up(monkeypatch) == []
    with pytest.raises(SystemExit, match="wheels gave does not work as a CPU build of PyTorch"):
        Path(".venv/.ready").unlink()
        set_up(monkeypatch, "import torch")


@pytest.mark.parametrize("given", ["", "whels", "requirements.lock", "download.example/cpu"])
def test_place_that_is_none_is_refused(wheels: str, monkeypatch, given: str):
    set_up(monkeypatch)
    with pytest.raises(SystemExit, match=f"TORCH_CPU={given} is neither an address .* nor a"):
        set_up(monkeypatch, torch_cpu=given)
    assert set_up(monkeypatch) == []


def made_wheel(name: str, cuda: str | None = None) -> None:
    """A wheel of one module, which says what it is built for; ``name`` is package-version."""
    package, version = name.split("-")
    info = f"{name}.dist-info"
    with zipfile.ZipFile(f"wheels/{name}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{package}.py", f"class version:\n    cuda = {cuda!r}\n")
        archive.writestr(f"{info}/METADATA", f"Name: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_pip_takes_cpu_builds_of_the_locks_versions_and_no_others(kit, wheels, monkeypatch, capfd):
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    # No other sources than the one given, whatever the user has pip look at.
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    torch, vision = (build.replace("==", "-") for build in CPU_BUILDS)

    def install(place: str) -> int:
        environment.install_torch(place, "--target", "site")
        look = [sys.executable, "-c", environment.LOOK_AT_TORCH]
        return subprocess.run(look, cwd="site").returncode

    for name in (vision, torch.replace("+cpu", ""), torch.replace("cpu", "cu130"), "torch-2+cpu"):
        made_wheel(name)
    for place in ("wheels", "http://127.0.0.1:9/simple"):
        with pytest.raises(SystemExit, match=f"TORCH_CPU={place} did not give torch==2"):
            install(place)
        assert "ERROR: " in capfd.readouterr().err and not Path("site").exists()
    made_wheel(torch)
    assert install("wheels") == 0
    assert Path(f"site/{torch}.dist-info").exists() and Path(f"site/{vision}.dist-info").exists()
    # The same as an index; and a wheel that is not what its name says.
    made_wheel(torch, cuda="13.0")
    shutil.rmtree("site")
    for name in (torch, vision):
        page = Path("index", name.split("-")[0], "index.html")
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="../../wheels/{name}-py3-none-any.whl">{name}</a>')
    assert install((kit / "index").as_uri()) == 1
    assert "torch is built for CUDA 13.0" in capfd.readouterr().err


# --- into a Python that brings its PyTorch, as that of a hosted notebook -----------------------


def host_wheel(name: str, version: str, needs: str = "") -> None:
    """An empty wheel, which may need others."""
    base = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(f"wheels/{base}-py3-none-any.whl", "w") as archive:
        needed = f"Requires-Dist: {needs}\n" if needs else ""
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}"
        archive.writestr(f"{base}.dist-info/METADATA", text)
        archive.writestr(f"{base}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{base}.dist-info/RECORD", "")


def some_version(requirement: Requirement) -> str:
    tried = ("0.6", "1.8", "2.4.1", "2.7", "3.0", "3.11", "4.6", "9.27", "78", "2.14.1", "0.29.1")
    return next(version for version in tried if requirement.specifier.contains(version))


def test_a_host_keeps_its_torch_and_gets_the_rest(kit: Path, monkeypatch, capfd):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": "wheels"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    shutil.copy(ROOT / "pyproject.toml", kit)
    Path("wheels").mkdir()
    asked = [Requirement(r) for r in PROJECT["dependencies"]]
    asked += map(Requirement, PROJECT["optional-dependencies"]["detectron2"])
    for needed in asked:
        host_wheel(needed.name, some_version(needed))
    host_wheel("setuptools", "78.0")  # with which the kit itself is built
    # Newer ones of what the host has are there, and some of the rest would take them.
    has = {"torch": "2.9.0", "torchvision": "0.24.0", "ipykernel": "6.17.1", "triton": "3.5.0"}
    for name, version in has.items():
        host_wheel(name, version)
        host_wheel(name, "99.0")
    host_wheel("scipy", "3.0", "torch>=2")
    host_wheel("papermill", "2.7", "ipykernel")
    venv.create("host", with_pip=True)
    python = str(kit / "host/bin/python")

    def installed() -> dict[str, str]:
        listed = [python, "-m", "pip", "list", "--format", "freeze"]
        said = subprocess.run(listed, capture_output=True, text=True)
        return dict(line.split("==") for line in said.stdout.split())

    real, steps = subprocess.run, []

    def but_the_last(command: tuple, **given: object) -> subprocess.CompletedProcess:
        if "--editable" in command:  # which would have to be built
            steps.append("editable")
            return subprocess.CompletedProcess(command, 0)
        return real(command, **given)

    monkeypatch.setattr(environment.sys, "executable", python)
    found = real([python, "-c", PACKAGES], capture_output=True, text=True).stdout
    monkeypatch.setattr(environment.importlib.metadata, "distributions", lambda: in_host(found))
    with pytest.raises(SystemExit, match="has no torch and no torchvision, and --here leaves"):
        environment.install_here()
    pins = [f"{name}=={version}" for name, version in has.items()]
    real([python, "-m", "pip", "install", "-qq", *pins], check=True)
    found = real([python, "-c", PACKAGES], capture_output=True, text=True).stdout
    monkeypatch.setattr(environment.subprocess, "run", but_the_last)
    environment.install_here()
    assert steps == ["editable"] and "beside torch 2.9.0" in capfd.readouterr().out
    after = installed()
    assert has.items() <= after.items()
    left = {"snakemake", "jupyterlab", "jupyter-client", "ipywidgets", "traitlets"}
    names = {canonicalize_name(needed.name) for needed in asked}
    assert {canonicalize_name(name) for name in after} - {"pip", "triton"} == names - left
    # What does not go with the host's PyTorch is a sentence, and changes nothing.
    for wheel in Path("wheels").glob("scipy-*"):
        wheel.unlink()
    host_wheel("scipy", "3.1", "torch>=50")
    real([python, "-m", "pip", "uninstall", "-qq", "--yes", "scipy"], check=True)
    with pytest.raises(SystemExit, match="If they do not go with what the host has"):
        environment.install_here()
    assert installed() == {name: v for name, v in after.items() if name != "scipy"}


def test_a_host_with_an_old_torch_is_refused_as_the_conda_file_does(kit: Path, monkeypatch):
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"pytorch >={'.'.join(map(str, environment.OLDEST_TORCH))}" in conda
    shutil.copy(ROOT / "pyproject.toml", kit)
    monkeypatch.setattr(environment, "run", lambda *words, **_: environment.SUPPORTED in words)
    for version, said in (
        ("2.5.1+cu121", "has torch 2.5.1.*needs 2.6 or newer"),
        ("2.10.0", "could not be installed"),  # the next step, which fails here
    ):
        found = in_host(f"torch {version}\ntorchvision 0.20.1")
        monkeypatch.setattr(environment.importlib.metadata, "distributions", lambda of=found: of)
        with pytest.raises(SystemExit, match=said):
            environment.install_here()


PACKAGES = """import importlib.metadata
for each in importlib.metadata.distributions(): print(each.name, each.version)"""


def in_host(listed: str) -> list[SimpleNamespace]:
    lines = map(str.split, listed.splitlines())
    return [SimpleNamespace(name=name, version=version) for name, version in lines]


def test_first_python_that_is_new_enough_is_taken(monkeypatch):
    there = ("python3.12", "mine")
    monkeypatch.setattr(environment, "run", lambda python, *_, quiet: python in there)
    assert environment.choose_python("") == "python3.12"
    assert environment.choose_python("mine") == "mine"
    with pytest.raises(SystemExit, match="PYTHON=python3 does not run or is not Python 3.11"):
        environment.choose_python("python3")


def test_any_python_from_3_8_on_reads_the_program():
    ast.parse(Path(environment.__file__).read_text(), feature_version=(3, 8))


# --- make, with a stand-in for Python -----------------------------------------------------------

# Notes PYTHONPATH and what it is to run; passes looks at itself, and the set-up, on to Python.
STAND_IN = f"""#!/bin/sh
case "$1" in -c|-IS*|--version) exec "{sys.executable}" "$@" ;; esac
echo "$PYTHONPATH $*" >> log
case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;; esac
"""


def script(path: str, text: str = STAND_IN) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    Path(path).chmod(0o755)


def make(*arguments: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit code of make in the current folder, all output, and what the stand-in noted."""
    Path("log").write_text("")
    command = [shutil.which("make") or pytest.skip("no make"), "space_needed=0", *arguments]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    result = subprocess.run(command, env={"PATH": os.environ["PATH"]} | variables, **out)
    return result.returncode, result.stdout, Path("log").read_text().splitlines()


def test_make_finds_a_python_and_sets_up_once(kit: Path):
    script("tools/python3", "#!/bin/sh\nexit 127\n")  # a shim with nothing behind it
    for name in ("sh", "mkdir", "cp"):
        Path("tools", name).symlink_to(shutil.which(name))
    tools = {"PATH": str(kit / "tools")}
    code, said, _ = make("setup", **tools)
    assert code != 0 and "no Python 3.11 to 3.13 was found" in said
    script("tools/python3.12")
    code, said, _ = make("setup", "PYTHON=python3", **tools)
    assert code != 0 and "PYTHON=python3 does not run" in said
    code, said, asked = make("setup", **tools)
    assert code == 0 and all(step in line for step, line in zip(STEPS, asked, strict=True)), said
    assert make("setup", **tools) == (0, "The environment is ready: .venv/bin\n", [])


def test_make_passes_on_where_cpu_builds_are(kit: Path, wheels: str):
    script("tools/python3.11")
    path = {"PATH": f"{kit}/tools:{os.environ['PATH']}"}
    code, said, asked = make("setup", "TORCH_CPU=", "PYTHON=python3.11", **path)
    assert code != 0 and "TORCH_CPU= is neither an address" in said and not asked
    Path("torch.py").write_text("class version:\n    cuda = None\n")
    Path("torchvision.py").write_text("")
    code, said, asked = make("setup", f"TORCH_CPU={wheels}", "PYTHON=python3.11", **path)
    assert code == 0 and f"--no-index --find-links {kit}/wheels torch==" in "\n".join(asked), said
    assert make("setup") == (0, "The environment is ready: .venv/bin\n", [])
    assert make("setup", TORCH_CPU="wheels") == (0, "The environment is ready: .venv/bin\n", [])
    assert "TORCH_CPU=whels is neither" in make("setup", TORCH_CPU="whels")[1]


def test_environment_of_ones_own_is_only_looked_at(kit: Path):
    code, said, _ = make("setup", "BIN=own")
    assert code != 0 and "BIN=own holds no Python 3.11 to 3.13" in said
    script("own/python", STAND_IN.replace('"$@"', '-S "$@"'))  # without its packages
    code, said, _ = make("setup", "BIN=own")
    assert code != 0 and "lacks arcnn, detectron2 or torch" in said
    script("own/python")
    assert make("setup", "BIN=own") == (0, "The environment is ready: own\n", [])
    assert not Path(".venv").exists()


def test_environment_of_another_clone_runs_this_one(kit: Path):
    shutil.copytree("arcnn", "../other/arcnn")
    script("arcnn/workshop/notebooks/lab.py", "")
    script("jupyterlab.py", "import arcnn\nprint(arcnn.__file__)\n")
    python = f'#!/bin/sh\nPYTHONPATH="%s" exec "{sys.executable}" "$@"\n'
    script("own/python", python % f"$PYTHONPATH:{kit.parent}/other")
    assert make("lab", "BIN=own")[:2] == (0, f"{kit}/arcnn/__init__.py\n")
    script("own/python", python % f"{kit.parent}/other:$PYTHONPATH")
    code, said, _ = make("lab", "BIN=own")
    assert code != 0 and f"imports arcnn from {kit.parent}/other" in said


def test_make_passes_on_what_was_given(kit: Path):
    script("own/python")
    given = ["PROFILE=overfit", "DATASET=cocoa_cls", "DATA_ROOT=/my data", "RESULTS=out", "CORES=4"]
    assert make("reproduce", "BIN=own", *given)[2] == [
        f"{kit} -m arcnn.workshop.run.reproduce --profile=overfit --dataset=cocoa_cls "
        "--data-root=/my data --results-root=out --cores=4"
    ]
    asked = make("bench", "BIN=own", "BENCH_ARGS=--quick", PYTHONPATH="/mine")[2]
    assert asked == [f"{kit}:/mine tests/bench.py --quick"]
    for misspelt in ("PROFLE", "profile"):
        code, said, asked = make("reproduce", "BIN=own", f"{misspelt}=smoke")
        assert code != 0 and f"unknown: {misspelt}; make takes PROFILE" in said and not asked


def test_clean_keeps_data_and_results(kit: Path):
    kept = [Path("data/tabletop"), Path("results/reference"), Path("results/demo")]
    for folder in (*kept, Path(".venv"), Path("tests")):
        folder.mkdir(parents=True)
    assert make("clean")[0] == 0 and not Path(".venv").exists()
    assert make("clean-results", "PROFILE=../data")[0] != 0
    code, said, _ = make("clean-results", "PROFILE=reference")
    assert code != 0 and "reference is kept in git" in said
    assert all(folder.exists() for folder in kept)
    assert make("clean-results", "PROFILE=demo")[0] == 0
    assert [folder.exists() for folder in kept] == [True, True, False]


# --- known vulnerabilities ----------------------------------------------------------------------

SOUND, BAD = {"name": "a", "version": "1", "vulns": []}, {"id": "X-1", "fix_versions": ["2"]}
UNKNOWN = {"name": "c", "version": "1", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([SOUND], 0, "^1 packages of requirements.lock looked up, 0 with"),
        ([SOUND, SOUND | {"vulns": [BAD]}], 1, "a 1: X-1 .*2 packages .* looked up, 1 with"),
        ([SOUND, UNKNOWN], 2, r"1 packages .* looked up.*Not checked: 1 packages .* \(not found\)"),
        ([UNKNOWN], 2, "^0 packages .*Not checked: 1 packages"),
        (None, 2, "^0 packages .*Not checked: all packages .*no such host"),
    ],
)
def test_an_audit_says_what_it_could_not_look_up(packages, code, said, monkeypatch, capsys):
    def run(command: list, **_) -> SimpleNamespace:
        out = "" if packages is None else json.dumps({"dependencies": packages})
        return SimpleNamespace(stdout=out, stderr="asked\nno such host\n")

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main([]) == code
    assert re.search(f"(?s){said}", "".join(capsys.readouterr()))
