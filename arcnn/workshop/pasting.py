"""Amodal data from an ordinary (modal) data set: whole objects, pasted over other photos.

Li and Malik (2016) did this first: nobody can photograph what is hidden, but who pastes an object
over another knows it. So amodal, visible and occlusion masks are exact. The result is in the format
of COCOA-cls, its ``occluders`` field included, and says of every piece which photo it comes from.

Objects of a photo that are not known to be whole stay in the picture as crowd (``iscrowd``): nobody
learns from their outlines, and finding them is no mistake.
"""

import functools
import json
import logging
import math
import os
import pickle
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from pycocotools import mask as mask_util
from tqdm import tqdm

from arcnn.data.image_files import check_image
from arcnn.data.masks import to_json_rle
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.data.reading import Problem
from arcnn.files import compact_json
from arcnn.names import SPLITS
from arcnn.workshop.cutouts import CutOut, Photo, cut_out, open_rgb, read_instances, read_photos

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.json"
LEFT_OUT_FILE = "left_out.txt"
VERSION = 2  # of the rules below; another one gives other images

CLOSE = 0.02  # how near a rate has to come to its target
TRIES = 6  # objects tried for one place, and directions or places tried for each
FULFILLED = 0.85  # share of the wanted occlusions that room is found for, as measured


@dataclass(frozen=True)
class Recipe:
    """What the images are made with.

    No image has more objects pasted, and no object more occluders, than the recipe says. Fewer are
    possible: an object that finds no room is not pasted, and who was to be covered by it stays with
    the occluders it has. Of two occluders or more for each, few objects can be occluded at all
    unless many are pasted; the fewest occluders go before the distribution of rates. The summary in
    ``recipe.json`` counts the objects by their number of occluders.

    Args:
        image_size: longest side, pixels.
        objects: fewest and most objects pasted into an image.
        occluders: fewest and most objects that lie over one occluded object, also those that lie
            over a part of it that another one hides already.
        scale: of a pasted object, relative to its size in its own photo.
        sizes: smallest and largest square root of a pasted object's area, by that of the image's.
        region: of the image that centres of freely placed objects lie in, ``(x0, y0, x1, y1)`` as
            shares of its sides.
        rates: the distribution of occlusion rates to aim at.
        val_share: of the photos, for validation alone; no photo serves both splits.
        cut_outs: at most so many of them are kept for each split.
        seed: RNG seed.
    """

    image_size: int = 320
    objects: tuple[int, int] = (3, 6)
    occluders: tuple[int, int] = (1, 2)
    scale: tuple[float, float] = (0.7, 1.4)
    sizes: tuple[float, float] = (0.1, 0.5)
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    rates: RateDistribution = field(default=COCOA_CLS)
    val_share: float = 0.15
    cut_outs: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("objects", "occluders", "scale", "sizes"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"{name} is {low} to {high}; give two numbers above 0, the smaller first"
                )
        x0, y0, x1, y1 = self.region
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(f"region is {self.region}; give left, top, right, bottom in 0 to 1")
        if not 32 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}; choose 32 to 4096 pixels")


@dataclass
class Item:
    """An object of an image in the making; masks are bool ``(H, W)``."""

    category_id: int
    amodal: np.ndarray
    visible: np.ndarray
    target: float  # occlusion rate to reach
    area: int
    source: dict[str, Any]
    in_front: list[int] = field(default_factory=list)  # places of those that cover it
    seen: int = -1  # pixels of the visible mask

    def __post_init__(self) -> None:
        self.seen = self.area

    @property
    def rate(self) -> float:
        return 1 - self.seen / self.area

    def owed(self, recipe: Recipe) -> int:
        """Occluders that it lacks to have the fewest allowed."""
        return max(recipe.occluders[0] - len(self.in_front), 0) if self.target > CLOSE else 0

    def needy(self, recipe: Recipe) -> bool:
        """Whether somebody has to cover it, and may."""
        lacks = self.target - self.rate > CLOSE or self.owed(recipe) > 0
        return lacks and len(self.in_front) < recipe.occluders[1]


class Patch(NamedTuple):
    """A cut-out at the size it is pasted with."""

    cut_out: CutOut
    alpha: np.ndarray  # uint8 (h, w)
    mask: np.ndarray  # bool (h, w): where it is more than half opaque
    area: int
    mirrored: bool


class Made(NamedTuple):
    """A finished image."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    items: list[Item]  # back to front
    crowd: list[tuple[int, np.ndarray, np.ndarray]]  # category, modal mask, what is left of it
    photo: Photo


# ------------------------------------------------------------------------------------ one image


def _size(photo: Photo, image_size: int) -> tuple[int, int]:
    """(H, W) of an image with this longest side, in pixels."""
    scale = image_size / max(photo.height, photo.width)
    return max(round(scale * photo.height), 1), max(round(scale * photo.width), 1)


def _encoded(masks: Sequence[np.ndarray]) -> list[dict]:
    """RLEs of bool ``(H, W)`` masks; column by column in memory, as the encoder wants them."""
    height, width = masks[0].shape
    columns = np.empty((len(masks), width, height), np.uint8)
    for k, mask in enumerate(masks):
        columns[k] = mask.T
    return mask_util.encode(columns.transpose(2, 1, 0))


def _prepared(job: tuple[Photo, int, str, bool]) -> Photo | Problem:
    """A photo with the masks of its objects at the size that is made, once and not for every
    image; or what is wrong with it."""
    photo, image_size, image_root, allow_links = job
    record = {"image_id": photo.id, "file_name": photo.file_name}
    record |= {"height": photo.height, "width": photo.width}
    problem = check_image(Path(image_root), record, decode=True, allow_links=allow_links)
    if problem is not None and problem.action == "skipped":
        return problem
    height, width = _size(photo, image_size)
    objects = []
    for found in photo.objects:
        mask = Image.fromarray(np.ascontiguousarray(mask_util.decode(found.rle)) * 255)
        small = np.asarray(mask.resize((width, height), Image.Resampling.BOX)) > 127
        objects.append(found._replace(small=_encoded([small])[0]))
    return photo._replace(file_name=record["file_name"], objects=objects)


def _patch(
    random: np.random.Generator, cut: CutOut, side: float, recipe: Recipe, least_area: float
) -> Patch | None:
    """A cut-out, scaled, perhaps mirrored, with a soft edge; None if it cannot be that large.

    Args:
        side: square root of the image's area, pixels.
        least_area: that it must cover, pixels.
    """
    alpha_area = np.count_nonzero(cut.rgba[..., 3] > 127)
    own = side / cut.photo_side  # the scale that keeps its share of the picture
    low, high = (
        k * side / np.sqrt(alpha_area) for k in recipe.sizes
    )  # scales of the smallest and largest allowed
    scale = np.clip(own * random.uniform(*recipe.scale), low, high)
    scale = max(scale, np.sqrt(least_area / alpha_area))
    if scale > min(high, 1.3):  # beyond that it would look blurred
        return None
    height, width = (max(round(scale * k), 3) for k in cut.rgba.shape[:2])
    alpha = Image.fromarray(cut.rgba[..., 3]).resize((width, height), Image.Resampling.BILINEAR)
    # Lenses and JPEG give edges a width; it varies, so that no width tells what was pasted.
    alpha = np.asarray(alpha.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.7))))
    mirrored = bool(random.random() < 0.5)
    if mirrored:
        alpha = alpha[:, ::-1]
    mask = alpha > 127
    area = np.count_nonzero(mask)
    return Patch(cut, alpha, mask, area, mirrored) if area >= 30 else None


def _colors(patch: Patch) -> np.ndarray:
    """Colours of a patch, float32 (h, w, 3); most patches find no place and never need them."""
    image = Image.fromarray(patch.cut_out.rgba[..., :3])
    colors = image.resize(patch.mask.shape[::-1], Image.Resampling.BILINEAR)
    colors = np.asarray(colors, np.float32)
    return colors[:, ::-1] if patch.mirrored else colors


def _overlap(field_: np.ndarray, mask: np.ndarray, top: int, left: int) -> int:
    """Pixels of ``field_`` (bool, the image's size) below a mask placed at (top, left)."""
    height, width = field_.shape
    rows = slice(max(top, 0), min(top + mask.shape[0], height))
    columns = slice(max(left, 0), min(left + mask.shape[1], width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0
    part = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return np.count_nonzero(field_[rows, columns] & part)


def _inside(patch: Patch, top: int, left: int, shape: tuple[int, int]) -> bool:
    height, width = patch.mask.shape
    return top >= 0 and left >= 0 and top + height <= shape[0] and left + width <= shape[1]


def _spares(
    items: Sequence[Item], patch: Patch, top: int, left: int, behind: int, recipe: Recipe
) -> bool:
    """Whether a patch over ``behind`` leaves all others what they are to reach: a rate, by a
    number of occluders."""
    for k, item in enumerate(items):
        if k == behind or not _overlap(item.amodal, patch.mask, top, left):
            continue
        lacking = item.target - item.rate
        lacking -= _overlap(item.visible, patch.mask, top, left) / item.area
        number = len(item.in_front) + 1
        if item.target == 0 or lacking < -CLOSE or number > recipe.occluders[1]:
            return False
        # The last one that may cover it has to leave nothing over, the one before something.
        if number == recipe.occluders[1] and lacking > CLOSE:
            return False
        if number < recipe.occluders[0] and lacking < CLOSE:
            return False
    return True


def _over(
    random: np.random.Generator,
    items: Sequence[Item],
    behind: int,
    goal: float,
    patch: Patch,
    recipe: Recipe,
) -> tuple[int, int] | None:
    """Where a patch has to go to raise the rate of an object to ``goal``: (top, left), or None.

    It moves outwards from the object in some direction until it covers just enough.
    """
    item = items[behind]
    shape = item.amodal.shape
    rows, columns = item.visible.any(axis=1).nonzero()[0], item.visible.any(axis=0).nonzero()[0]
    if not len(rows):
        return None
    # So that at distance 0 the patch lies centrally over what is still seen.
    tall, wide = patch.mask.shape
    y, x = (rows[0] + rows[-1] - tall) / 2, (columns[0] + columns[-1] - wide) / 2
    wanted = (goal - item.rate) * item.area
    reach = math.hypot(tall, wide) / 2 + math.hypot(np.ptp(rows), np.ptp(columns))
    for angle in random.uniform(0, 2 * np.pi, TRIES):
        down, right = math.sin(angle), math.cos(angle)

        def place(d: float, down: float = down, right: float = right) -> tuple[int, int]:
            return round(y + d * down), round(x + d * right)

        near, far = 0.0, reach
        covered = _overlap(item.visible, patch.mask, *place(near))
        if covered < wanted:
            continue
        for _ in range(7):
            middle = (near + far) / 2
            there = _overlap(item.visible, patch.mask, *place(middle))
            if there >= wanted:
                near, covered = middle, there
            else:
                far = middle
        spot = place(near)
        if (
            covered - wanted <= CLOSE * item.area
            and _inside(patch, *spot, shape)
            and _spares(items, patch, *spot, behind, recipe)
        ):
            return spot
    return None


def _free(
    random: np.random.Generator, items: Sequence[Item], patch: Patch, recipe: Recipe, shape: Any
) -> tuple[int, int] | None:
    """Where a patch covers nobody: (top, left), or None."""
    x0, y0, x1, y1 = recipe.region
    for _ in range(TRIES):
        centre = random.uniform((y0 * shape[0], x0 * shape[1]), (y1 * shape[0], x1 * shape[1]))
        top, left = (int(k) for k in np.rint(centre - np.array(patch.mask.shape) / 2))
        if _inside(patch, top, left, shape) and not any(
            _overlap(item.amodal, patch.mask, top, left) for item in items
        ):
            return top, left
    return None


def _paste(
    random: np.random.Generator, image: np.ndarray, items: list[Item], patch: Patch, spot: Any
) -> Item:
    """Blend a patch into the image (float32, in place), and hide what lies below it."""
    top, left = spot
    window = slice(top, top + patch.mask.shape[0]), slice(left, left + patch.mask.shape[1])
    below, alpha = image[window], patch.alpha[..., None] / np.float32(255)
    # A part of the way to the light of the place: as bright as a little of its surroundings.
    colors = _colors(patch)
    here, there = colors[patch.mask].mean(), below.mean()
    gain = np.clip((there + 20) / (here + 20), 0.7, 1.4) ** random.uniform(0.1, 0.4)
    image[window] = below + alpha * (np.minimum(colors * np.float32(gain), 255) - below)
    amodal = np.zeros(image.shape[:2], bool)
    amodal[window] = patch.mask
    for item in items:
        part = item.amodal[window] & patch.mask
        if part.any():
            item.in_front.append(len(items))
            item.visible[window] &= ~patch.mask
            item.seen = np.count_nonzero(item.visible)
    cut = patch.cut_out
    source = {"image_id": cut.photo_id, "annotation_id": cut.object_id, "license": cut.license}
    return Item(cut.category_id, amodal, amodal.copy(), 0.0, patch.area, source)


def _targets(random: np.random.Generator, recipe: Recipe, number: int) -> list[float]:
    """Rates to aim at, so many that their mean share of zeros is right and the last one is zero."""
    visible = max(1 - (1 - recipe.rates.visible) / FULFILLED, 0.0)
    if number == 1 or recipe.rates.visible >= 1:
        return [0.0] * number
    # The frontmost object is always seen: the others are covered that much more often.
    others = max(visible * number - 1, 0) / (number - 1)
    covered = RateDistribution(
        0.0, tuple(k / sum(recipe.rates.shares) for k in recipe.rates.shares)
    )
    rates = [0.0 if random.random() < others else covered.sample(random) for _ in range(number - 1)]
    return [*rates, 0.0]


def make_image(
    index: int, split: str, recipe: Recipe, photos: Sequence[Photo], cut_outs: Sequence[CutOut]
) -> Made:
    """One image, from its number alone."""
    random = np.random.default_rng([recipe.seed, SPLITS.index(split), index])
    photo = photos[random.integers(len(photos))]
    shape = _size(photo, recipe.image_size)
    image = np.asarray(open_rgb(photo.file_name, shape[::-1]), np.float32)
    side = float(np.sqrt(shape[0] * shape[1]))
    items, crowd = [], []
    for found in photo.objects:
        mask = mask_util.decode(found.small).view(bool)
        area = np.count_nonzero(mask)
        if found.whole and area >= 30:
            source = {"image_id": photo.id, "annotation_id": found.id, "license": photo.license}
            items.append(Item(found.category_id, mask, mask.copy(), 0.0, area, source))
        elif area:
            crowd.append((found.category_id, mask, mask.copy()))

    number = int(random.integers(recipe.objects[0], recipe.objects[1] + 1))
    targets = _targets(random, recipe, len(items) + number)
    for item, target in zip(items, targets, strict=False):
        item.target = target
    coming = targets[len(items) :]
    # Everybody who is to be covered needs somebody who comes later.
    needed = recipe.occluders[0] * sum(t > 0 for t in targets)
    lacking = min(needed, recipe.objects[1]) - len(coming)
    coming = [0.0] * max(lacking, 0) + coming
    for k, target in enumerate(coming):
        placed = _next(random, items, coming[k:], recipe, cut_outs, photo, side, shape)
        if placed is not None:
            items.append(_paste(random, image, items, *placed))
            items[-1].target = target
    covered = functools.reduce(
        np.logical_or, (i.amodal for i in items if i.source["image_id"] != photo.id), False
    )
    crowd = [(category, modal, left & ~covered) for category, modal, left in crowd]
    return Made(np.clip(np.rint(image), 0, 255).astype(np.uint8), items, crowd, photo)


def _in_need(items: Sequence[Item], recipe: Recipe, places: int) -> list[int]:
    """Whom the next of so many ``places`` should cover, the most urgent first."""
    needy = [k for k, item in enumerate(items) if item.needy(recipe)]
    needy.sort(key=lambda k: items[k].rate - items[k].target)
    # Who has too few occluders comes first, and nobody is begun who would end with too few.
    begun = [k for k in needy if items[k].in_front and items[k].owed(recipe)]
    places -= sum(items[k].owed(recipe) for k in begun)
    return begun + [k for k in needy if k not in begun and items[k].owed(recipe) <= places]


def _next(
    random: np.random.Generator,
    items: Sequence[Item],
    coming: Sequence[float],
    recipe: Recipe,
    cut_outs: Sequence[CutOut],
    photo: Photo,
    side: float,
    shape: tuple[int, int],
) -> tuple[Patch, tuple[int, int]] | None:
    """The next object to paste, and where: over the neediest, else where it covers nobody.

    Args:
        coming: the rates that those to be pasted are to reach, this one's first.
    """
    needs = sum(max(item.owed(recipe), 1) for item in items if item.needy(recipe))
    needs += recipe.occluders[0] * sum(t > 0 for t in coming)
    spare = len(coming) - needs
    for behind in [*_in_need(items, recipe, len(coming))[:2], None]:
        for _ in range(TRIES if behind is not None else 2):
            cut = cut_outs[random.integers(len(cut_outs))]
            if cut.photo_id == photo.id:
                continue
            least = 0.0
            if behind is not None:
                item = items[behind]
                goal = _goal(random, item, recipe, spare)
                least = 1.1 * (goal - item.rate) * item.area
            patch = _patch(random, cut, side, recipe, least)
            if patch is None:
                continue
            if behind is not None:
                spot = _over(random, items, behind, goal, patch, recipe)
            else:
                spot = _free(random, items, patch, recipe, shape)
            if spot is not None:
                return patch, spot
    return None


def _goal(random: np.random.Generator, item: Item, recipe: Recipe, spare: int) -> float:
    """The rate that an object's next occluder should bring it to."""
    goal, number = item.target, len(item.in_front) + 1
    fewest, most = recipe.occluders
    if number < fewest or (number < most and spare > 0 and random.random() < 0.5):
        # Some of it is left to the next one.
        goal = item.rate + (goal - item.rate) * random.uniform(0.35, 0.65)
    return max(goal, item.rate + CLOSE) if item.owed(recipe) else goal


# ---------------------------------------------------------------------------------- annotations


def annotations_of(made: Made) -> list[dict]:
    """The objects as COCOA-cls annotations without ids; "occluders" index this list."""
    rows, crowd = [], [c for c in made.crowd if c[2].any()]
    if not made.items and not crowd:
        return []
    amodal = _encoded([i.amodal for i in made.items] + [c[1] for c in crowd])
    visible = _encoded([i.visible for i in made.items] + [c[2] for c in crowd])
    for k, found in enumerate([*made.items, *crowd]):
        known = isinstance(found, Item)
        # What is hidden of a crowd is not known: only what is seen of it is said.
        whole = to_json_rle(amodal[k] if known else visible[k])
        area = int(mask_util.area(whole | {"counts": whole["counts"].encode()}))
        row = {
            "category_id": found.category_id if known else found[0],
            "segmentation": whole,
            "visible_mask": to_json_rle(visible[k]),
            "bbox": mask_util.toBbox(amodal[k] if known else visible[k]).tolist(),
            "area": area,
            "occlude_rate": found.rate if known else 0.0,
            "iscrowd": not known,
        }
        if known:
            row |= {"occluders": list(found.in_front), "source": found.source}
            if found.in_front:
                row["invisible_mask"] = to_json_rle(_encoded([found.amodal & ~found.visible])[0])
        rows.append(row)
    return rows


class _Job(NamedTuple):
    index: int
    split: str
    recipe: Recipe
    folder: str


@functools.lru_cache(maxsize=2)
def _library(file: str) -> tuple[list[Photo], list[CutOut]]:
    with open(file, "rb") as stream:
        return pickle.load(stream)  # written by this very run


def _write_image(job: _Job) -> tuple[dict, list[dict]]:
    folder = Path(job.folder)
    photos, cut_outs = _library(str(folder / f"{job.split}.library"))
    made = make_image(job.index, job.split, job.recipe, photos, cut_outs)
    name = f"{job.index + 1:06d}.jpg"
    Image.fromarray(made.image).save(folder / job.split / name, quality=92)
    height, width = made.image.shape[:2]
    entry = {
        "id": job.index + 1,
        "file_name": name,
        "height": height,
        "width": width,
        "license": made.photo.license,
        "source": {"image_id": made.photo.id, "file_name": Path(made.photo.file_name).name},
    }
    return entry, annotations_of(made)


def _cut_photo(job: tuple[Photo, int]) -> list[CutOut]:
    photo, image_size = job
    pixels = np.asarray(open_rgb(photo.file_name))
    return [cut_out(photo, o, pixels, image_size) for o in photo.objects if o.whole]


README = """Amodal data made from the photos of a modal data set: whole objects, pasted over other
photos (arcnn.workshop.pasting), so that every mask is exact, also where an object is hidden. Nobody
photographed these images. The annotations are in the COCOA-cls format; "occluders" lists the
annotations in front of an object, "source" the photo and annotation that a piece comes from, with
its licence. Objects marked iscrowd were in the photo already and are not known to be whole.
recipe.json says what the set was made with, left_out.txt, if there, which photos and objects of the
source were not used, and why.
"""


def _split_of(photo: Photo, recipe: Recipe) -> str:
    """Every photo belongs to one split, whatever else is in the data set."""
    share = zlib.crc32(f"{recipe.seed}/{photo.id}".encode()) / 2**32
    return "val" if share < recipe.val_share else "train"


def make_amodal(
    source: str | Path,
    image_root: str | Path,
    folder: str | Path,
    *,
    train_images: int = 1000,
    val_images: int = 100,
    recipe: Recipe | None = None,
    workers: int | None = None,
    allow_links: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Make an amodal data set from a COCO-format modal one.

    Writes ``train/``, ``val/``, ``train.json``, ``val.json``, ``recipe.json`` and ``README.txt``.
    A folder that holds the same data set already is left as it is. The result does not depend on
    the number of workers. Photos that are missing, broken or of another size than recorded are left
    out, as are objects that cannot be read; ``left_out.txt`` names them.

    Args:
        source: COCO instances file.
        image_root: folder of its images.
        folder: to write, for instance ``data/own``.
        workers: processes; by default one per core.
        allow_links: use photos behind links that lead out of ``image_root``.

    Returns:
        By split counts (``occluders``: objects by their number of occluders) and the distance of
        the occlusion rates to those aimed at; under ``left_out`` what was left out, by kind.

    Raises:
        ValueError: no COCO instances file, too few whole objects, or the folder holds something
            else.
    """
    recipe, folder, source = recipe or Recipe(), Path(folder), Path(source)
    number = {"train": train_images, "val": val_images}
    content = read_instances(source)
    wanted = json.loads(
        json.dumps({"version": VERSION, "images": number, "source": source.name} | asdict(recipe))
    )
    if folder.exists() and any(folder.iterdir()):
        return _existing(folder, wanted)
    workers = workers or default_workers()
    photos, problems = read_photos(content, image_root)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    summary: dict[str, Any] = {}
    with ordered_pool(workers, chunksize=4) as in_order:
        for split in SPLITS:
            if not number[split]:
                continue
            (partial / split).mkdir(parents=True)
            here = [
                (p, recipe.image_size, str(image_root), allow_links)
                for p in photos
                if _split_of(p, recipe) == split
            ]
            found = list(in_order(_prepared, here))
            problems += [p for p in found if isinstance(p, Problem)]
            here = [p for p in found if isinstance(p, Photo)]
            cuts = _cut_outs(here, recipe, in_order)
            if not cuts or len({c.photo_id for c in cuts}) < 2:
                raise ValueError(
                    f"{split}: {len(cuts)} whole objects in {len(here)} photos of {source}, which "
                    f"is too few; give a larger data set or another val_share. "
                    f"Left out: {_counted(problems) or 'nothing'}."
                )
            with (partial / f"{split}.library").open("wb") as stream:
                pickle.dump((here, cuts), stream)
            jobs = [_Job(k, split, recipe, str(partial)) for k in range(number[split])]
            bar = tqdm(
                in_order(_write_image, jobs),
                f"pasting {split}",
                len(jobs),
                unit="image",
                mininterval=1,
                disable=not progress,
            )
            objects = _write_file(partial / f"{split}.json", content, bar)
            (partial / f"{split}.library").unlink()
            summary[split] = {"images": len(jobs), "photos": len(here), "cut_outs": len(cuts)}
            summary[split] |= _achieved(objects, recipe)
    summary["left_out"] = dict(Counter(p.kind for p in problems))
    if problems:
        text = "".join(f"{problem}\n" for problem in problems)
        (partial / LEFT_OUT_FILE).write_text(text, errors="backslashreplace")
        logger.warning("left out: %s; see %s", _counted(problems), folder / LEFT_OUT_FILE)
    (partial / "README.txt").write_text(README)
    (partial / RECIPE_FILE).write_text(json.dumps(wanted | {"summary": summary}, indent=1) + "\n")
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)
    return summary


def _counted(problems: Sequence[Problem]) -> str:
    kinds = Counter(p.kind for p in problems)
    return ", ".join(f"{number:,} x {kind}" for kind, number in kinds.items())


def _achieved(objects: Sequence[dict], recipe: Recipe) -> dict[str, Any]:
    """What the annotations that are no crowd have come to."""
    rates = RateDistribution.of(a["occlude_rate"] for a in objects)
    numbers = Counter(len(a["occluders"]) for a in objects)
    return {
        "objects": len(objects),
        "occluders": {str(k): numbers[k] for k in sorted(numbers)},
        "distance": round(rates.distance(recipe.rates), 3),
    }


def _existing(folder: Path, wanted: dict) -> dict[str, Any]:
    try:
        found = json.loads((folder / RECIPE_FILE).read_text())
    except (OSError, ValueError):
        found = {}
    summary = found.pop("summary", None)
    if found != wanted:
        keys = [k for k in wanted if found.get(k) != wanted[k]]
        raise ValueError(
            f"{folder} exists and was not made with this recipe ({', '.join(keys)} differ). Delete "
            "it, or choose another folder."
        )
    return summary


def _cut_outs(photos: Sequence[Photo], recipe: Recipe, in_order: Callable) -> list[CutOut]:
    order = np.random.default_rng([recipe.seed, 2]).permutation(len(photos))
    cuts: list[CutOut] = []
    candidates = [photos[k] for k in order if any(o.whole for o in photos[k].objects)]
    # In portions: a large data set gives all the cut-outs wanted long before its last photo.
    for k in range(0, len(candidates), 256):
        jobs = [(photo, recipe.image_size) for photo in candidates[k : k + 256]]
        for found in in_order(_cut_photo, jobs):
            cuts += found
        if len(cuts) >= recipe.cut_outs:
            break
    return cuts[: recipe.cut_outs]


def _write_file(path: Path, source: dict, made: Iterator[tuple[dict, list[dict]]]) -> list[dict]:
    """Write an annotation file; returns its annotations but those of crowds."""
    images, annotations = [], []
    for entry, rows in made:
        first = len(annotations) + 1
        images.append(entry)
        for k, row in enumerate(rows):
            ids = {"id": first + k, "image_id": entry["id"]}
            if "occluders" in row:
                ids["occluders"] = [first + j for j in row["occluders"]]
            annotations.append(row | ids)
    content = {
        "info": {
            "description": "amodal data made by pasting whole objects over other photos",
            "source": source.get("info", {}),
            "version": str(VERSION),
        },
        "licenses": source.get("licenses", []),
        "images": images,
        "categories": source["categories"],
        "annotations": annotations,
    }
    path.write_text(compact_json(content))
    return [a for a in annotations if not a["iscrowd"]]
