"""Whole objects, cut out of the photos of a modal data set.

A modal data set outlines what is seen of an object. Where nothing covers the object, that
outline is its amodal mask too. Which objects these are is not written anywhere, so an object counts
as whole if

- it is one piece, and neither a crowd nor too small or too large,
- it keeps its distance from the border of the photo,
- and from every other annotated object: two that touch may cover each other.

What covers an object without being annotated itself, a pole or a hand, goes unnoticed.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as mask_util
from scipy import ndimage

from arcnn.data.image_files import image_path
from arcnn.data.masks import RLE, to_rle
from arcnn.data.reading import Problem

BORDER = 3  # pixels between an object and the border of its photo
CONTACT = 0.04  # share of the ring around an object that others may hold
RING = 3  # pixels, the width of that ring
SIDE = 24  # pixels, the shortest side of its box
SHARE = 0.002, 0.5  # of its photo that an object takes up
HALO = 2  # pixels along the outline whose colours come from farther inside

LARGEST = 1.3  # a cut-out is kept so much larger than its photo would be at the size that is made
MARGIN = 4  # pixels around a cut-out, room for its soft edge
ORIENTATION = 0x0112  # the EXIF tag


class PhotoObject(NamedTuple):
    """An annotated object of a photo."""

    id: int
    category_id: int
    rle: RLE  # modal
    whole: bool
    small: RLE | None = None  # the same in an image of the size that is made


class Photo(NamedTuple):
    """A photo of the modal data set."""

    id: int
    file_name: str
    height: int
    width: int
    license: Any
    objects: list[PhotoObject]


class CutOut(NamedTuple):
    """An object with its soft edge; colours go on beyond the edge, so that none is of the photo."""

    photo_id: int
    object_id: int
    category_id: int
    license: Any
    rgba: np.ndarray  # uint8 (h, w, 4), not premultiplied
    photo_side: float  # pixels, geometric mean of the photo's sides, in the scale of ``rgba``


def read_instances(path: str | Path) -> dict:
    """The content of a COCO instances file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no such file.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no COCO instances file: not JSON ({error})") from error
    known = content if isinstance(content, dict) else {}
    lists = ("images", "annotations", "categories")
    missing = [name for name in lists if not isinstance(known.get(name), list)]
    if missing:
        raise ValueError(f"{path} is no COCO instances file: no list of {', no '.join(missing)}")
    return content


def read_photos(content: dict, image_root: str | Path) -> tuple[list[Photo], list[Problem]]:
    """The photos of a COCO instances file with their objects, those without objects as well.

    Args:
        content: see :func:`read_instances`.
        image_root: folder of the photos; nobody looks into it here.

    Returns:
        The photos, and what was left out: photos and objects whose entries cannot be used.
    """
    photos: dict[int | str, Photo] = {}
    problems = []
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("image_id"), int | str):
            by_image[annotation["image_id"]].append(annotation)
        else:
            problems.append(
                Problem("unreadable entry", "skipped", None, None, f"{annotation!r:.60}")
            )
    categories = [c.get("id") for c in content["categories"] if isinstance(c, dict)]
    for image in content["images"]:
        try:
            photo = _photo(image, image_root)
        except ValueError as error:
            number = image.get("id") if isinstance(image, dict) else None
            problems.append(Problem("unusable image entry", "skipped", number, None, str(error)))
            continue
        if photo.id in photos:
            detail = f"{photo.file_name}; the first is kept"
            problems.append(Problem("duplicate image id", "skipped", photo.id, None, detail))
            continue
        found = []
        for annotation in by_image[photo.id]:
            try:
                found.append((annotation, _outline(annotation, categories, photo)))
            except (ValueError, TypeError) as error:
                number = annotation.get("id")
                problems.append(Problem("unusable object", "skipped", photo.id, number, str(error)))
        objects = [
            PhotoObject(a["id"], a["category_id"], rle, _is_whole(k, found, *photo[2:4]))
            for k, (a, rle) in enumerate(found)
        ]
        photos[photo.id] = photo._replace(objects=objects)
    return list(photos.values()), problems


def _photo(image: Any, image_root: str | Path) -> Photo:
    """A photo without its objects.

    Raises:
        ValueError: the entry is not complete, or leads out of the folder.
    """
    if not isinstance(image, dict) or not isinstance(image.get("id"), int | str):
        raise ValueError(f"no id in {image!r:.60}")
    if not isinstance(image.get("file_name"), str):
        raise ValueError("no file_name")
    for name in ("height", "width"):
        value = image.get(name)
        if not isinstance(value, int | float) or value < 1 or not float(value).is_integer():
            raise ValueError(f"{name} is {value!r}, which is no number of pixels")
    path = image_path(image_root, image["file_name"])
    size = int(image["height"]), int(image["width"])
    return Photo(image["id"], path, *size, image.get("license"), [])


def _outline(annotation: dict, categories: list, photo: Photo) -> RLE:
    """The mask of an object.

    Raises:
        ValueError: it cannot be used.
    """
    for name in ("id", "category_id", "segmentation"):
        if name not in annotation:
            raise ValueError(f"no {name}")
    if annotation["category_id"] not in categories:
        raise ValueError(f"unknown category id {annotation['category_id']}")
    return to_rle(annotation["segmentation"], photo.height, photo.width)[0]


def open_rgb(file_name: str, size: tuple[int, int] | None = None) -> Image.Image:
    """A photo as RGB, upright.

    Args:
        size: ``(W, H)`` to give it, pixels.

    Raises:
        OSError: it is missing or unreadable.
    """
    with Image.open(file_name) as image:
        # As arcnn.data.image_files.check_image has it: JPEG files alone may lie on their side.
        turn = image.getexif().get(ORIENTATION, 1) if image.format == "JPEG" else 1
        if size is not None:  # JPEG files are decoded at a half or a quarter of their size
            image.draft("RGB", size[::-1] if turn >= 5 else size)
        upright = ImageOps.exif_transpose(image) if turn != 1 else image
        rgb = upright.convert("RGB")
    return rgb if size is None else rgb.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _is_whole(k: int, found: list[tuple[dict, RLE]], height: int, width: int) -> bool:
    annotation, rle = found[k]
    if annotation.get("iscrowd") or not isinstance(annotation["segmentation"], list):
        return False
    if len(annotation["segmentation"]) != 1:  # several pieces: something lies in between
        return False
    x, y, w, h = mask_util.toBbox(rle)
    if min(x, y) < BORDER or x + w > width - BORDER or y + h > height - BORDER:
        return False
    share = mask_util.area(rle) / (height * width)
    if min(w, h) < SIDE or not SHARE[0] <= share <= SHARE[1]:
        return False
    rows, columns = _window(rle, RING, height, width)
    mask = mask_util.decode(rle)[rows, columns].astype(bool)
    ring = ndimage.binary_dilation(mask, iterations=RING) & ~mask
    others = [other for j, (_, other) in enumerate(found) if j != k]
    if not others:
        return True
    together = mask_util.decode(mask_util.merge(others))[rows, columns].astype(bool)
    return (together & ring).sum() <= CONTACT * ring.sum() and not (together & mask).any()


def _window(rle: RLE, margin: int, height: int, width: int) -> tuple[slice, slice]:
    x, y, w, h = (int(k) for k in mask_util.toBbox(rle))
    return (
        slice(max(y - margin, 0), min(y + h + margin, height)),
        slice(max(x - margin, 0), min(x + w + margin, width)),
    )


def cut_out(photo: Photo, found: PhotoObject, image: np.ndarray, image_size: int) -> CutOut:
    """An object with a soft edge, :data:`LARGEST` times as large as it would be in its photo with
    a longest side of ``image_size`` pixels, or as large as it is.

    Args:
        image: the photo, uint8 ``(H, W, 3)`` RGB.
    """
    rows, columns = _window(found.rle, MARGIN, photo.height, photo.width)
    mask = mask_util.decode(found.rle)[rows, columns].astype(bool)
    colors = image[rows, columns]
    # Outlines of people's making run a little beside the object: along them the old background
    # would show. Colours from inside replace it, and continue beyond the edge.
    inner = ndimage.binary_erosion(mask, iterations=HALO)
    if inner.sum() < 0.4 * mask.sum():
        inner = mask
    nearest = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    colors = colors[tuple(nearest)]
    rgba = np.dstack([colors, np.where(mask, 255, 0).astype(np.uint8)])
    scale = min(1.0, LARGEST * image_size / max(photo.height, photo.width))
    height, width = (max(round(scale * k), 1) for k in mask.shape)
    patch = Image.fromarray(rgba, "RGBA") if scale == 1 else None
    if patch is None:
        bands = [
            Image.fromarray(rgba[..., k]).resize((width, height), Image.Resampling.BOX)
            for k in range(4)
        ]
        patch = Image.merge("RGBA", bands)
    return CutOut(
        photo.id,
        found.id,
        found.category_id,
        photo.license,
        np.asarray(patch),
        scale * float(np.sqrt(photo.height * photo.width)),
    )
