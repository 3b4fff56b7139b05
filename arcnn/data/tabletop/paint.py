"""From outlines to pixels: filled polygons, textures, painted objects and the table beneath them.

Masks must be the same on every machine, so outlines are rounded to a grid and filled in integer
arithmetic. Colours are floating point: they may differ in the last bit.

Shapes: h and w are the pixels of one object's box; a pixel has SUB_PIXELS x SUB_PIXELS sub-pixels.
The order of the random draws is part of the data set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from arcnn.data.tabletop.shapes import (
    REFERENCE_SIZE,
    Color,
    Dice,
    Kind,
    Part,
    Point,
    box,
    ellipse,
    smooth,
)

SUB_PIXELS = 2  # per pixel and side
GRID = 64  # grid points per sub-pixel and side
PIXEL = GRID * SUB_PIXELS  # grid points per pixel and side

Window = tuple[slice, slice]  # rows and columns


# ---------------------------------------------------------------- filled polygons


def fill_polygon(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sub-pixels whose centre lies in a polygon (non-zero winding), in exact integer arithmetic.

    Args:
      outline: (K, 2) int64, x and y in grid points. height, width: of the canvas, in sub-pixels.
    Returns:
      (height, width) bool.
    """
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


def _fill_in_box(outline: np.ndarray, shape: tuple[int, int]) -> tuple[Window, np.ndarray]:
    """A polygon filled in its own box, cut to a canvas of that shape: the box, and bool in it."""
    x0, y0 = np.maximum(outline.min(axis=0) // GRID, 0)
    x1, y1 = outline.max(axis=0) // GRID + 1
    x1, y1 = max(min(x1, shape[1]), x0), max(min(y1, shape[0]), y0)
    inside = fill_polygon(outline - np.array([x0, y0]) * GRID, y1 - y0, x1 - x0)
    return (slice(y0, y1), slice(x0, x1)), inside


def _pixels(sub_pixels: np.ndarray) -> np.ndarray:
    """Mean over each pixel: (..., h * SUB_PIXELS, w * SUB_PIXELS) to (..., h, w) float32."""
    rows = sub_pixels[..., 0::SUB_PIXELS, :].astype(np.float32)
    for i in range(1, SUB_PIXELS):
        rows += sub_pixels[..., i::SUB_PIXELS, :]
    total = sum(rows[..., j::SUB_PIXELS] for j in range(SUB_PIXELS))
    return total / np.float32(SUB_PIXELS * SUB_PIXELS)


def windows(x: int, y: int, shape: tuple[int, int], size: int) -> tuple[Window, Window]:
    """The part of a box that lies in a square image: as slices of the image, and of the box.

    Args:
      x, y: pixels, the top left corner of the box. shape: (h, w) of the box. size: of the image.
    """
    in_image, in_box = [], []
    for start, length in zip((y, x), shape, strict=True):
        low, high = (min(max(k, 0), size) for k in (start, start + length))
        in_image.append(slice(low, high))
        in_box.append(slice(low - start, high - start))
    return tuple(in_image), tuple(in_box)


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


def _texture(name: str, u: np.ndarray, v: np.ndarray, looks: np.random.Generator) -> np.ndarray:
    """Weight of a part's second colour in [0, 1], (h, w); u and v in periods of the pattern."""
    fu, fv = u % 1, v % 1

    def clouds(cell: float) -> np.ndarray:  # features of `cell` pixels
        return _clouds(looks, u.shape, cell * SUB_PIXELS)

    match name:
        case "stripes":
            return (fv < 0.5) * 1.0
        case "checks":
            return (fu < 0.5) * 0.4 + (fv < 0.5) * 0.4
        case "dots":
            return ((fu - 0.5) ** 2 + (fv - 0.5) ** 2 < 0.07) * 1.0
        case "keys":
            return (fu < 0.25) | (fv < 0.25)
        case "slope":
            return np.clip((u + v) * 0.1 + 0.5, 0, 1)
        case "tabby":
            return np.clip(np.sin(6.28 * v + 5 * clouds(5)) * 1.5 - 0.2, 0, 1)
        case "patches":
            return np.clip(clouds(10) * 5 - 2.3, 0, 1)
        case "blush":
            return np.clip(clouds(12) * 1.6 - 0.5, 0, 0.8)
        case "pores":
            return clouds(1.4) ** 2
        case "speckle":
            return clouds(1)
    raise ValueError(f"unknown texture {name!r}")


# ---------------------------------------------------------------- objects


@dataclass
class Sprite:
    """One object, placed by the top left corner of its box."""

    class_id: int
    parts: list[Part]
    outlines: list[np.ndarray]  # one per part, (K, 2) int64, grid points from the box corner
    fills: list[tuple[Window, np.ndarray] | None]  # see _fill_in_box; None for details
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


def make_sprite(dice: Dice, class_id: int, kind: Kind, image_size: int) -> Sprite:
    """Draws shape, size, tilt and side of an object, and fills its silhouette."""
    parts = list(kind.parts(dice))
    scale = dice.between(*kind.sizes) / 2 * image_size / REFERENCE_SIZE * SUB_PIXELS
    angle = math.radians(dice.between(-kind.tilt, kind.tilt))
    side = -1 if dice.chance(0.5) else 1
    outlines = [_to_grid(part.outline, scale, angle, side) for part in parts]
    solid = np.concatenate([o for o, part in zip(outlines, parts, strict=True) if not part.detail])
    corner = solid.min(axis=0) // PIXEL
    w, h = solid.max(axis=0) // PIXEL + 1 - corner
    outlines = [outline - corner * PIXEL for outline in outlines]
    silhouette = np.zeros((h * SUB_PIXELS, w * SUB_PIXELS), bool)
    fills = [
        None if part.detail else _fill_in_box(outline, silhouette.shape)
        for outline, part in zip(outlines, parts, strict=True)
    ]
    for window, inside in filter(None, fills):
        silhouette[window] |= inside
    mask = _pixels(silhouette) >= 0.5
    return Sprite(class_id, parts, outlines, fills, scale, angle, silhouette, mask)


def _to_grid(outline: Sequence[Point], scale: float, angle: float, side: int) -> np.ndarray:
    """Object coordinates to grid points, (K, 2) int64: mirrored (side -1), turned and scaled."""
    cos, sin = math.cos(angle) * scale * GRID, math.sin(angle) * scale * GRID
    return np.array(
        [(round(side * x * cos - y * sin), round(side * x * sin + y * cos)) for x, y in outline]
    )


def _paint(sprite: Sprite, looks: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours (h, w, 3) float32 and coverage (h, w) float32 of an object."""
    canvas = np.zeros((3, *sprite.silhouette.shape), np.float32)
    for part, outline, fill in zip(sprite.parts, sprite.outlines, sprite.fills, strict=True):
        window, inside = fill or _fill_in_box(outline, sprite.silhouette.shape)
        if not inside.any():
            continue
        color = _part_colors(sprite, part, window, looks)
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


def _part_colors(
    sprite: Sprite, part: Part, window: Window, looks: np.random.Generator
) -> np.ndarray:
    """A part's colours: (3, rows, columns) of the window, or (3, 1, 1) without a texture."""
    color = part.color[:, None, None]
    if part.texture == "plain":
        return color
    second = part.color * np.float32(0.78) if part.second is None else part.second
    height, width = sprite.silhouette.shape
    y, x = np.ogrid[window]
    x, y = np.float32(x - width / 2) / part.period, np.float32(y - height / 2) / part.period
    cos, sin = math.cos(sprite.angle) / sprite.scale, math.sin(sprite.angle) / sprite.scale
    weight = _texture(part.texture, x * cos + y * sin, y * cos - x * sin, looks)
    return color + weight.astype(np.float32) * (second[:, None, None] - color)


def composite(image: np.ndarray, sprite: Sprite, looks: np.random.Generator) -> None:
    """Paints an object over the image, with the shadow that it casts on what is behind it.

    Args:
      image: (H, W, 3) float32, changed in place. looks: random stream of what only colours pixels.
    """
    size = len(image)
    color, coverage = _paint(sprite, looks)
    pad = max(2, round(size / 32))
    shadow = np.pad(coverage, pad)
    inside, local = windows(
        sprite.x - pad + pad // 3, sprite.y - pad + pad // 2, shadow.shape, size
    )
    image[inside] *= 1 - 0.45 * _blur(shadow, pad / 2)[local][..., None]
    inside, local = windows(sprite.x, sprite.y, coverage.shape, size)
    image[inside] += coverage[local][..., None] * (color[local] - image[inside])


# ---------------------------------------------------------------- the table top


def draw_background(looks: np.random.Generator, size: int) -> np.ndarray:
    """Wood, cloth, tiles or a gradient, with marks that nobody annotates.

    Args:
      looks: random stream of what only colours pixels. size: of the image, pixels.
    Returns:
      (size, size, 3) float32.
    """
    dice = Dice(looks)
    shape, unit = (size, size), size / REFERENCE_SIZE
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (REFERENCE_SIZE / size)
    angle = dice.between(0, math.pi)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    surface = dice.pick((_wood, _cloth, _tiles, _gradient))
    base, second, weight = surface(dice, u, v)
    image = base + np.clip(weight, 0, 1)[..., None] * (second - base)
    for _ in range(dice.pick((1, 2, 3, 4))):
        _draw_mark(dice, image)
    light = dice.between(0.85, 1.08) * (1.04 - 0.12 * (x + y) / (2 * REFERENCE_SIZE))
    light = light + 0.1 * (_clouds(looks, shape, 30 * unit) - 0.5)
    light += 0.05 * (looks.random(shape, np.float32) - 0.5)
    return (image * light[..., None]).astype(np.float32)


# A surface is a function of coordinates u and v, each (H, W), in pixels at REFERENCE_SIZE. It
# returns two colours and the weight of the second one, (H, W).
Surface = tuple[Color, Color, np.ndarray]


def _wood(dice: Dice, u: np.ndarray, v: np.ndarray) -> Surface:
    base = dice.color("#c9b79c", "#b5a48c", "#d8cbb5", "#a3947f")
    width = dice.between(24, 48)
    plank, gap = np.floor(v / width), v % width < 1.2
    warp = _clouds(dice.rng, v.shape, 40 * (len(v) / REFERENCE_SIZE))
    grain = 0.5 + 0.5 * np.sin(v * 0.9 + 9 * warp + 7 * plank)
    return base, base * 0.8, 0.45 * grain + 0.5 * (np.sin(plank * 12.9) % 1) + 2.0 * gap


def _cloth(dice: Dice, u: np.ndarray, v: np.ndarray) -> Surface:
    base = dice.color("#e7e2d5", "#dfe3e6", "#efe4de", "#cfd6d0")
    second = dice.color("#c9a9a2", "#a9b9c6", "#efe9dc", "#b4bda5")
    period = dice.between(14, 34)
    checks = 0.35 * (u % period < period / 2) + 0.35 * (v % period < period / 2)
    return base, second, checks + 0.12 * np.sin(u * 2.4) * np.sin(v * 2.4)


def _tiles(dice: Dice, u: np.ndarray, v: np.ndarray) -> Surface:
    base = dice.color("#cfd8d6", "#c3c9cc", "#d8d0c4", "#b9c4c2")
    second = dice.color("#f2efe8", "#9a9a9a")
    period = dice.between(26, 50)
    shade = 0.25 * ((np.floor(u / period) * 7 + np.floor(v / period) * 13) % 5) / 5
    joints = (u % period < 2) | (v % period < 2)
    return base, second, shade + 1.0 * joints


def _gradient(dice: Dice, u: np.ndarray, v: np.ndarray) -> Surface:
    base = dice.color("#b4bcc0", "#c9c0bd", "#bcc2b5", "#d9cfc2", "#98a0a8")
    second = dice.color("#8a9296", "#e0e0d8", "#a39a92")
    return base, second, (u - u.min()) / np.ptp(u)


def _draw_mark(dice: Dice, image: np.ndarray) -> None:
    """Draws unannotated clutter into the image: crumbs, a stain, a ring, a ribbon or a napkin."""
    x, y = dice.between(0, REFERENCE_SIZE), dice.between(0, REFERENCE_SIZE)
    strength = dice.between(0.3, 0.7)
    color = dice.color("#8a7a68", "#f2e6cf", "#a08a86", "#8a9aa2", "#c9b48a")
    mark = dice.pick((_crumbs, _crumbs, _stain, _ring, _ribbon, _napkin))
    if mark is _crumbs:
        strength = 0.85
    for outline in mark(dice, x, y):
        _blend(image, outline, color, strength)


def _blend(image: np.ndarray, outline: Sequence[Point], color: Color, strength: float) -> None:
    """Mixes a colour into the inside of an outline, which is in pixels at REFERENCE_SIZE."""
    size = len(image)
    points = np.round(np.array(outline) * (size / REFERENCE_SIZE) * SUB_PIXELS * GRID)
    points = points.astype(np.int64)
    corner = points.min(axis=0) // PIXEL
    w, h = points.max(axis=0) // PIXEL + 1 - corner
    inside = fill_polygon(points - corner * PIXEL, h * SUB_PIXELS, w * SUB_PIXELS)
    alpha = _pixels(inside) * strength
    window, local = windows(*corner, alpha.shape, size)
    image[window] += alpha[local][..., None] * (color - image[window])


# A mark is a function of its centre, in pixels at REFERENCE_SIZE; it returns its outlines.


def _crumbs(dice: Dice, x: float, y: float) -> list[list[Point]]:
    outlines = []
    for _ in range(dice.pick((6, 12, 20))):
        radius = dice.between(0.8, 2.4)
        centre = (x + dice.between(-22, 22), y + dice.between(-22, 22))
        outlines.append(ellipse(*centre, radius, radius * dice.between(0.5, 1), 7))
    return outlines


def _stain(dice: Dice, x: float, y: float) -> list[list[Point]]:
    radius = dice.between(6, 16)
    blob = [
        (
            x + radius * dice.between(0.6, 1.2) * math.cos(angle),
            y + radius * dice.between(0.6, 1.2) * math.sin(angle),
        )
        for angle in (i * math.pi / 4 for i in range(8))
    ]
    return [smooth(blob)]


def _ring(dice: Dice, x: float, y: float) -> list[list[Point]]:
    radius = dice.between(9, 17)
    inner = radius - 2
    outside = [*ellipse(x, y, radius, radius), (x + radius, y)]
    # The inner circle runs the other way: the winding number inside it is 0.
    return [[*outside, *ellipse(x, y, inner, -inner), (x + inner, y)]]


def _ribbon(dice: Dice, x: float, y: float) -> list[list[Point]]:
    return [_turned_box(dice, x, y, dice.between(40, 90), dice.between(1, 5))]


def _napkin(dice: Dice, x: float, y: float) -> list[list[Point]]:
    return [_turned_box(dice, x, y, dice.between(16, 34), dice.between(16, 34))]


def _turned_box(dice: Dice, x: float, y: float, long: float, wide: float) -> list[Point]:
    """A rectangle with those half sides, turned by a random angle."""
    angle = dice.between(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    return [
        (x + p * long * cos - q * wide * sin, y + p * long * sin + q * wide * cos)
        for p, q in box(-1, -1, 1, 1)
    ]
