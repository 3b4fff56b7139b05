"""From outlines to pixels: filled polygons, textures, painted objects and the table beneath them.

Masks must be the same on every machine, so outlines are rounded to a grid and filled in integer
arithmetic. Colours are floating point: they may differ in the last bit.

Shapes: h and w are the pixels of one object's box; a pixel has SUB_PIXELS x SUB_PIXELS sub-pixels.
``looks`` is the random stream of what only colours pixels. The order of the random draws is part of
the data set.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from arcnn.data.tabletop import shapes
from arcnn.data.tabletop.shapes import REFERENCE_SIZE, Color, Dice, Part, Point

SUB_PIXELS = 2  # per pixel and side
GRID = 64  # grid points per sub-pixel and side
PIXEL = GRID * SUB_PIXELS  # grid points per pixel and side

Window = tuple[slice, slice]  # rows and columns


# ---------------------------------------------------------------- filled polygons


def fill_polygon(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sub-pixels of a canvas whose centre lies in a polygon (non-zero winding), (height, width)
    bool, in exact integer arithmetic; the outline is (K, 2) int64, x and y in grid points."""
    half = GRID // 2  # a sub-pixel's centre
    x, y = np.concatenate([outline, outline[:1]]).T
    above = y <= np.arange(height)[:, None] * GRID + half
    row, edge = np.nonzero(above[:, :-1] != above[:, 1:])
    x0, y0, dx, dy = x[edge], y[edge], np.diff(x)[edge], np.diff(y)[edge]
    direction = np.sign(dy)
    numerator = ((x0 - half) * dy + (row * GRID + half - y0) * dx) * direction
    column = -(-numerator // (GRID * np.abs(dy)))  # the first centre that is not left of the edge
    column = np.minimum(np.maximum(column, 0), width)
    turns = np.zeros((height, width + 1), np.int8)
    np.add.at(turns, (row, column), direction.astype(np.int8))
    return np.add.accumulate(turns, axis=1, out=turns)[:, :width] != 0


def _fill_in_box(
    outline: np.ndarray, shape: Sequence[int], unit: int = 1
) -> tuple[Window, np.ndarray]:
    """A polygon filled in its own box, cut to a canvas of this shape: the box, and its sub-pixels,
    bool. Canvas and box are measured in units of so many sub-pixels."""
    corners = np.array([outline.min(axis=0), outline.max(axis=0) + GRID * unit]) // (GRID * unit)
    low, high = np.minimum(np.maximum(corners, 0), shape[::-1])
    width, height = (high - low) * unit
    inside = fill_polygon(outline - low * (GRID * unit), height, width)
    return (slice(low[1], high[1]), slice(low[0], high[0])), inside


def _to_grid(
    outline: Sequence[Point], scale: float, angle: float = 0.0, side: int = 1
) -> np.ndarray:
    """Outline in grid points, (K, 2) int64: mirrored (side -1), turned, scaled to sub-pixels."""
    cos, sin = math.cos(angle) * scale * GRID, math.sin(angle) * scale * GRID
    return np.array(
        [(round(side * x * cos - y * sin), round(side * x * sin + y * cos)) for x, y in outline]
    )


def _pixels(sub_pixels: np.ndarray) -> np.ndarray:
    """Mean over each pixel: (..., h * SUB_PIXELS, w * SUB_PIXELS) to (..., h, w) float32."""
    x = sub_pixels.astype(np.float32)
    rows = sum(x[..., i::SUB_PIXELS, :] for i in range(SUB_PIXELS))
    return sum(rows[..., i::SUB_PIXELS] for i in range(SUB_PIXELS)) / np.float32(SUB_PIXELS**2)


def windows(x: int, y: int, shape: tuple[int, int], size: int) -> tuple[Window, Window]:
    """The part of a box, (h, w) pixels at (x, y), that lies in a square image of this size: as
    slices of the image, and of the box."""
    start = np.array([y, x])
    low, high = np.clip([start, start + shape], 0, size)
    return tuple(map(slice, low, high)), tuple(map(slice, low - start, high - start))


# ---------------------------------------------------------------- textures


def _blur(values: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian-like blur of (h, w) bool or floats in [0, 1] -> float32."""
    image = Image.fromarray((values * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _clouds(looks: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise in [0, 1], (h, w) float32, with features of about `cell` pixels."""
    coarse = looks.random((int(shape[0] / cell) + 2, int(shape[1] / cell) + 2), np.float32)
    image = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)


# The weight of a part's second colour, (h, w). u and v are coordinates in periods of the pattern;
# clouds(cell) makes clouds with features of so many pixels.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, Callable], np.ndarray]] = {
    "stripes": lambda u, v, clouds: v % 1 < 0.5,
    "checks": lambda u, v, clouds: (u % 1 < 0.5) * 0.4 + (v % 1 < 0.5) * 0.4,
    "dots": lambda u, v, clouds: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07,
    "keys": lambda u, v, clouds: (u % 1 < 0.25) | (v % 1 < 0.25),
    "slope": lambda u, v, clouds: np.clip((u + v) * 0.1 + 0.5, 0, 1),
    "tabby": lambda u, v, clouds: np.clip(np.sin(6.28 * v + 5 * clouds(5)) * 1.5 - 0.2, 0, 1),
    "patches": lambda u, v, clouds: np.clip(clouds(10) * 5 - 2.3, 0, 1),
    "blush": lambda u, v, clouds: np.clip(clouds(12) * 1.6 - 0.5, 0, 0.8),
    "pores": lambda u, v, clouds: clouds(1.4) ** 2,
    "speckle": lambda u, v, clouds: clouds(1),
}


# ---------------------------------------------------------------- objects


@dataclass
class Sprite:
    """One object, placed by the top left corner of its box."""

    class_id: int
    parts: list[Part]
    fills: list[tuple[Window, np.ndarray]]  # of each part: its own box, and bool in it
    scale: float  # sub-pixels per unit of the object coordinates
    angle: float  # radians
    silhouette: np.ndarray  # (h * SUB_PIXELS, w * SUB_PIXELS) bool
    mask: np.ndarray  # (h, w) bool: pixels covered at least by half
    x: int = 0
    y: int = 0

    def paste(self, size: int) -> np.ndarray:
        """The mask in the image, (size, size) bool, clipped to it."""
        canvas = np.zeros((size, size), bool)
        inside, local = windows(self.x, self.y, self.mask.shape, size)
        canvas[inside] = self.mask[local]
        return canvas


def make_sprite(dice: Dice, class_id: int, name: str, image_size: int) -> Sprite:
    """Draws shape, size, tilt and side of an object, and fills its parts."""
    draw, shortest, longest, tilt = shapes.OBJECT_KINDS[name]
    parts = list(draw(dice))
    scale = dice.between(shortest, longest) / 2 * image_size / REFERENCE_SIZE * SUB_PIXELS
    angle = math.radians(dice.between(-tilt, tilt))
    side = -1 if dice.chance(0.5) else 1
    outlines = [_to_grid(part.outline, scale, angle, side) for part in parts]
    solid = np.concatenate([o for o, part in zip(outlines, parts, strict=True) if not part.detail])
    corner = solid.min(axis=0) // PIXEL
    shape = (solid.max(axis=0) // PIXEL + 1 - corner)[::-1] * SUB_PIXELS
    fills = [_fill_in_box(outline - corner * PIXEL, shape) for outline in outlines]
    silhouette = np.zeros(shape, bool)
    for part, (window, inside) in zip(parts, fills, strict=True):
        if not part.detail:
            silhouette[window] |= inside
    mask = _pixels(silhouette) >= 0.5
    return Sprite(class_id, parts, fills, scale, angle, silhouette, mask)


def _paint(sprite: Sprite, looks: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours (h, w, 3) float32 and coverage (h, w) float32 of an object."""
    canvas = np.zeros((3, *sprite.silhouette.shape), np.float32)
    for part, (window, inside) in zip(sprite.parts, sprite.fills, strict=True):
        if not inside.any():
            continue
        color = part.color[:, None, None]
        if part.texture != "plain":
            second = part.color * np.float32(0.78) if part.second is None else part.second
            weight = _texture(sprite, part, window, looks).astype(np.float32)
            color = color + weight * (second[:, None, None] - color)
        if not part.detail:  # darker towards its rim, which reads as roundness
            color = color * (0.5 + 0.5 * _blur(inside, 2.2 * SUB_PIXELS))
        np.copyto(canvas[:, *window], color, where=inside)
    canvas *= sprite.silhouette
    coverage = _pixels(sprite.silhouette)
    h, w = coverage.shape
    # The light comes from the top left.
    light = 1.16 - 0.14 * np.linspace(0, 1, w) - 0.16 * np.linspace(0, 1, h)[:, None]
    light = light + 0.06 * (_clouds(looks, (h, w), 1.5) - 0.5)
    color = _pixels(canvas) * np.float32(light) / np.maximum(coverage, 1e-6)
    return color.transpose(1, 2, 0), coverage


def _texture(sprite: Sprite, part: Part, window: Window, looks: np.random.Generator) -> np.ndarray:
    """Weight of a part's second colour in a window of the silhouette."""
    height, width = sprite.silhouette.shape
    y, x = np.ogrid[window]
    x, y = np.float32(x - width / 2) / part.period, np.float32(y - height / 2) / part.period
    cos, sin = math.cos(sprite.angle) / sprite.scale, math.sin(sprite.angle) / sprite.scale
    u, v = x * cos + y * sin, y * cos - x * sin
    return TEXTURES[part.texture](u, v, lambda cell: _clouds(looks, u.shape, cell * SUB_PIXELS))


def composite(image: np.ndarray, sprite: Sprite, looks: np.random.Generator) -> None:
    """Paints an object over the image, (H, W, 3) float32, with the shadow that it casts."""
    size = len(image)
    color, coverage = _paint(sprite, looks)
    pad = max(2, round(size / 32))
    shadow = np.pad(coverage, pad)
    x, y = sprite.x - pad + pad // 3, sprite.y - pad + pad // 2
    inside, local = windows(x, y, shadow.shape, size)
    image[inside] *= 1 - 0.45 * _blur(shadow, pad / 2)[local][..., None]
    inside, local = windows(sprite.x, sprite.y, coverage.shape, size)
    image[inside] += coverage[local][..., None] * (color[local] - image[inside])


# ---------------------------------------------------------------- the table top


def draw_background(looks: np.random.Generator, size: int) -> np.ndarray:
    """Wood, cloth, tiles or a gradient, with marks that nobody annotates; (size, size, 3) float."""
    dice = Dice(looks)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (REFERENCE_SIZE / size)
    angle = dice.between(0, math.pi)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    base, second, weight = _surface(dice, u, v)
    image = base + np.clip(weight, 0, 1)[..., None] * (second - base)
    for _ in range(dice.pick((1, 2, 3, 4))):
        _draw_mark(dice, image)
    light = dice.between(0.85, 1.08) * (1.04 - 0.12 * (x + y) / (2 * REFERENCE_SIZE))
    light = light + 0.1 * (_clouds(looks, x.shape, 30 * (size / REFERENCE_SIZE)) - 0.5)
    light += 0.05 * (looks.random(x.shape, np.float32) - 0.5)
    return (image * light[..., None]).astype(np.float32)


def _surface(dice: Dice, u: np.ndarray, v: np.ndarray) -> tuple[Color, Color, np.ndarray]:
    """Two colours, and the weight of the second one where u and v, pixels at REFERENCE_SIZE, are
    the coordinates; all three (H, W)."""
    match dice.pick(("wood", "cloth", "tiles", "gradient")):
        case "wood":
            base = dice.color("#c9b79c", "#b5a48c", "#d8cbb5", "#a3947f")
            width = dice.between(24, 48)
            plank, gap = np.floor(v / width), v % width < 1.2
            warp = _clouds(dice.rng, v.shape, 40 * (len(v) / REFERENCE_SIZE))
            grain = 0.5 + 0.5 * np.sin(v * 0.9 + 9 * warp + 7 * plank)
            return base, base * 0.8, 0.45 * grain + 0.5 * (np.sin(plank * 12.9) % 1) + 2.0 * gap
        case "cloth":
            base = dice.color("#e7e2d5", "#dfe3e6", "#efe4de", "#cfd6d0")
            second = dice.color("#c9a9a2", "#a9b9c6", "#efe9dc", "#b4bda5")
            period = dice.between(14, 34)
            checks = 0.35 * (u % period < period / 2) + 0.35 * (v % period < period / 2)
            return base, second, checks + 0.12 * np.sin(u * 2.4) * np.sin(v * 2.4)
        case "tiles":
            base = dice.color("#cfd8d6", "#c3c9cc", "#d8d0c4", "#b9c4c2")
            second = dice.color("#f2efe8", "#9a9a9a")
            period = dice.between(26, 50)
            shade = 0.25 * ((np.floor(u / period) * 7 + np.floor(v / period) * 13) % 5) / 5
            return base, second, shade + 1.0 * ((u % period < 2) | (v % period < 2))
        case _:  # a gradient
            base = dice.color("#b4bcc0", "#c9c0bd", "#bcc2b5", "#d9cfc2", "#98a0a8")
            second = dice.color("#8a9296", "#e0e0d8", "#a39a92")
            return base, second, (u - u.min()) / np.ptp(u)


def _draw_mark(dice: Dice, image: np.ndarray) -> None:
    """Draws unannotated clutter into the image: crumbs, a stain, a ring, a ribbon or a napkin."""
    x, y = dice.between(0, REFERENCE_SIZE), dice.between(0, REFERENCE_SIZE)
    strength = dice.between(0.3, 0.7)
    color = dice.color("#8a7a68", "#f2e6cf", "#a08a86", "#8a9aa2", "#c9b48a")
    mark = dice.pick(("crumbs", "crumbs", "stain", "ring", "ribbon", "napkin"))
    if mark == "crumbs":
        strength = 0.85
    for outline in _outlines(mark, dice, x, y):
        points = _to_grid(outline, len(image) / REFERENCE_SIZE * SUB_PIXELS)
        window, inside = _fill_in_box(points, image.shape[:2], SUB_PIXELS)
        alpha = _pixels(inside)[..., None] * strength
        image[window] += alpha * (color - image[window])


def _outlines(mark: str, dice: Dice, x: float, y: float) -> Iterator[list[Point]]:
    """The polygons of a mark around (x, y), in pixels at REFERENCE_SIZE."""
    match mark:
        case "crumbs":
            for _ in range(dice.pick((6, 12, 20))):
                radius = dice.between(0.8, 2.4)
                centre = (x + dice.between(-22, 22), y + dice.between(-22, 22))
                yield shapes.ellipse(*centre, radius, radius * dice.between(0.5, 1), 7)
        case "stain":
            yield shapes.blob(dice, x, y, dice.between(6, 16), 0.6, 1.2)
        case "ring":  # the inner circle runs the other way: the winding number inside it is 0
            r = dice.between(9, 17)
            outer, inner = shapes.ellipse(x, y, r, r), shapes.ellipse(x, y, r - 2, 2 - r)
            yield [*outer, (x + r, y), *inner, (x + r - 2, y)]
        case "ribbon" | "napkin":  # a rectangle with these half sides, turned
            sides = ((40, 90), (1, 5)) if mark == "ribbon" else ((16, 34), (16, 34))
            long, wide = (dice.between(*side) for side in sides)
            angle = dice.between(0, math.pi)
            cos, sin = math.cos(angle), math.sin(angle)
            yield [
                (x + p * long * cos - q * wide * sin, y + p * long * sin + q * wide * cos)
                for p, q in shapes.box(-1, -1, 1, 1)
            ]
