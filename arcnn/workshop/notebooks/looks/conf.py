"""Sphinx's settings for the book that ``make book`` makes."""

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from arcnn.workshop.notebooks.pages import diagram, formula

project = html_title = "Amodal segmentation, just like doing a jigsaw"
extensions = ["myst_nb"]

html_theme = "furo"
html_static_path = html_css_files = ["book.css"]
html_math_renderer = "mathml"
html_show_search_summary = False  # it would have to fetch pages, which file:// does not allow
html_copy_source = html_show_copyright = html_show_sphinx = html_use_index = False

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
myst_heading_slug_func = "arcnn.workshop.notebooks.pages.anchor"
myst_update_mathjax = False

nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
nb_render_markdown_format = "myst"


class Mermaid(Directive):
    """A fenced Mermaid diagram."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", diagram("\n".join(self.content)), format="html")]


def _inline_formula(page: HTML5Translator, node: nodes.math) -> None:
    page.body.append(formula(node.astext()))
    raise nodes.SkipNode


def _formula(page: HTML5Translator, node: nodes.math_block) -> None:
    page.body.append(formula(node.astext(), "block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Formulas and diagrams that are drawn beforehand."""
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))
    app.add_directive("mermaid", Mermaid)
