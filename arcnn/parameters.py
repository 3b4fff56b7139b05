"""The parameters of a notebook: names that it has, of the type that it has them in.

papermill only warns of a name that it does not know and evaluates the default in its place; so
every notebook looks for itself, and :mod:`arcnn.notebooks` before it starts one.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from arcnn.cells import tell_of_skipped_cells
from arcnn.errors import InputError
from arcnn.files import plain, read_yaml

TYPES = {"str": str, "int": int, "float": (int, float), "list": list, "dict": dict, "bool": bool}
INJECTED = "# Parameters\n"  # how the cell begins in which papermill hands them over


class ParameterError(InputError):
    """A parameter that the notebook does not have, or not of that type."""


def read_parameters(file: Path) -> dict[str, Any]:
    """The parameters in a YAML file, a profile for instance.

    Raises:
        ParameterError: it holds none.
        OSError: it cannot be read.
    """
    try:
        content = read_yaml(plain(file).read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParameterError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{file} has no parameters; each is a line NAME: VALUE.")
    return content


def check(known: Mapping[str, str], given: Mapping[str, Any], notebook: str) -> None:
    """Refuse parameters that a notebook does not have.

    Args:
        known: by name, the type as annotated in its ``parameters`` cell.
        given: by name, the value.
        notebook: what the sentence calls it.

    Raises:
        ParameterError: names the notebook, the name, and those it has, or the type.
    """
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f' Did you mean "{near[0]}"?' if near else ""
            raise ParameterError(
                f'{notebook} has no parameter "{name}".{meant} It has: {", ".join(known)}.'
            )
        right = isinstance(value, TYPES.get(known[name], object))
        if not right or (isinstance(value, bool) and known[name] in ("int", "float")):
            raise ParameterError(
                f"{notebook}: {name} is of type {known[name]}, not {value!r}"
                + (f"; write [{value!r}]." if known[name] == "list" else ".")
            )


def check_own_parameters() -> None:
    """:func:`check` for the notebook that calls this, from the cells that it has run so far.

    What is run after this in the wrong order is told, too: :mod:`arcnn.cells`.

    Raises:
        ParameterError: see there; or its first cell has not been run.
    """
    tell_of_skipped_cells()
    shell = sys.modules["IPython"].get_ipython()
    known, given = read_cells(shell.user_ns["In"])
    if not known:
        raise ParameterError(
            "The first cell, which has the parameters, was not run before this one: "
            'choose "Run All Cells" in the menu "Run".'
        )
    check(known, given, "This notebook")


def read_cells(sources: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """What the cells that a notebook has run say of its parameters: types and values by name.

    A ``parameters`` cell is one of assignments alone, and what is annotated there is a parameter;
    an injected one says what it is. Values that are no literals are left out.
    """
    known: dict[str, str] = {}
    given: dict[str, Any] = {}
    for source in sources:
        for name, of, value in _assignments(source):
            if of:
                known[name] = of
            if of or source.startswith(INJECTED):
                try:
                    given[name] = ast.literal_eval(value)
                except ValueError:
                    given.pop(name, None)
    return known, given


def _assignments(source: str) -> list[tuple[str, str, ast.expr]]:
    """Names, annotated types ("" if there is none) and values of a cell; empty if it does more."""
    try:
        return list(_parse(source))
    except (SyntaxError, TypeError):
        return []


def _parse(source: str) -> Iterator[tuple[str, str, ast.expr]]:
    for statement in ast.parse(source).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=of, value=ast.expr() as value):
                yield name, ast.unparse(of), value
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, "", value
            case _:
                raise TypeError("no assignment")
