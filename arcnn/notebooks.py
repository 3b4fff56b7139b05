"""Run a notebook with parameters: papermill, strict about their names.

``python -m arcnn.notebooks NOTEBOOK OUTPUT -p NAME VALUE ...`` executes a source notebook, keeps
the executed copy (also when a cell fails) and its HTML, and shows progress bars as they come.
"""

import argparse
import contextlib
import difflib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbconvert
import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets import default


class IpcKernelManager(AsyncKernelManager):
    """Talk to the kernel through files: notebooks run side by side clash over TCP ports."""

    @default("transport")
    def _transport_default(self) -> str:
        return "ipc"


class UnknownParameterError(ValueError):
    """A parameter that the notebook does not have; papermill alone would ignore it."""


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook's ``parameters`` cell does not define.

    Raises:
        UnknownParameterError: naming the notebook, the name, and the nearest known one.
    """
    # papermill logs a warning for every literal that it cannot type, such as a list.
    logging.getLogger("papermill.translators").setLevel(logging.ERROR)
    known = list(papermill.inspect_notebook(str(notebook)))
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise UnknownParameterError(
                f'{notebook.name} has no parameter "{name}".{hint} It has: {", ".join(known)}.'
            )


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute ``notebook`` into ``output`` (``.ipynb``) and an HTML page beside it.

    Raises:
        UnknownParameterError: see :func:`check_parameters`.
        PapermillExecutionError: a cell failed; ``output`` holds what was run until then.
        NoSuchKernel: the environment has no Python kernel.
    """
    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    with short_runtime_dir():
        executed = papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters,
            kernel_name="python3",
            kernel_manager_class=IpcKernelManager,
            progress_bar=False,
            stderr_file=sys.stderr,  # tqdm's bars go there
        )
    page, _ = nbconvert.HTMLExporter().from_notebook_node(
        nbformat.from_dict(executed), resources={"metadata": {"name": notebook.stem}}
    )
    output.with_suffix(".html").write_text(page)


@contextlib.contextmanager
def short_runtime_dir() -> Any:
    """A private folder for the kernel's sockets: their paths may have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="arcnn-") as folder:
        before = os.environ.get("JUPYTER_RUNTIME_DIR")
        os.environ["JUPYTER_RUNTIME_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_RUNTIME_DIR"]
            else:
                os.environ["JUPYTER_RUNTIME_DIR"] = before


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.notebooks", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path, help="the executed notebook, .ipynb")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="VALUE is read as YAML",
    )
    arguments = parser.parse_args()
    parameters = {name: yaml.safe_load(value) for name, value in arguments.parameter}
    shown = ", ".join(f"{v}" for k, v in parameters.items() if k in ("dataset", "model", "seed"))
    print(f"== {arguments.notebook.stem}" + (f" ({shown})" if shown else ""), file=sys.stderr)
    try:
        run_notebook(arguments.notebook, arguments.output, parameters)
    except PapermillExecutionError as error:
        print(
            f"{arguments.notebook.name} failed in cell {error.exec_count}: "
            f"{error.ename}: {error.evalue}\nThe executed part is in {arguments.output}.",
            file=sys.stderr,
        )
        return 1
    except NoSuchKernel:
        print(
            "This environment has no Python kernel for notebooks: `make setup` installs it, or "
            "`python -m pip install ipykernel` in an environment of your own.",
            file=sys.stderr,
        )
        return 1
    except (UnknownParameterError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
