"""``make book``: the executed notebooks of a profile as a book of linked, searchable pages, in
``results/<profile>/book/``. It opens from disk, without a network, and prints.

A notebook that was executed for several models shows ARCNN's first training and links to the
pages of the others. One that was not executed shows its text and code, and says so.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from sphinx.application import Sphinx

from arcnn.files import NOTEBOOKS
from arcnn.workshop.notebooks.pages import LOOKS, executed, relink
from arcnn.workshop.notebooks.runner import run_on_reference
from arcnn.workshop.run.folders import folder_for_a_while
from arcnn.workshop.run.targets import on_results

# What MyST-NB folds, with a line in its place, or leaves out, by the kit's tags; papermill adds one
# of its own, and a record has none.
FOLDED = {
    "imports": ("remove-input", ""),
    "parameters": ("hide-input", "Parameters"),
    "injected-parameters": ("hide-input", "Parameters of this run"),
    "solution": ("hide-cell", "The kit's answer: try first"),
    "record": ("hide-cell", "Record"),
}


def chapter(source: Path, results: Path) -> NotebookNode:
    """A notebook of the course for the book: executed if the profile has it, with a note on what
    it shows, and with the kit's tags in MyST-NB's words."""
    copies = executed(source, results / "notebooks")
    notebook = nbformat.read(copies[0] if copies else source, as_version=4)
    if not copies:
        note = f"This notebook was not run with the profile {results.name}: no outputs are shown."
    else:
        pages = filter(Path.is_file, (copy.with_suffix(".html") for copy in copies[1:]))
        others = [f'<a href="../notebooks/{page.name}">{page.stem}</a>' for page in pages]
        note = f"Run with others too: {', '.join(others)}." if others else ""
    if note:
        first = notebook.cells[0]
        title, _, rest = first.source.partition("\n")
        first.source = f"{title}\n\n```{{note}}\n{note}\n```\n{rest}"
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        kinds = tags + ["record"] * ("write_record(" in cell.source)
        for fold, line in [FOLDED[kind] for kind in kinds if kind in FOLDED]:
            tags.append(fold)
            cell.metadata.setdefault("mystnb", {})["code_prompt_show"] = line
    return notebook


def front_page(index: Path, chapters: Sequence[str]) -> str:
    """The texts before the first code cell of the course's front door, and the table of contents.
    How to work in JupyterLab is nothing for a book."""
    cells = nbformat.read(index, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells[:2])
    kept = [part for part in text.split("\n\n") if not part.startswith("**How to work here.**")]
    return "\n\n".join([*kept, "```{toctree}\n:hidden:\n", *chapters, "```"])


def write_sources(folder: Path, results: Path) -> None:
    """The book's sources: a page for each notebook, TEACHING.md, and the front page."""

    def target(file: Path) -> str:
        if file.parent == NOTEBOOKS and file.suffix in (".ipynb", ".md"):
            return file.name.replace("index.ipynb", "index.md")
        kind = "" if file.suffix == ".png" else "path:"  # MyST's word for a file to keep a copy of
        return "" if file.is_dir() else kind + os.path.relpath(file, folder)

    def text_page(text: str) -> str:
        page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        relink(page, [NOTEBOOKS], target)
        return page.cells[0].source

    sources = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    for source in sources:
        notebook = chapter(source, results)
        # Executed copies may have moved since, so the source's links are tried first.
        relink(notebook, [NOTEBOOKS, results / "notebooks", results], target)
        nbformat.write(notebook, folder / source.name)
    front = front_page(NOTEBOOKS / "index.ipynb", [s.stem for s in sources] + ["TEACHING"])
    (folder / "index.md").write_text(text_page(front))
    (folder / "TEACHING.md").write_text(text_page((NOTEBOOKS / "TEACHING.md").read_text()))


def build(results: Path) -> Path:
    """Make the book of a profile's results anew.

    Returns:
        its front page.
    """
    book = results / "book"
    with folder_for_a_while("arcnn-book-") as scratch:
        folder, made = scratch.resolve() / "sources", scratch / "book"
        folder.mkdir()
        write_sources(folder, results)
        Sphinx(folder, LOOKS, made, scratch / "doctrees", "html", status=None).build()
        shutil.rmtree(book, ignore_errors=True)
        shutil.copytree(made, book)
    return book / "index.html"


def make(results: Path) -> str:
    if not any((results / "notebooks").glob("*.ipynb")):
        raise FileNotFoundError(f"no executed notebooks in {results}: `make reproduce` first")
    run_on_reference(results)
    return f"The book: {build(results)}"


def main(arguments: Sequence[str] | None = None) -> int:
    return on_results("book", __doc__, make, arguments)


if __name__ == "__main__":
    sys.exit(main())
