"""Scenes for a close look: one with a wanted pair of objects, its masks, and ideal mask maps."""

import numpy as np
import torch
from detectron2.structures import BitMasks

from arcnn.data.tabletop.scenes import TABLETOP_CLASSES, Scene, draw_scene, layout_of
from arcnn.errors import InputError
from arcnn.names import MASK_KINDS

RATES = 0.2, 0.65  # occlusion rates between which an object shows what is hidden and what is not


def find_scene(
    front: str, behind: str, *, seed: int = 0, image_size: int = 320, tries: int = 300
) -> tuple[Scene, int]:
    """Draw scenes, at most ``tries``, until one of class ``front`` alone covers one of ``behind``.

    Returns:
        The scene and the index of the covered object, whose occlusion rate lies within
        :data:`RATES`.

    Raises:
        ValueError: an unknown class, or no such scene (the pair may never occur).
    """
    for name in (front, behind):
        if name not in TABLETOP_CLASSES:
            raise InputError(f'no class "{name}"; choose among {", ".join(TABLETOP_CLASSES)}')
    for index in range(tries):
        layout = layout_of(seed, "val", index, image_size)
        names = [TABLETOP_CLASSES[sprite.class_id] for sprite in layout.sprites]
        for i, name in enumerate(names):
            covers = [names[a] for a, b in layout.in_front if b == i]
            rate = layout.hidden[i].sum() / layout.masks[i].sum()
            if name == behind and covers == [front] and RATES[0] <= rate <= RATES[1]:
                return draw_scene(seed, "val", index, image_size), i
    raise InputError(f"no {front} that alone covers a {behind} in {tries} scenes")


def scene_masks(scene: Scene) -> list[dict[str, np.ndarray]]:
    """The masks of every object of a scene by kind, bool ``(H, W)`` each."""
    stacks = zip(*(getattr(scene, f"{kind}_masks") for kind in MASK_KINDS), strict=True)
    return [dict(zip(MASK_KINDS, masks, strict=True)) for masks in stacks]


def scene_maps(scene: Scene, index: int, side: int = 28) -> dict[str, np.ndarray]:
    """What ideal heads could say in the RoI of one object, its amodal box: C maps per mask kind.

    The maps of class i hold the pieces, inside the RoI, of the objects of class i. (What a trained
    model has in the maps of *other* classes than the object's is another question.)

    Returns:
        By mask kind, float ``(C, side, side)``.
    """
    boxes = BitMasks(torch.from_numpy(scene.amodal_masks)).get_bounding_boxes().tensor
    boxes = boxes[[index]].expand(len(scene.class_ids), 4)
    maps = {}
    for kind in MASK_KINDS:
        masks = BitMasks(torch.from_numpy(getattr(scene, f"{kind}_masks")))
        maps[kind] = np.zeros((len(TABLETOP_CLASSES), side, side))
        crops = masks.crop_and_resize(boxes, side).numpy()
        for class_id, crop in zip(scene.class_ids, crops, strict=True):
            maps[kind][class_id] = np.maximum(maps[kind][class_id], crop)
    return maps
