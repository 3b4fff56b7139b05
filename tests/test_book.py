"""The book, the slides and the pages: they open from disk, and nothing in them leads nowhere."""

import ast
import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)
from PIL import Image
from playwright.sync_api import Browser, Error, sync_playwright

from arcnn import visualization
from arcnn.files import NOTEBOOKS
from arcnn.workshop.notebooks import book, slides
from arcnn.workshop.notebooks.pages import diagram, executed, export, formula, relink
from arcnn.workshop.notebooks.runner import run_notebook, run_on_reference

SOURCES = sorted(NOTEBOOKS.glob("*.ipynb"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAPERS = re.compile(r"https?://(arxiv\.org|doi\.org)/|https://github\.com/pradyunsg/furo$")
FETCHED = re.compile(r"""(?:url\(|@import |fetch\(|import\(|src=)\s*["']?(?:https?:)?//[^"')\s]+""")

FIRST = """# 00 First

**What you learn**

- one thing

**Needs** [nothing](01_second.ipynb).

Previous: none. Next: [01 Second](01_second.ipynb)."""
STORY = r"""## The idea

A formula $VW_{Ti}$ and a larger one,

$$AM_T = \sum_{i=1}^{C} VW_{Ti}\, VM_i \in [0, 1]$$

See [the second](01_second.ipynb#The-OR-gate), [the kit](../README.md), [a folder](../results),
[nowhere](gone.md) and [the paper](https://arxiv.org/abs/2107.07464). Code, `[a](b)`, is left alone.

```mermaid
flowchart LR
    a["a piece"] --> b["the whole"]
```"""
LOOK = "What to look for: the picture."
IMAGE = {"mystnb": {"image": {"alt": "A square."}, "figure": {"caption": "The square."}}}


def picture(width: int = 80, height: int = 40) -> nbformat.NotebookNode:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "blue").save(file, "png")
    data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
    return new_output("display_data", data=data)


def code(source: str, *outputs: nbformat.NotebookNode, tag: str = "", **metadata: object):
    tags = {"tags": [tag]} if tag else {}
    return new_code_cell(source, outputs=list(outputs), metadata=metadata | tags)


def said(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=text)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit's root with two notebooks, of which the first was executed, for two models."""
    root = tmp_path_factory.mktemp("kit")
    folder, done = root / "notebooks", root / "results" / "demo" / "notebooks"
    folder.mkdir()
    done.mkdir(parents=True)
    (root / "README.md").write_text("# The kit\n")
    (done.parent / "record.json").write_text("{}")
    (folder / "TEACHING.md").write_text("# Teaching\n\n| 0–10 | 00, all of it |\n| 10–20 | 01 |\n")
    links = new_output("display_data", data={"text/markdown": "[1](record.json) [2](gone.json)"})
    table = new_output("execute_result", data={"text/html": "<table><tr><td>7</td></tr></table>"})
    executed_cells = [
        code("seed: int = 0  # seed", tag="parameters"),
        code("seed = 1", tag="injected-parameters"),
        code("import the_clock", said("versions"), tag="imports"),
        new_markdown_cell(STORY),
        new_markdown_cell(LOOK),
        code("draw()", said("bars 10%", "stderr"), picture(), **IMAGE),
        code("pieces", links, table, said("from ~/data")),
        new_markdown_cell("## Exercises\n\n**1.** Why?"),
        code("answer = ...", tag="exercise"),
        code("answer = 42", said("forty-two"), tag="solution"),
        code("assert answer", tag="check"),
        code("write_record(1)", said("Recorded in x")),
    ]
    cells = [new_markdown_cell(FIRST), *executed_cells]
    for name in ("00_first", "00_first.tabletop.arcnn.seed0", "00_first.tabletop.aisformer.seed0"):
        nbformat.write(new_notebook(cells=cells), done / f"{name}.ipynb")
    (done / "00_first.ipynb").rename(folder / "00_first.ipynb")
    (done / "00_first.tabletop.aisformer.seed0.html").write_text("<html></html>")
    second = [
        new_markdown_cell("# 01 Second\n\nPrevious: [00 First](00_first.ipynb)."),
        code("seed: int = 0  # seed", tag="parameters"),
        new_markdown_cell("## The OR gate\n\nThe amodal elephant.\n\n" + "A long line. " * 60),
        new_markdown_cell("\n\n".join(f"Paragraph {k}. " + "Words go on. " * 25 for k in range(9))),
        new_markdown_cell("## Tall and wide\n\nIt stands."),
        code("draw()", picture(300, 900), picture(900, 90), picture(500, 260)),
        code("many", new_output("execute_result", data={"text/html": "<tr>" * 60})),
    ]
    nbformat.write(new_notebook(cells=second), folder / "01_second.ipynb")
    front = ["# Front\n\n**How to work here.** Press the button.", "## The course\n\nAll of it."]
    index = new_notebook(cells=[*map(new_markdown_cell, front), code("machine()")])
    nbformat.write(index, folder / "index.ipynb")
    return root


@pytest.fixture(scope="module")
def made(kit: Path) -> Path:
    """The results of that kit, with a book and slides in them."""
    results = kit / "results" / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "NOTEBOOKS", kit / "notebooks")
        patch.setattr(slides, "NOTEBOOKS", kit / "notebooks")
        book.build(results)
        slides.write_slides(slides.class_of_90_minutes(), results)
    return results


def addresses(page: Path) -> Iterator[tuple[str, str, str]]:
    """Tag, attribute and value of everything in a page that leads somewhere."""
    for tag in BeautifulSoup(page.read_text(), "html.parser").find_all(True):
        for name in ("href", "src", "srcset", "xlink:href", "poster", "data", "action"):
            if tag.get(name) and not tag[name].startswith("data:"):
                yield tag.name, name, tag[name]


def check_folder(folder: Path) -> int:
    """Every address in the pages of a folder leads to a file, an anchor or a paper; nothing is
    fetched from elsewhere. Returns their number."""
    pages = list(folder.glob("*.html"))
    names = {}
    for page in pages:
        soup = BeautifulSoup(page.read_text(), "html.parser")
        names[page.resolve()] = {tag["id"] for tag in soup.find_all(id=True)}
    count = 0
    for page in pages:
        for tag, _, value in addresses(page):
            count += 1
            if re.match(r"[a-z]+:", value):
                assert tag == "a" and PAPERS.match(value), (page.name, tag, value)
                continue
            path, _, anchor = value.partition("#")
            file = (page.parent / unquote(path.split("?")[0])).resolve() if path else page.resolve()
            assert file.exists(), (page.name, value)
            assert not anchor or unquote(anchor) in names.get(file, {unquote(anchor)}), value
    for file in [*pages, *folder.rglob("*.css"), *folder.rglob("*.js")]:
        assert not FETCHED.search(file.read_text(errors="ignore")), file
    return count


def test_everything_in_a_book_leads_somewhere_and_nothing_is_fetched(made: Path) -> None:
    assert check_folder(made / "book") > 50
    front = (made / "book" / "index.html").read_text()
    assert "The course" in front and "How to work here" not in front and "machine()" not in front


def test_a_chapter_tells_the_story_and_folds_the_rest(made: Path) -> None:
    page = BeautifulSoup((made / "book" / "00_first.html").read_text(), "html.parser")
    article = page.find("article")
    text = article.get_text()
    assert "the_clock" not in text and "bars 10%" not in text and "versions" in text
    folded = " ".join(part.get_text() for part in article.find_all("details"))
    for hidden in ("seed = 1", "answer = 42", "forty-two", "Recorded in x"):
        assert hidden in folded
    assert "answer = ..." not in folded and "draw()" not in folded
    (figure,) = article.find_all("figure")
    assert figure.img["alt"] == "A square." and "The square." in figure.figcaption.get_text()
    assert len(article.find_all("math")) == 2 and article.find("svg") and "$" not in text
    links = {a.get_text(): a.get("href", "") for a in article.find_all("a")}
    assert links["the second"] == "01_second.html#the-or-gate"
    assert links["the kit"].endswith("README.md") and links["1"].endswith("record.json")
    assert not {"a folder", "nowhere", "2"} & set(links) and "[a](b)" in text
    other = "00_first.tabletop.aisformer.seed0"
    assert links[other] == f"../notebooks/{other}.html"


def test_a_chapter_that_was_not_run_says_so(made: Path) -> None:
    page = BeautifulSoup((made / "book" / "01_second.html").read_text(), "html.parser")
    note = page.find("div", class_="admonition").get_text()
    assert "was not run with the profile demo" in note
    assert "was not run" not in (made / "book" / "00_first.html").read_text()


def test_arcnn_is_shown_first(kit: Path) -> None:
    names = [file.name for file in executed(kit / "notebooks/00_first.ipynb",
                                            kit / "results/demo/notebooks")]  # fmt: skip
    assert names == [
        "00_first.tabletop.arcnn.seed0.ipynb",
        "00_first.tabletop.aisformer.seed0.ipynb",
    ]


def test_slides_need_no_network_and_leave_out_what_is_no_story(made: Path) -> None:
    assert check_folder(made / "slides") > 5
    page = BeautifulSoup((made / "slides" / "00_first.html").read_text(), "html.parser")
    text = page.find(class_="slides").get_text()
    for hidden in ("seed", "the_clock", "versions", "draw()", "bars", "Needs", "Previous", "/home"):
        assert hidden not in text
    for hidden in ("answer", "forty-two", "Recorded"):
        assert hidden not in text
    assert "Why?" in text and page.find("math") and page.find("svg") and page.find("td")
    titles = [s.find(["h1", "h2"]).get_text() for s in page.select(".slides > section")]
    assert titles == ["00 First¶", "The idea¶", "Exercises¶"]
    (image,) = page.find_all("img")
    assert image["alt"] == "A square." and LOOK in image.find_parent("section").get_text()


def test_the_class_is_the_plan_of_teaching() -> None:
    numbers = [source.name[:2] for source in slides.class_of_90_minutes()]
    assert numbers == ["00", "02", "03", "04", "07", "11"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        given = ["--disable-dev-shm-usage"] + ["--no-sandbox"] * (os.geteuid() == 0)
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=given)
        except Error as error:
            pytest.skip(f"Chromium does not start here: {error}")
        yield browser
        browser.close()


def test_a_book_is_searched_without_a_network(made: Path, browser: Browser) -> None:
    page = browser.new_context(offline=True).new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto((made / "book" / "index.html").as_uri())
    page.fill("input.sidebar-search", "elephant")
    page.press("input.sidebar-search", "Enter")
    page.locator("#search-results li a").first.click()
    page.wait_for_url("**/01_second.html*")
    assert not problems


SIZE = """() => {
    const slide = Reveal.getCurrentSlide();
    return [slide.scrollHeight, slide.scrollWidth, slide.innerText];
}"""


def test_no_slide_overflows(made: Path, browser: Browser) -> None:
    page = browser.new_context(offline=True, viewport={"width": 1280, "height": 720}).new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    for deck in sorted((made / "slides").glob("*.html")):
        page.goto(deck.as_uri())
        page.wait_for_function("() => window.Reveal && Reveal.isReady()")
        for _ in range(page.evaluate("Reveal.getTotalSlides()")):
            high, wide, text = page.evaluate(SIZE)
            assert high <= 720 and wide <= 1280, (deck.name, high, wide, text[:80])
            page.evaluate("Reveal.next()")
    assert not problems


# --- the page beside an executed notebook -------------------------------------------------------


def test_a_page_has_formulas_diagrams_pictures_and_links(kit: Path, tmp_path: Path) -> None:
    copy = kit / "results/demo/notebooks/00_first.tabletop.arcnn.seed0.ipynb"
    notebook = nbformat.read(copy, 4)
    relink(
        notebook,
        [kit / "notebooks", kit / "results/demo"],
        lambda file: os.path.relpath(file, tmp_path),
    )
    page = tmp_path / "first.html"
    page.write_text(export(HTMLExporter, "page.html.j2", notebook, "first"))
    assert check_folder(tmp_path) > 3
    soup = BeautifulSoup(page.read_text(), "html.parser")
    assert len(soup.find_all("math")) == 2 and soup.find("svg") and not soup.find("script")
    (image,) = soup.find_all("img")
    assert image["alt"] == "A square." and soup.figcaption.get_text() == "The square."
    links = {a.get_text(): a["href"] for a in soup.find_all("a")}
    assert (tmp_path / links["the kit"]).resolve() == kit / "README.md"
    assert (tmp_path / links["1"]).resolve() == kit / "results/demo/record.json"
    assert "2" not in links and "the_clock" not in soup.get_text()


def test_running_a_notebook_describes_its_figures_and_keeps_its_links(tmp_path: Path) -> None:
    folder, output = tmp_path / "notebooks", tmp_path / "results/demo/notebooks/one.ipynb"
    folder.mkdir()
    (folder / "two.ipynb").write_text("{}")
    draws = "from IPython.display import Image, display\nfrom base64 import b64decode\n"
    draws += f"display(Image(b64decode({picture().data['image/png']!r})))"
    cells = [new_markdown_cell("[two](two.ipynb)"), code("n: int = 1  # n", tag="parameters")]
    source = new_notebook(cells=[*cells, code(draws, **IMAGE)])
    source.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    nbformat.write(source, folder / "one.ipynb")
    run_notebook(folder / "one.ipynb", output, {})
    first, *_, last = nbformat.read(output, 4).cells
    assert first.source == "[two](../../../notebooks/two.ipynb)"
    assert last.metadata["mystnb"] == IMAGE["mystnb"]
    assert 'alt="A square."' in output.with_suffix(".html").read_text()


# --- the notebooks themselves -------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_formula_becomes_mathml(source: Path) -> None:
    for cell in nbformat.read(source, 4).cells:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.S)
        if cell.cell_type == "markdown":
            for block, inline in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.S):
                math = ElementTree.fromstring(formula(block or inline))
                assert "\\" not in "".join(math.itertext()), block or inline


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_largest_diagram_of_a_notebook_is_drawn(source: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(source, 4).cells)
    for largest in sorted(re.findall(r"```mermaid\n(.*?)```", text, re.S), key=len)[-1:]:
        (drawing,) = ElementTree.fromstring(diagram(largest))
        assert drawing.get("id") != "my-svg" and len(list(drawing.iter())) > 50


def test_a_link_to_a_kept_copy_has_no_anchor(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    for kind, linked in (("path:", "path:README.md"), ("", "README.md#there")):
        page = new_notebook(cells=[new_markdown_cell("[it](README.md#there)")])
        relink(page, [tmp_path], lambda file, kind=kind: kind + file.name)
        assert page.cells[0].source == f"[it]({linked})"


def test_chapters_on_published_results_are_run_where_they_were_not(tmp_path, monkeypatch) -> None:
    ran = []
    monkeypatch.setattr(
        "arcnn.workshop.notebooks.runner.run_notebook", lambda *given: ran.append(given)
    )
    run_on_reference(tmp_path)  # no profile
    (tmp_path / "profile.yaml").write_text("datasets: [kins]\n")
    run_on_reference(tmp_path)
    assert not ran
    (tmp_path / "profile.yaml").write_text("datasets: [tabletop]\ndata_root: /here\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "12_occlusion_order.tabletop.ipynb").touch()
    run_on_reference(tmp_path)
    assert [copy.name[:2] for _, copy, _ in ran] == ["11", "13"]
    assert all(given["data_root"] == "/here" for _, _, given in ran)
    assert all(tmp_path not in Path(given["results_root"]).parents for _, _, given in ran)


def returns_a_figure(name: str) -> bool:
    function = getattr(visualization, name)
    return callable(function) and function.__annotations__.get("return") is Figure


FIGURES = set(filter(returns_a_figure, visualization.__all__))


def draws(source: str) -> bool:
    """Whether code calls a figure function of the kit, or makes a picture by other means."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call) for call in calls]
    others = {"plt.subplots", "plt.figure", "Image"}
    return any(name.removeprefix("visualization.") in FIGURES | others for name in names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_figure_has_an_alternative_text_and_a_caption(source: Path) -> None:
    for cell in nbformat.read(source, 4).cells:
        words = cell.metadata.get("mystnb", {})
        if cell.cell_type == "code" and draws(cell.source):
            assert words, f'{cell.id} draws a figure; its metadata needs "mystnb", as others have'
            text, caption = words["image"]["alt"], words["figure"]["caption"]
            assert 40 < len(text) < 400 and text.endswith("."), (cell.id, text)
            assert 10 < len(caption) < 120 and caption.endswith((".", "?")), (cell.id, caption)
        else:
            assert not words, f"{cell.id} draws no figure"
