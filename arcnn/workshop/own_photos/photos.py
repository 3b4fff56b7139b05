"""A trained model on a folder of photos, or a video: masks, and a page to look at them.

::

    python -m arcnn.predict PHOTOS... --run results/demo/runs/tabletop/arcnn/seed0 --out FOLDER

writes into FOLDER

- ``predictions.json``: in the COCOA-cls format, as the kit reads it, and a ``score``
- ``masks/<photo>.<k>.png``: of object k, with 0 or 255 in three channels: what is visible, what is
  hidden, and the whole
- ``index.html``: all photos on one page; each kind of mask can be switched on and off
- ``photos/``: what the page shows, and for each finished photo a ``.json``

A video is as many photos as it has frames (``--every 25``: a 25th of them), and needs PyAV, the
kit's extra ``video``. One photo is in memory at a time. Run again, it goes on with what is not
finished. A file that cannot be read is named and left out.
"""

import argparse
import functools
import hashlib
import html
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from arcnn.data.image_files import FORMATS, UNREADABLE
from arcnn.errors import FileError, InputError, MissingError
from arcnn.evaluation import prediction_masks
from arcnn.evaluation.predictions import check_mask, check_predictions
from arcnn.files import (
    plain,
    printable,
    read_json,
    sha256,
    write_atomically,
    write_json,
    write_text,
)
from arcnn.names import MASK_KEYS
from arcnn.predict import predict_image
from arcnn.progress import tqdm
from arcnn.readings import classes_known
from arcnn.visualization.style import MASK_COLORS, mask_rgb
from arcnn.weights import load_trained, run_papers, weights_file
from arcnn.workshop.own_photos import video

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MAX_PIXELS = 16_000_000  # a larger photo is worked on at this size, and its masks have it
MAX_DECODED = 64_000_000  # and so are these at most; only a JPEG is decoded at less than its size
CHANNELS = ("visible", "occlusion", "amodal")  # of a mask file
ALPHA = {"visible": 90, "occlusion": 150, "amodal": 255}
# What is written of a finished photo, as JSON Schema; its objects are checked as predictions are.
PHOTO = {"file_name": {"type": "string"}, "objects": {"type": "array", "items": {"type": "object"}}}
PHOTO |= dict.fromkeys(("height", "width"), {"type": "integer", "minimum": 1})
PHOTO = {"type": "object", "properties": PHOTO, "required": [*PHOTO]}


class Done(NamedTuple):
    """What :func:`predict_photos` did."""

    names: list[str]  # of the finished photos
    new: int  # of them, of this call
    objects: int
    left_out: int
    seconds: float  # that the new ones took

    def __str__(self) -> str:
        said = f"{len(self.names)} photos, {self.new} new, {self.objects} objects"
        said += f", {self.left_out} left out" * bool(self.left_out)
        rate = f"; {self.new / self.seconds:.2f} photos a second" if self.new else ""
        return f"{said}{rate}."


def find_photos(places: Sequence[str | Path], without: Path | None = None) -> dict[str, Path]:
    """The images and videos among files and in folders, at any depth, by a name of their own.

    Args:
        without: a folder that is passed over, as that of the results may lie among the photos.

    Raises:
        FileNotFoundError: a place is not there, or nothing in it is an image.
    """
    found = {}
    for place in map(Path, places):
        if not place.exists():
            raise MissingError(f"{place} is not there")
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        root = place.parent if place.is_file() else place
        for file in files:
            if not file.is_file() or file.suffix.lower() not in ENDINGS | video.ENDINGS:
                continue  # a link to itself is no file
            if not without or without.resolve() not in file.resolve().parents:
                name = _output_name("__".join(file.relative_to(root).parts))
                while name in found and found[name] != file:  # of another place
                    name = f"_{name}"
                found[name] = file
    if not found:
        raise MissingError(f"no image or video in {', '.join(map(str, places))}")
    return found


def _output_name(name: str) -> str:
    """A name that files made of a photo can have, and a page can show."""
    whole = os.fsencode(name)
    if len(whole) <= 200 and name.isprintable():  # of 255; longer ones are made of it
        return name
    beginning = "".join(c if c.isprintable() else "_" for c in name)[:40]
    return f"{beginning}-{hashlib.sha256(whole).hexdigest()[:16]}"


def open_photo(file: Path) -> np.ndarray:
    """A photo upright, uint8 ``(H, W, 3)`` RGB, of :data:`MAX_PIXELS` at most; the first image of
    an animation. Of 16 bits, 8 are left; floats are from 0 to 1.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with warnings.catch_warnings(), Image.open(plain(file), formats=FORMATS) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            scale = min(1.0, (MAX_PIXELS / (image.width * image.height)) ** 0.5)
            size = [max(round(scale * side), 1) for side in image.size]
            image.draft("RGB", size)  # a JPEG is decoded at a half or a quarter of its size
            if image.width * image.height > MAX_DECODED:
                raise ValueError(f"more than {MAX_DECODED:,} pixels; save it smaller, or as JPEG")
            if image.mode.startswith(("I", "F")):
                image = Image.fromarray(_in_eight_bits(np.asarray(image)))
            rgb = image.convert("RGB")
            if scale < 1:
                rgb = rgb.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
            rgb.info["exif"] = image.info.get("exif", b"")
            return np.asarray(ImageOps.exif_transpose(rgb))
    except UNREADABLE as error:
        raise FileError(f"{file} cannot be read: {error}") from error


def _in_eight_bits(values: np.ndarray) -> np.ndarray:
    least, highest, most = values.min(), values.max(), 1 if values.dtype.kind == "f" else 65535
    if not 0 <= least <= highest <= most or 1 < highest < 4096:  # NaN is neither
        raise ValueError(f"values from {least} to {highest}, not 0 to {most}; save it with 8 bits")
    return (values * (255 / most) + 0.5).astype(np.uint8)


def predict_photos(
    run: Path,
    places: Sequence[str | Path],
    out: Path,
    *,
    score: float = 0.5,
    every: int = 1,
    device: str | None = None,
) -> Done:
    """Predict every photo that is not finished, and write what the module's docstring says.

    Args:
        run: a training's folder, ``results/<profile>/runs/<dataset>/<model>/seed<k>``, or the file
            that it was exported as.
        places: images, videos, and folders of them.
        score: of a detection that is kept, at least; in [0, 1].
        every: so many-th frame of a video is taken.

    Raises:
        FileNotFoundError: no image, the run was not trained to its end, or PyAV is missing.
        ValueError: the folder holds predictions of another run, or with another score; or
            ``score`` or ``every`` is none.
    """
    if not 0 <= score <= 1 or every < 1:
        raise InputError(f"score {score}, every {every}: the one is in [0, 1], the other 1 or more")
    found = find_photos(places, without=out)
    videos = [file for file in found.values() if file.suffix.lower() in video.ENDINGS]
    for file in videos[:1]:
        video.check_video_reader(file)
    trained = load_trained(run, device=device)
    papers = run_papers(run)
    made_by = {"run": str(run.resolve()), "weights": sha256(weights_file(run)), "score": score}
    made_by["note"] = classes_known(papers)
    _check_folder(out, made_by)
    names, new, left_out, seconds = [], 0, 0, 0.0
    bar = tqdm(_pictures(found, every), total=None if videos else len(found), unit="photo")
    for name, source, look in bar:
        finished = out / "photos" / f"{name}.json"
        if not _is_finished(finished, len(papers.classes)):
            started = time.perf_counter()
            try:
                image = look()
            except OSError as error:
                tqdm.write(printable(f"left out: {error}"), file=sys.stderr)
                left_out += 1
                continue
            objects = [one for one in predict_image(*trained, image) if one["score"] >= score]
            objects.sort(key=lambda one: -one["score"])
            _draw(out, name, image, objects)
            height, width = image.shape[:2]
            # Last, since it says that the photo is finished.
            photo = {"file_name": f"photos/{name}.jpg", "height": height, "width": width}
            write_json(finished, photo | {"source": str(source.resolve()), "objects": objects})
            new, seconds = new + 1, seconds + time.perf_counter() - started
        names.append(name)
    objects = _collect(out, names, papers.classes, made_by)
    return Done(names, new, objects, left_out, seconds)


class Finished(NamedTuple):
    """A photo, and what was found in it, the surest first."""

    name: str
    image: np.ndarray  # uint8 (H, W, 3) RGB
    objects: list[dict]  # as arcnn.evaluation.predictions


def finished_photo(out: Path, name: str) -> Finished:
    """One of the photos that :func:`predict_photos` has finished in a folder."""
    objects = json.loads((out / "photos" / f"{name}.json").read_text())["objects"]
    return Finished(name, open_photo(out / "photos" / f"{name}.jpg"), objects)


def most_hidden(photos: Sequence[Finished]) -> tuple[np.ndarray, dict, dict] | None:
    """Of all objects that a part is seen of, the one with the largest hidden part: its image, the
    prediction, and its masks. ``None`` if none has any."""
    found = [(p.image, one, prediction_masks(one)) for p in photos for one in p.objects]
    found = [each for each in found if each[2]["visible"].any() and each[2]["occlusion"].any()]
    return max(found, key=lambda each: each[2]["occlusion"].mean(), default=None)


def _pictures(
    found: Mapping[str, Path], every: int
) -> Iterator[tuple[str, Path, Callable[[], np.ndarray]]]:
    """By name, each image and each frame: its file, and what opens it or raises an OSError."""
    for name, file in found.items():
        if file.suffix.lower() not in video.ENDINGS:
            yield name, file, functools.partial(open_photo, file)
            continue
        try:
            for number, frame in video.frames(file, every):
                look = functools.partial(video.upright, frame, MAX_PIXELS)
                yield f"{name}.{number:06d}", file, look
        except OSError as error:
            yield name, file, functools.partial(_give_up, error)


def _give_up(error: OSError) -> np.ndarray:
    raise error


def _check_folder(out: Path, made_by: dict[str, Any]) -> None:
    said = out / "photos" / "made_by.json"
    if not said.exists():
        write_json(said, made_by)
    elif read_json(said, "choose another folder, or delete this one.") != made_by:
        raise InputError(
            f"{out} holds predictions of another run, or with another score; choose another folder."
        )


def _is_finished(file: Path, classes: int) -> bool:
    """Whether a photo's file is there and whole; else the photo is predicted, perhaps again."""
    try:
        if not file.with_suffix(".jpg").is_file():
            return False
        photo = read_json(file, "", PHOTO)
        size = [photo["height"], photo["width"]]
        record = {"image_id": 0, "height": size[0], "width": size[1]}
        check_predictions([record], photo["objects"], classes)
        masks = [(o[key], key) for o in photo["objects"] for key in MASK_KEYS.values() if key in o]
        whole = all(check_mask(mask, key, size) == mask for mask, key in masks)
    except (OSError, ValueError):
        return False
    return whole and size[0] * size[1] < 2 * MAX_PIXELS


def _draw(out: Path, name: str, image: np.ndarray, objects: list[dict]) -> None:
    """The masks, and the layers that the page lays over the photo."""
    layers = {kind: np.zeros((*image.shape[:2], 4), np.uint8) for kind in ALPHA}
    for k, one in enumerate(objects):
        masks = prediction_masks(one)
        channels = np.stack([masks[kind] for kind in CHANNELS], axis=-1)
        _save(out / "masks" / f"{name}.{k}.png", channels.astype(np.uint8) * 255, "PNG")
        for kind, layer in layers.items():
            where = masks[kind]
            if kind == "amodal":  # a line
                inside = ndimage.binary_erosion(where, iterations=max(image.shape[1] // 300, 1))
                where = where & ~inside
            layer[where] = (*mask_rgb(kind), ALPHA[kind])
    _save(out / "photos" / f"{name}.jpg", image, "JPEG")
    for kind, layer in layers.items():
        _save(out / "photos" / f"{name}.{kind}.png", layer, "PNG")


def _save(file: Path, pixels: np.ndarray, kind: str) -> None:
    write_atomically(file, lambda partial: Image.fromarray(pixels).save(partial, kind))


def _collect(out: Path, names: Sequence[str], classes: Sequence[str], made_by: dict) -> int:
    """Write ``predictions.json`` and the page, a photo at a time; returns the number of objects."""
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]
    images, figures, objects = [], [], 0

    def write(partial: Path) -> None:
        nonlocal objects
        with partial.open("w") as file:
            file.write('{"annotations": [')
            for number, name in enumerate(names, start=1):
                part = out / "photos" / f"{name}.json"
                if not part.is_file():
                    continue
                photo = json.loads(part.read_text())
                found = photo.pop("objects")
                images.append(photo | {"id": number, "file_name": f"photos/{name}.jpg"})
                figures.append(_figure(name, found, classes))
                for one in found:
                    objects += 1
                    own = {"id": objects, "image_id": number, "iscrowd": 0}
                    one |= own | {"category_id": one["category_id"] + 1}
                    file.write(",\n" * (objects > 1) + json.dumps(one))
            rest = {"images": images, "categories": categories, "info": made_by}
            file.write("],\n" + json.dumps(rest)[1:])

    write_atomically(out / "predictions.json", write)
    write_text(out / "index.html", _page(figures, made_by["note"]))
    return objects


def _figure(name: str, objects: list[dict], classes: Sequence[str]) -> str:
    said = ", ".join(f"{classes[o['category_id']]} {o['score']:.2f}" for o in objects)
    source = f"photos/{quote(name)}"
    layers = "".join(
        f'<img class="{k}" src="{source}.{k}.png" alt="" loading="lazy">' for k in ALPHA
    )
    text = html.escape(f"{name}: {said or 'nothing found'}")
    return (
        f'<figure><div><img src="{source}.jpg" alt="{text}" loading="lazy">{layers}</div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Amodal masks</title>
<style>
body { font: 15px sans-serif; margin: 1em; color: #333 }
nav { position: sticky; top: 0; background: white; padding: .6em 0; z-index: 1 }
label { margin-right: 1.5em; border-bottom: 3px solid }
figure { display: inline-block; vertical-align: top; width: min(100%, 600px); margin: 0 1em 1em 0 }
figure div { position: relative }
img { width: 100%; display: block }
div img + img { position: absolute; left: 0; top: 0 }
RULES
</style>
<nav>SWITCHES</nav>
<p>NOTE</p>
FIGURES
</html>
"""


def _page(figures: Sequence[str], note: str) -> str:
    words = {"visible": "visible", "occlusion": "hidden", "amodal": "the whole"}
    rules = [f"body:has(#{k}:not(:checked)) img.{k} {{ display: none }}" for k in words]
    switches = [
        f'<label style="border-color: {MASK_COLORS[k]}">'
        f'<input type="checkbox" id="{k}" checked> {word}</label>'
        for k, word in words.items()
    ]
    parts = {"RULES": rules, "SWITCHES": switches, "NOTE": [html.escape(note)], "FIGURES": figures}
    # All at once: a photo or a class may be called FIGURES.
    return re.sub("|".join(parts), lambda part: "\n".join(parts[part[0]]), PAGE)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m arcnn.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("photos", nargs="+", help="images, videos, and folders of them")
    top.add_argument(
        "--run", type=Path, required=True, help="folder of a training, or an exported file"
    )
    top.add_argument("--out", type=Path, required=True)
    top.add_argument("--score", type=float, default=0.5, help="at least, of a detection (0.5)")
    top.add_argument("--every", type=int, default=1, metavar="N", help="N-th frame of a video (1)")
    top.add_argument("--device", choices=("cpu", "cuda"), help="by default the GPU if there is one")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    try:
        print(printable(classes_known(run_papers(given.run))), file=sys.stderr)
        options = {"score": given.score, "every": given.every, "device": given.device}
        done = predict_photos(given.run, given.photos, given.out, **options)
    except (OSError, ValueError) as error:
        print(printable(f"predict: {error}"), file=sys.stderr)
        return 1
    print(printable(f"{done} Open {given.out / 'index.html'}."))
    return 0 if done.names else 1
