"""The notebooks as sources: their anatomy, and the strict way of running them."""

import ast
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.kernelspec import NoSuchKernel
from traitlets.config import Config

from arcnn.files import NOTEBOOKS
from arcnn.parameters import ParameterError
from arcnn.weights import FINAL_WEIGHTS
from arcnn.workshop.notebooks.lab import hand_out, handout, machine
from arcnn.workshop.notebooks.runner import (
    ProgressLines,
    check_parameters,
    main,
    run_notebook,
)

SOURCES = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
INDEX = NOTEBOOKS / "index.ipynb"


def test_the_notebooks_are_numbered_without_a_gap() -> None:
    assert [source.name[:2] for source in SOURCES] == [f"{n:02d}" for n in range(len(SOURCES))]
    assert len(SOURCES) >= 9


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_anatomy(source: Path) -> None:
    notebook = nbformat.read(source, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    title = notebook.cells[0].source
    parts = ["What you learn", "Needs", "Makes", "Time"]
    parts += ["Previous"] * (source != SOURCES[0]) + ["Next"] * (source != SOURCES[-1])
    assert title.startswith(f"# {source.name[:2]} ") and all(part in title for part in parts)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "write_record(" in cells[-1].source
    _, imports = (c for c in cells if "imports" in c.metadata.get("tags", []))
    assert imports.metadata.jupyter.source_hidden and imports.source.endswith("print(about())")
    first = next(line for line in imports.source.splitlines() if "import" in line)
    assert "arcnn" in first  # it silences warnings that importing detectron2 would show
    for cell in cells:
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 30
        assert "/home/" not in cell.source and "/work/" not in cell.source
    for cell in notebook.cells:
        for target in cell.source.split("](")[1:]:
            target = target.split(")")[0].split("#")[0]
            if cell.cell_type == "markdown" and target.endswith((".ipynb", ".md")):
                assert (NOTEBOOKS / target).is_file(), target


@pytest.mark.parametrize("source", [*SOURCES, INDEX], ids=lambda source: source.stem)
def test_parameters_are_literals_with_comments_and_common_defaults(source: Path) -> None:
    cells = [c for c in nbformat.read(source, as_version=4).cells if c.cell_type == "code"]
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert tagged == cells[:1]
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        ast.literal_eval(statement.value)
    assert all("  # " in line for line in tagged[0].source.splitlines())
    found = {n: p["default"] for n, p in papermill.inspect_notebook(str(source)).items()}
    common = {"dataset": '"tabletop"', "seed": "0", "data_root": '""'}
    common["profile"] = '"field"' if source.stem == "13_the_field" else '"demo"'
    for name, value in (common | {"results_root": '""', "options": "[]"}).items():
        assert found.get(name, value) == value


# The second cell of each notebook: is this the kit's Python, and are these its parameters?
FIRST_LOOK = """try:
    from arcnn.parameters import check_own_parameters
except ImportError as error:  # the kernel of another environment
    import sys

    said = f"{error} (Python: {sys.executable}). Choose Kernel > Change Kernel..., or `make lab`."
    error._render_traceback_ = lambda: [said]
    raise
check_own_parameters()"""


@pytest.mark.parametrize("source", [*SOURCES, INDEX], ids=lambda source: source.stem)
def test_every_notebook_looks_first_where_it_runs_and_with_what(source: Path) -> None:
    cells = [c for c in nbformat.read(source, as_version=4).cells if c.cell_type == "code"]
    assert cells[1].source == FIRST_LOOK
    assert cells[1].metadata.tags == ["imports"] and cells[1].metadata.jupyter.source_hidden


def in_ipython(capsys: pytest.CaptureFixture, *cells: str) -> str:
    """What IPython prints, from a fresh start, of cells run one after the other."""
    InteractiveShell.clear_instance()
    alone = Config({"HistoryManager": {"enabled": False}})  # nobody's own history is written
    shell = InteractiveShell.instance(config=alone)
    # IPython's own way forks this process, and a fork of one that has threads may never get on.
    shell.system = shell.system_raw
    capsys.readouterr()
    for cell in cells:
        shell.run_cell(cell, store_history=True)
    return capsys.readouterr().out


def test_a_kernel_without_the_kit_is_told_by_name(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "arcnn.parameters", None)
    said = in_ipython(capsys, FIRST_LOOK)
    assert "arcnn" in said and f"(Python: {sys.executable}). Choose Kernel" in said
    assert "Traceback" not in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["a: int = 1  # x", "# Parameters\na = 2"], ""),
        (
            ["max_iter: int = 1  # x", "# Parameters\nmax_itr = 2"],
            'Did you mean "max_iter"? It has',
        ),
        (["a: int = 1  # x", '# Parameters\na = "2"'], "This notebook: a is of type int, not '2'"),
        (['seeds: list = "0"  # x'], "seeds is of type list, not '0'; write ['0']."),
        (['seeds: list = "0"  # x', 'seeds: list = ["0"]  # x'], ""),
        (["a: int = 1  # x", "mine = 3", "b = a", "!true", "x: str = str(a); y = 1"], ""),
        ([], "The first cell, which has the parameters, was not run"),
    ],
)
def test_a_notebook_refuses_what_it_does_not_know(cells, sentence, capsys) -> None:
    said = in_ipython(capsys, *cells, FIRST_LOOK.splitlines()[1].strip() + "\n" + LOOK)
    assert sentence in " ".join(said.split()) and bool(sentence) == bool(said.strip())
    assert "Traceback" not in said


LOOK = FIRST_LOOK.splitlines()[-1]


ABOVE = ["import time as clock", "!ls", "def f():\n    inner = 1", "half =", "made: int = 1"]


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (["made + 1"], True),
        (["clock.time()"], True),
        (["f()"], True),
        (["inner"], False),  # of a function
        (["mispelt"], False),
        (["below"], False),
        (["made: int = 1", "del made", "made + 1"], True),
        (["made: int = 1", "eval('made', {})"], False),  # it is there: another name is meant
        (["below = below + 1"], False),  # the cell itself
    ],
)
def test_a_cell_run_without_those_above_says_which(run, told, tmp_path, capsys, monkeypatch):
    sources = [*ABOVE, run[-1], "below = 2"]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, sources)])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "n.ipynb"))
    first = "a: int = 1", "from arcnn.parameters import check_own_parameters\n" + LOOK
    said = in_ipython(capsys, *first, *run)
    assert ("is made by a cell above, which was not run" in said) == told
    assert ("Traceback" in said and "NameError" in said) != told


def test_papermill_alone_does_not_run_on_with_a_misspelt_name(tiny_notebook: Path) -> None:
    notebook = nbformat.read(tiny_notebook, as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(FIRST_LOOK))
    nbformat.write(notebook, tiny_notebook)
    output = tiny_notebook.with_name("out.ipynb")
    with pytest.raises(papermill.PapermillExecutionError) as failed:
        papermill.execute_notebook(str(tiny_notebook), str(output), {"max_itr": 2})
    assert failed.value.ename == "ParameterError" and "max_itr" in failed.value.evalue


def test_an_error_that_tells_is_one_sentence_in_a_notebook(capsys) -> None:
    said = in_ipython(
        capsys,
        "from arcnn.errors import MissingError",
        'raise MissingError("x is not there: run notebook 01 first.")',
    )
    assert said == "x is not there: run notebook 01 first.\n"


@pytest.fixture
def tiny_notebook(tmp_path: Path) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    parameters = nbformat.v4.new_code_cell("max_iter: int = 1  # how often")
    parameters.metadata["tags"] = ["parameters"]
    bar = 'import sys\nfor k in range(30):\n    print(f"\\rstate {k}", end="", file=sys.stderr)'
    cells = ("print(10 / max_iter)", bar)
    imports = nbformat.v4.new_code_cell("import time as the_clock", metadata={"tags": ["imports"]})
    notebook.cells = [parameters, imports, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    return tmp_path / "tiny.ipynb"


def test_an_unknown_parameter_is_refused_with_those_that_are_known(tiny_notebook: Path) -> None:
    check_parameters(tiny_notebook, {"max_iter": 5})
    with pytest.raises(ParameterError, match='no parameter "max_itr".*has: .*max_iter'):
        check_parameters(tiny_notebook, {"max_itr": 5})


@pytest.mark.parametrize("value", ["5", [5], None, True, 1.5])
def test_a_parameter_of_another_type_is_refused(tiny_notebook: Path, value: object) -> None:
    with pytest.raises(ParameterError, match="max_iter is of type int, not "):
        check_parameters(tiny_notebook, {"max_iter": value})
    table = NOTEBOOKS / "06_table1.ipynb"
    with pytest.raises(ParameterError, match=r"seeds is of type list, not 0; write \[0\]"):
        check_parameters(table, {"seeds": 0})
    check_parameters(table, {"seeds": [0], "profile": "demo"})


def test_a_parameters_file_speaks_to_all_notebooks_and_names_come_on_top(
    tiny_notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.yaml").write_text("max_iter: 1e-05\nseeds: [0]\n")
    seen = []
    monkeypatch.setattr(
        "arcnn.workshop.notebooks.runner.run_notebook", lambda *given: seen.append(given)
    )
    call = ["notebooks", str(tiny_notebook), "out.ipynb", "-f", str(tmp_path / "profile.yaml")]
    for extra, value in (([], 1e-05), (["-p", "max_iter", "7"], 7)):
        monkeypatch.setattr(sys, "argv", [*call, *extra])
        assert main() == 0
        assert seen[-1][2] == {"max_iter": value}
    named = ["notebooks", str(NOTEBOOKS / "08_figure5.ipynb"), "out.ipynb"]
    monkeypatch.setattr(sys, "argv", [*named, "-p", "class_name", "", "-p", "figure", "1e3"])
    assert main() == 0
    assert seen[-1][2] == {"class_name": "", "figure": "1e3"}  # text stays text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is no whole"),
        (
            '{"cells": 5, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
            "is no whole",
        ),
        ('{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": []}', "is no whole"),
        (None, "is no plain file"),
    ],
)
def test_what_is_no_notebook_is_a_sentence(text, said, tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "some.ipynb"
    os.mkfifo(file) if text is None else file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["notebooks", str(file), str(tmp_path / "out.ipynb")])
    assert main() == 1
    assert f"{file} {said}" in capsys.readouterr().err


def test_a_notebook_does_not_take_its_own_place(tiny_notebook: Path) -> None:
    before = tiny_notebook.read_bytes()
    with pytest.raises(ValueError, match="is read, and would be lost"):
        run_notebook(tiny_notebook, tiny_notebook, {})
    assert tiny_notebook.read_bytes() == before


def test_a_notebook_is_run_into_a_copy_and_a_page(
    tiny_notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / ("long " * 20) / "executed.ipynb"  # far beyond what a socket's path may be
    before = tiny_notebook.read_bytes()
    run_notebook(tiny_notebook, output, {"max_iter": 4})
    assert "2.5" in json.dumps(nbformat.read(output, as_version=4))
    page = output.with_suffix(".html").read_text()
    assert "2.5" in page and "the_clock" not in page  # imports are no part of the story
    assert "executed: state" in capsys.readouterr().err
    assert "state 29" in page and "state 3" not in page  # a bar's last state only
    assert tiny_notebook.read_bytes() == before


def test_progress_bars_become_a_line_now_and_then() -> None:
    out = io.StringIO()
    lines = ProgressLines("04_train", out, period=3600)
    for percent in range(100):
        lines.write(f"\rtraining: {percent}%")
    lines.write("\nsomething to say\n")
    assert out.getvalue() == "   04_train: training: 0%\n   04_train: something to say\n"


def test_a_failing_cell_fails_the_run_and_keeps_the_copy(
    tiny_notebook: Path, tmp_path: Path
) -> None:
    output = tmp_path / "executed.ipynb"
    run = [sys.executable, "-m", "arcnn.notebooks", str(tiny_notebook), str(output)]
    failed = subprocess.run(
        [*run, "-p", "max_iter", "0"], capture_output=True, text=True, check=False
    )
    assert "ZeroDivisionError" in output.read_text()
    assert failed.returncode == 1 and "tiny.ipynb failed in cell" in failed.stderr
    assert "Traceback" not in failed.stderr.split("tiny.ipynb failed")[-1]


def test_a_kernel_that_dies_is_a_sentence(tiny_notebook: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(tiny_notebook, 4)
    notebook.cells[-1].source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    nbformat.write(notebook, tiny_notebook)
    output = tmp_path / "executed.ipynb"
    run = [sys.executable, "-m", "arcnn.notebooks", str(tiny_notebook), str(output)]
    died = subprocess.run(run, capture_output=True, text=True, check=False)
    said = died.stderr.strip().splitlines()
    assert died.returncode == 1 and "its kernel died, most often for want of memory" in said[-1]
    assert "Traceback" not in died.stderr


def test_a_missing_kernel_is_a_sentence(
    tiny_notebook: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def no_kernel(*_: object, **__: object) -> None:
        raise NoSuchKernel("python3")

    monkeypatch.setattr("arcnn.workshop.notebooks.runner.papermill.execute_notebook", no_kernel)
    monkeypatch.setattr(sys, "argv", ["notebooks", str(tiny_notebook), str(tmp_path / "o.ipynb")])
    assert main() == 1
    assert "no Python kernel for notebooks: `make setup` installs it" in capsys.readouterr().err


# --- what a student gets ------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_answer_has_a_place_of_its_own_and_a_check(source: Path) -> None:
    cells = nbformat.read(source, as_version=4).cells
    kinds = [next(iter(set(cell.metadata.get("tags", [])) & {"exercise", "solution", "check"}), "")
             for cell in cells]  # fmt: skip
    assert "solution" in kinds
    for place, kind in enumerate(kinds):
        if kind == "exercise":
            assert kinds[place + 1 : place + 3] == ["solution", "check"]
            names = {node.id for node in ast.walk(ast.parse(cells[place].source))
                     if isinstance(node, ast.Name)}  # fmt: skip
            assert "..." in cells[place].source
            assert any(name in cells[place + 2].source for name in names)


def test_a_handout_has_no_solutions_and_writes_to_a_folder_of_its_own() -> None:
    for source in SOURCES:
        copy = handout(source)
        tags = [tag for cell in copy.cells for tag in cell.metadata.get("tags", [])]
        assert "solution" not in tags and tags.count("exercise") == tags.count("check")
        (parameters,) = (c for c in copy.cells if "parameters" in c.metadata.get("tags", []))
        values = {}
        exec(parameters.source, values)
        assert values["profile"] == "lab"
        nbformat.validate(copy)


def test_an_exercise_left_open_is_not_right_yet(capsys: pytest.CaptureFixture) -> None:
    for source in SOURCES:
        cells = handout(source).cells
        for stub, check in itertools.pairwise(cells):
            if "exercise" in stub.metadata.get("tags", []):
                names: dict = {"reports": {}, "objects": None, "class_names": [], "np": np, "C": 1}
                exec(stub.source, names)
                exec(check.source, names)
                assert capsys.readouterr().out.startswith("Not yet."), check.source
    cells = handout(NOTEBOOKS / "03_anatomy_of_the_model.ipynb").cells
    check = next(cell for cell in cells if cell.metadata.get("tags") == ["check"])
    names = {}
    exec("share = 0.005", names)
    exec(check.source, names)
    assert capsys.readouterr().out == "Right.\n"


def test_a_copy_that_is_worked_in_stays_and_an_old_one_is_named(tmp_path: Path) -> None:
    assert hand_out(tmp_path) == []
    copies = sorted(tmp_path.glob("*.ipynb"))
    assert [copy.name for copy in copies] == sorted(f.name for f in NOTEBOOKS.glob("*.ipynb"))
    worked_in, old = copies[:2]
    notebook = nbformat.read(worked_in, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("mine = 1"))
    nbformat.write(notebook, worked_in)
    stale = nbformat.read(old, 4)
    stale.metadata["arcnn"]["source"] = "of another version"
    nbformat.write(stale, old)
    texts = [copy.read_text() for copy in copies]
    (sentence,) = hand_out(tmp_path)
    assert old.name in sentence and "stays as it is" in sentence
    assert [copy.read_text() for copy in copies] == texts


def test_the_front_door_leads_everywhere() -> None:
    index = nbformat.read(INDEX, as_version=4)
    text = "\n".join(cell.source for cell in index.cells)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (NOTEBOOKS / target).is_file(), target
    assert all(f"({source.name})" in text for source in SOURCES)


def test_the_front_door_knows_what_is_on_this_machine(tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "results/demo/runs/tabletop/arcnn/seed0/train"
    run.mkdir(parents=True)
    (run / FINAL_WEIGHTS).touch()
    rows = machine(str(tmp_path), str(tmp_path / "results"))[""]
    assert "mind" not in rows
    assert rows["data set tabletop"] == "not there; notebook 01 draws it"
    assert rows["trained in results/demo"] == "tabletop arcnn"
    monkeypatch.chdir(NOTEBOOKS)
    assert "`make lab` opens copies" in machine(str(tmp_path))[""]["mind"]
