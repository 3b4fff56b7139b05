"""tabletop: a synthetic data set for amodal segmentation

Nobody photographed these images. They are drawn by rule (arcnn.data.tabletop), so every mask is
exact, also where an object is hidden. The annotations are in the COCOA-cls format; "occluders"
lists the annotations directly in front of an object. Who may cover whom is in
occluder_probabilities.csv: P(row in front of column | the two overlap); where both directions are
0, the two never overlap. recipe.json says what the set was made with.
"""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from pycocotools import mask as mask_utils

from arcnn.data.masks import encode
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.tabletop import scenes
from arcnn.errors import InputError
from arcnn.files import compact_json, lock
from arcnn.names import SPLITS
from arcnn.progress import tqdm


def make_tabletop(
    root: str | Path,
    *,
    train_images: int = 2000,
    val_images: int = 200,
    image_size: int = 160,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Writes the data set to <root>/tabletop, or finds it there; returns that folder.

    The folder appears only when it is complete; a run that finds another one at work waits for it.
    Image i is the same whatever their number, `image_size` is a side in pixels, and `workers` are
    processes: one per core, 8 at most, by default. A script that lets it use several calls it under
    ``if __name__ == "__main__":``.

    Raises ValueError where an argument is out of range or the folder holds something else (it is
    kept), OSError where the root cannot be written, the disk is full or a process died.
    """
    recipe = {"train_images": train_images, "val_images": val_images, "image_size": image_size}
    recipe |= {"seed": seed, "version": scenes.VERSION}
    if min(train_images, val_images) < 1 or image_size < scenes.MIN_IMAGE_SIZE or seed < 0:
        least = f"1 image of each split, {scenes.MIN_IMAGE_SIZE} pixels and seed 0"
        raise InputError(f"make_tabletop needs at least {least}; got {recipe}")
    folder = Path(root).expanduser().resolve() / "tabletop"
    try:
        if not folder.exists():
            _write_folder(folder, recipe, workers or min(default_workers(), 8))
    except (OSError, BrokenExecutor) as error:
        cure = "Free some space, choose a root that you may write to, or try workers=1."
        raise OSError(f"cannot write tabletop in {folder.parent}: {error}. {cure}") from error
    if problem := _problem(folder, recipe):
        raise InputError(f"{folder} {problem}. Delete that folder, or choose another root.")
    return folder


def _problem(folder: Path, recipe: dict[str, int]) -> str:
    """What keeps a folder from being the complete set of this recipe; "" if nothing does."""
    try:
        present = dict(json.loads((folder / "recipe.json").read_text()))
    except (OSError, ValueError, TypeError):
        return "exists, but holds no tabletop data set"
    wrong = [f"{k} is {present.get(k)}, not {n}" for k, n in recipe.items() if present.get(k) != n]
    if wrong:
        return f"holds another tabletop data set: {', '.join(wrong)}"
    for split in SPLITS:
        images = len(list((folder / split).glob("*.jpg")))
        if images != recipe[f"{split}_images"] or not (folder / f"tabletop_{split}.json").is_file():
            return f"is damaged: files of the {split} split are missing"
    return ""


def _write_folder(folder: Path, recipe: dict[str, int], workers: int) -> None:
    """Writes the data set beside its folder, and renames it when it is complete."""
    unfinished, guard = (folder.with_name(f"tabletop.{end}") for end in ("partial", "lock"))
    while (held := lock(guard)) is None:  # another run is at work
        time.sleep(0.2)
    with held:
        try:
            if folder.exists():  # that run has made it
                return
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir()
            workers = min(workers, 1 + recipe["train_images"] // 32)  # one takes a while to start
            with ordered_pool(workers, chunksize=8) as map_in_order:
                for split in SPLITS:
                    _write_split(unfinished / split, recipe, map_in_order)
            shutil.copy(scenes.TABLE_FILE, unfinished)
            (unfinished / "README.txt").write_text(__doc__)  # the text at the top of this file
            (unfinished / "recipe.json").write_text(compact_json(recipe))
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            guard.unlink(missing_ok=True)


def _write_split(folder: Path, recipe: dict[str, int], map_in_order: Callable) -> None:
    """Draws a split's images into its folder, and writes its annotation file beside that."""
    count, size = recipe[f"{folder.name}_images"], recipe["image_size"]
    folder.mkdir()
    drawn = map_in_order(partial(_write_image, folder, recipe["seed"], size), range(count))
    images, annotations = [], []
    for i, records in enumerate(tqdm(drawn, f"tabletop {folder.name}", count, mininterval=2), 1):
        images.append({"id": i, "file_name": f"{i:06d}.jpg", "height": size, "width": size})
        first = len(annotations) + 1
        for k, record in enumerate(records, first):
            occluders = [first + front for front in record["occluders"]]
            annotations.append(record | {"id": k, "image_id": i, "occluders": occluders})
    info = {"description": "tabletop: synthetic, drawn by rule", "recipe": recipe}
    categories = [{"id": i, "name": name} for i, name in enumerate(scenes.TABLETOP_CLASSES, 1)]
    content = {"info": info, "images": images, "categories": categories, "annotations": annotations}
    folder.with_name(f"tabletop_{folder.name}.json").write_text(compact_json(content))


def _write_image(folder: Path, seed: int, size: int, index: int) -> list[dict]:
    """Draws an image into the folder of its split; returns records whose "occluders" index them."""
    scene = scenes.draw_scene(seed, folder.name, index, size)
    Image.fromarray(scene.image).save(folder / f"{index + 1:06d}.jpg", quality=92)
    masks = scene.amodal_masks, scene.visible_masks, scene.occlusion_masks
    records = []
    for i, (amodal, visible, hidden) in enumerate(zip(*map(encode, masks), strict=True)):
        rate = float(scene.occlusion_rates[i])
        record = {"category_id": int(scene.class_ids[i]) + 1, "iscrowd": False}
        record |= {"segmentation": amodal, "visible_mask": visible, "occlude_rate": rate}
        record["bbox"] = [int(k) for k in mask_utils.toBbox(amodal)]
        record["area"] = int(mask_utils.area(amodal))
        record["occluders"] = sorted(front for front, behind in scene.in_front if behind == i)
        if rate:
            record["invisible_mask"] = hidden
        records.append(record)
    return records
