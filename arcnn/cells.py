"""A cell that was run without those above it: one sentence in the place of a NameError."""

import os
import sys
from itertools import takewhile
from pathlib import Path
from symtable import symtable
from types import TracebackType
from typing import Any

import nbformat


def tell_of_skipped_cells() -> None:
    """From here on, a NameError says so if a cell above, as the notebook is on disk, makes the
    name. Nothing changes where the kernel was not told its notebook (in batch, for instance)."""
    sys.modules["IPython"].get_ipython().set_custom_exc((NameError,), _show)


def _show(
    shell: Any, kind: type, error: NameError, trace: TracebackType, tb_offset: int | None = None
) -> None:
    notebook = Path(os.environ.get("JPY_SESSION_NAME", ""))  # Jupyter tells it to its kernels
    if notebook.is_file() and error.name not in shell.user_ns:
        cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
        sources = [shell.transform_cell(cell.source).rstrip("\n") for cell in cells]
        above = takewhile(lambda source: source != shell.user_ns["In"][-1], sources)
        if any(error.name in _names_made_by(source) for source in above):
            said = f"{error.name} is made by a cell above, which was not run. "
            said += 'Choose "Run All Above Selected Cell" in the menu "Run".'
            error._render_traceback_ = lambda: [said]
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset, running_compiled_code=True)


def _names_made_by(source: str) -> set[str]:
    try:
        symbols = symtable(source, "cell", "exec").get_symbols()
    except SyntaxError:  # a cell that is being written
        return set()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
