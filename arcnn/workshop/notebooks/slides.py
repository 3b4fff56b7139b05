"""``make slides``: the notebooks of the 90-minute class as slides, from their executed cells, in
``results/<profile>/slides/``. They open from disk, without a network.

What becomes a slide follows from the cells: a heading starts one, and what is below it is laid on
it while there is room, then on another of the same heading; a figure takes the room that it needs.
Code, exercises' cells and records are left out.
"""

import io
import math
import os
import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import sphinx_revealjs
from nbconvert.exporters import SlidesExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from arcnn.files import NOTEBOOKS, write_text
from arcnn.workshop.notebooks.pages import diagram, executed, export, relink
from arcnn.workshop.notebooks.runner import run_on_reference
from arcnn.workshop.run.targets import on_results

REVEAL = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs" / "dist"
# A slide of 1280 x 720 pixels: what fits below its heading, at the text's size in slides.html.j2.
LINES, LETTERS = 17, 92
LINE, WIDTH, HEIGHT = 34, 1220, 650  # pixels: of a line, of a slide's inside
SMALLER = 0.7  # a figure may shrink so far to stand below its question
SKIPPED = {"parameters", "injected-parameters", "imports", "exercise", "solution", "check"}
NO_SLIDE = ("**Needs**", "Previous:")  # of a notebook's first cell
BLOCK = re.compile(r"```.*?```|(?:[^\n]+\n?)+", re.S)


def class_of_90_minutes() -> list[Path]:
    """The notebooks of the plan in TEACHING.md, each once."""
    plan = (NOTEBOOKS / "TEACHING.md").read_text()
    numbers = dict.fromkeys(re.findall(r"^\| \d+–\d+ \| (\d\d)\b", plan, re.M))
    return [next(NOTEBOOKS.glob(f"{number}_*.ipynb")) for number in numbers]


def height(block: str) -> float:
    """About how many lines a block of Markdown takes on a slide."""
    if block.startswith("```mermaid"):
        box = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', diagram(block[10:-3]))
        return min(LINES, drawn(float(box[1]), float(box[2])))
    if block.startswith("$$"):
        return 3
    if block.startswith("|"):
        rows = [row.strip("|").split("|") for row in block.splitlines()]
        longest = [max(map(len, column)) for column in zip(*rows, strict=False)]
        return 1.5 * math.ceil(sum(longest) / LETTERS) * (len(rows) - 1) + 1
    items = re.split(r"\n(?=- |\d\. |> )", block)
    return sum(math.ceil(len(item) / LETTERS) for item in items) + 0.6


def drawn(width: float, height: float) -> float:
    """The lines that a picture takes at the full width of a slide."""
    return WIDTH * height / width / LINE


def pieces(cell: NotebookNode) -> Iterator[tuple[NotebookNode, float]]:
    """What a cell brings onto slides, with its height in lines."""
    tags = set(cell.metadata.get("tags", []))
    if tags & SKIPPED or "write_record(" in cell.source:
        return
    if cell.cell_type == "markdown":
        for block in BLOCK.findall(cell.source):
            if not block.startswith(NO_SLIDE):
                yield new_markdown_cell(block), height(block)
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown = new_code_cell(
            outputs=[output], metadata={"mystnb": cell.metadata.get("mystnb", {})}
        )
        text, table = output.get("text", data.get("text/plain", "")), data.get("text/html", "")
        if "image/png" in data:
            yield shown, drawn(*Image.open(io.BytesIO(b64decode(data["image/png"]))).size)
        elif "text/markdown" in data:
            yield shown, sum(map(height, BLOCK.findall(data["text/markdown"])))
        elif table:
            yield shown, 1.2 * table.count("<tr") + 1
        # Nor is where things lie on this machine for a slide.
        elif output.get("name") != "stderr" and not re.search(r"(^| )/\w+/", text):
            yield shown, 0.9 * text.count("\n") + 1


def _picture(piece: NotebookNode) -> NotebookNode | None:
    """The output that is a picture, if the piece is one."""
    outputs = piece.get("outputs", [])
    return outputs[0] if outputs and "image/png" in outputs[0].get("data", {}) else None


def deck(notebook: NotebookNode) -> NotebookNode:
    """The slides of a notebook, as a notebook with nbconvert's ``slide_type``. An output that no
    slide could hold, such as a table of thirty rows, is left out; a tall picture has a slide to
    itself, without a heading."""
    slides: list[list[tuple[NotebookNode, float]]] = []
    heading = ""

    def used() -> float:
        return sum(taken for _, taken in slides[-1])

    for piece, lines in (found for cell in notebook.cells for found in pieces(cell)):
        picture = _picture(piece)
        if re.match("#{1,3} ", piece.source):
            heading = piece.source
            slides.append([(_starts(piece, "slide"), 0)])
            continue
        # What stands between a title and the first heading only sets up.
        if piece.cell_type == "code" and (
            heading.startswith("# ") or lines > LINES and not picture
        ):
            continue
        tall = picture and lines * SMALLER > LINES
        if used() and used() + lines * (SMALLER if picture else 1) > LINES:
            # What to look for in a figure, and what leads to the next block, come along.
            before, taken = slides[-1][-1]
            leads = picture or before.source.rstrip().endswith((":", ","))
            along = leads and not tall and taken < 4 and len(slides[-1]) > 2
            moved = [slides[-1].pop()] if along else []
            again = [] if tall else [(_starts(new_markdown_cell(heading), "subslide"), 0)]
            slides.append([*again, *moved])
        if picture:
            lines = min(lines, LINES - used())
            pixels = HEIGHT if not slides[-1] else lines * LINE
            picture.metadata.setdefault("image/png", {})["height"] = int(pixels)
        slides[-1].append((piece if slides[-1] else _starts(piece, "subslide"), lines))
    cells = [piece for slide in slides for piece, _ in slide]
    return new_notebook(cells=cells, metadata=notebook.metadata)


def _starts(piece: NotebookNode, kind: str) -> NotebookNode:
    piece.metadata["slideshow"] = {"slide_type": kind}
    return piece


def write_slides(sources: Sequence[Path], results: Path) -> list[Path]:
    """Write the slides of notebooks, beside a copy of reveal.js."""
    folder = results / "slides"
    names = {source.resolve(): f"{source.stem}.html" for source in sources}
    for part in ("reveal.js", "reveal.css", "theme/white.css"):
        (folder / "reveal" / "dist" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REVEAL / part, folder / "reveal" / "dist" / part)
    fonts = "theme/fonts/source-sans-pro"
    shutil.copytree(REVEAL / fonts, folder / "reveal" / "dist" / fonts, dirs_exist_ok=True)
    for source, name in names.items():
        copies = executed(source, results / "notebooks")
        if not copies:
            print(f"{source.name} was not run with this profile: slides without its figures.")
        notebook = nbformat.read(copies[0] if copies else source, as_version=4)
        relink(
            notebook,
            [NOTEBOOKS, results / "notebooks", results],
            lambda file: names.get(file) or os.path.relpath(file, folder),
        )
        look = {"reveal_url_prefix": "reveal", "reveal_theme": "white", "exclude_input": True}
        look |= {"exclude_input_prompt": True, "exclude_output_prompt": True}
        slides = export(SlidesExporter, "slides.html.j2", deck(notebook), source.stem, **look)
        write_text(folder / name, slides)
    return [folder / name for name in names.values()]


def make(results: Path) -> str:
    run_on_reference(results)
    return "\n".join(map(str, write_slides(class_of_90_minutes(), results)))


def main(arguments: Sequence[str] | None = None) -> int:
    return on_results("slides", __doc__, make, arguments)


if __name__ == "__main__":
    sys.exit(main())
