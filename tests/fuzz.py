"""Files that are nearly right, at random, through the doors of the kit:

python tests/fuzz.py --minutes 10 read     (or check, or evaluate)

Each case is a folder with an annotation file, two images and a list of predictions, whose seeds are
below; one or several of them are changed: a value replaced, removed or doubled, bytes changed, cut
or repeated. Only documented exceptions may come out, within 5 seconds and a gigabyte. The first
other one ends the run, and its folder stays in ``build/fuzz``.

Where atheris is installed (``pip install atheris``), it chooses the cases by the lines that they
reach; else hypothesis draws them. ``tests/test_fuzz.py`` draws a few.
"""

import argparse
import contextlib
import copy
import functools
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from PIL import Image

GUIDED = __name__ == "__main__" and importlib.util.find_spec("atheris") is not None
if GUIDED:
    import atheris
with atheris.instrument_imports(include=["arcnn"]) if GUIDED else contextlib.nullcontext():
    from arcnn.data import AnnotationError, decode_masks, load_annotations
    from arcnn.data.mapper import read_image
    from arcnn.errors import FileError, InputError, MissingError
    from arcnn.files import ROOT, json_validator
    from arcnn.workshop.own_data import data_commands, score
    from arcnn.workshop.own_data.convert import coco_to_cocoa, labelme_to_cocoa

json_validator()  # whose import takes a second, which is no case's
SECONDS, BYTES = 5, 2**30  # for one case
H, W = 10, 12
WHOLE, SEEN = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]], [[2.0, 2.0, 5.0, 2.0, 5.0, 8.0, 2.0, 8.0]]
COUNTED = {"size": [H, W], "counts": [22, 6, 4, 6, 4, 6, 72]}
CODED = {"size": [H, W], "counts": "f064000T2"}


def _file(*objects: dict, **fields: Any) -> dict:
    image = {"file_name": "3.png", "height": H, "width": W}
    ids = {"image_id": 3, "category_id": 1, "iscrowd": 0}
    return {
        "images": [image | {"id": 3}, image | {"id": 4, "file_name": "4.jpg"}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "pen"}],
        "annotations": [ids | {"id": k} | entry for k, entry in enumerate(objects, start=7)],
    } | fields


_COCOA = {"segmentation": WHOLE[0], "invisible_mask": CODED, "order": 1, "occlude_rate": 0.5}
_SHAPE = {
    "label": "cup",
    "group_id": None,
    "shape_type": "polygon",
    "points": [[2, 2], [8, 2], [8, 8]],
}
ANNOTATIONS = [
    _file(
        {"segmentation": WHOLE, "visible_mask": SEEN, "occluders": [8]},
        {"segmentation": COUNTED, "visible_mask": CODED, "occlude_rate": 0.0},
        {"segmentation": CODED, "visible_mask": None, "invisible_mask": CODED, "image_id": 4},
    ),
    _file(
        {"segmentation": WHOLE, "inmodal_seg": SEEN},
        {"segmentation": CODED, "inmodal_seg": COUNTED},
    ),
    _file(
        {"a_segm": WHOLE, "i_segm": SEEN, "oco_id": 1, "ico_id": 2},
        {"a_segm": WHOLE, "i_segm": WHOLE, "oco_id": 1, "ico_id": 1},
    ),
    _file({"regions": [_COCOA, _COCOA | {"order": 2}], "depth_constraint": "1-2"}),
    {"id": 1, "image_id": 3, "url": "x/3.png", "regions": [_COCOA, _COCOA | {"order": 2}]},
    {"imagePath": "a\\3.png", "imageHeight": H, "imageWidth": W, "shapes": [_SHAPE, _SHAPE]},
]
_FOUND = {"image_id": 3, "category_id": 1, "score": 0.5, "bbox": [2, 2, 6, 6]}
_FOUND |= {"segmentation": CODED, "visible_mask": COUNTED, "occlusion_mask": COUNTED}
PREDICTIONS = [_FOUND, _FOUND | {"image_id": 4, "category_id": 2, "score": 1}]


@functools.cache
def _pictures() -> dict[str, list[bytes]]:
    def saved(kind: str, mode: str = "RGB", **how: Any) -> bytes:
        stream = io.BytesIO()
        Image.effect_noise((W, H), 50).convert(mode).save(stream, kind, **how)
        return stream.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    others = [saved(kind) for kind in ("BMP", "GIF", "TIFF", "WEBP", "PPM", "EPS")]
    pngs = [saved("PNG"), saved("PNG", "P"), saved("PNG", "I;16"), saved("PNG", exif=exif)]
    return {"3.png": [*pngs, *others], "4.jpg": [saved("JPEG"), saved("JPEG", exif=exif), *others]}


# ---- Changes

ODD = st.sampled_from(
    [None, True, -1, 0, 1, 0.5, 1e308, 10**30, -(10**400), 2**31, 2**32, 2**53 + 1, 178_956_970,
     "", "0", "\x1b[2J", "\0", "..", "3.png/", "$(touch x)", "`\n'\"", "4.jpg", "amodal visible",
     "x" * 2000, [], {}, [[]], [0, H * W], [0] * 200 + [H * W], [0] * 3000 + [50, 70],
     [1, 2, 3, 4, 5, 6], [[1e300, 0] * 5], {"size": [13377, 13377], "counts": [0, 13377**2]},
     CODED, COUNTED, WHOLE, SEEN]
)  # fmt: skip
ANY = ODD | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def _changed(draw: Callable, content: Any) -> Any:
    """One value of nested lists and dicts is another, gone, or there again."""
    whole = place = [copy.deepcopy(content)]
    key: Any = 0
    while isinstance(place[key], list | dict) and place[key] and draw(st.integers(0, 7)):
        place = place[key]
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    how = draw(st.sampled_from(["another", "another", "gone", "again"]))
    if how == "another" or place is whole:
        place[key] = draw(ANY)
    elif how == "gone":
        del place[key]
    elif isinstance(place, list):
        place[key:key] = [place[key]] * draw(st.sampled_from([1, 2, 300]))
    else:
        place[draw(st.sampled_from(sorted(place)))] = place[key]
    return whole[0]


def _bytes_changed(draw: Callable, content: bytes) -> bytes:
    start = draw(st.integers(0, len(content)))
    end = min(len(content), start + draw(st.integers(0, 16)))
    new = st.binary(max_size=16) | st.sampled_from(
        [b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"NaN"]
    )
    new |= st.sampled_from([b'"\\ud800"', b"\xff\xff\xff\xff", b"\x1b", content])
    if draw(st.booleans()):
        return content[:start]
    return content[:start] + draw(new) + content[end:]


def _written(draw: Callable, content: Any, changes: int) -> bytes:
    """A JSON file of the content after some changes, of one of which it may be none any more."""
    for _ in range(changes):
        content = _changed(draw, content)
    text = json.dumps(content).encode()
    return _bytes_changed(draw, text) if changes and not draw(st.integers(0, 5)) else text


def make(draw: Callable, folder: Path) -> None:
    """Write the files of a case."""
    changes = st.integers(0, 3)
    annotations = draw(st.sampled_from(ANNOTATIONS))
    (folder / "a.json").write_bytes(_written(draw, annotations, draw(changes)))
    (folder / "p.json").write_bytes(_written(draw, PREDICTIONS, draw(changes)))
    for name, seeds in _pictures().items():
        content = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(0, 2))):
            content = _bytes_changed(draw, content)
        (folder / name).write_bytes(content)


# ---- Targets


def read(folder: Path) -> None:
    """The loaders, as training and conversion use them."""
    file = folder / "a.json"
    with contextlib.suppress(AnnotationError, MissingError, FileError):
        for record in load_annotations(file, folder, look_at_images=True, max_skipped=1).records:
            image = read_image(record["file_name"], "BGR")
            assert image.shape == (record["height"], record["width"], 3)
            for annotation in record["annotations"] if image.size < 1e6 else ():
                masks = decode_masks(annotation)
                assert not (masks["visible"] & ~masks["amodal"]).any()
    for convert in (coco_to_cocoa, lambda source, target: labelme_to_cocoa([source], target)):
        with contextlib.suppress(InputError):
            convert(file, folder / "converted.json")


def _run(command: Callable, *arguments: str | Path) -> int:
    """A command; what it prints must be fit for a terminal."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = command(list(map(str, arguments)))
    said.flush()
    assert b"\x1b" not in said.buffer.getvalue() and status in (0, 1)
    return status


def check(folder: Path) -> None:
    """``python -m arcnn.data check``, of every pixel."""
    told = folder / "report.json"
    file = folder / "a.json"
    _run(data_commands.main, "check", file, "--images", folder, "--decode", "--json", told)
    report = json.loads(told.read_text())
    assert report["used"] + report["skipped_objects"] == report["objects"]


def evaluate(folder: Path) -> None:
    """``python -m arcnn.evaluation``."""
    files = {"ground-truth": "a.json", "predictions": "p.json", "output": "metrics.json"}
    given = [word for key, name in files.items() for word in (f"--{key}", folder / name)]
    if not _run(score.main, *given, "--max-skipped", "1", "--bootstrap", "2"):
        for numbers in json.loads((folder / "metrics.json").read_text()).values():
            assert numbers["AP"] is None or 0 <= numbers["AP"] <= 100


TARGETS = {"read": read, "check": check, "evaluate": evaluate}
tried = 0  # cases


def one_case(target: str, draw: Callable, folder: Path) -> None:
    """Make a case and try it; the folder is gone afterwards unless something was found."""
    global tried
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(draw, folder)
    began, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TARGETS[target](folder)
    took = time.process_time() - began
    assert took < SECONDS, f"{took:.1f} s"
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024
    assert more < BYTES, f"{more:,} bytes"
    tried += 1
    shutil.rmtree(folder)


def drawn(target: str, folder: Path, cases: int) -> Callable[[], None]:
    """A test of so many cases drawn by hypothesis."""

    @settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def test(data: st.DataObject) -> None:
        one_case(target, data.draw, folder)

    return test


def main() -> None:
    """The command."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    given_ = parser.parse_args()
    seconds, folder = given_.minutes * 60, ROOT / "build" / "fuzz" / given_.target
    how = "guided by coverage" if GUIDED else "drawn"
    print(f"{given_.target}: {how}, seed {given_.seed}, {given_.minutes:g} minutes", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    if GUIDED:
        test = drawn(given_.target, folder, 1).hypothesis.fuzz_one_input
        corpus = Path(tempfile.mkdtemp(prefix="arcnn-fuzz-"))
        chance = random.Random(given_.seed)
        for k in range(300):
            (corpus / str(k)).write_bytes(chance.randbytes(600))

        def once(content: bytes) -> None:
            test(content)
            if time.monotonic() > end:
                print(f"{given_.target}: {tried:,} cases, nothing found", flush=True)
                shutil.rmtree(corpus)
                os._exit(0)  # libFuzzer takes a SystemExit for a find

        options = [f"-seed={given_.seed}", "-max_len=1200", "-timeout=60", "-rss_limit_mb=4000"]
        options += [f"-artifact_prefix={folder.parent}/", "-print_final_stats=1", f"{corpus}"]
        atheris.Setup([sys.argv[0], *options], once, enable_python_coverage=True)
        atheris.Fuzz()
    k = 0
    while time.monotonic() < end:
        k += 1
        seeded(given_.seed + k)(drawn(given_.target, folder, 200))()
    print(f"{given_.target}: {tried:,} cases, nothing found")


if __name__ == "__main__":
    main()
