"""The scenes of tabletop: which objects lie where, and which of two lies in front.

A scene is laid out object by object. A placement is accepted *before* its order is drawn, and only
if every order that the table of probabilities allows would be legal. That is why the orders found
follow the table exactly.

Shapes: N objects of a scene, C classes, H and W pixels (H = W = image_size).
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arcnn.data.tabletop.paint import Sprite, composite, draw_background, make_sprite
from arcnn.data.tabletop.shapes import REFERENCE_SIZE, Dice
from arcnn.names import SPLITS

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1  # of the drawing rules: raise it whenever the same seed gives other annotations
TABLE_FILE = Path(__file__).with_name("occluder_probabilities.csv")

MIN_IMAGE_SIZE = 64  # pixels: below, objects cannot be told apart
MAX_OCCLUSION_RATE = 0.8
MIN_VISIBLE_AREA = 90  # pixels at REFERENCE_SIZE
MIN_OVERLAP = 30  # pixels at REFERENCE_SIZE: an order must be visible, objects do not merely touch
MAX_TOUCHED = 2  # earlier objects that a new one may overlap
MAX_CUT = 0.08  # share of an object that the image border may cut off

with open(TABLE_FILE, newline="") as _file:
    _header, *_rows = csv.reader(_file)
TABLETOP_CLASSES: tuple[str, ...] = tuple(_header[1:])
PROBABILITIES = np.array([row[1:] for row in _rows], float)  # (C, C), see occluder_probabilities


def occluder_probabilities() -> "pd.DataFrame":
    """P(row in front of column | the two overlap), class names on both axes.

    P[i, j] + P[j, i] is 1 for two classes that may overlap, and 0 for two that never do.
    """
    import pandas as pd  # only here: the workers that draw do not need it

    names = list(TABLETOP_CLASSES)
    return pd.DataFrame(PROBABILITIES.copy(), index=names, columns=names)


# ---------------------------------------------------------------- layout


@dataclass
class Layout:
    """The objects placed so far, and the order of each overlapping pair."""

    size: int  # of the image, pixels
    sprites: list[Sprite] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)  # amodal, (H, W) bool
    hidden: list[np.ndarray] = field(default_factory=list)  # occlusion, (H, W) bool
    in_front: list[tuple[int, int]] = field(default_factory=list)  # (front, behind)

    def place(self, dice: Dice, sprite: Sprite, x: int, y: int) -> bool:
        """Adds the object at (x, y), and draws its orders; False if it may not lie there.

        It may if any order that has a probability above 0 makes no cycle and hides nothing too far.
        As *every* such order must be legal, the decision cannot bend the frequencies.
        """
        sprite.x, sprite.y = x, y
        new, mask = len(self.masks), sprite.paste(self.size)
        areas = [np.count_nonzero(mask & other) for other in self.masks]
        touched = [i for i, area in enumerate(areas) if area]
        least = MIN_OVERLAP * (self.size / REFERENCE_SIZE) ** 2
        cut_off = np.count_nonzero(mask) < (1 - MAX_CUT) * np.count_nonzero(sprite.mask)
        if cut_off or len(touched) > MAX_TOUCHED or any(areas[i] < least for i in touched):
            return False
        others = {i: self.sprites[i].class_id for i in touched}
        # P(i over the new object), P(the new object over i)
        above = {i: PROBABILITIES[other, sprite.class_id] for i, other in others.items()}
        below = {i: PROBABILITIES[sprite.class_id, other] for i, other in others.items()}
        worst = np.zeros_like(mask)  # all that may come to lie over the new object
        for i in touched:
            if above[i] + below[i] == 0:  # a pair that never overlaps
                return False
            if below[i] and not self._may_hide(self.masks[i], self.hidden[i] | mask):
                return False
            if above[i]:
                worst |= self.masks[i]
        if not self._may_hide(mask, worst):
            return False
        for i, j in product(touched, touched):  # a cycle: new over i, i over j, j over new
            if below[i] and above[j] and j in self._covered(i):
                return False
        hidden = np.zeros_like(mask)
        for i in touched:  # accepted: now the orders are drawn
            if dice.chance(below[i]):
                self.in_front.append((new, i))
                self.hidden[i] |= mask & self.masks[i]
            else:
                self.in_front.append((i, new))
                hidden |= mask & self.masks[i]
        self.sprites.append(sprite)
        self.masks.append(mask)
        self.hidden.append(hidden)
        return True

    def _may_hide(self, mask: np.ndarray, cover: np.ndarray) -> bool:
        """Whether enough of the object stays visible under the cover, as a share and in pixels."""
        area, hidden = np.count_nonzero(mask), np.count_nonzero(mask & cover)
        enough = area - hidden >= MIN_VISIBLE_AREA * (self.size / REFERENCE_SIZE) ** 2
        return enough and hidden <= MAX_OCCLUSION_RATE * area

    def _covered(self, i: int) -> set[int]:
        """Everything that lies behind object i, directly or by way of others."""
        behind = {b for front, b in self.in_front if front == i}
        return behind.union(*map(self._covered, behind))

    def back_to_front(self) -> list[int]:
        """A depth order that agrees with every pair."""
        waiting, order = set(range(len(self.sprites))), []
        while waiting:
            covering = {front for front, behind in self.in_front if behind in waiting}
            order.append(min(waiting - covering))
            waiting.remove(order[-1])
        return order


def _positions(dice: Dice, layout: Layout, sprite: Sprite) -> Iterator[tuple[int, int]]:
    """Places (x, y) to try for the sprite: beside an earlier object, or anywhere."""
    h, w = sprite.mask.shape
    anchor = dice.pick(layout.sprites) if layout.sprites and dice.chance(0.75) else None
    for _ in range(8):
        if anchor is None:
            x, y = dice.between(0, layout.size - w), dice.between(0, layout.size - h)
        else:
            anchor_h, anchor_w = anchor.mask.shape
            reach, turn = dice.between(0.3, 0.9), dice.between(0, 2 * math.pi)
            x = anchor.x + (anchor_w - w) / 2 + math.cos(turn) * reach * (anchor_w + w) / 2
            y = anchor.y + (anchor_h - h) / 2 + math.sin(turn) * reach * (anchor_h + h) / 2
        yield round(x), round(y)


def lay_out(dice: Dice, size: int) -> Layout:
    """2 to 4 objects (rarely fewer, where no more find room) in an image of `size` pixels."""
    layout = Layout(size)
    wanted = dice.pick((2, 3, 3, 3, 4, 4))
    for _ in range(8 * wanted):
        if len(layout.sprites) == wanted:
            break
        class_id = int(dice.between(0, len(TABLETOP_CLASSES)))
        duplicate = any(other.class_id == class_id for other in layout.sprites)
        if duplicate and not dice.chance(0.2):
            continue  # as on most tables, seldom two of a kind
        sprite = make_sprite(dice, class_id, TABLETOP_CLASSES[class_id], size)
        any(layout.place(dice, sprite, x, y) for x, y in _positions(dice, layout, sprite))
    return layout


# ---------------------------------------------------------------- scenes


@dataclass
class Scene:
    """One image with everything known about it. Masks are exact and clipped to the image."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    class_ids: np.ndarray  # (N,) int64, into TABLETOP_CLASSES
    amodal_masks: np.ndarray  # (N, H, W) bool
    visible_masks: np.ndarray  # (N, H, W) bool
    depth_order: list[int]  # object indices, back to front, as they are painted
    in_front: list[tuple[int, int]]  # (front, behind) for each pair whose amodal masks overlap
    drawn_from: tuple[int, str, int, int]  # draw_scene's arguments

    @property
    def occlusion_masks(self) -> np.ndarray:
        """(N, H, W) bool: in the amodal mask, and hidden by something in front."""
        return self.amodal_masks & ~self.visible_masks

    @property
    def occlusion_rates(self) -> np.ndarray:
        """(N,) float64: 1 - |visible| / |amodal|."""
        return self.occlusion_masks.sum((1, 2)) / self.amodal_masks.sum((1, 2))


def layout_of(seed: int, split: str, index: int, image_size: int = 160) -> Layout:
    """What lies where in an image, unpainted, which takes a quarter of the time of drawing it.

    Raises ValueError for another split, or an image_size, in pixels, below MIN_IMAGE_SIZE.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: it must be at least {MIN_IMAGE_SIZE} pixels")
    key = [seed, SPLITS.index(split), index, 0]
    return lay_out(Dice(np.random.default_rng(key)), image_size)


def draw_scene(
    seed: int,
    split: str,
    index: int,
    image_size: int = 160,
    *,
    moved: Mapping[int, tuple[int, int]] | None = None,
) -> Scene:
    """Draws an image of the split "train" or "val": the first four decide alone how it looks.

    Args:
        moved: by object, how far it is moved to the right and down, in pixels, and else nothing: a
            scene that the data set does not have. What was painted later lies in front.

    Raises ValueError, see :func:`layout_of`.
    """
    layout = layout_of(seed, split, index, image_size)
    order = layout.back_to_front()
    if moved:
        _move(layout, moved, order)
    # A stream of its own for what only colours pixels: a change of looks leaves the masks alone.
    looks = np.random.default_rng([seed, SPLITS.index(split), index, 1])
    canvas = draw_background(looks, image_size)
    for i in order:
        composite(canvas, layout.sprites[i], looks)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    class_ids = np.array([sprite.class_id for sprite in layout.sprites])
    amodal, hidden = np.stack(layout.masks), np.stack(layout.hidden)
    origin = seed, split, index, image_size
    return Scene(image, class_ids, amodal, amodal & ~hidden, order, layout.in_front, origin)


def _move(layout: Layout, moved: Mapping[int, tuple[int, int]], order: list[int]) -> None:
    """Shift objects of a layout; who hides whom follows anew from the order of painting."""
    for i, (right, down) in moved.items():
        sprite = layout.sprites[i]
        sprite.x, sprite.y = sprite.x + right, sprite.y + down
        layout.masks[i] = sprite.paste(layout.size)
    overlaps = [
        (front, behind)
        for place, behind in enumerate(order)
        for front in order[place + 1 :]
        if (layout.masks[front] & layout.masks[behind]).any()
    ]
    layout.in_front[:] = overlaps
    layout.hidden[:] = [np.zeros_like(mask) for mask in layout.masks]
    for front, behind in overlaps:
        layout.hidden[behind] |= layout.masks[front] & layout.masks[behind]
