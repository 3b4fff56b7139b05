"""The two wings of the package: what may import what, and what an import costs."""

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from arcnn.files import ROOT

PACKAGE = ROOT / "arcnn"
DOORS = {"arcnn.data.__main__", "arcnn.evaluation.__main__", "arcnn.export", "arcnn.notebooks"}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_command(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


@functools.cache
def imports() -> dict[str, set[str]]:
    """By module, the kit's own modules that it imports; not those that it runs as a command."""
    found = defaultdict(set)
    modules = {module_name(file) for file in PACKAGE.rglob("*.py")}
    for file in PACKAGE.rglob("*.py"):
        module = ast.parse(file.read_text())
        module.body = [node for node in module.body if not is_command(node)]
        for node in ast.walk(module):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found[module_name(file)] |= {name for name in names if name in modules}
    return found


def part(module: str) -> str:
    """The room that a module lies in: a folder of the package, or a file beside them."""
    return ".".join(module.split(".")[: 3 if module.startswith("arcnn.workshop.") else 2])


def test_the_papers_wing_does_not_need_the_workshop() -> None:
    for module, needed in imports().items():
        if not module.startswith("arcnn.workshop") and module not in DOORS:
            assert not [name for name in needed if name.startswith("arcnn.workshop")], module


def test_no_two_rooms_import_each_other() -> None:
    rooms = defaultdict(set)
    for module, needed in imports().items():
        if module not in DOORS:
            rooms[part(module)] |= {part(name) for name in needed} - {part(module), "arcnn"}

    TopologicalSorter(rooms).prepare()  # raises on a cycle, and names it


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        (
            "arcnn, arcnn.names, arcnn.files, arcnn.data.reading, arcnn.data.tabletop.files, "
            "arcnn.workshop.own_data.check, arcnn.experiments.variants",
            {"torch", "detectron2", "pandas", "matplotlib", "scipy"},
        ),
        ("arcnn.visualization.style", {"torch", "detectron2", "pandas", "scipy"}),
        ("arcnn.evaluation.protocol", {"torch", "detectron2", "pandas", "matplotlib", "scipy"}),
    ],
)
def test_importing_a_part_brings_what_it_needs_and_no_more(modules: str, without: set) -> None:
    code = f"import sys, {modules}; print(*({without!r} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.split() == []
