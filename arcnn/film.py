"""A training's film: what the model drew of three objects, at eight moments between start and end.

The objects are of the test split, which nothing is learned from: the largest hidden parts, of
three classes in three images. Their masks are drawn in their true boxes, for their true classes,
so that there is something to see before a detector finds anything. Filming changes no weight and
draws no random number that training uses.

``film.npz``, beside the weights, holds no pickles and needs no data set (F frames, K mask kinds,
h and w pixels of a cut-out, at most :data:`MAX_SIDE`)::

    iterations       int64 (F,)             steps done, ascending; the first is 0, the last the end
    names            text (1 to 3,)         the objects' classes
    kinds            text (K,)              masks that the model predicts, of MASK_KINDS: the
                                            amodal one, and others
    image0, 1, 2     uint8 (h, w, 3)        RGB, cut out around the object
    truth0, 1, 2     bool (3, h, w)         its masks, in the order of MASK_KINDS
    masks0, 1, 2     bool (F, K, h, w)      predicted ones

A process that is killed leaves the frames that it took; the training that goes on adds to them.
"""

import logging
import math
import time
import zipfile
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import HookBase
from pycocotools import mask as mask_util
from torch import nn

from arcnn.data import decode_masks, split_name, split_records
from arcnn.errors import InputError, MissingError
from arcnn.evaluation import Example, occluded_examples
from arcnn.files import plain, write_atomically
from arcnn.names import MASK_KEYS, MASK_KINDS
from arcnn.predict import GivenBoxes
from arcnn.weights import load_trained

logger = logging.getLogger(__name__)

FILE = "film.npz"
OBJECTS, FRAMES = 3, 8
MAX_FRAMES = 100  # of a training that was made longer, each time by FRAMES
MAX_SIDE = 200  # pixels of a cut-out; what is larger is thinned out
MAX_BYTES = 2**26  # of a film's arrays; one of this kit has four million
MOST_HIDDEN = 0.65  # of an object that can be told at all
SHARE = 0.03  # of a training's time that showing it may take

Masks = dict[str, np.ndarray]  # bool (h, w) by kind


class Filmed(NamedTuple):
    """An object, and what the model drew of it in each frame."""

    name: str
    image: np.ndarray  # uint8 (h, w, 3) RGB
    truth: Masks
    frames: list[Masks]  # one for each of the film's iterations


class Film(NamedTuple):
    """What ``film.npz`` holds."""

    iterations: list[int]
    objects: list[Filmed]


Show = Callable[[pd.DataFrame, Film], None]


def moments(last: int) -> list[int]:
    """When to take a frame: close at first, where most happens. For 400: 0, 8, 33, 73, ... 400."""
    return sorted({round(last * (k / (FRAMES - 1)) ** 2) for k in range(FRAMES)})


def choose_objects(records: Sequence[dict]) -> list[Example]:
    """The objects of a film: the largest hidden parts, of other classes and in other images if
    there are any; fewer than :data:`OBJECTS` if so few are occluded.

    Raises:
        ValueError: no object is occluded at all.
    """
    occluded = occluded_examples(records, {})
    fitting = [e for e in occluded if e.annotation["occlusion_rate"] <= MOST_HIDDEN] or occluded
    chosen: list[Example] = []
    for strict in (True, False):
        for example in fitting:
            images = {e.record["image_id"] for e in chosen}
            classes = {e.annotation["category_id"] for e in chosen}
            new = example.annotation["category_id"] not in classes or not strict
            if len(chosen) < OBJECTS and new and example.record["image_id"] not in images:
                chosen.append(example)
    return chosen


class Camera:
    """Takes frames of a model while it is trained.

    Raises:
        FileNotFoundError: there is no test split, or an image of it is missing.
        ValueError: no object of it is occluded.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.model = model
        classes = MetadataCatalog.get(split_name(cfg, "val")).thing_classes
        self.given, self.windows, self.blank = [], [], []
        for example in choose_objects(split_records(cfg, "val")):
            record, annotation = example.record, example.annotation
            truth = decode_masks(annotation)
            window = _window(truth["amodal"])
            self.given.append(GivenBoxes(cfg, record, [annotation]))
            self.windows.append(window)
            image = read_image(record["file_name"], format="RGB")[window]
            truth = {kind: mask[window] for kind, mask in truth.items()}
            self.blank.append(Filmed(classes[annotation["category_id"]], image, truth, []))

    def frame(self) -> list[Masks]:
        """What the model draws of each object now."""
        frame = []
        for given, window in zip(self.given, self.windows, strict=True):
            ((_, drawn),) = given.predict(self.model)
            kinds = {kind: key for kind, key in MASK_KEYS.items() if key in drawn}
            masks = {kind: mask_util.decode(drawn[key]) for kind, key in kinds.items()}
            frame.append({kind: mask[window].astype(bool) for kind, mask in masks.items()})
        return frame

    def film(self, frames: dict[int, list[Masks]]) -> Film:
        """Frames, by iteration, as a film."""
        iterations = sorted(frames)
        return Film(
            iterations,
            [
                filmed._replace(frames=[frames[i][k] for i in iterations])
                for k, filmed in enumerate(self.blank)
            ],
        )


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Around a mask, with a margin, in steps of so many pixels that it is small."""
    places = [(k.min(), k.max() + 1) for k in np.nonzero(mask)]
    side = max(last - first for first, last in places)
    margin = 2 + round(0.25 * side)
    step = math.ceil((side + 2 * margin) / MAX_SIDE)
    return tuple(slice(max(first - margin, 0), last + margin, step) for first, last in places)


class Filming(HookBase):
    """Keeps a film of the training: a frame at each of its :func:`moments`."""

    def __init__(self, camera: Camera, output_dir: Path) -> None:
        self.camera, self.folder, self.frames = camera, output_dir, {}

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self.moments = set(moments(self.trainer.max_iter))
        self.frames = _frames_before(start, self.folder, self.camera)
        if start == 0:
            self._take(0)

    def after_step(self) -> None:
        if self.trainer.iter + 1 in self.moments:
            self._take(self.trainer.iter + 1)

    def _take(self, iteration: int) -> None:
        frame = self.camera.frame()
        kinds = frame[0].keys()  # a film has one set of them; those of another model go
        self.frames = {k: old for k, old in self.frames.items() if old[0].keys() == kinds}
        self.frames[iteration] = frame
        write_film(self.camera.film(self.frames), self.folder)


class Showing(HookBase):
    """Shows a training to somebody who looks on, as often as :data:`SHARE` of its time allows.

    Args:
        show: called with the log so far, empty at first, and a film of one frame: now.
        read_log: gives it.
    """

    def __init__(self, camera: Camera, show: Show, read_log: Callable[[], pd.DataFrame]) -> None:
        self.camera, self.show, self.read_log = camera, show, read_log
        self.next = 0.0

    def before_train(self) -> None:
        self._show(self.trainer.start_iter)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if time.perf_counter() >= self.next or done == self.trainer.max_iter:
            self._show(done)

    def _show(self, iteration: int) -> None:
        began = time.perf_counter()
        self.show(self.read_log(), self.camera.film({iteration: self.camera.frame()}))
        now = time.perf_counter()
        self.next = now + (now - began) / SHARE


def _frames_before(first: int, folder: Path, camera: Camera) -> dict[int, list[Masks]]:
    """The frames of the same objects that an interrupted training left, up to where it goes on."""
    try:
        film = read_film(folder)
    except (FileNotFoundError, ValueError):
        return {}
    pairs = zip(film.objects, camera.blank, strict=False)
    same = all(np.array_equal(old.image, now.image) for old, now in pairs)
    if not same or len(film.objects) != len(camera.blank):
        return {}
    of_each = [filmed.frames for filmed in film.objects]
    taken = dict(zip(film.iterations, map(list, zip(*of_each, strict=True)), strict=True))
    return {iteration: frame for iteration, frame in taken.items() if iteration <= first}


def write_film(film: Film, output_dir: Path) -> None:
    """Write ``film.npz`` in one piece."""
    kinds = list(film.objects[0].frames[0])
    arrays = {
        "iterations": np.array(film.iterations, dtype=np.int64),
        "names": np.array([filmed.name for filmed in film.objects]),
        "kinds": np.array(kinds),
    }
    for k, filmed in enumerate(film.objects):
        arrays[f"image{k}"] = filmed.image
        arrays[f"truth{k}"] = np.stack([filmed.truth[kind] for kind in MASK_KINDS])
        frames = [np.stack([masks[kind] for kind in kinds]) for masks in filmed.frames]
        arrays[f"masks{k}"] = np.stack(frames)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomically(output_dir / FILE, write)


def read_film(output_dir: str | Path) -> Film:
    """The film of a training.

    Args:
        output_dir: the training's, ``.../seed<k>/train``.

    Raises:
        FileNotFoundError: none was made.
        ValueError: it cannot be read.
    """
    file = Path(output_dir) / FILE
    if not file.is_file():
        raise MissingError(f"{file} is not there: no film was made of this training.")
    try:
        with zipfile.ZipFile(plain(file)) as archive:
            if (size := sum(array.file_size for array in archive.infolist())) > MAX_BYTES:
                raise ValueError(f"it would take {size:,} bytes")
        with np.load(file, allow_pickle=False) as arrays:
            return _film(arrays)
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
        raise InputError(f"{file} cannot be read ({error!s:.200}).") from error


def _film(arrays: Mapping[str, np.ndarray]) -> Film:
    """The film of these arrays; raises ValueError where one is not as the module says."""

    def take(key: str, kind: type, *shape: Container[int]) -> np.ndarray:
        array = arrays[key]
        fits = np.issubdtype(array.dtype, kind) and array.ndim == len(shape)
        if not fits or not all(n in allowed for n, allowed in zip(array.shape, shape, strict=True)):
            raise ValueError(f"{key} is {array.dtype} of shape {array.shape}")
        return array

    iterations = take("iterations", np.int64, range(1, MAX_FRAMES + 1)).tolist()
    names = take("names", np.str_, range(1, OBJECTS + 1)).tolist()
    kinds = take("kinds", np.str_, range(1, len(MASK_KINDS) + 1)).tolist()
    if iterations != sorted(set(iterations)) or iterations[0] < 0:
        raise ValueError(f"iterations are {iterations}")
    if not all(len(name) <= 100 and name.replace("\xa0", " ").isprintable() for name in names):
        raise ValueError(f"names are {names!r:.200}")
    if len(set(kinds)) < len(kinds) or not {"amodal"} <= set(kinds) <= set(MASK_KINDS):
        raise ValueError(f"kinds are {kinds}")
    objects, sides = [], range(1, MAX_SIDE + 1)
    for k, name in enumerate(names):
        image = take(f"image{k}", np.uint8, sides, sides, [3])
        size = [[side] for side in image.shape[:2]]
        truth = take(f"truth{k}", np.bool_, [len(MASK_KINDS)], *size)
        masks = take(f"masks{k}", np.bool_, [len(iterations)], [len(kinds)], *size)
        frames = [dict(zip(kinds, frame, strict=True)) for frame in masks]
        objects.append(Filmed(name, image, dict(zip(MASK_KINDS, truth, strict=True)), frames))
    return Film(iterations, objects)


def film_or_last_state(run: Path) -> tuple[Film | None, str]:
    """The film of a run's training, or what it ended with where there is none; and a sentence.

    Args:
        run: ``.../seed<k>``, its data set registered.

    Returns:
        No film where the data have nothing to film.

    Raises:
        FileNotFoundError: it was not trained to its end.
        ValueError: its weights do not fit.
    """
    try:
        film = read_film(run / "train")
        return film, f"{len(film.iterations)} moments of the training, kept while it went on."
    except (FileNotFoundError, ValueError):
        cfg, model = load_trained(run)
    try:
        camera = Camera(cfg, model)
    except (OSError, ValueError) as error:
        return None, f"There is nothing to film: {error}"
    return camera.film({cfg.SOLVER.MAX_ITER: camera.frame()}), (
        "There is no film of this training: it was made elsewhere, or by an older version of the "
        "kit. This is how it ended."
    )
