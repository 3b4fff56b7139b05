"""Full objects, cut out of the photos of a modal data set.

Where nothing covers an object, its modal outline is its amodal mask too. No file says where that
is, so an object counts as full if it is one piece, no crowd, not too small, and apart from the
border of the photo and from every other annotated object: two that touch may cover each other. What
covers it without being annotated itself, a pole or a hand, goes unnoticed.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as mask_util
from scipy import ndimage

from arcnn.data.image_files import (
    MAX_PIXELS,
    UNREADABLE,
    Problem,
    check_image,
    image_path,
    open_image,
    short,
)
from arcnn.data.index import is_id
from arcnn.data.masks import RLE, area, encode, to_rle
from arcnn.errors import InputError
from arcnn.files import read_json, write_json

BORDER = 3  # pixels between an object and the border of its photo
SIDE = 24  # pixels, the shortest side of its box
RING = 3  # pixels, the width of a ring around it
CONTACT = 0.04  # share of that ring that others may hold
MARGIN = 4  # pixels around a cut-out, room for its soft edge
LISTS = {key: {"type": "array"} for key in ("images", "annotations")}
CATEGORY = {"id": {"type": "integer"}, "name": {"type": "string"}}
CATEGORY = {"type": "object", "required": list(CATEGORY), "properties": CATEGORY}
LISTS["categories"] = {"type": "array", "items": CATEGORY}
INSTANCES = {"type": "object", "required": list(LISTS), "properties": LISTS}
UNUSABLE = (KeyError, TypeError, ValueError, OverflowError)  # what reading a bad entry raises


class PhotoObject(NamedTuple):
    """An annotated object of a photo; once it is cut out, with its colours and a soft mask."""

    category_id: int
    source: dict[str, Any]  # ids of photo and annotation, licence
    full: bool
    rle: RLE  # modal
    rgb: np.ndarray | None = None  # uint8 (h, w, 3); beyond the outline, colours from inside
    alpha: np.ndarray | None = None  # uint8 (h, w)

    @property
    def mask(self) -> np.ndarray:
        """Bool ``(h, w)``: where it is more than half opaque."""
        return self.alpha > 127


class Photo(NamedTuple):
    """A photo of the modal data set."""

    id: int | str
    file_name: str
    height: int
    width: int
    license: Any
    objects: list[PhotoObject]


def read_instances(path: str | Path) -> dict:
    """The content of a COCO instances file.

    Raises:
        FileNotFoundError, ValueError: it is not there, or no such file.
    """
    content = read_json(Path(path), "give a COCO instances file.", INSTANCES)
    for key in ("images", "annotations"):  # a schema would take minutes for COCO's
        if not all(isinstance(entry, dict) for entry in content[key]):
            said = f"{path} is not what it should be ({key} are not all objects)"
            raise InputError(f"{said}: give a COCO instances file.")
    return content


def forget_hidden_parts(amodal: str | Path, modal: str | Path) -> None:
    """Write an amodal file as the instances file that it would be had nobody drawn what is hidden:
    ``visible_mask`` becomes ``segmentation``, and objects of which nothing is seen are left out."""
    content = read_instances(amodal)
    kept = ("id", "image_id", "category_id", "iscrowd")
    size = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    content["annotations"] = [
        {key: a.get(key, 0) for key in kept} | {"segmentation": a["visible_mask"]}
        for a in content["annotations"]
        if area(to_rle(a["visible_mask"], *size[a["image_id"]])[0])
    ]
    write_json(Path(modal), content)


def read_photos(content: dict, image_root: str | Path) -> tuple[list[Photo], list[Problem]]:
    """The photos of a COCO instances file, and what was skipped: photos that are not there, or not
    as recorded, and objects whose entries cannot be used."""
    photos, outlines, problems = {}, defaultdict(list), []
    for image in content["images"]:
        try:
            number, path = image["id"], image_path(image_root, image["file_name"])
            height, width = int(image["height"]), int(image["width"])
            if not (is_id(number) and min(height, width) >= 1 and height * width <= MAX_PIXELS):
                raise ValueError(f"id {short(number)}, {short(height)} x {short(width)} pixels")
            photo = Photo(number, path, height, width, image.get("license"), [])
        except UNUSABLE as error:
            problems.append(Problem("bad photo", "skipped", image.get("id"), None, repr(error)))
            continue
        # Before masks of the recorded size are made: a file may record any.
        if problem := check_image(Path(image_root), photo._asdict() | {"image_id": number}):
            problems.append(problem)
        else:
            photos[number] = photo
    categories = {c["id"] for c in content["categories"]}
    for entry in content["annotations"]:
        try:
            photo, category = photos.get(entry["image_id"]), entry["category_id"]
            if category not in categories or not is_id(entry.get("id")):
                raise ValueError(f"no id, or unknown category id {category}")
            if photo is not None:
                rle, _ = to_rle(entry["segmentation"], photo.height, photo.width)
                outlines[photo.id].append((entry, rle))
        except UNUSABLE as error:
            problems.append(Problem("bad object", "skipped", None, entry.get("id"), repr(error)))
    for photo in photos.values():
        photo.objects.extend(_objects(photo, outlines[photo.id]))
    return list(photos.values()), problems


def _objects(photo: Photo, outlines: list[tuple[dict, RLE]]) -> list[PhotoObject]:
    objects, number_of = [], sum(mask_util.decode(rle) for _, rle in outlines)
    for annotation, rle in outlines:  # decoded again: all at once may fill the memory
        mask, shape = mask_util.decode(rle), annotation["segmentation"]
        pieces = len(shape) if isinstance(shape, list) else ndimage.label(mask)[1]
        single = pieces == 1 and not annotation.get("iscrowd")
        full = single and _is_apart(mask > 0, number_of > mask)
        source = {"image_id": photo.id, "annotation_id": annotation["id"]}
        source |= {"license": photo.license}
        objects.append(PhotoObject(annotation["category_id"], source, full, rle))
    return objects


def _is_apart(mask: np.ndarray, others: np.ndarray) -> bool:
    """Whether an object is large enough, and apart from border and others; bool ``(H, W)``."""
    inner = mask[BORDER:-BORDER, BORDER:-BORDER]
    if not inner.any() or np.count_nonzero(inner) < np.count_nonzero(mask):
        return False
    if min(mask.any(axis=k).sum() for k in (0, 1)) < SIDE or (others & mask).any():
        return False
    ring = ndimage.binary_dilation(mask, iterations=RING) & ~mask
    return np.count_nonzero(others & ring) <= CONTACT * np.count_nonzero(ring)


def open_rgb(file_name: str, width: int, height: int) -> np.ndarray:
    """A photo, upright and of this size, uint8 ``(H, W, 3)`` RGB; raises OSError."""
    with open_image(file_name) as image:
        image.draft("RGB", (min(width, height),) * 2)  # a half or a quarter of a JPEG file's size
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(rgb.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0))


def prepare(photo: Photo, image_size: int) -> Photo | Problem:
    """A photo with a longest side of ``image_size`` pixels and with masks to it, its full objects
    cut out; or what is wrong with it."""
    scale = image_size / max(photo.height, photo.width)
    width, height = (max(round(scale * k), 1) for k in (photo.width, photo.height))
    try:
        pixels, objects = open_rgb(photo.file_name, width, height), []
    except UNREADABLE as error:
        return Problem("unreadable image", "skipped", photo.id, None, f"{photo.file_name}: {error}")
    for one in photo.objects:
        mask = Image.fromarray(mask_util.decode(one.rle) * np.uint8(255))
        soft = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
        if (soft > 127).any():
            one = one._replace(rle=encode(soft[None] > 127)[0])
            objects.append(_cut_out(one, soft, pixels) if one.full else one)
    return photo._replace(height=height, width=width, objects=objects)


def _cut_out(one: PhotoObject, soft: np.ndarray, pixels: np.ndarray) -> PhotoObject:
    """With what an object shows in a photo ``(H, W, 3)``, by its mask ``(H, W)``; both uint8."""
    places = np.argwhere(soft > 127)
    (top, left), (bottom, right) = np.maximum(places.min(0) - MARGIN, 0), places.max(0) + MARGIN + 1
    alpha, pixels = soft[top:bottom, left:right], pixels[top:bottom, left:right]
    # Outlines of people's making run a little beside the object: along them the old background
    # would show. Colours from inside replace it, and continue beyond the edge.
    inner = ndimage.binary_erosion(alpha > 127, np.ones((3, 3)))
    if inner.sum() < 0.4 * (alpha > 127).sum():
        inner = alpha > 127
    nearest = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    return one._replace(rgb=pixels[tuple(nearest)], alpha=alpha)
