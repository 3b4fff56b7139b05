"""Names of files and folders that would be orders to make or a shell: they are names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arcnn.files import ROOT

# Each would leave a file "executed" behind, or end a quotation, if anybody read it as an order.
ORDER = "touch executed"
NAMES = {
    "backticks": f"a`{ORDER}`",
    "of make": f"a$(shell {ORDER})",
    "of a shell": f"a$({ORDER})",
    "of a shell, as make writes it": f"a$$({ORDER})",
    "a variable": "a$HOME ${HOME} $(CURDIR) %s %(x)s",
    "double quotes": f'a"; {ORDER}; echo "',
    "single quotes": f"a'; {ORDER}; echo '",
    "lines": f"a\n{ORDER}\n",
    "end of a line": "a \\",
    "braces": "a {x} {{y}} {input} [0-9]* ~",
    "an option": "--help",
    "others": "a #b; é\t&|<>!?*",
}
EVERYTHING = "".join(NAMES.values())
GIVEN = ("PROFILE", "DATASET", "SEEDS", "DATA_ROOT", "RESULTS", "CORES", "EXECUTOR", "GPU_JOBS")
OPTIONS = ("profile", "dataset", "seeds", "data-root", "results-root", "cores", "executor")
OPTIONS += ("gpu-jobs",)
STAND_IN = f"""#!/bin/sh
case "$1" in -ISc) exit 0 ;; esac
exec "{sys.executable}" -ISc 'import json, sys
with open("log", "a") as log: print(json.dumps(sys.argv[1:]), file=log)' "$@"
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the Makefile, and an environment ``own`` that notes what it is to
    run, in ``log``."""
    kit = tmp_path / "kit"
    kit.mkdir()
    shutil.copy(ROOT / "Makefile", kit)
    environment_in(kit / "own")
    monkeypatch.chdir(kit)
    return kit


def environment_in(folder: Path) -> None:
    folder.mkdir()
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)


def make(
    target: str, given: dict[str, str], *options: str, by_environment: bool = False
) -> list[list[str]]:
    """The arguments of each Python that a target starts. Values may come by the environment, which
    a Makefile has the last word on, unless make is told otherwise."""
    Path("log").write_text("")
    command = [shutil.which("make") or pytest.skip("no make"), target, *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": EVERYTHING}
    if by_environment:
        command, environment = [*command, "--environment-overrides"], environment | given
    else:
        environment["target"] = EVERYTHING  # a variable of the Makefile's own
        command += [f"{name}={value}" for name, value in given.items()]
    subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not list(Path().rglob("executed")), "a name was executed"
    return [json.loads(line) for line in Path("log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "by_environment"),
    [*((name, False) for name in NAMES.values()), (EVERYTHING, True)],
    ids=[*NAMES, "by the environment"],
)
def test_what_make_is_given_is_text(kit: Path, name: str, by_environment: bool) -> None:
    given = dict.fromkeys(GIVEN, name) | {"BIN": "own"}
    _, asked = make("reproduce", given, by_environment=by_environment)
    options = [f"--{option}={name}" for option in OPTIONS]
    assert asked == ["-m", "arcnn.workshop.reproduce", *options]


@pytest.mark.parametrize(
    "target", ["ablation", "rehearse", "start", "reference", "book", "slides", "report"]
)
def test_what_any_target_is_given_is_text(kit: Path, target: str) -> None:
    looked, *asked = make(target, dict.fromkeys(GIVEN, EVERYTHING) | {"BIN": "own"})
    assert asked
    for arguments in asked:
        given = dict(text.split("=", 1) for text in arguments if "=" in text)
        assert set(given.values()) == {EVERYTHING} and given.keys() <= {f"--{o}" for o in OPTIONS}


def test_arguments_of_other_programs_are_split_and_no_more(kit: Path) -> None:
    text = f"--a `{ORDER}` $({ORDER}); $(shell {ORDER})\n--b"
    given = {"LAB_ARGS": text, "BENCH_ARGS": text, "BIN": "own"}
    *_, asked = make("lab", given)
    assert asked[-len(text.split()) :] == text.split()
    assert make("bench", given)[-1] == ["tests/bench.py", *text.split()]


@pytest.mark.parametrize("name", ["--help", EVERYTHING], ids=["an option", "everything"])
def test_environments_and_pythons_have_any_name(kit: Path, name: str) -> None:
    environment_in(kit / name)
    for given in (name, f"{kit}/{name}"):
        looked, asked = make("bench", {"BIN": given})
        assert looked[-2:] == ["--own", given] and asked == ["tests/bench.py"]
    given = {"PYTHON": f"./{name}/python", "TORCH_CPU": name}
    for by_environment in (False, True):
        assert make("setup", given, by_environment=by_environment)[0][-2:] == [*given.values()]


@pytest.mark.parametrize("name", ["--help", EVERYTHING], ids=["an option", "everything"])
def test_the_kit_lies_in_a_folder_of_any_name(
    kit: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.rename(kit.with_name(name))
    monkeypatch.chdir(kit.with_name(name))
    *_, asked = make("lab", {"BIN": "own"})
    assert f"--ServerApp.root_dir={kit.with_name(name)}" in asked


@pytest.mark.parametrize("name", ["--help", EVERYTHING], ids=["an option", "everything"])
def test_results_of_a_profile_of_no_such_name_are_not_cleaned_away(kit: Path, name: str) -> None:
    kept, gone = [Path("results", "a"), Path("out", "a")], Path(name, "demo")
    for folder in (*kept, gone):
        folder.mkdir(parents=True)
    assert make("clean-results", {"PROFILE": name}) == []
    assert make("clean-results", {"PROFILE": f"a\n{name}"}) == []
    assert gone.is_dir()
    make("clean-results", {"PROFILE": "demo", "RESULTS": name})
    assert [folder.is_dir() for folder in (*kept, gone)] == [True, True, False]
