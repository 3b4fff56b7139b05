"""The course in a real JupyterLab, driven by a real browser: every notebook, and what moves.

Skipped only where there is no Chromium that starts; ``.ci/run`` installs Debian's.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Error, Locator, Page, TimeoutError, sync_playwright

from arcnn.data.tabletop import make_tabletop
from arcnn.files import IN_BATCH, NOTEBOOKS
from arcnn.workshop.notebooks.lab import hand_out

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")

# Short settings, as a student may write them into the parameters cell.
SHORT = {
    "01_prepare_data": {"train_images": 150, "val_images": 20},
    "04_train": {"options": ["SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 1]},
    "14_your_own_model": {"options": ["SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 1]},
    "10_amodal_data_from_modal": {"train_images": 12, "val_images": 4, "image_size": 160},
}
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .filter((cell) => cell.cell_type === 'code').map((cell) => cell.outputs)"""
KERNEL = """() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"""
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
# The sliders and menus of each notebook that has some, and how many.
MOVES = {"00": 2, "02": 3, "03": 4, "04": 1, "05": 3, "06": 3, "07": 1, "08": 3, "12": 2}
CONTROLS = ".noUi-handle, .widget-dropdown select"
# What a slider or a menu has drawn: pictures, and the words beside them.
DRAWN = """(moved) => [...moved.querySelectorAll('.jp-OutputArea')].map((area) => area.textContent
    + [...area.querySelectorAll('img')].map((image) => image.src)).join()"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's root with the course in it and a small data set."""
    root = tmp_path_factory.mktemp("lab")
    make_tabletop(root / "data", train_images=150, val_images=20, workers=2)
    hand_out(root / "lab")
    for copy in sorted((root / "lab").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(copy, as_version=4)
        (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        values = {"data_root": str(root / "data"), "results_root": str(root / "results")}
        for name, value in (values | SHORT.get(copy.stem, {})).items():
            cell.source = re.sub(
                f"(?m)^{name}: (.*) = .*?  #", rf"{name}: \1 = {value!r}  #", cell.source
            )
        nbformat.write(notebook, copy)
    return root


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Page]:
    """JupyterLab on the loopback, with a token, in a browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), root / "lab.log"
    home = {name: str(root / "home") for name in ("HOME", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    home["ARCNN_MODELS"] = str(root / "models")
    call = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    call += [f"--port={port}", f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}"]
    call += ["--LabApp.expose_app_in_browser=True"]
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        env = {k: v for k, v in os.environ.items() if k != IN_BATCH} | home  # somebody looks
        server = subprocess.Popen(call, env=env, stdout=out, stderr=out)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}").close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.3)
        with sync_playwright() as playwright:
            # A container has little shared memory, and root no sandbox.
            given = ["--disable-dev-shm-usage"] + ["--no-sandbox"] * (os.geteuid() == 0)
            try:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=given)
            except Error as error:
                pytest.skip(f"Chromium does not start here: {error}")
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.goto(f"{address}/lab?token={token}")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def run_all(page: Page, name: str) -> list[list[dict]]:
    """Open a notebook and run it; the outputs of its code cells."""
    page.goto(page.url.split("/lab")[0] + f"/lab/tree/lab/{name}?reset")
    page.wait_for_function(f"() => ({KERNEL})() === 'idle'", timeout=120_000)
    page.evaluate(RUN_ALL)
    return page.evaluate(OUTPUTS)


def move(page: Page, control: Locator) -> None:
    """Drag a slider's handle to where it is not, or choose another entry of a menu."""
    if control.evaluate("(it) => it.tagName === 'SELECT'"):
        control.select_option(index=(control.evaluate("(it) => it.selectedIndex") + 1) % 2)
        return
    value, track = control.get_attribute("aria-valuenow"), control.locator("xpath=../..")
    for _ in range(5):  # after a run, Lab scrolls to the last cell, from under the mouse
        control.hover()  # scrolls there, and waits until it stands still
        page.mouse.down()
        handle, line = control.bounding_box(), track.bounding_box()
        share = 0.8 if handle["x"] < line["x"] + line["width"] / 2 else 0.2
        page.mouse.move(line["x"] + share * line["width"], handle["y"] + 5, steps=4)
        page.mouse.up()
        if control.get_attribute("aria-valuenow") != value:
            return
        page.wait_for_timeout(500)


def redraws(page: Page, moved: Locator, control: Locator) -> bool:
    """Whether a slider or a menu draws another picture when it is moved, within half a minute."""
    before = moved.evaluate(DRAWN)
    move(page, control)
    try:
        page.wait_for_function(
            f"([moved, before]) => ![before, ''].includes(({DRAWN})(moved))",
            arg=[moved.element_handle(), before],
            timeout=30_000,
        )
    except TimeoutError:
        return False
    return True


# All of them take four minutes: `make test-lab`. Always: the front door, and one with sliders.
ALWAYS = ("index", "03_anatomy_of_the_model")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(file, id=file.stem, marks=[] if file.stem in ALWAYS else pytest.mark.long)
        for file in sorted(NOTEBOOKS.glob("*.ipynb"))
    ],
)
def test_a_notebook_runs_in_the_browser(lab: Page, root: Path, source: Path) -> None:
    before = (root / "lab" / source.name).stat().st_mtime_ns
    cells = run_all(lab, source.name)
    outputs = [output for cell in cells for output in cell]
    errors = [(o["ename"], o["evalue"]) for o in outputs if o["output_type"] == "error"]
    assert not errors
    text = "".join(str(o.get("text", "")) for o in outputs)
    assert "Warning" not in text
    if source.stem != "index":
        assert any("image/png" in o.get("data", {}) for o in outputs) or source.stem[:2] == "01"
        assert "Recorded in" in text
    controls = 0
    for moved in lab.locator(".widget-interact").all():
        for control in moved.locator(CONTROLS).all():
            controls += 1
            assert redraws(lab, moved, control), f"{source.stem}: control {controls} does nothing"
        assert not moved.get_by_text("Traceback").count(), moved.inner_text()
    assert controls == MOVES.get(source.stem[:2], 0), source.stem
    assert before  # the copy is the student's; the kit's own is untouched
    assert not nbformat.read(source, 4).cells[-1].get("outputs")
