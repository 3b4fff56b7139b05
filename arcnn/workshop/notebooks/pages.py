"""Pages that open from disk: what the page beside an executed notebook, the book and the slides
share. Nothing of them comes from a network: formulas are MathML, diagrams are SVG.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import latex2mathml.converter
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from traitlets.config import Config

LOOKS = Path(__file__).with_name("looks")  # templates, a style sheet, the settings of the book
# Code between backticks, and links; what is code is left alone.
LINK = re.compile(r"(?P<code>```.*?```|`[^`\n]*`)|(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)", re.S)
LOOK = {
    # A progress bar's hundreds of states overwrite each other in JupyterLab, not on a page.
    "CoalesceStreamsPreprocessor": {"enabled": True},
    # A story does not begin with forty lines of imports either.
    "TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"imports"}},
}


@cache
def formula(latex: str, display: str = "inline") -> str:
    """A formula as MathML, which browsers draw by themselves; ``display`` is inline or block."""
    return latex2mathml.converter.convert(latex, display=display)


@cache
def diagram(source: str) -> str:
    """A Mermaid diagram as SVG, with a name of its own: several may stand on a page."""
    import mermaidx  # an engine of JavaScript, for the few notebooks with diagrams

    name = "diagram-" + hashlib.sha256(source.encode()).hexdigest()[:8]
    return f'<div class="diagram">{mermaidx.render(source).svg().replace("my-svg", name)}</div>'


def anchor(heading: str) -> str:
    """The name of a heading in links, as JupyterLab and nbconvert have it."""
    return heading.replace(" ", "-")


class _Renderer(IPythonRenderer):
    """Markdown as JupyterLab shows it, with formulas and diagrams already drawn."""

    def block_math(self, body: str) -> str:
        return formula(body.strip(), "block")

    def inline_math(self, body: str) -> str:
        return formula(body.strip())

    def block_mermaidjs(self, code: str) -> str:
        return diagram(code)


def markdown_to_html(text: str) -> str:
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(text)


def export(
    exporter: type[HTMLExporter], template: str, notebook: NotebookNode, title: str, **look: Any
) -> str:
    """A notebook as HTML, by one of nbconvert's exporters and a template of ``looks/``.

    Args:
        look: settings of the exporter.
    """
    made = exporter(
        config=Config(LOOK),
        template_file=str(LOOKS / template),
        filters={"markdown2html": markdown_to_html},
        **look,
    )
    return made.from_notebook_node(notebook, resources={"metadata": {"name": title}})[0]


def relink(notebook: NotebookNode, homes: Sequence[Path], to: Callable[[Path], str]) -> None:
    """Point the relative links of a notebook's texts, Markdown outputs too, at what they mean. One
    that leads nowhere becomes plain text.

    Args:
        homes: folders that a link may be relative to; the first one that has the file counts.
        to: what becomes of an existing file or folder; "" is plain text.
    """

    def replace(match: re.Match) -> str:
        image, text, target, anchor = match[2], match[3], match[4], match[5] or ""
        if match["code"] or re.match(r"[a-z]+:", target):
            return match[0]
        found = [home / target for home in homes if (home / target).exists()]
        where = to(found[0].resolve()) if found else ""
        anchor = "" if where.startswith("path:") else anchor  # MyST's file to keep a copy of
        return f"{image}[{text}]({where}{anchor})" if where else text

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(replace, cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = LINK.sub(replace, data["text/markdown"])


def executed(source: Path, folder: Path) -> list[Path]:
    """The executed copies of a notebook, ``<name>.<data set>.<model>.<seed>.ipynb``, the one to
    show first: of ARCNN, where there are several models, and of the first seed."""
    copies = [file for file in folder.glob("*.ipynb") if file.name.split(".")[0] == source.stem]
    return sorted(copies, key=lambda file: (".arcnn." not in file.name, file.name))
