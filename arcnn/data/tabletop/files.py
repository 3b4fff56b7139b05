"""tabletop on disk: JPEG images and annotation files in the COCOA-cls format."""

import fcntl
import json
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from PIL import Image
from pycocotools import mask as mask_utils
from tqdm import tqdm

from arcnn.data.masks import encode
from arcnn.data.pool import default_workers, ordered_pool
from arcnn.data.tabletop.scenes import (
    MIN_IMAGE_SIZE,
    TABLE_FILE,
    TABLETOP_CLASSES,
    VERSION,
    Scene,
    draw_scene,
)
from arcnn.files import compact_json
from arcnn.names import SPLITS

RECIPE_FILE = "recipe.json"
README = """tabletop: a synthetic data set for amodal segmentation

Nobody photographed these images. They are drawn by rule (arcnn.data.tabletop), so every mask is
exact, also where an object is hidden. The annotations are in the COCOA-cls format; "occluders"
lists the annotations directly in front of an object. Who may cover whom is in
occluder_probabilities.csv: P(row in front of column | the two overlap); where both directions are
0, the two never overlap. recipe.json says what the set was made with.
"""


def make_tabletop(
    root: str | Path,
    *,
    train_images: int = 2000,
    val_images: int = 200,
    image_size: int = 160,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Writes the data set to <root>/tabletop, or finds it there.

    The folder appears only when it is complete; a run that finds another one at work waits for it.
    A script that lets it use several processes calls it under ``if __name__ == "__main__":``.

    Args:
      root: folder, made where it is missing.
      train_images, val_images: number of images; image i is the same whatever the number.
      image_size: side in pixels. seed: >= 0, of everything.
      workers: processes; by default one per CPU core, 8 at most. The result doesn't depend on it.
    Returns:
      The folder: train/ and val/ (JPEG), tabletop_train.json and tabletop_val.json (COCOA-cls
      format), occluder_probabilities.csv, recipe.json, README.txt.
    Raises:
      ValueError: an argument is out of range, or the folder holds something else (it is kept).
      OSError: the root cannot be written, or the disk is full.
      RuntimeError: a worker process died.
    """
    if min(train_images, val_images) < 1 or image_size < MIN_IMAGE_SIZE or seed < 0:
        raise ValueError(
            "make_tabletop needs train_images and val_images of at least 1, "
            f"an image_size of at least {MIN_IMAGE_SIZE} and a seed of at least 0; got "
            f"{train_images=}, {val_images=}, {image_size=}, {seed=}"
        )
    recipe = {"version": VERSION, "seed": seed, "image_size": image_size}
    recipe |= {"train_images": train_images, "val_images": val_images}
    root = Path(root).expanduser().resolve()
    folder = root / "tabletop"
    workers = workers or min(default_workers(), 8)
    try:
        if not folder.exists():
            root.mkdir(parents=True, exist_ok=True)
            with (root / ".tabletop.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # a run that is killed lets it go
                if not folder.exists():  # else another run has made it meanwhile
                    # A process takes a while to start.
                    _write_folder(folder, recipe, min(workers, 1 + train_images // 32))
    except OSError as error:
        reason = f"cannot write the tabletop data set: {error.strerror or error}"
        cure = "Free some space, or choose a root that you may write to."
        raise OSError(error.errno, f"{reason}. {cure}", str(root)) from error
    except BrokenProcessPool as error:
        reason = "a process that draws tabletop died; try again with workers=1"
        raise RuntimeError(reason) from error
    _check_folder(folder, recipe)
    return folder


def _check_folder(folder: Path, recipe: dict[str, int]) -> None:
    """Raises ValueError, with the cure, unless the folder holds the complete set of this recipe."""
    cure = "Delete that folder, or choose another root."
    try:
        present = json.loads((folder / RECIPE_FILE).read_text())
    except (OSError, ValueError):
        present = None
    if not isinstance(present, dict):
        raise ValueError(f"{folder} exists, but holds no tabletop data set. {cure}")
    if present != recipe:
        keys = [key for key in recipe | present if present.get(key) != recipe.get(key)]
        difference = ", ".join(f"{k} is {present.get(k)}, not {recipe.get(k)}" for k in keys)
        raise ValueError(f"{folder} holds another tabletop data set: {difference}. {cure}")
    for split in SPLITS:
        images = len(list((folder / split).glob("*.jpg")))
        if images != recipe[f"{split}_images"] or not (folder / f"tabletop_{split}.json").is_file():
            raise ValueError(f"{folder} is damaged: files of the {split} split are missing. {cure}")


def _write_folder(folder: Path, recipe: dict[str, int], workers: int) -> None:
    """Writes the data set beside its folder, and renames it when it is complete."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        partial.mkdir()
        with ordered_pool(workers, chunksize=8) as map_in_order:
            for split in SPLITS:
                _write_split(partial, split, recipe, map_in_order)
        shutil.copyfile(TABLE_FILE, partial / TABLE_FILE.name)
        (partial / "README.txt").write_text(README)
        (partial / RECIPE_FILE).write_text(compact_json(recipe))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_split(folder: Path, split: str, recipe: dict[str, int], map_in_order: Callable) -> None:
    """Draws a split's images and writes its annotation file."""
    count, size = recipe[f"{split}_images"], recipe["image_size"]
    (folder / split).mkdir()
    jobs = [(str(folder), recipe["seed"], split, index, size) for index in range(count)]
    drawn = map_in_order(_write_image, jobs)
    images, annotations = [], []
    bar = tqdm(drawn, f"tabletop {split}", count, unit="image", mininterval=2)
    for image_id, records in enumerate(bar, start=1):
        name = f"{image_id:06d}.jpg"
        images.append({"id": image_id, "file_name": name, "height": size, "width": size})
        first = len(annotations) + 1
        for i, record in enumerate(records):
            occluders = [first + k for k in record["occluders"]]
            ids = {"id": first + i, "image_id": image_id, "occluders": occluders}
            annotations.append(record | ids)
    content = {
        "info": {"description": "tabletop: synthetic, drawn by rule", "recipe": recipe},
        "images": images,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(TABLETOP_CLASSES)],
        "annotations": annotations,
    }
    (folder / f"tabletop_{split}.json").write_text(compact_json(content))


def _write_image(job: tuple[str, int, str, int, int]) -> list[dict[str, Any]]:
    """Draws and saves one image (in a worker process); returns its annotations."""
    folder, seed, split, index, image_size = job
    scene = draw_scene(seed, split, index, image_size)
    Image.fromarray(scene.image).save(Path(folder) / split / f"{index + 1:06d}.jpg", quality=92)
    return _annotations(scene)


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    """The scene's objects as COCOA-cls records without ids; "occluders" index the list."""
    amodal, visible, hidden = map(
        encode, (scene.amodal_masks, scene.visible_masks, scene.occlusion_masks)
    )
    records = []
    for i, class_id in enumerate(scene.class_ids):
        area, occluded = int(scene.amodal_masks[i].sum()), int(scene.occlusion_masks[i].sum())
        record = {
            "category_id": int(class_id) + 1,
            "segmentation": amodal[i],
            "bbox": [int(k) for k in mask_utils.toBbox(amodal[i])],
            "area": area,
            "visible_mask": visible[i],
            "occlude_rate": occluded / area,
            "iscrowd": False,
            "occluders": sorted(front for front, behind in scene.in_front if behind == i),
        }
        records.append(record | ({"invisible_mask": hidden[i]} if occluded else {}))
    return records
