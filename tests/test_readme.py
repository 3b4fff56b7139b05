"""What the documents promise: commands do something, messages exist, links are not dead."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from made import data_of_all_kinds, stand_ins_for_weights

from arcnn.data import find_splits
from arcnn.files import NOTEBOOKS, ROOT
from arcnn.workshop.run import reproduce

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "TROUBLESHOOTING.md")),
    *(NOTEBOOKS / "TEACHING.md", ROOT / "data/README.md", ROOT / "results/README.md"),
    *(ROOT / "data/reference/formats.md", ROOT / "cluster/README.md", NOTEBOOKS / "HOSTED.md"),
]
WITH_COMMANDS = (ROOT / "README.md", ROOT / "cluster/README.md")


def commands() -> list[str]:
    """Every command of README: indented blocks, and `make ...` and `python ...` in the text."""
    text = "\n".join(document.read_text() for document in WITH_COMMANDS)
    lines = re.findall(r"(?m)^    (\S.*)$", text)
    lines += re.findall(r"`((?:make|(?:\.venv/bin/)?python) [^`]+)`", text.replace("\n", " "))
    return sorted({re.sub(r"\s+", " ", line.split("#")[0]).strip() for line in lines})


TRAINING = "python -m arcnn.training"
NOTEBOOK = "python -m arcnn.notebooks notebooks/04_train.ipynb out.ipynb -p model orcnn -p seed 1"
# Run by the tests that are named, on little data or with a stand-in.
ELSEWHERE = {
    "make test": "what runs this",
    "make start": "test_start.py",
    "make bench": "test_bench.py",
    "make lab": "test_lab.py",
    "make rehearse": "test_rehearse.py",
    "make rehearse PROFILE=paper DATA_ROOT=<folder> RESULTS=<folder>": "test_rehearse.py",
    "make book": "test_book.py",
    "make slides": "test_book.py",
    "make report PROFILE=...": "test_reproduce.py",
    "make reproduce PROFILE=... EXECUTOR=slurm": "test_slurm.py",
    "make test-slurm": "test_slurm.py",
    'make reproduce BIN="$CONDA_PREFIX/bin"': "test_environment.py",
    "make audit": "test_environment.py",
    "python -m arcnn.evaluation": "test_evaluation.py",
    f".venv/bin/{NOTEBOOK}": "test_reproduce.py",
    f"{TRAINING} --num-gpus 4 --dataset kins --model arcnn --run RUN": "test_launch.py",
    "python -m arcnn.predict PHOTOS --run RUN --out FOLDER": "test_photos.py",
    "python -m arcnn.export RUN FILE.safetensors": "test_exchange.py",
}
# What a placeholder stands for, and what makes a command short.
SHORT = {"PROFILE=...": "PROFILE=demo", "PROFILE=": "PROFILE=smoke"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = data_of_all_kinds(tmp_path_factory.mktemp("readme"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stand_ins_for_weights(root / "cache").items():
            patch.setenv(name, value)
        yield root


def shell(command: str) -> str:
    """All that a command says, in the kit's folder with this Python's environment first."""
    # Without what an outer make hands on: it would talk of folders.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env=env | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"{command}: {ran.stderr[-2000:]}"
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("command", [c for c in commands() if c not in ELSEWHERE])
def test_a_command_of_the_readme_does_what_it_is_for(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [SHORT.get(word, word) for word in command.split()]
    words = [re.sub("^RESULTS=<folder>", f"RESULTS={tmp_path}", word) for word in words]
    words = [word.replace("<folder>", str(folder)) for word in words]
    if words[:2] == ["make", "setup"]:
        assert "is ready" in shell(f"make setup BIN={Path(sys.executable).parent}")
    elif words[:2] == ["make", "clean"]:  # which would take this test's own ground away
        assert "rm -rf .venv build" in shell("make -n clean")
    elif words[0] == "make":
        # The plan only: test_reproduce.py runs such a graph to its end.
        planned = shell(f"make -n {' '.join(words[1:])} BIN={Path(sys.executable).parent}")
        lines = planned.replace("\\\n", " ").splitlines()
        (call,) = (line.strip() for line in lines if "arcnn.workshop.run.reproduce" in line)
        places = f"--data-root {folder} --results-root {tmp_path} --dry-run"
        # What make was given, it hands on by the environment.
        handed = " ".join(["PROFILE=demo", f"bin={Path(sys.executable).parent}", *words[2:]])
        given = call.partition("arcnn.workshop.run.reproduce")[2]
        *given, _ = shell(f"export {handed}; printf '%s\\0' {given} {places}").split("\0")
        became: list[str] = []
        monkeypatch.setattr(os, "execv", lambda _, it: became.append(shell(shlex.join(it))))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        reproduce.main(given)
        (said,) = became
        assert "dry-run" in said
        assert "train" in said and "evaluate" in said
    else:
        file, images = find_splits("tabletop", folder)["val"]
        assert "usable" in shell(f"{command} {file} --images {images}")


def test_commands_that_are_run_elsewhere_are_still_there() -> None:
    assert set(ELSEWHERE) <= set(commands())
    for file in set(ELSEWHERE.values()) - {"what runs this"}:
        assert (ROOT / "tests" / file).is_file()


@cache
def sentences() -> list[str]:
    """Every text in the package's source, with dots for what is filled in."""
    sources = [file.read_text() for file in (ROOT / "arcnn").rglob("*.py")]
    cells = json.loads((NOTEBOOKS / "04_train.ipynb").read_text())["cells"]
    sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = []
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "..." for p in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [re.sub(r"\s+", " ", text) for text in found]


def test_every_message_with_a_cure_is_one_that_the_kit_says() -> None:
    text = (ROOT / "TROUBLESHOOTING.md").read_text()
    messages = re.findall(r"(?m)^\| `([^`]+)` \|", text)
    assert len(messages) > 30
    for message in messages:
        parts = [part.strip() for part in message.split("...") if part.strip()]
        pattern = ".*".join(map(re.escape, parts))
        assert any(re.search(pattern, sentence) for sentence in sentences()), message


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_no_link_is_dead(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            target, _, anchor = link.partition("#")
            file = (document.parent / target).resolve() if target else document
            assert file.exists(), link
            if anchor and file.suffix == ".md":
                heads = re.findall(r"(?m)^#+ (.*)$", file.read_text())
                slugs = [
                    re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads
                ]
                assert anchor in slugs, link
