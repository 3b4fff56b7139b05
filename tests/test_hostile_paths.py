"""Names of files and folders that would be orders to make or a shell are names; and folders that
somebody sent, that a clock spoilt, or that a killed process left, do no harm."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_server.auth import IdentityProvider
from jupyter_server.serverapp import ServerApp

from arcnn.errors import InputError
from arcnn.experiments.__main__ import main as experiments
from arcnn.files import ROOT, lock, results_folder, write_atomically, write_json, write_text
from arcnn.workshop.notebooks.report import main as report
from arcnn.workshop.notebooks.runner import main as notebooks
from arcnn.workshop.notebooks.runner import run_notebook
from arcnn.workshop.run import reproduce
from arcnn.workshop.run.estimate import main as estimate
from arcnn.workshop.run.folders import check_writable, date_back, files_below, folder_for_a_while
from arcnn.workshop.run.reference import main as reference

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
    assert asked == ["-m", "arcnn.workshop.run.reproduce", *options]


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


def test_notebooks_and_their_copies_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / EVERYTHING.replace("?", ""), tmp_path / "elsewhere"
    folder.mkdir()
    parameters = nbformat.v4.new_code_cell("place: str = ''", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell("print(place)")]
    notebook, copy = folder / "{x}.ipynb", folder / "made" / "{y}.ipynb"
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), notebook)
    elsewhere.write_text("mine")
    copy.parent.mkdir()
    copy.symlink_to(elsewhere)
    run_notebook(notebook, copy, {"place": EVERYTHING})
    assert elsewhere.read_text() == "mine"
    assert nbformat.read(copy, 4).cells[-1].outputs[0].text == f"{EVERYTHING}\n"
    assert "&lt;&gt;!?*" in copy.with_suffix(".html").read_text()
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize("name", ["a?b", "a\nb", "a\tb"])
def test_results_where_detectron2_would_find_no_weights_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match="has a question mark or a line break in its name"):
        results_folder("demo", str(tmp_path / name))
    assert reproduce.main(["--results-root", str(tmp_path / name), "--profile", "smoke"]) == 2
    assert report(["--results-root", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.count("choose another folder") == 2


def test_braces_are_no_name_for_the_kit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("arcnn.workshop.run.reproduce.ROOT", Path("/home/{me}/kit"))
    assert reproduce.main(["--profile", "smoke"]) == 2
    assert "/home/{me}/kit or" in capsys.readouterr().err


# --- results as they are found -------------------------------------------------------------------


@pytest.mark.parametrize("name", [".lock", ".writable", "profile.yaml", "metrics.json.partial-PID"])
def test_nothing_is_written_through_a_link(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine, results = tmp_path / "mine", tmp_path / "results"
    mine.write_text("mine")
    (results / "smoke").mkdir(parents=True)
    link = results / "smoke" / name.replace("PID", str(os.getpid()))
    link.symlink_to(mine)
    for command in (reproduce.main, report):
        assert command(["--profile", "smoke", "--results-root", str(results)]) > 0
        assert f"{link} is a link that leads out of the results" in capsys.readouterr().err
    write_text(link.with_name("profile.yaml"), "text")
    write_json(link.with_name("metrics.json"), {})
    if name == ".lock":
        with pytest.raises(OSError, match="symbolic link"):
            lock(link)
    assert mine.read_text() == "mine"


def test_two_processes_may_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an evaluation whose Snakemake was killed, and the one that the next run starts."""
    file = tmp_path / "metrics[1].json"

    def slowly(partial: Path) -> None:
        partial.write_text("ha")
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", os.getppid)  # another one that is alive
            write_text(file, "other")
        assert file.read_text() == "other" and partial.read_text() == "ha"
        partial.write_text("half, whole")

    write_atomically(file, slowly)
    assert file.read_text() == "half, whole" and list(tmp_path.iterdir()) == [file]


def test_links_within_results_are_nobodys_trouble(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "runs").mkdir(parents=True)
    (results / "runs" / "a").write_text("a")
    (results / "b").symlink_to("runs/a")
    assert sorted(files_below(results)) == [results / "b", results / "runs" / "a"]
    shutil.move(results, tmp_path / "moved")
    (tmp_path / "results").symlink_to("moved")  # the folder itself may lie on another disk
    assert len(files_below(results)) == 2
    (results / "c").symlink_to(tmp_path)
    with pytest.raises(InputError, match="delete it"):
        files_below(results)


def test_files_from_the_future_keep_their_order(tmp_path: Path) -> None:
    now = time.time()
    times = {"data": now - 1000, "weights": now + 90_000, "curve": now + 90_000}
    times |= {"metrics": now + 95_000}
    for name, when in times.items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (when, when))
    (tmp_path / "nowhere").symlink_to("gone")
    assert date_back(files_below(tmp_path)) == 3
    dates = {name: (tmp_path / name).stat().st_mtime for name in times}
    assert dates["data"] == pytest.approx(now - 1000, abs=1)
    assert now - 1 < dates["weights"] == dates["curve"] < dates["metrics"] <= time.time()
    assert date_back(files_below(tmp_path)) == 0


def test_what_a_killed_process_left_is_swept_once_nobody_uses_it(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path\n"
    code += "from arcnn.workshop.run.folders import folder_for_a_while\n"
    code += "with folder_for_a_while('arcnn-', Path(sys.argv[1])) as own:\n"
    code += "    print(own, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    (tmp_path / "arcnn-of-another-program").mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as at_work:
        of_it = Path(at_work.stdout.readline().strip())
        with folder_for_a_while("arcnn-", tmp_path) as mine:
            assert of_it.is_dir() and mine.is_dir()
        assert not mine.exists()
        at_work.kill()
    assert of_it.is_dir()
    with folder_for_a_while("arcnn-", tmp_path):
        assert not of_it.exists()
    assert [left.name for left in tmp_path.iterdir()] == ["arcnn-of-another-program"]


def test_half_written_files_go_after_a_day(tmp_path: Path) -> None:
    for name in ("a.pth.partial-1", "b.pth.partial-2", "c.pth"):
        (tmp_path / name).write_text("half")
    for name in ("a.pth.partial-1", "c.pth"):
        os.utime(tmp_path / name, (0, time.time() - 90_000))
    check_writable(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.pth.partial-2", "c.pth"]


def test_jupyterlab_is_asked_to_listen_on_this_machine_alone_with_a_token(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, asked = make("lab", {"BIN": "own"})
    assert not [text for text in asked if re.search(r"\bip\b|token|password|origin", text.lower())]
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    for name in ("JUPYTER_IP", "JUPYTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert ServerApp().ip == "localhost" and ServerApp().allow_remote_access is False
    assert len(IdentityProvider().token) >= 32


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../x", "a b", ""])
def test_what_is_no_name_of_a_profile_names_no_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "table1.csv").write_text("")
    assert reference(["--profile", name, "--results-root", str(tmp_path / "results")]) == 1
    assert "not the name of a profile" in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"- a", b"", b"a: [", b"a: \xe9"])
def test_a_file_that_holds_no_parameters_is_named(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file, notebook = tmp_path / "profile.yaml", ROOT / "notebooks" / "06_table1.ipynb"
    file.write_bytes(text)
    options = ["--profile-file", str(file), "--dataset", "tabletop"]
    assert experiments(["features", *options]) == 1
    assert estimate([str(file)]) == 1
    monkeypatch.setattr(
        sys, "argv", ["", str(notebook), str(tmp_path / "o.ipynb"), "-f", str(file)]
    )
    assert notebooks() == 1
    assert capsys.readouterr().err.count(f"{file} ") == 3


@pytest.mark.parametrize("text", ["{}", "no JSON"])
def test_a_file_that_is_no_notebook_is_told(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.ipynb").write_text(text)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "x.ipynb"), str(tmp_path / "o.ipynb")])
    assert notebooks() == 1
