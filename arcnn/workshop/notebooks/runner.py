"""Run a notebook with parameters: papermill, strict about their names.

``python -m arcnn.notebooks NOTEBOOK OUTPUT [-f FILE] [-p NAME VALUE ...]`` executes a notebook,
keeps the executed copy (also when a cell fails) and its HTML, and shows progress bars as they come.
The parameters come from a YAML file, a profile for instance, and by name on top of it.
"""

import argparse
import io
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert.exporters import HTMLExporter
from nbformat import ValidationError
from papermill.exceptions import PapermillExecutionError
from traitlets import default
from yaml import YAMLError

from arcnn.errors import InputError
from arcnn.files import (
    IN_BATCH,
    NOTEBOOKS,
    cannot_write,
    not_itself,
    plain,
    read_yaml,
    write_text,
)
from arcnn.parameters import check, read_parameters
from arcnn.workshop.notebooks.pages import executed, export, relink
from arcnn.workshop.run.folders import folder_for_a_while


class IpcKernelManager(AsyncKernelManager):
    """Talk to the kernel through files: notebooks run side by side clash over TCP ports.

    The files lie in a folder of this process's own, with a short name, since the path of a socket
    may have 107 bytes at most.
    """

    @default("transport")
    def _transport_default(self) -> str:
        return "ipc"

    @default("ip")
    def _ip_default(self) -> str:
        return str(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "kernel")

    async def _async_interrupt_kernel(self) -> None:
        # Before it asks a kernel to end, jupyter_client interrupts it; an idle one, as after the
        # last cell, has nothing to interrupt and reports an error.
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


def parameters_of(notebook: Path) -> dict[str, str]:
    """The names in a notebook's ``parameters`` cell, and their types as annotated there."""
    # papermill logs a warning for every literal that it cannot type, such as a list.
    logging.getLogger("papermill.translators").setLevel(logging.ERROR)
    try:
        found = papermill.inspect_notebook(_name(plain(notebook)))
    except (AttributeError, KeyError, TypeError) as error:  # what papermill makes of half a one
        raise InputError(f"{notebook} is no whole notebook ({error!r}); get it again.") from error
    return {name: parameter["inferred_type_name"] for name, parameter in found.items()}


def _name(file: Path) -> str:
    """A file as papermill takes it, which would put parameters in the place of braces."""
    return str(file).replace("{", "{{").replace("}", "}}")


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook's ``parameters`` cell does not define; papermill alone
    would ignore them.

    Raises:
        ParameterError: see :func:`arcnn.parameters.check`.
    """
    check(parameters_of(notebook), parameters, notebook.name)


class ProgressLines(io.TextIOBase):
    """Passes on what a notebook prints, its progress bars as a line now and then.

    A bar redraws itself several times a second; several notebooks at once would overwrite each
    other's. So: the latest state as a line of its own, every ``period`` seconds.
    """

    def __init__(self, name: str, out: TextIO, period: float = 20.0) -> None:
        self.name, self.out, self.period = name, out, period
        self.last = -math.inf

    def write(self, text: str) -> int:
        for piece in text.replace("\r", "\n\r").split("\n"):
            if piece.startswith("\r"):
                piece = piece.strip()
                if time.monotonic() - self.last < self.period:
                    continue
            if piece.strip():
                self.last = time.monotonic()
                print(f"   {self.name}: {piece.rstrip()}", file=self.out, flush=True)
        return len(text)


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute ``notebook`` into ``output`` (``.ipynb``) and an HTML page beside it.

    Raises:
        ParameterError: see :func:`check_parameters`.
        PapermillExecutionError: a cell failed; ``output`` holds what was run until then.
        NoSuchKernel: the environment has no Python kernel.
        OSError: ``output`` cannot be written.
    """
    not_itself(output, notebook)
    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_symlink():  # papermill would write through it
        output.unlink()
    with (
        folder_for_a_while() as sockets,
        mock.patch.dict(os.environ, {"JUPYTER_RUNTIME_DIR": str(sockets), IN_BATCH: "1"}),
    ):
        try:
            ran = papermill.execute_notebook(
                _name(notebook),
                _name(output),
                parameters,
                kernel_name="python3",
                kernel_manager_class=IpcKernelManager,
                progress_bar=False,
                stderr_file=ProgressLines(output.stem, sys.stderr),  # tqdm's bars
            )
        except OSError as error:  # papermill's own, which name no file
            raise error if error.filename else cannot_write(output, error) from error
    notebook_node = nbformat.from_dict(ran)
    relink(
        notebook_node,
        (notebook.parent, output.parent.parent),
        lambda file: os.path.relpath(file, output.parent),
    )
    write_text(output, nbformat.writes(notebook_node) + "\n")
    page = export(HTMLExporter, "page.html.j2", notebook_node, notebook.stem)
    write_text(output.with_suffix(".html"), page)


def run_on_reference(results: Path) -> None:
    """For a book or slides of a profile on ``tabletop``: run notebooks 11 to 13 where they were
    not, on the kit's reference results, which takes a minute. They say whose numbers they show."""
    profile = results / "profile.yaml"
    given = read_yaml(profile.read_text()) if profile.is_file() else {}
    if given.get("datasets", [None])[0] != "tabletop":
        return
    for source in sorted(NOTEBOOKS.glob("1[123]_*.ipynb")):
        copy = results / "notebooks" / f"{source.stem}.tabletop.ipynb"
        if executed(source, copy.parent):
            continue
        print(f"{source.stem}: on the reference results", file=sys.stderr, flush=True)
        # In a folder without any results, so that it takes the published ones, all of a kind.
        with folder_for_a_while() as empty:
            places = {"results_root": str(empty), "data_root": given.get("data_root", "")}
            try:
                run_notebook(source, copy, places)
            except PapermillExecutionError as error:
                print(f"left out: {source.name}: {error.evalue}", file=sys.stderr)
                copy.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.notebooks", description=__doc__)
    option = parser.add_argument
    option("notebook", type=Path)
    option("output", type=Path, help="the executed notebook, .ipynb")
    taken = "YAML; the entries that the notebook has as parameters are taken"
    option("-f", "--parameters-file", type=Path, metavar="FILE", help=taken)
    pair = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    option("-p", "--parameter", **pair, help="VALUE is read as YAML, if it is no text")
    arguments = parser.parse_args()
    notebook, output, file = arguments.notebook, arguments.output, arguments.parameters_file
    print(output.stem, file=sys.stderr, flush=True)
    try:
        # A profile speaks to all notebooks; each takes what it knows.
        given = read_parameters(file) if file else {}
        known = parameters_of(notebook)
        parameters = {name: given[name] for name in known if name in given}
        for name, value in arguments.parameter:
            parameters[name] = value if known.get(name) == "str" else read_yaml(value)
        run_notebook(notebook, output, parameters)
        return 0
    except PapermillExecutionError as error:
        sentence = (
            f"{notebook.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The executed part is in {output}."
        )
    except DeadKernelError:
        sentence = (
            f"{notebook.name}: its kernel died, most often for want of memory. Close what else "
            "takes memory, or train with a smaller SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN "
            f"among the options; checkpoints are kept. The executed part is in {output}."
        )
    except NoSuchKernel:
        sentence = (
            "This environment has no Python kernel for notebooks: `make setup` installs it, or "
            "`python -m pip install ipykernel` in an environment of your own."
        )
    except (ValueError, OSError) as error:
        sentence = error
    except (ValidationError, YAMLError) as error:
        sentence = f"{notebook.name} or its parameters cannot be read: {error}"
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
