"""The ten classes of tabletop as outlines: polygons with a colour, drawn with some variation.

Object coordinates: x right, y down, about -1 to 1 on the longer side. A class is a generator: it
takes the dice of the scene, always called ``d``, and yields the parts of one object, back to front.
Its random draws come in a fixed order: another order would be another data set.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

REFERENCE_SIZE = 160  # pixels: lengths in pixels are meant for an image of this side

Point = tuple[float, float]
Color = np.ndarray  # (3,) float32, 0 to 255, RGB


class Dice:
    """Scalar draws of one scene. Only ``random()`` is used: its stream is stable in numpy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        """A number from low (included) to high (excluded), uniformly."""
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.rng.random() < probability

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options, all equally likely."""
        return options[int(self.rng.random() * len(options))]

    def color(self, *options: str) -> Color:
        """One of the given "#rrggbb", a little lighter or darker and off in hue."""
        code = self.pick(options)
        light = self.between(-12, 12)
        rgb = [int(code[i : i + 2], 16) + light + self.between(-9, 9) for i in (1, 3, 5)]
        return np.clip(np.array(rgb, np.float32), 0, 255)


@dataclass
class Part:
    """One painted polygon. The union of the parts that are no detail is the object's silhouette."""

    outline: Sequence[Point]
    color: Color
    texture: str = "plain"  # how `color` and `second` mix, see paint.py
    second: Color | None = None  # default: a darker `color`
    period: float = 0.25  # of the texture, in object coordinates
    detail: bool = False  # clipped to the silhouette, without a shaded rim


detail = partial(Part, detail=True)


# ---------------------------------------------------------------- outlines


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 28) -> list[Point]:
    """Ellipse around (x, y) with half axes rx and ry, as a polygon."""
    angles = (2 * math.pi * i / points for i in range(points))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """Rectangle with the corners (x0, y0) and (x1, y1)."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def symmetric(*half: Point) -> list[Point]:
    """Outline from its right half, x >= 0; a point on the axis is not doubled."""
    return [*half, *((-x, y) for x, y in reversed(half) if x)]


def scaled(points: Sequence[Point], x: float, y: float, down: float = 0.0) -> list[Point]:
    """The points, that many times as far from the axes, then moved down."""
    return [(px * x, py * y + down) for px, py in points]


def smooth(points: Sequence[Point], closed: bool = True) -> list[Point]:
    """Catmull-Rom curve through the points, as a polygon or (not closed) as a path."""
    first, last = ([points[-1]], points[:2]) if closed else ([points[0]], [points[-1]])
    p = np.array([*first, *points, *last])
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]  # each (pieces, 1, 2)
    t = np.arange(5)[:, None] / 5  # five steps from b to c
    t2, t3 = t**2, t**3
    curve = (-t + 2 * t2 - t3) * a + (2 - 5 * t2 + 3 * t3) * b  # (pieces, 5, 2)
    curve = (curve + (t + 4 * t2 - 3 * t3) * c + (t3 - t2) * d) / 2
    return [tuple(xy) for xy in curve.reshape(-1, 2).tolist()] + ([] if closed else [points[-1]])


def blob(d: Dice, x: float, y: float, radius: float, *reach: float) -> list[Point]:
    """Smooth stain around (x, y); `reach`, shortest and longest, is in radii."""
    angles = (i * math.pi / 4 for i in range(8))
    return smooth([(x + radius * d.between(*reach) * math.cos(a),
        y + radius * d.between(*reach) * math.sin(a)) for a in angles])  # fmt: skip


def stroke(points: Sequence[Point], *widths: float) -> list[Point]:
    """Outline of a thick curve with round ends; half widths are interpolated along it."""
    path = smooth(points, closed=False)
    end, stops = len(path) - 1, (*widths, widths[-1])
    left: list[Point] = []
    right: list[Point] = []
    for i, (x, y) in enumerate(path):
        (xa, ya), (xb, yb) = path[max(i - 1, 0)], path[min(i + 1, end)]
        length = math.hypot(xb - xa, yb - ya) or 1.0
        at = i / end * (len(widths) - 1)
        k = min(int(at), max(len(widths) - 2, 0))
        half = stops[k] + (at - k) * (stops[k + 1] - stops[k])
        nx, ny = -(yb - ya) / length * half, (xb - xa) / length * half  # from the path to its side
        # At the ends the side is turned, back or forwards, in steps.
        for angle in (-1.3, -0.8, -0.3) if i == 0 else (0.3, 0.8, 1.3) if i == end else (0.0,):
            sin, cos = math.sin(angle), math.cos(angle)
            left.append((x + nx * cos + ny * sin, y + ny * cos - nx * sin))
            right.append((x - nx * cos + ny * sin, y - ny * cos - nx * sin))
    return left + right[::-1]


# ---------------------------------------------------------------- the ten classes
# A polygon reads better on few lines.
# fmt: off

def _person(d: Dice) -> Iterator[Part]:
    skin = d.color("#f2c9a5", "#d9a074", "#a86b3f", "#6e4427")
    hair = d.color("#2b1d14", "#6b3e1d", "#c98f3c", "#8d8d92")
    shirt = d.color("#8a4fa3", "#6f55b5", "#a05fb0")
    trousers = d.color("#31405f", "#3a4a78")
    shoes = d.color("#20202a", "#8c2f2a", "#e8e4da")
    eyes, cheeks = np.float32([30, 30, 30]), skin * 0.6 + np.float32([90, 30, 30])
    spread, wide = d.between(0.02, 0.2), d.between(0.9, 1.12)
    for side in (-1, 1):
        x = side * (0.17 + spread)
        yield Part(stroke([(side * 0.13, 0.3), (x, 0.88)], 0.14, 0.11), trousers)
        yield Part(ellipse(x + side * 0.05, 0.91, 0.15, 0.08), shoes)
    for side in (-1, 1):
        raised = d.pick((-0.35, 0.05, 0.4))
        elbow = (side * d.between(0.5, 0.6) * wide, 0.12 + raised * 0.3)
        hand = (side * d.between(0.5, 0.72), min(0.28 + raised, 0.5))
        yield Part(stroke([(side * 0.27 * wide, -0.18), elbow, hand], 0.11, 0.1, 0.085), shirt)
        yield Part(ellipse(*hand, 0.1, 0.1, 14), skin)
    if d.chance(0.45):  # long hair
        yield Part(smooth(symmetric((0, -1), (0.33, -0.8), (0.38, -0.2), (0, -0.12))), hair)
    torso = symmetric((0.12, -0.32), (0.33 * wide, -0.2), (0.3 * wide, 0.38))
    yield Part(smooth(torso), shirt, d.pick(("plain", "stripes", "checks", "dots")),
        d.color("#f4efe2", "#20304a"), 0.2)
    yield Part(ellipse(0, -0.6, 0.28, 0.33), skin)
    fringe = d.between(-0.78, -0.7)
    yield Part(smooth([(-0.3, -0.6), (-0.27, -0.86), (0, -0.99), (0.27, -0.86), (0.3, -0.6),
        (0.2, fringe), (-0.1, fringe - 0.03)]), hair)
    for side in (-1, 1):
        yield detail(ellipse(side * 0.11, -0.57, 0.035, 0.05, 10), eyes)
        yield detail(ellipse(side * 0.17, -0.46, 0.06, 0.04, 10), cheeks)
    yield detail(stroke([(-0.08, -0.42), (0, -0.38), (0.08, -0.42)], 0.018), d.color("#8c2f2a"))


def _cat(d: Dice) -> Iterator[Part]:
    fur = d.color("#e08a32", "#d97a26", "#e89a4a")
    coat = d.pick((("tabby", fur * 0.62), ("tabby", fur * 0.7),
        ("patches", np.float32([240, 236, 228])), ("speckle", fur * 0.8)))
    pale, pink = fur * 0.35 + np.float32([160, 155, 145]), d.color("#d98a86")
    fat, up = d.between(0.92, 1.12), d.between(-0.1, 0.5)
    tail = [(0.3, 0.82), (0.72, 0.78), (0.9, 0.45), (0.74, up)]
    body = symmetric((0, -0.3), (0.3, -0.05), (0.5 * fat, 0.55), (0.4 * fat, 0.93))
    yield Part(stroke(tail, 0.09, 0.09, 0.08), fur, *coat, 0.28)
    yield Part(smooth(body), fur, *coat, 0.3)
    yield detail(ellipse(0, 0.15, 0.2, 0.36), pale, "speckle")
    for side in (-1, 1):
        yield Part(ellipse(side * 0.17, 0.86, 0.14, 0.11), pale)
    for side in (-1, 1):
        ear = scaled([(0.42, -0.45), (0.4, -0.99), (0.06, -0.72)], side, 1)
        yield Part(ear, fur)
        yield detail(scaled(ear, 0.93, 0.93, -0.02), pink)
    yield Part(ellipse(0, -0.45, 0.46, 0.36), fur, *coat, 0.24)
    eye = d.color("#8fc04a", "#e2b93b", "#6fb4d8")
    for side in (-1, 1):
        yield detail(ellipse(side * 0.19, -0.5, 0.1, 0.1, 14), eye)
        yield detail(ellipse(side * 0.19, -0.5, 0.04, 0.09, 10), np.float32([20, 20, 20]))
        yield detail(ellipse(side * 0.09, -0.29, 0.12, 0.09, 12), pale)
        for tilt in (-0.05, 0.04):
            whisker = [(side * 0.14, -0.3), (side * 0.44, -0.3 + tilt)]
            yield detail(stroke(whisker, 0.012), np.float32([250, 250, 250]))
    yield detail([(-0.06, -0.38), (0.06, -0.38), (0, -0.3)], pink)


def _laptop(d: Dice) -> Iterator[Part]:
    metal = d.color("#8d929b", "#6b7079", "#4b4f58")
    back, dark = d.between(0.68, 0.78), np.float32([32, 34, 40])
    yield Part(symmetric((0.8, 0.16), (1, 0.7)), metal)
    yield Part(box(-1, 0.69, 1, 0.77), metal * 0.75)
    lid = symmetric((back, -0.78), (0.8, 0.2))  # overlaps the base: no gap
    yield Part(lid, dark)
    glow = d.color("#2d6fb5", "#255f9e", "#3a80c8")
    gleam = glow * 0.55 + np.float32([90, 90, 100])
    yield detail(scaled(lid, 0.91, 0.9, -0.02), glow, "slope", gleam)
    for row in range(d.pick((3, 4, 5))):  # lines of text, or of code
        x, y = d.between(-0.58, -0.45), -0.6 + row * 0.14
        yield detail(box(x, y, x + d.between(0.3, 0.8), y + 0.06),
            d.color("#f7f7f2", "#f2c14e", "#7fd1ae"))
    yield detail(box(0.25, -0.3, 0.62, 0.0), d.color("#f7f7f2", "#e8765c"))
    yield detail(symmetric((0.74, 0.21), (0.86, 0.5)), metal * 0.4, "keys", metal * 0.8, 0.13)
    yield detail(symmetric((0.24, 0.54), (0.26, 0.66)), metal * 0.85)


def _plate(d: Dice) -> Iterator[Part]:
    china = d.color("#f6f4ee", "#fafafa", "#f0f5f8")
    ring = d.color("#2f6fc0", "#3a5fa0", "#5a8fd0")
    flat = d.between(0.74, 1.0)

    def disk(radius: float, points: int = 40) -> list[Point]:
        return ellipse(0, 0, radius, radius * flat, points)

    yield Part(disk(1), china)
    if d.chance(0.7):
        yield detail(disk(0.95), ring)
        yield detail(disk(d.between(0.86, 0.9)), china)
    if d.chance(0.4):
        for x, y in disk(0.79, 14):
            yield detail(ellipse(x, y, 0.05, 0.05, 8), ring)
    yield detail(disk(0.67), china * 0.8)
    yield detail(disk(0.645), china * 0.95)
    yield detail(ellipse(0.02, 0.03, 0.6, 0.6 * flat), china)


def _bread(d: Dice) -> Iterator[Part]:
    crust = d.color("#a8642a", "#8a4f20", "#bd7a36")
    crumb = d.color("#f0d9a6", "#e8c98c", "#f3e2bd")
    tall, lobe = d.between(0.85, 1.0), d.between(0.8, 0.95)
    slice_ = smooth(symmetric((0.3, 0.88), (0.62, 0.84), (0.68, 0.1), (lobe, -0.3),
        (0.7, -0.72 * tall), (0.3, -0.82 * tall)))
    yield Part(slice_, crust, "speckle")
    yield detail(scaled(slice_, 0.86, 0.86), crumb, "pores", crumb * 0.8)
    topping = d.pick(("none", "none", "butter", "jam"))
    if topping == "butter":
        yield detail(box(-0.22, -0.2, 0.3, 0.25), np.float32([214, 170, 60]))
        yield detail(box(-0.25, -0.24, 0.26, 0.2), np.float32([250, 224, 120]))
    if topping == "jam":
        jam = blob(d, 0, 0, 0.5, 0.75, 1.1)
        yield detail(jam, d.color("#b3202c", "#7a2450", "#d8791d"), "speckle")


def _cup(d: Dice) -> Iterator[Part]:
    glaze = d.color("#2f9c96", "#25877f", "#45b5aa")
    second = d.color("#f6f3ea", "#27374d")
    foot, drink = d.between(0.42, 0.58), d.color("#4a2a17", "#7b4a25", "#b7702d")
    yield Part(stroke([(0.5, -0.36), (0.88, -0.38), (0.95, 0.08), (0.5, 0.36)], 0.1), glaze)
    yield Part(symmetric((0.66, -0.62), (foot + 0.04, 0.7), (foot - 0.1, 0.86)), glaze,
        d.pick(("plain", "plain", "stripes", "dots", "checks")), second, d.between(0.28, 0.4))
    if d.chance(0.35):
        yield detail(smooth(symmetric((0, -0.02), (0.16, -0.15), (0.28, 0.0), (0, 0.38))), second)
    yield Part(ellipse(0, -0.62, 0.66, 0.22), glaze * 0.6 + 95)
    yield detail(ellipse(0, -0.62, 0.57, 0.165), glaze * 0.5)
    yield detail(ellipse(0, -0.585, 0.5, 0.12), drink)


def _book(d: Dice) -> Iterator[Part]:
    cover = d.color("#7c2430", "#6b1f3a", "#8f2f45")
    gold, paper = d.color("#e5c566", "#f0ead6"), np.float32([244, 238, 222])
    w, h = d.between(0.62, 0.74), 0.9
    yield Part(box(-w + 0.08, -h + 0.1, w + 0.12, h + 0.1), cover * 0.55)
    yield Part(box(-w + 0.05, -h + 0.05, w + 0.08, h + 0.06), paper, "stripes", paper * 0.72, 0.05)
    yield Part(box(-w, -h, w, h), cover, "speckle")
    yield detail(box(-w, -h, -w + 0.16, h), cover * 0.65)
    for i in range(d.pick((1, 2, 3))):  # lines of the title
        y = 0.2 * i
        yield detail(box(-w + 0.28, -0.66 + y, w - 0.12 - 0.2 * (i % 2), -0.54 + y), gold)
    emblem = d.pick((ellipse(0.1, 0.35, 0.27, 0.27), [(0.1, 0.02), (0.4, 0.6), (-0.2, 0.6)],
        box(-0.16, 0.1, 0.36, 0.6)))
    yield detail(emblem, gold)
    yield detail([(0.1 + (x - 0.1) * 0.6, 0.35 + (y - 0.35) * 0.6) for x, y in emblem],
        d.color("#d8433b", "#3a7ca5", "#e8e4da"))


def _bottle(d: Dice) -> Iterator[Part]:
    glass = d.color("#2f7a4b", "#25663c", "#3f8f57")
    wide, neck, shoulder = d.between(0.3, 0.4), d.between(0.11, 0.15), d.between(-0.3, -0.1)
    yield Part(symmetric((neck, -0.9), (neck, shoulder - 0.25), (neck + 0.05, shoulder - 0.12),
        (wide - 0.03, shoulder + 0.08), (wide, shoulder + 0.22), (wide, 0.88), (wide - 0.06, 0.96)),
        glass, "slope", glass * 0.7)
    yield Part(box(-neck - 0.03, -0.99, neck + 0.03, -0.84),
        d.color("#c9a23a", "#b3362d", "#e8e4da", "#2b2b30"))
    gleam = [(-wide + 0.08, 0.86), (-wide + 0.07, 0.5), (-wide + 0.08, shoulder + 0.26)]
    yield detail(stroke(gleam, 0.035), glass * 0.4 + 150)
    top, bottom = shoulder + 0.35, d.between(0.62, 0.76)
    paper, ink = d.color("#f4ead0", "#f7f7f2", "#e8c46a"), d.color("#b3362d", "#27507a", "#2b2b30")
    yield detail(box(-wide, top, wide, bottom), paper)
    yield detail(box(-wide, top + 0.05, wide, top + 0.1), ink)
    yield detail(ellipse(0, (top + bottom) / 2 + 0.06, 0.14, 0.14, 16), ink)
    yield detail(box(-wide, bottom - 0.08, wide, bottom - 0.04), ink)


def _apple(d: Dice) -> Iterator[Part]:
    skin, second = d.pick((("#cf2a2a", "#f0a93a"), ("#b81f2d", "#e06a3a"), ("#8fbf3a", "#d4d95a"),
        ("#d9402e", "#f3d05a")))
    wide, leaf = d.between(0.86, 0.98), d.color("#4b9a3c", "#3c7a33")
    body = symmetric((0.12, -0.5), (0.45, -0.68), (wide - 0.1, -0.42), (wide, 0.05), (0.68, 0.68),
        (0.3, 0.9), (0.08, 0.83))
    yield Part(smooth(body), d.color(skin), "blush", d.color(second))
    yield detail(ellipse(0, -0.5, 0.24, 0.1, 14), d.color(skin) * 0.55)
    yield Part(stroke([(0, -0.5), (0.03, -0.75), (0.12, -0.95)], 0.06), d.color("#5a3a1e"))
    if d.chance(0.75):
        yield Part(smooth([(0.08, -0.7), (0.3, -0.98), (0.62, -0.9), (0.4, -0.66)]), leaf)
    yield detail(ellipse(-0.42, -0.25, 0.14, 0.22, 14), d.color("#fff4ea"))


def _banana(d: Dice) -> Iterator[Part]:
    peel, tip = d.color("#f5d130", "#efc02a", "#d9d24a"), d.color("#5a3d1c", "#7a6a2a")
    bend, fat = d.between(0.5, 0.8), d.between(0.2, 0.26)
    angles = [math.pi * (0.12 + 0.76 * i / 6) for i in range(7)]
    path = [(-0.95 * math.cos(a), bend * (1.6 * math.sin(a) - 1)) for a in angles]
    first, *middle, last = path
    yield Part(stroke([last, (last[0] + 0.04, last[1] - 0.16)], 0.07, 0.06), tip)
    yield Part(stroke(path, 0.08, fat * 0.85, fat, fat * 1.05, fat, fat * 0.8, 0.07), peel)
    yield detail(stroke(scaled(middle, 1, 1, -0.02), 0.018), peel * 0.72)
    yield detail(stroke(scaled(middle, 0.95, 1, fat * 0.5), 0.05), peel * 0.84)
    yield detail(ellipse(*first, 0.1, 0.1, 12), tip)
    for _ in range(d.pick((0, 2, 5))):
        x, y = d.pick(middle)
        yield detail(ellipse(x + d.between(-0.12, 0.12), y + d.between(-0.12, 0.12), 0.045, 0.03,
            8), tip)

# fmt: on


# How a class is drawn: its parts; the length of its longer side, in pixels at REFERENCE_SIZE, from
# and to; its largest rotation to either side, in degrees.
OBJECT_KINDS: dict[str, tuple[Callable[[Dice], Iterator[Part]], float, float, float]] = {
    "person": (_person, 96, 120, 20),
    "cat": (_cat, 80, 106, 20),
    "laptop": (_laptop, 86, 112, 20),
    "plate": (_plate, 80, 108, 30),
    "bread": (_bread, 58, 76, 45),
    "cup": (_cup, 54, 74, 20),
    "book": (_book, 72, 98, 40),
    "bottle": (_bottle, 84, 112, 25),
    "apple": (_apple, 50, 66, 30),
    "banana": (_banana, 70, 92, 45),
}
