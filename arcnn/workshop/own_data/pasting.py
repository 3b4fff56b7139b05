"""Amodal data from an ordinary (modal) data set: full objects, pasted over other photos.

Li and Malik (2016) did this first: nobody can photograph what is hidden, but who pastes an object
over another knows it. So all masks are exact. The result is in the format of COCOA-cls, and says of
every piece which photo it comes from. Objects of a photo that are not known to be full stay in the
picture as crowd (``iscrowd``): nobody learns from them, and finding them is no mistake.
"""

import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from pycocotools import mask as mask_util

from arcnn.data.image_files import Problem
from arcnn.data.masks import area, encode
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.errors import FileError, InputError
from arcnn.files import compact_json, read_json, write_json, write_text
from arcnn.names import SPLITS
from arcnn.progress import tqdm
from arcnn.workshop.own_data import cutouts
from arcnn.workshop.own_data.cutouts import Photo, PhotoObject

VERSION = 3  # of the rules below; another one gives other images
CLOSE = 0.02  # how near an occlusion rate has to come to its target
CHOICE = 60  # cut-outs tried for an image
TRIES = 8  # of them for one object to be covered
SPOTS = 40  # places tried for each
SUCCESS = 0.9  # share of the wanted occlusions that room is found for, as measured
ID_STEP = 10_000  # more than the objects of any image: annotation ids follow from image ids

OBJECTS = (3, 6)  # fewest and most pasted into an image, if there is room
SCALE = (0.7, 1.4)  # of an object, relative to its size in its own photo
SIZES = (0.1, 0.5)  # square root of its area, by that of the image's
VAL_SHARE = 0.15  # of the photos, for validation alone; no photo serves both splits
PHOTOS = 5000  # most that are used, of both splits

Window = tuple[slice, slice]  # rows and columns of an image


class Recipe(NamedTuple):
    """What may differ between two data sets made from the same photos."""

    image_size: int  # longest side, pixels
    occluders: int  # most over one object, also over a part that is hidden already
    rates: RateDistribution  # to aim at
    seed: int


@dataclass
class SceneObject:
    """An object of a scene."""

    origin: PhotoObject
    amodal: np.ndarray  # bool (H, W)
    target: float = 0.0  # occlusion rate to reach

    def __post_init__(self) -> None:
        # Of an object that is not known to be full, what is seen is all that is said.
        self.visible = self.amodal.copy() if self.origin.full else self.amodal
        self.occluders: list[int] = []  # places in the scene
        self.tries = 0  # cut-outs tried to cover it

    def rate(self, window: Window = np.s_[:0, :0], mask: np.ndarray | bool = False) -> float:
        """The occlusion rate, as it is now or with a patch there."""
        seen = np.count_nonzero(self.visible) - np.count_nonzero(self.visible[window] & mask)
        return 1 - seen / np.count_nonzero(self.amodal)

    def allows(self, window: Window, mask: np.ndarray, most: int) -> bool:
        """Whether a patch may lie there: by the target, and with ``most`` occluders allowed."""
        if not self.origin.full or not (self.amodal[window] & mask).any():
            return True
        return len(self.occluders) < most and 0 < self.target >= self.rate(window, mask) - CLOSE


class Scene:
    """An image in the making: ``image``, float32 ``(H, W, 3)``, and ``objects``, back to front."""

    def __init__(self, photo: Photo, recipe: Recipe, random: np.random.Generator) -> None:
        self.recipe, self.random = recipe, random
        self.image = cutouts.open_rgb(photo.file_name, photo.width, photo.height).astype(np.float32)
        self.objects = [SceneObject(o, mask_util.decode(o.rle) > 0) for o in photo.objects]

    def fill(self, cut_outs: Sequence[PhotoObject]) -> None:
        """Paste objects: over one that is to be covered as long as there is one, else over none."""
        rates, most, random = self.recipe.rates, self.recipe.occluders, self.random
        own = [o for o in self.objects if o.origin.full]
        total = len(own) + int(random.integers(*OBJECTS, endpoint=True))
        # Nothing covers the last one: the others have to be covered that much more often.
        share = (1 - rates.visible) / SUCCESS * total / max(total - 1, 1)
        targets = [0.0] + [rates.sample(random, share) for _ in range(total - 1)]
        for known in own:
            known.target = targets.pop()
        for cut_out in cut_outs:
            waiting = [o for o in self.objects if o.tries < TRIES and len(o.occluders) < most]
            behind = next((o for o in waiting if 0 < o.target > o.rate() + CLOSE), None)
            patch = self._patch(cut_out)
            window = self._place(patch, behind) if patch else None
            if window is not None:
                self._paste(patch, window, targets.pop())
            if not targets:
                break

    def _patch(self, cut_out: PhotoObject) -> PhotoObject | None:
        """A cut-out as it is pasted: scaled, perhaps mirrored, with a soft edge; None if unfit."""
        random, room = self.random, self.image.shape[:2]
        unit = np.sqrt(np.prod(room) / np.count_nonzero(cut_out.mask))  # to fill the image
        low = max(SCALE[0], SIZES[0] * unit)
        high = min(SCALE[1], SIZES[1] * unit, *np.divide(room, cut_out.alpha.shape))
        if low > high:
            return None
        scale = random.uniform(low, high)
        size = [max(round(scale * k), 1) for k in cut_out.alpha.shape[::-1]]
        step = random.choice((1, -1))
        alpha = Image.fromarray(cut_out.alpha[:, ::step]).resize(size)
        # Lenses and JPEG give edges a width; it varies, so that no width tells what was pasted.
        alpha = np.asarray(alpha.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.7))))
        patch = cut_out._replace(rgb=cut_out.rgb[:, ::step], alpha=alpha)
        return patch if patch.mask.any() else None

    def _place(self, patch: PhotoObject, behind: SceneObject | None) -> Window | None:
        """A place where a patch brings one object to its target and no other object is against."""
        mask, size, most = patch.mask, np.array(patch.alpha.shape), self.recipe.occluders
        low, high = np.zeros(2, int), self.image.shape[:2] - size
        if behind is not None:
            behind.tries += 1
            left, top, right, bottom = Image.fromarray(behind.visible).getbbox()
            low, high = np.maximum((top, left) - size, 0), np.minimum((bottom, right), high)
        for top, left in self.random.integers(low, high, (SPOTS, 2), endpoint=True):
            window = np.s_[top : top + size[0], left : left + size[1]]
            if behind is not None and abs(behind.rate(window, mask) - behind.target) > CLOSE:
                continue
            if all(o.allows(window, mask, most) for o in self.objects):
                return window
        return None

    def _paste(self, patch: PhotoObject, window: Window, target: float) -> None:
        """Blend a patch into the image, and hide what lies below it."""
        mask, below = patch.mask, self.image[window]
        rgb = np.asarray(Image.fromarray(patch.rgb).resize(mask.shape[::-1]), np.float32)
        # A part of the way to the light of the place: as bright as a little of its surroundings.
        own, around = rgb[mask].mean(), below.mean()
        gain = np.clip((around + 20) / (own + 20), 0.7, 1.4) ** self.random.uniform(0.1, 0.4)
        alpha = patch.alpha[..., None] / np.float32(255)
        below += alpha * (np.minimum(rgb * np.float32(gain), 255) - below)
        for behind in self.objects:
            if behind.origin.full and (behind.amodal[window] & mask).any():
                behind.occluders.append(len(self.objects))
            behind.visible[window] &= ~mask
        amodal = np.zeros(self.image.shape[:2], bool)
        amodal[window] = mask
        self.objects.append(SceneObject(patch, amodal, target))

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """The objects in the format of COCOA-cls."""
        first, rows = image_id * ID_STEP, []
        for k, one in enumerate(self.objects):
            if not one.amodal.any():  # a crowd of which nothing is seen
                continue
            masks = one.amodal, one.visible, one.amodal & ~one.visible
            amodal, visible, hidden = encode(np.stack(masks))
            row = {"id": first + k, "image_id": image_id, "category_id": one.origin.category_id}
            row |= {"segmentation": amodal, "visible_mask": visible, "occlude_rate": one.rate()}
            row |= {"invisible_mask": hidden} if one.rate() else {}
            row |= {"bbox": mask_util.toBbox(amodal).tolist(), "area": area(amodal)}
            row |= {"iscrowd": int(not one.origin.full), "source": one.origin.source}
            rows.append(row | {"occluders": [first + j for j in one.occluders]})
        return rows


def _write_image(job: tuple, folder: Path, recipe: Recipe) -> tuple[dict, list[dict]]:
    """Make and save an image from its number, a photo and cut-outs; its entry and annotations."""
    number, photo, cut_outs = job
    random = np.random.default_rng([recipe.seed, SPLITS.index(folder.name), number])
    scene = Scene(photo, recipe, random)
    scene.fill(cut_outs)
    name = f"{number:06d}.jpg"
    Image.fromarray(np.rint(scene.image).astype(np.uint8)).save(folder / name, quality=92)
    entry = {"id": number, "file_name": name, "height": photo.height, "width": photo.width}
    source = {"image_id": photo.id, "file_name": Path(photo.file_name).name}
    return entry | {"license": photo.license, "source": source}, scene.annotations(number)


def _make_split(
    folder: Path, images: int, photos: list[Photo], recipe: Recipe, content: dict, run: Callable
) -> dict[str, Any]:
    """Write the images and the annotation file of a split; returns what it holds in numbers."""
    random = np.random.default_rng([recipe.seed, SPLITS.index(folder.name)])
    cut_outs, jobs = [o for p in photos for o in p.objects if o.full], []
    if len({c.source["image_id"] for c in cut_outs}) < 2:
        raise InputError(
            f"{folder.name}: {len(cut_outs)} full objects in {len(photos)} photos, too few. Give a "
            f"larger data set; left_out.txt in {folder.parent} may say why."
        )
    for number in range(1, images + 1):
        photo = photos[random.integers(len(photos))]
        chosen = [cut_outs[k] for k in random.integers(len(cut_outs), size=CHOICE)]
        jobs.append((number, photo, [c for c in chosen if c.source["image_id"] != photo.id]))
    folder.mkdir(parents=True)
    made = list(run(partial(_write_image, folder=folder, recipe=recipe), jobs))
    annotations = [row for _, rows in made for row in rows]
    info = {"description": "made by arcnn.workshop.pasting", "source": content.get("info")}
    kept = {"licenses": content.get("licenses", []), "categories": content["categories"]}
    kept |= {"info": info, "images": [entry for entry, _ in made], "annotations": annotations}
    write_text(folder.with_suffix(".json"), compact_json(kept))
    known = [a for a in annotations if not a["iscrowd"]]
    occluders = Counter(str(len(a["occluders"])) for a in known)
    rates = RateDistribution.of(a["occlude_rate"] for a in known)
    numbers = {"images": images, "photos": len(photos), "cut_outs": len(cut_outs)}
    numbers |= {"objects": len(known), "occluders": dict(sorted(occluders.items()))}
    return numbers | {"distance": round(rates.distance(recipe.rates), 3)}


def make_amodal(
    source: str | Path,
    image_root: str | Path,
    folder: str | Path,
    *,
    train_images: int = 1000,
    val_images: int = 100,
    image_size: int = 320,
    occluders: int = 2,
    rates: RateDistribution = COCOA_CLS,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, Any]:
    """Make an amodal data set from a COCO instances file, the same with any number of workers.

    Writes ``train/``, ``val/``, ``train.json``, ``val.json`` and ``recipe.json``; a folder with all
    that in it is left as it is. ``left_out.txt`` names photos and objects that cannot be used.

    Args:
        image_size: longest side, pixels.
        occluders: most over one object.
        rates: the distribution of occlusion rates to aim at.

    Returns:
        By split counts and the ``distance`` of the occlusion rates to those aimed at; under
        ``left_out`` what was left out, by kind.

    Raises:
        ValueError: no COCO instances file, too few full objects, another data set in the folder, or
            a number that is none.
    """
    least = min(train_images + val_images, image_size, occluders)
    if min(train_images, val_images) < 0 or least < 1:
        raise InputError(
            f"{train_images} and {val_images} images of {image_size} pixels with {occluders} "
            "occluders at most: each number must be above 0, but for one of the splits'."
        )
    folder, source, recipe = Path(folder), Path(source), Recipe(image_size, occluders, rates, seed)
    folder = folder.expanduser().resolve()  # of a link, what it leads to is renamed
    content, images = cutouts.read_instances(source), {"train": train_images, "val": val_images}
    made_with = {"version": VERSION, "images": images, "source": source.name}
    made_with |= recipe._asdict() | {"rates": json.loads(json.dumps(asdict(rates)))}
    if folder.exists() and any(folder.iterdir()):
        cure, told = f"{folder} is no data set of this recipe; choose a new folder.", ["summary"]
        existing = read_json(folder / "recipe.json", cure, {"type": "object", "required": told})
        if differ := [key for key in made_with if existing.get(key) != made_with[key]]:
            words = ", ".join(differ)
            raise InputError(f"{folder} is of another recipe: {words}; choose a new folder")
        return existing["summary"]
    unfinished = folder.with_name(folder.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    if os.path.lexists(unfinished):  # a link: what it leads to would be written
        raise FileError(f"{unfinished} is in the way; delete it.")
    order = np.random.default_rng(seed).permutation(len(content["images"]))
    chosen = [content["images"][k] for k in order[:PHOTOS]]
    photos, problems = cutouts.read_photos(content | {"images": chosen}, image_root)
    prepare = partial(cutouts.prepare, image_size=image_size)
    with ordered_pool(workers or default_workers(), chunksize=4) as in_order:

        def run(work: Callable, jobs: Sequence) -> tqdm:
            return tqdm(in_order(work, jobs), total=len(jobs))

        prepared = list(run(prepare, photos))
        problems += [one for one in prepared if isinstance(one, Problem)]
        photos = [one for one in prepared if isinstance(one, Photo)]
        summary = {"left_out": dict(Counter(p.kind for p in problems))}
        if problems:
            write_text(unfinished / "left_out.txt", "".join(f"{p}\n" for p in problems))
        by_split: dict[str, list[Photo]] = {split: [] for split in SPLITS}
        for photo in photos:  # a photo's split depends on it and the seed, whatever else is there
            share = zlib.crc32(f"{seed}/{photo.id}".encode(errors="surrogatepass")) / 2**32
            by_split["val" if share < VAL_SHARE else "train"].append(photo)
        for split in (split for split in SPLITS if images[split]):
            own = by_split[split], recipe, content
            summary[split] = _make_split(unfinished / split, images[split], *own, run)
    write_json(unfinished / "recipe.json", made_with | {"summary": summary})
    unfinished.replace(folder)
    return summary
