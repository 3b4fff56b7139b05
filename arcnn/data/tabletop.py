"""tabletop: a synthetic amodal data set, drawn by rule, with exact masks and a known occluder.

Every image is drawn from ``(seed, split, index)`` alone. A scene is laid out object by object; who
is in front of whom is drawn from a published table, ``occluder_probabilities.csv``: P(row in front
of column | the two overlap). A placement is accepted *before* its order is drawn, and only if every
order that the table allows would be legal. That is why the orders found follow the table exactly.

The annotations are the same bytes on every machine: the layout uses scalar draws of numpy's PCG64,
and polygons are rounded to a grid of 1/128 pixel, then filled in integer arithmetic.

Legend: N objects of a scene, H and W pixels (H = W = image_size), h and w pixels of one object's
box, S sub-pixels per pixel and side. Object coordinates: x right, y down, about -1 to 1.
"""

import contextlib
import csv
import functools
import json
import logging
import math
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter
from pycocotools import mask as mask_utils
from tqdm.auto import tqdm

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

VERSION = 1  # of the drawing rules: raise it whenever the same seed gives other annotations
SPLITS = ("train", "val")
S = 2  # sub-pixels per pixel and side
GRID = 64  # grid points per sub-pixel and side
MAX_OCCLUSION_RATE = 0.8
MIN_VISIBLE_AREA = 90  # pixels, at 160 x 160
MIN_OVERLAP = 30  # pixels, at 160 x 160: an order must be visible, so objects do not merely touch
MAX_CUT = 0.08  # share of an object that the image border may cut off
MIN_IMAGE_SIZE = 64  # pixels: below, objects cannot be told apart
RECIPE_FILE = "recipe.json"
TABLE_FILE = "occluder_probabilities.csv"

Point = tuple[float, float]
Color = np.ndarray  # (3,) float32, 0 to 255, RGB


# ---------------------------------------------------------------- the table


@functools.cache
def _table() -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and P (C, C) float64, read from the file beside this module."""
    with open(Path(__file__).with_name(TABLE_FILE), newline="") as file:
        header, *rows = list(csv.reader(file))
    return tuple(header[1:]), np.array([[float(cell) for cell in row[1:]] for row in rows])


def occluder_probabilities() -> "pd.DataFrame":
    """P(row in front of column | the two overlap), class names on both axes.

    P[i, j] + P[j, i] is 1 for two classes that may overlap, and 0 for two that never do.
    """
    import pandas as pd  # only here: the workers that draw do not need it

    names, probabilities = _table()
    return pd.DataFrame(probabilities.copy(), index=list(names), columns=list(names))


TABLETOP_CLASSES: tuple[str, ...] = _table()[0]


# ---------------------------------------------------------------- outlines


class Dice:
    """Scalar draws of one scene. Only ``random()`` is used: its stream is stable in numpy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options: Sequence[Any]) -> Any:
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
    texture: str = "plain"  # how `color` and `second` mix, see _texture
    second: Color | None = None  # default: a darker `color`
    period: float = 0.25  # of the texture, in object coordinates
    detail: bool = False  # clipped to the silhouette, without a shaded rim


def detail(outline: Sequence[Point], color: Color, *args: Any, **kwargs: Any) -> Part:
    return Part(outline, color, *args, detail=True, **kwargs)


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 28) -> list[Point]:
    angles = (2 * math.pi * i / points for i in range(points))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


_T = np.arange(5)[:, None] / 5  # where a curve is evaluated between two of its points
_WEIGHTS = (
    -_T + 2 * _T**2 - _T**3,
    2 - 5 * _T**2 + 3 * _T**3,
    _T + 4 * _T**2 - 3 * _T**3,
    _T**3 - _T**2,
)


def smooth(points: Sequence[Point], closed: bool = True) -> list[Point]:
    """Catmull-Rom curve through the points."""
    p = np.array(
        [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    )
    around = (p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None])  # each (pieces, 1, 2)
    curve = sum(w * q for w, q in zip(_WEIGHTS, around, strict=True)) / 2  # (pieces, 5, 2)
    return [tuple(xy) for xy in curve.reshape(-1, 2).tolist()] + ([] if closed else [points[-1]])


def stroke(points: Sequence[Point], *widths: float) -> list[Point]:
    """Outline of a thick curve with round ends; half widths are interpolated along it."""
    path = smooth(points, closed=False)
    sides: tuple[list[Point], list[Point]] = ([], [])
    for i, (x, y) in enumerate(path):
        (xa, ya), (xb, yb) = path[max(i - 1, 0)], path[min(i + 1, len(path) - 1)]
        length = math.hypot(xb - xa, yb - ya) or 1.0
        at = i / (len(path) - 1) * (len(widths) - 1)
        k = min(int(at), max(len(widths) - 2, 0))
        half = widths[k] + (at - k) * (widths[min(k + 1, len(widths) - 1)] - widths[k])
        nx, ny = -(yb - ya) / length * half, (xb - xa) / length * half
        if i in (0, len(path) - 1):  # a round cap
            sign = -1 if i == 0 else 1
            for a in (0.3, 0.8, 1.3) if i else (1.3, 0.8, 0.3):
                s, c = math.sin(a) * sign, math.cos(a)
                sides[0].append((x + nx * c + ny * s, y + ny * c - nx * s))
                sides[1].append((x - nx * c + ny * s, y - ny * c - nx * s))
        else:
            sides[0].append((x + nx, y + ny))
            sides[1].append((x - nx, y - ny))
    return sides[0] + sides[1][::-1]


def mirror(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def scaled(points: Sequence[Point], factor: float) -> list[Point]:
    return [(x * factor, y * factor) for x, y in points]


# ---------------------------------------------------------------- the ten classes, back to front
# A polygon reads better on few lines.
# fmt: off

def _person(d: Dice) -> list[Part]:
    skin = d.color("#f2c9a5", "#d9a074", "#a86b3f", "#6e4427")
    hair = d.color("#2b1d14", "#6b3e1d", "#c98f3c", "#8d8d92")
    shirt = d.color("#d8433b", "#2f6fc0", "#2e9b6b", "#8a4fa3", "#ef8f2f")
    trousers = d.color("#31405f", "#4a4a52", "#7a5c3e")
    shoes = d.color("#20202a", "#8c2f2a", "#e8e4da")
    spread, wide = d.between(0.02, 0.2), d.between(0.9, 1.12)
    parts = []
    for side in (-1, 1):
        foot = (side * (0.17 + spread), 0.88)
        parts.append(Part(stroke([(side * 0.13, 0.3), foot], 0.14, 0.11), trousers))
        parts.append(Part(ellipse(foot[0] + side * 0.05, 0.91, 0.15, 0.08), shoes))
    for side in (-1, 1):
        raised = d.pick((-0.35, 0.05, 0.4))
        elbow = (side * d.between(0.5, 0.6) * wide, 0.12 + raised * 0.3)
        hand = (side * d.between(0.5, 0.72), 0.28 + raised)
        hand = (hand[0], min(hand[1], 0.5))
        parts.append(Part(stroke([(side * 0.27 * wide, -0.18), elbow, hand], 0.11, 0.1, 0.085),
            shirt))
        parts.append(Part(ellipse(*hand, 0.1, 0.1, 14), skin))
    long_hair = d.chance(0.45)
    if long_hair:
        parts.append(Part(smooth([(0, -1), (0.33, -0.8), (0.38, -0.2), (0, -0.12), (-0.38, -0.2),
            (-0.33, -0.8)]), hair))
    torso = smooth([(0.12, -0.32), (0.33 * wide, -0.2), (0.3 * wide, 0.38), (-0.3 * wide, 0.38),
        (-0.33 * wide, -0.2), (-0.12, -0.32)])
    parts.append(Part(torso, shirt, d.pick(("plain", "stripes", "checks", "dots")),
        d.color("#f4efe2", "#20304a"), 0.2))
    parts.append(Part(ellipse(0, -0.6, 0.28, 0.33), skin))
    fringe = d.between(-0.78, -0.7)
    parts.append(Part(smooth([(-0.3, -0.6), (-0.27, -0.86), (0, -0.99), (0.27, -0.86), (0.3, -0.6),
        (0.2, fringe), (-0.1, fringe - 0.03)]), hair))
    for side in (-1, 1):
        parts.append(detail(ellipse(side * 0.11, -0.57, 0.035, 0.05, 10),
            np.full(3, 30, np.float32)))
        parts.append(detail(ellipse(side * 0.17, -0.46, 0.06, 0.04, 10),
            skin * 0.6 + np.float32([90, 30, 30])))
    parts.append(detail(stroke([(-0.08, -0.42), (0, -0.38), (0.08, -0.42)], 0.018),
        d.color("#8c2f2a")))
    return parts


def _cat(d: Dice) -> list[Part]:
    fur = d.color("#e08a32", "#8b8b93", "#3a3740", "#e9dcc3", "#a9744a")
    texture, second = d.pick((("tabby", fur * 0.62), ("tabby", fur * 0.7),
        ("patches", np.float32([240, 236, 228])), ("speckle", fur * 0.8)))
    pale, pink = fur * 0.35 + np.float32([160, 155, 145]), d.color("#d98a86")
    fat, up = d.between(0.92, 1.12), d.between(-0.1, 0.5)
    body = smooth([(0, -0.3), (0.3, -0.05), (0.5 * fat, 0.55), (0.4 * fat, 0.93),
        (-0.4 * fat, 0.93), (-0.5 * fat, 0.55), (-0.3, -0.05)])
    parts = [Part(stroke([(0.3, 0.82), (0.72, 0.78), (0.9, 0.45), (0.74, up)], 0.09, 0.09, 0.08),
        fur, texture, second, 0.28)]
    parts.append(Part(body, fur, texture, second, 0.3))
    parts.append(detail(ellipse(0, 0.15, 0.2, 0.36), pale, "speckle"))
    parts += [Part(ellipse(side * 0.17, 0.86, 0.14, 0.11), pale) for side in (-1, 1)]
    ear = [(-0.42, -0.45), (-0.4, -0.99), (-0.06, -0.72)]
    for outline in (ear, mirror(ear)):
        parts.append(Part(outline, fur))
        parts.append(detail([(x * 0.93, y * 0.93 - 0.02) for x, y in outline], pink))
    parts.append(Part(ellipse(0, -0.45, 0.46, 0.36), fur, texture, second, 0.24))
    eye = d.color("#8fc04a", "#e2b93b", "#6fb4d8")
    for side in (-1, 1):
        parts.append(detail(ellipse(side * 0.19, -0.5, 0.1, 0.1, 14), eye))
        parts.append(detail(ellipse(side * 0.19, -0.5, 0.04, 0.09, 10), np.float32([20, 20, 20])))
        parts.append(detail(ellipse(side * 0.09, -0.29, 0.12, 0.09, 12), pale))
        for tilt in (-0.05, 0.04):
            parts.append(detail(stroke([(side * 0.14, -0.3), (side * 0.44, -0.3 + tilt)], 0.012),
                np.full(3, 250, np.float32)))
    parts.append(detail([(-0.06, -0.38), (0.06, -0.38), (0, -0.3)], pink))
    return parts


def _laptop(d: Dice) -> list[Part]:
    metal = d.color("#b9bdc4", "#8d929b", "#4b4f58", "#d8cfc4")
    back, dark = d.between(0.68, 0.78), np.float32([32, 34, 40])
    lid = [(-back, -0.78), (back, -0.78), (0.8, 0.14), (-0.8, 0.14)]
    parts = [Part([(-0.8, 0.16), (0.8, 0.16), (1, 0.7), (-1, 0.7)], metal),
        Part(box(-1, 0.69, 1, 0.77), metal * 0.75)]
    parts.append(Part(lid, dark))
    glow = d.color("#2d6fb5", "#3a9c8c", "#23273a", "#e9eef5", "#7a4fa0")
    screen = [(x * 0.91, y * 0.9 - 0.02) for x, y in lid]
    parts.append(detail(screen, glow, "slope", glow * 0.55 + np.float32([90, 90, 100])))
    for row in range(d.pick((3, 4, 5))):  # lines of text, or of code
        start, y = d.between(-0.58, -0.45), -0.6 + row * 0.14
        parts.append(detail(box(start, y, start + d.between(0.3, 0.8), y + 0.06),
            d.color("#f7f7f2", "#f2c14e", "#7fd1ae")))
    parts.append(detail(box(0.25, -0.3, 0.62, 0.0), d.color("#f7f7f2", "#e8765c")))
    parts.append(detail([(-0.74, 0.21), (0.74, 0.21), (0.86, 0.5), (-0.86, 0.5)], metal * 0.4,
        "keys", metal * 0.8, 0.13))
    parts.append(detail([(-0.24, 0.54), (0.24, 0.54), (0.26, 0.66), (-0.26, 0.66)], metal * 0.85))
    return parts


def _plate(d: Dice) -> list[Part]:
    china = d.color("#f3f1ea", "#f6f6f6", "#e6eef2", "#f1e4cd")
    ring = d.color("#2f6fc0", "#c0443c", "#3e8f6a", "#c79a3a", "#555a66")
    flat = d.between(0.74, 1.0)

    def disk(radius: float) -> list[Point]:
        return ellipse(0, 0, radius, radius * flat, 40)

    parts = [Part(disk(1), china)]
    if d.chance(0.7):
        parts += [detail(disk(0.95), ring), detail(disk(d.between(0.86, 0.9)), china)]
    if d.chance(0.4):
        angles = [2 * math.pi * i / 14 for i in range(14)]
        parts += [detail(ellipse(0.79 * math.cos(a), 0.79 * flat * math.sin(a), 0.05, 0.05, 8),
            ring) for a in angles]
    parts += [detail(disk(0.67), china * 0.8), detail(disk(0.645), china * 0.95),
        detail(ellipse(0.02, 0.03, 0.6, 0.6 * flat), china)]
    return parts


def _bread(d: Dice) -> list[Part]:
    crust = d.color("#a8642a", "#8a4f20", "#bd7a36")
    crumb = d.color("#f0d9a6", "#e8c98c", "#f3e2bd")
    tall, lobe = d.between(0.85, 1.0), d.between(0.8, 0.95)
    half = [(0.3, 0.88), (0.62, 0.84), (0.68, 0.1), (lobe, -0.3), (0.7, -0.72 * tall),
        (0.3, -0.82 * tall)]
    outline = smooth(half + mirror(half)[::-1])
    parts = [Part(outline, crust, "speckle"), detail(scaled(outline, 0.86), crumb, "pores",
        crumb * 0.8)]
    topping = d.pick(("none", "none", "butter", "jam"))
    if topping == "butter":
        parts += [detail(box(-0.22, -0.2, 0.3, 0.25), np.float32([214, 170, 60])),
            detail(box(-0.25, -0.24, 0.26, 0.2), np.float32([250, 224, 120]))]
    if topping == "jam":
        blob = [(0.5 * math.cos(a) * d.between(0.75, 1.1),
            0.5 * math.sin(a) * d.between(0.75, 1.1)) for a in (i * math.pi / 4 for i in range(8))]
        parts.append(detail(smooth(blob), d.color("#b3202c", "#7a2450", "#d8791d"), "speckle"))
    return parts


def _cup(d: Dice) -> list[Part]:
    glaze = d.color("#d9483b", "#2f7fb8", "#f2efe6", "#e9b23a", "#3d8f72", "#6c5a8e")
    second = d.color("#f6f3ea", "#27374d")
    foot, drink = d.between(0.42, 0.58), d.color("#4a2a17", "#7b4a25", "#b7702d")
    body = [(-0.66, -0.62), (0.66, -0.62), (foot + 0.04, 0.7), (foot - 0.1, 0.86),
        (0.1 - foot, 0.86), (-foot - 0.04, 0.7)]
    parts = [Part(stroke([(0.5, -0.36), (0.88, -0.38), (0.95, 0.08), (0.5, 0.36)], 0.1), glaze)]
    parts.append(Part(body, glaze, d.pick(("plain", "plain", "stripes", "dots", "checks")), second,
        d.between(0.28, 0.4)))
    if d.chance(0.35):
        parts.append(detail(smooth([(0, -0.02), (0.16, -0.15), (0.28, 0.0), (0, 0.38),
            (-0.28, 0.0), (-0.16, -0.15)]), second))
    parts += [Part(ellipse(0, -0.62, 0.66, 0.22), glaze * 0.6 + 95),
        detail(ellipse(0, -0.62, 0.57, 0.165), glaze * 0.5)]
    parts.append(detail(ellipse(0, -0.585, 0.5, 0.12), drink))
    return parts


def _book(d: Dice) -> list[Part]:
    cover = d.color("#7c2430", "#1f4e79", "#2f6b4a", "#5b3a78", "#c0702a", "#2d3142")
    gold, paper = d.color("#e5c566", "#f0ead6"), np.float32([244, 238, 222])
    w, h = d.between(0.62, 0.74), 0.9
    parts = [Part(box(-w + 0.08, -h + 0.1, w + 0.12, h + 0.1), cover * 0.55)]
    parts.append(Part(box(-w + 0.05, -h + 0.05, w + 0.08, h + 0.06), paper, "stripes",
        paper * 0.72, 0.05))
    parts.append(Part(box(-w, -h, w, h), cover, "speckle"))
    parts.append(detail(box(-w, -h, -w + 0.16, h), cover * 0.65))
    left = -w + 0.28
    for i in range(d.pick((1, 2, 3))):
        parts.append(detail(box(left, -0.66 + 0.2 * i, w - 0.12 - 0.2 * (i % 2), -0.54 + 0.2 * i),
            gold))
    emblem = d.pick((ellipse(0.1, 0.35, 0.27, 0.27), [(0.1, 0.02), (0.4, 0.6), (-0.2, 0.6)],
        box(-0.16, 0.1, 0.36, 0.6)))
    inner = [(0.1 + (x - 0.1) * 0.6, 0.35 + (y - 0.35) * 0.6) for x, y in emblem]
    parts += [detail(emblem, gold), detail(inner, d.color("#d8433b", "#3a7ca5", "#e8e4da"))]
    return parts


def _bottle(d: Dice) -> list[Part]:
    glass = d.color("#2f7a4b", "#7a4a1e", "#3f8fb0", "#a8c7b5")
    wide, neck, shoulder = d.between(0.3, 0.4), d.between(0.11, 0.15), d.between(-0.3, -0.1)
    half = [(neck, -0.9), (neck, shoulder - 0.25), (neck + 0.05, shoulder - 0.12),
        (wide - 0.03, shoulder + 0.08), (wide, shoulder + 0.22)]
    half += [(wide, 0.88), (wide - 0.06, 0.96)]
    parts = [Part(half + mirror(half)[::-1], glass, "slope", glass * 0.7)]
    parts.append(Part(box(-neck - 0.03, -0.99, neck + 0.03, -0.84),
        d.color("#c9a23a", "#b3362d", "#e8e4da", "#2b2b30")))
    parts.append(detail(stroke([(-wide + 0.08, 0.86), (-wide + 0.07, 0.5),
        (-wide + 0.08, shoulder + 0.26)], 0.035), glass * 0.4 + 150))
    top, bottom = shoulder + 0.35, d.between(0.62, 0.76)
    paper, ink = d.color("#f4ead0", "#f7f7f2", "#e8c46a"), d.color("#b3362d", "#27507a", "#2b2b30")
    parts += [detail(box(-wide, top, wide, bottom), paper),
        detail(box(-wide, top + 0.05, wide, top + 0.1), ink)]
    parts += [detail(ellipse(0, (top + bottom) / 2 + 0.06, 0.14, 0.14, 16), ink),
        detail(box(-wide, bottom - 0.08, wide, bottom - 0.04), ink)]
    return parts


def _apple(d: Dice) -> list[Part]:
    skin, second = d.pick((("#cf2a2a", "#f0a93a"), ("#b81f2d", "#e06a3a"), ("#8fbf3a", "#d4d95a"),
        ("#d9402e", "#f3d05a")))
    wide, leaf = d.between(0.86, 0.98), d.color("#4b9a3c", "#3c7a33")
    half = [(0.12, -0.5), (0.45, -0.68), (wide - 0.1, -0.42), (wide, 0.05), (0.68, 0.68),
        (0.3, 0.9), (0.08, 0.83)]
    body = smooth(half + mirror(half)[::-1])
    parts = [Part(body, d.color(skin), "blush", d.color(second))]
    parts.append(detail(ellipse(0, -0.5, 0.24, 0.1, 14), d.color(skin) * 0.55))
    parts.append(Part(stroke([(0, -0.5), (0.03, -0.75), (0.12, -0.95)], 0.06), d.color("#5a3a1e")))
    if d.chance(0.75):
        parts.append(Part(smooth([(0.08, -0.7), (0.3, -0.98), (0.62, -0.9), (0.4, -0.66)]), leaf))
    parts.append(detail(ellipse(-0.42, -0.25, 0.14, 0.22, 14), d.color("#fff4ea")))
    return parts


def _banana(d: Dice) -> list[Part]:
    peel, tip = d.color("#f5d130", "#efc02a", "#d9d24a"), d.color("#5a3d1c", "#7a6a2a")
    bend, fat = d.between(0.5, 0.8), d.between(0.2, 0.26)
    angles = [math.pi * (0.12 + 0.76 * i / 6) for i in range(7)]
    path = [(-0.95 * math.cos(a), bend * (1.6 * math.sin(a) - 1)) for a in angles]
    x, y = path[-1]
    parts = [Part(stroke([path[-1], (x + 0.04, y - 0.16)], 0.07, 0.06), tip)]
    parts.append(Part(stroke(path, 0.08, fat * 0.85, fat, fat * 1.05, fat, fat * 0.8, 0.07), peel))
    parts.append(detail(stroke([(x, y - 0.02) for x, y in path[1:-1]], 0.018), peel * 0.72))
    parts.append(detail(stroke([(x * 0.95, y + fat * 0.5) for x, y in path[1:-1]], 0.05),
        peel * 0.84))
    parts.append(detail(ellipse(*path[0], 0.1, 0.1, 12), tip))
    for _ in range(d.pick((0, 2, 5))):
        x, y = d.pick(path[1:-1])
        parts.append(detail(ellipse(x + d.between(-0.12, 0.12), y + d.between(-0.12, 0.12), 0.045,
            0.03, 8), tip))
    return parts


# fmt: on


@dataclass(frozen=True)
class Kind:
    """How a class is drawn: its parts, the length of its longer side and its tilt."""

    parts: Callable[[Dice], list[Part]]
    sizes: tuple[float, float]  # pixels at 160 x 160
    tilt: float  # largest rotation to either side, degrees


KINDS = {
    "person": Kind(_person, (76, 96), 22),
    "cat": Kind(_cat, (62, 84), 20),
    "laptop": Kind(_laptop, (66, 90), 25),
    "plate": Kind(_plate, (62, 88), 30),
    "bread": Kind(_bread, (42, 56), 180),
    "cup": Kind(_cup, (40, 56), 25),
    "book": Kind(_book, (56, 78), 180),
    "bottle": Kind(_bottle, (66, 90), 35),
    "apple": Kind(_apple, (36, 48), 40),
    "banana": Kind(_banana, (54, 72), 180),
}


# ---------------------------------------------------------------- from outlines to pixels


def _fill(grid_points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sub-pixels whose centre lies in a polygon (non-zero winding), in exact integer arithmetic.

    Args: grid_points (K, 2) int64, x and y in 1/GRID sub-pixel. Returns (height, width) bool.
    """
    half = GRID // 2  # a sub-pixel's centre
    x, y = np.concatenate([grid_points, grid_points[:1]]).T
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
    outline: np.ndarray, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A polygon filled in its own box, cut to a canvas of that shape: (window, (h, w) bool)."""
    x0, y0 = np.maximum(outline.min(axis=0) // GRID, 0)
    x1, y1 = outline.max(axis=0) // GRID + 1
    x1, y1 = max(min(x1, shape[1]), x0), max(min(y1, shape[0]), y0)
    inside = _fill(outline - np.array([x0, y0]) * GRID, y1 - y0, x1 - x0)
    return (slice(y0, y1), slice(x0, x1)), inside


def _pixels(sub_pixels: np.ndarray) -> np.ndarray:
    """Mean over each pixel's S x S sub-pixels: (..., h * S, w * S) to (..., h, w) float32."""
    rows = sub_pixels[..., 0::S, :].astype(np.float32)
    for i in range(1, S):
        rows += sub_pixels[..., i::S, :]
    return sum(rows[..., j::S] for j in range(S)) / np.float32(S * S)


def _blur(values: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian-like blur of (h, w) bool or floats in [0, 1] -> float32."""
    image = Image.fromarray((values * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(radius)
    )
    return np.asarray(image, np.float32) / 255


def _clouds(looks: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise in [0, 1], (h, w) float32, with features of about `cell` pixels."""
    coarse = looks.random((int(shape[0] / cell) + 2, int(shape[1] / cell) + 2), np.float32)
    image = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)


def _texture(name: str, u: np.ndarray, v: np.ndarray, looks: np.random.Generator) -> np.ndarray:
    """Weight of a part's second colour in [0, 1], (h, w); u and v in periods of the pattern."""
    shape, fu, fv = u.shape, u % 1, v % 1
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
            return np.clip(np.sin(6.28 * v + 5 * _clouds(looks, shape, 5 * S)) * 1.5 - 0.2, 0, 1)
        case "patches":
            return np.clip(_clouds(looks, shape, 10 * S) * 5 - 2.3, 0, 1)
        case "blush":
            return np.clip(_clouds(looks, shape, 12 * S) * 1.6 - 0.5, 0, 0.8)
        case "pores":
            return _clouds(looks, shape, 1.4 * S) ** 2
        case "speckle":
            return _clouds(looks, shape, S)
    raise ValueError(f"unknown texture {name!r}")


@dataclass
class Sprite:
    """One object, placed by the top left corner of its box."""

    class_id: int
    parts: list[Part]
    outlines: list[
        np.ndarray
    ]  # one per part, (K, 2) int64, in 1/GRID sub-pixel from the box corner
    fills: list[tuple[tuple[slice, slice], np.ndarray] | None]  # see _fill_in_box; None for details
    scale: float  # sub-pixels per unit of the object coordinates
    angle: float
    silhouette: np.ndarray  # (h * S, w * S) bool
    mask: np.ndarray  # (h, w) bool: pixels covered at least by half
    x: int = 0
    y: int = 0

    def paste(self, size: int) -> np.ndarray:
        """The mask in the image, (size, size) bool, clipped to it."""
        canvas = np.zeros((size, size), bool)
        inside, local = self.windows(size)
        canvas[inside] = self.mask[local]
        return canvas

    def windows(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of the box that lies in the image: as slices of the image, and of the box."""
        image, box = [], []
        for start, length in zip((self.y, self.x), self.mask.shape, strict=True):
            low, high = (min(max(k, 0), size) for k in (start, start + length))
            image.append(slice(low, high))
            box.append(slice(low - start, high - start))
        return tuple(image), tuple(box)


def _sprite(d: Dice, class_id: int, image_size: int) -> Sprite:
    """Draws shape, size, tilt and side of an object, and fills its silhouette."""
    kind = KINDS[TABLETOP_CLASSES[class_id]]
    parts = kind.parts(d)
    scale = d.between(*kind.sizes) / 2 * image_size / 160 * S
    angle = math.radians(d.between(-kind.tilt, kind.tilt))
    flip = -1 if d.chance(0.5) else 1
    c, s = math.cos(angle) * scale * GRID, math.sin(angle) * scale * GRID
    outlines = [
        np.array(
            [(round(flip * x * c - y * s), round(flip * x * s + y * c)) for x, y in part.outline]
        )
        for part in parts
    ]
    solid = np.concatenate([o for o, part in zip(outlines, parts, strict=True) if not part.detail])
    pixel = GRID * S
    low = solid.min(axis=0) // pixel
    w, h = solid.max(axis=0) // pixel + 1 - low
    outlines = [o - low * pixel for o in outlines]
    silhouette = np.zeros((h * S, w * S), bool)
    fills = [
        None if p.detail else _fill_in_box(o, silhouette.shape)
        for o, p in zip(outlines, parts, strict=True)
    ]
    for window, inside in filter(None, fills):
        silhouette[window] |= inside
    return Sprite(
        class_id, parts, outlines, fills, scale, angle, silhouette, _pixels(silhouette) >= 0.5
    )


def _paint(sprite: Sprite, looks: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours (h, w, 3) float32 and coverage (h, w) float32 of an object."""
    shape = sprite.silhouette.shape
    canvas = np.zeros((3, *shape), np.float32)
    c, s = math.cos(sprite.angle) / sprite.scale, math.sin(sprite.angle) / sprite.scale
    for part, outline, fill in zip(sprite.parts, sprite.outlines, sprite.fills, strict=True):
        window, inside = fill or _fill_in_box(outline, shape)
        if not inside.any():
            continue
        color = part.color[:, None, None]
        if part.texture != "plain":
            y, x = np.ogrid[window]
            x, y = (
                np.float32(x - shape[1] / 2) / part.period,
                np.float32(y - shape[0] / 2) / part.period,
            )
            second = (part.color * np.float32(0.78) if part.second is None else part.second)[
                :, None, None
            ]
            weight = _texture(part.texture, x * c + y * s, y * c - x * s, looks).astype(np.float32)
            color = color + weight * (second - color)
        if not part.detail:  # darker towards its rim, which reads as roundness
            color = color * (0.5 + 0.5 * _blur(inside, 2.2 * S))
        np.copyto(canvas[:, *window], color, where=inside)
    canvas *= sprite.silhouette
    coverage = _pixels(sprite.silhouette)
    h, w = coverage.shape
    light = (
        1.16 - 0.14 * np.linspace(0, 1, w) - 0.16 * np.linspace(0, 1, h)[:, None]
    )  # from the top left
    light = light + 0.06 * (_clouds(looks, (h, w), 1.5) - 0.5)
    color = _pixels(canvas) * np.float32(light) / np.maximum(coverage, 1e-6)
    return color.transpose(1, 2, 0), coverage


# ---------------------------------------------------------------- the table top


def _background(d: Dice, looks: np.random.Generator, size: int) -> np.ndarray:
    """Wood, cloth, tiles or a gradient, with marks that nobody annotates. (H, W, 3) float32."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (160 / size)
    angle = d.between(0, math.pi)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    shape, unit = (size, size), size / 160
    kind = d.pick(("wood", "cloth", "tiles", "gradient"))
    if kind == "wood":
        base, second = d.color("#b98a5a", "#8f6440", "#d3b083", "#6f4e37"), None
        plank = d.between(24, 48)
        warp = _clouds(looks, shape, 40 * unit)
        weight = 0.5 + 0.5 * np.sin(v * 0.9 + 9 * warp + 7 * np.floor(v / plank))
        weight = (
            0.45 * weight + 0.5 * (np.sin(np.floor(v / plank) * 12.9) % 1) + 2.0 * (v % plank < 1.2)
        )
    elif kind == "cloth":
        base, second = (
            d.color("#e7e2d5", "#c9d6df", "#f0d9d0", "#5f7f95", "#8a9a72"),
            d.color("#b9564f", "#4f7396", "#efe9dc", "#7b8f5c"),
        )
        period = d.between(14, 34)
        weight = 0.35 * (u % period < period / 2) + 0.35 * (v % period < period / 2)
        weight = weight + 0.12 * np.sin(u * 2.4) * np.sin(v * 2.4)
    elif kind == "tiles":
        base, second = (
            d.color("#cfd8d6", "#b7c4c9", "#d8c9b4", "#7f9a99", "#a06a55"),
            d.color("#f2efe8", "#6a6a6a"),
        )
        period = d.between(26, 50)
        weight = 0.25 * ((np.floor(u / period) * 7 + np.floor(v / period) * 13) % 5) / 5 + 1.0 * (
            (u % period < 2) | (v % period < 2)
        )
    else:
        base, second = (
            d.color("#9db4c0", "#c9ada7", "#b5c99a", "#e6ccb2", "#77808f"),
            d.color("#5c6b73", "#e0e0d8", "#7f5f50"),
        )
        weight = (u - u.min()) / np.ptp(u)
    second = base * 0.6 if second is None else second
    image = base + np.clip(weight, 0, 1)[..., None] * (second - base)
    for _ in range(d.pick((1, 2, 3, 4))):
        _mark(d, image)
    light = d.between(0.85, 1.08) * (1.04 - 0.12 * (x + y) / 320) + 0.1 * (
        _clouds(looks, shape, 30 * unit) - 0.5
    )
    light += 0.05 * (looks.random(shape, np.float32) - 0.5)
    return (image * light[..., None]).astype(np.float32)


def _mark(d: Dice, image: np.ndarray) -> None:
    """Draws unannotated clutter into the image: crumbs, a stain, a ring, a ribbon or a napkin."""
    size = len(image)
    unit = size / 160
    x, y, strength = d.between(0, 160), d.between(0, 160), d.between(0.3, 0.7)
    color = d.color("#5a4632", "#f2e6cf", "#8c3b32", "#46606e", "#c9a24a")
    kind = d.pick(("crumbs", "crumbs", "stain", "ring", "ribbon", "napkin"))
    outlines: list[Sequence[Point]] = []
    if kind == "crumbs":
        strength = 0.85
        for _ in range(d.pick((6, 12, 20))):
            r = d.between(0.8, 2.4)
            outlines.append(
                ellipse(x + d.between(-22, 22), y + d.between(-22, 22), r, r * d.between(0.5, 1), 7)
            )
    elif kind == "stain":
        r = d.between(6, 16)
        angles = [i * math.pi / 4 for i in range(8)]
        outlines.append(
            smooth(
                [
                    (
                        x + r * d.between(0.6, 1.2) * math.cos(a),
                        y + r * d.between(0.6, 1.2) * math.sin(a),
                    )
                    for a in angles
                ]
            )
        )
    elif kind == "ring":
        r = d.between(9, 17)
        outlines.append(
            [*ellipse(x, y, r, r), (x + r, y), *ellipse(x, y, r - 2, 2 - r), (x + r - 2, y)]
        )
    else:
        long, wide = (
            (d.between(40, 90), d.between(1, 5))
            if kind == "ribbon"
            else (d.between(16, 34), d.between(16, 34))
        )
        a = d.between(0, math.pi)
        c, s = math.cos(a), math.sin(a)
        outlines.append(
            [
                (x + p * long * c - q * wide * s, y + p * long * s + q * wide * c)
                for p, q in box(-1, -1, 1, 1)
            ]
        )
    for outline in outlines:
        points = np.round(np.array(outline) * unit * S * GRID).astype(np.int64)
        corner = points.min(axis=0) // (GRID * S)
        w, h = points.max(axis=0) // (GRID * S) + 1 - corner
        alpha = _pixels(_fill(points - corner * GRID * S, h * S, w * S)) * strength
        blot = Sprite(0, [], [], [], 0, 0, alpha, alpha, *corner)
        inside, local = blot.windows(size)
        image[inside] += alpha[local][..., None] * (color - image[inside])


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

    @property
    def occlusion_masks(self) -> np.ndarray:
        """(N, H, W) bool: in the amodal mask, and hidden by something in front."""
        return self.amodal_masks & ~self.visible_masks

    @property
    def occlusion_rates(self) -> np.ndarray:
        """(N,) float64: 1 - |visible| / |amodal|."""
        return self.occlusion_masks.sum((1, 2)) / self.amodal_masks.sum((1, 2))


@dataclass
class _Layout:
    """The objects placed so far, and the order of each overlapping pair."""

    size: int
    sprites: list[Sprite] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)  # amodal, (H, W) bool
    hidden: list[np.ndarray] = field(default_factory=list)  # occlusion, (H, W) bool
    in_front: list[tuple[int, int]] = field(default_factory=list)

    def covers(self, i: int) -> set[int]:
        """Everything that lies behind object i, directly or by way of others."""
        below = {b for a, b in self.in_front if a == i}
        return below.union(*(self.covers(b) for b in below))

    def overlaps(self, sprite: Sprite, mask: np.ndarray) -> list[int] | None:
        """Objects that `sprite` overlaps; None if it may not lie there, whatever the order.

        Every order that the table gives a probability has to be legal: no cycle, no object hidden
        by more than 80 % and none left with a scrap. So the decision cannot bend the frequencies.
        """
        unit = (self.size / 160) ** 2
        if np.count_nonzero(mask) < (1 - MAX_CUT) * np.count_nonzero(sprite.mask):
            return None
        areas = [np.count_nonzero(mask & other) for other in self.masks]
        touched = [i for i, area in enumerate(areas) if area]
        if len(touched) > 2 or any(areas[i] < MIN_OVERLAP * unit for i in touched):
            return None
        table = _table()[1]
        above = {
            i: table[self.sprites[i].class_id, sprite.class_id] for i in touched
        }  # P(i over new)
        below = {i: table[sprite.class_id, self.sprites[i].class_id] for i in touched}
        worst = np.zeros_like(mask)
        for i in touched:
            if above[i] + below[i] == 0:  # a pair that never overlaps
                return None
            if below[i] and not self.may_hide(self.masks[i], self.hidden[i] | mask):
                return None
            if above[i]:
                worst |= self.masks[i]
        if not self.may_hide(mask, worst):
            return None
        for i, j in product(touched, touched):  # a cycle needs: new over i, i over j, j over new
            if below[i] and above[j] and j in self.covers(i):
                return None
        return touched

    def may_hide(self, mask: np.ndarray, cover: np.ndarray) -> bool:
        area, hidden = np.count_nonzero(mask), np.count_nonzero(mask & cover)
        return (
            hidden <= MAX_OCCLUSION_RATE * area
            and area - hidden >= MIN_VISIBLE_AREA * (self.size / 160) ** 2
        )

    def add(self, d: Dice, sprite: Sprite, mask: np.ndarray, touched: list[int]) -> None:
        """Places the object; draws the order of each overlapping pair from the table."""
        new = len(self.sprites)
        hidden = np.zeros_like(mask)
        for i in touched:
            if d.chance(_table()[1][sprite.class_id, self.sprites[i].class_id]):
                self.in_front.append((new, i))
                self.hidden[i] |= mask & self.masks[i]
            else:
                self.in_front.append((i, new))
                hidden |= mask & self.masks[i]
        self.sprites.append(sprite)
        self.masks.append(mask)
        self.hidden.append(hidden)

    def back_to_front(self) -> list[int]:
        """A depth order that agrees with every pair."""
        waiting, order = set(range(len(self.sprites))), []
        while waiting:
            behind = min(
                i for i in waiting if not any(a == i and b in waiting for a, b in self.in_front)
            )
            waiting.remove(behind)
            order.append(behind)
        return order


def _positions(d: Dice, layout: _Layout, sprite: Sprite) -> Iterator[None]:
    """Moves the sprite to one place after the other: beside an earlier object, or anywhere."""
    h, w = sprite.mask.shape
    anchor = d.pick(layout.sprites) if layout.sprites and d.chance(0.85) else None
    for _ in range(8):
        if anchor is None:
            x, y = d.between(0, layout.size - w), d.between(0, layout.size - h)
        else:
            ah, aw = anchor.mask.shape
            reach, turn = d.between(0.1, 0.75), d.between(0, 2 * math.pi)
            x = anchor.x + (aw - w) / 2 + math.cos(turn) * reach * (aw + w) / 2
            y = anchor.y + (ah - h) / 2 + math.sin(turn) * reach * (ah + h) / 2
        sprite.x, sprite.y = round(x), round(y)
        yield


def _lay_out(d: Dice, size: int) -> _Layout:
    """3 to 6 objects (rarely fewer, where no more find room)."""
    layout = _Layout(size)
    wanted = d.pick((3, 4, 4, 5, 5, 6))
    for _ in range(4 * wanted):
        sprite = _sprite(d, int(d.between(0, len(TABLETOP_CLASSES))), size)
        for _ in _positions(d, layout, sprite):
            mask = sprite.paste(size)
            touched = layout.overlaps(sprite, mask)
            if touched is not None:
                layout.add(d, sprite, mask, touched)
                break
        if len(layout.sprites) == wanted:
            break
    return layout


def draw_scene(seed: int, split: str, index: int, image_size: int = 160) -> Scene:
    """Draws image `index` of a split; nothing else decides how it looks.

    Args:
      seed: of the data set, >= 0. split: "train" or "val". index: 0-based.
      image_size: side in pixels; the objects scale with it.
    Raises:
      ValueError: for another split, or an image_size below 64.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: it must be at least {MIN_IMAGE_SIZE} pixels")
    key = [seed, SPLITS.index(split), index]
    d = Dice(np.random.default_rng([*key, 0]))
    layout = _lay_out(d, image_size)
    # A stream of its own for what only colours pixels: a change of looks leaves the masks alone.
    looks = np.random.default_rng([*key, 1])
    image = _background(Dice(looks), looks, image_size)
    order = layout.back_to_front()
    for i in order:
        _composite(image, layout.sprites[i], looks)
    amodal, hidden = np.stack(layout.masks), np.stack(layout.hidden)
    class_ids = np.array([sprite.class_id for sprite in layout.sprites])
    return Scene(
        np.clip(image, 0, 255).astype(np.uint8),
        class_ids,
        amodal,
        amodal & ~hidden,
        order,
        layout.in_front,
    )


def _composite(image: np.ndarray, sprite: Sprite, looks: np.random.Generator) -> None:
    """Paints an object over the image, with the shadow that it casts on what is behind it."""
    size = len(image)
    color, coverage = _paint(sprite, looks)
    pad = max(2, round(size / 32))
    shadow = Sprite(
        0,
        [],
        [],
        [],
        0,
        0,
        sprite.silhouette,
        np.pad(coverage, pad),
        sprite.x - pad + pad // 3,
        sprite.y - pad + pad // 2,
    )
    inside, local = shadow.windows(size)
    image[inside] *= 1 - 0.45 * _blur(shadow.mask, pad / 2)[local][..., None]
    inside, local = sprite.windows(size)
    image[inside] += coverage[local][..., None] * (color[local] - image[inside])


# ---------------------------------------------------------------- on disk


def _encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """(N, H, W) bool -> N RLEs with string counts."""
    rles = mask_utils.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [
        {"size": [int(k) for k in rle["size"]], "counts": rle["counts"].decode("ascii")}
        for rle in rles
    ]


def scene_annotations(scene: Scene) -> list[dict[str, Any]]:
    """The scene's objects as COCOA-cls records without ids; "occluders" index the list."""
    amodal, visible, hidden = map(
        _encode, (scene.amodal_masks, scene.visible_masks, scene.occlusion_masks)
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


def _write_image(job: tuple[str, int, str, int, int]) -> list[dict[str, Any]]:
    """Draws and saves one image (in a worker process); returns its annotations."""
    folder, seed, split, index, image_size = job
    scene = draw_scene(seed, split, index, image_size)
    Image.fromarray(scene.image).save(Path(folder) / split / f"{index + 1:06d}.jpg", quality=92)
    return scene_annotations(scene)


def _dumps(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


README = """tabletop: a synthetic data set for amodal segmentation

Nobody photographed these images. They are drawn by rule (arcnn.data.tabletop), so every mask is
exact, also where an object is hidden. The annotations are in the COCOA-cls format; "occluders"
lists the annotations directly in front of an object. Who may cover whom is in
occluder_probabilities.csv: P(row in front of column | the two overlap); where both directions are
0, the two never overlap. recipe.json says what the set was made with.
"""


def _write_split(folder: Path, split: str, recipe: dict[str, int], draw_all: Callable) -> None:
    """Draws a split's images and writes its annotation file."""
    count, size = recipe[f"{split}_images"], recipe["image_size"]
    (folder / split).mkdir()
    jobs = [(str(folder), recipe["seed"], split, index, size) for index in range(count)]
    images, annotations = [], []
    bar = tqdm(
        draw_all(_write_image, jobs), f"tabletop {split}", count, unit="image", mininterval=2
    )
    for image_id, records in enumerate(bar, start=1):
        first = len(annotations) + 1
        name = f"{image_id:06d}.jpg"
        images.append({"id": image_id, "file_name": name, "height": size, "width": size})
        for i, record in enumerate(records):
            ids = {"id": first + i, "image_id": image_id}
            occluders = [first + k for k in record["occluders"]]
            annotations.append(record | ids | {"occluders": occluders})
    content = {
        "info": {"description": "tabletop: synthetic, drawn by rule", "recipe": recipe},
        "images": images,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(TABLETOP_CLASSES)],
        "annotations": annotations,
    }
    (folder / f"tabletop_{split}.json").write_text(_dumps(content))


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable]:
    """A `map` that keeps the order of its jobs, over that many processes."""
    if workers == 1:
        yield map
        return
    # Not "fork": a notebook kernel has threads, and a forked copy of a held lock never opens.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # the package is imported once, not per worker
    with ProcessPoolExecutor(workers, context) as executor:
        try:
            yield functools.partial(executor.map, chunksize=8)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _check_existing(folder: Path, recipe: dict[str, int]) -> None:
    """Raises ValueError, with the cure, unless the folder holds the complete set of this recipe."""
    cure = "Delete that folder, or choose another root."
    try:
        found = json.loads((folder / RECIPE_FILE).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{folder} exists, but holds no tabletop data set. {cure}")
    if found != recipe:
        keys = [key for key in recipe | found if found.get(key) != recipe.get(key)]
        difference = ", ".join(f"{k} is {found.get(k)}, not {recipe.get(k)}" for k in keys)
        raise ValueError(f"{folder} holds another tabletop data set: {difference}. {cure}")
    for split in SPLITS:
        images = len(list((folder / split).glob("*.jpg")))
        if images != recipe[f"{split}_images"] or not (folder / f"tabletop_{split}.json").is_file():
            raise ValueError(f"{folder} is damaged: files of the {split} split are missing. {cure}")


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

    The files: train/ and val/ (JPEG), tabletop_train.json and tabletop_val.json (COCOA-cls
    format), occluder_probabilities.csv, recipe.json, README.txt. The folder appears only when it
    is complete.
    A script that lets it use several processes calls it under ``if __name__ == "__main__":``.

    Args:
      root: folder, made where it is missing.
      train_images, val_images: number of images; image i is the same whatever the number.
      image_size: side in pixels. seed: >= 0, of everything.
      workers: processes; by default one per CPU core, 8 at most. The result doesn't depend on it.
    Returns:
      The path of <root>/tabletop.
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
    recipe = {
        "version": VERSION,
        "seed": seed,
        "image_size": image_size,
        "train_images": train_images,
        "val_images": val_images,
    }
    root = Path(root).expanduser().resolve()
    folder = root / "tabletop"
    if folder.exists():
        _check_existing(folder, recipe)
        return folder
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = max(
        1, min(workers or min(cores, 8), train_images // 32)
    )  # a process takes a while to start
    partial = root / f"tabletop.partial-{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob("tabletop.partial-*"):
            logger.warning(
                "%s: another run is at work there, or was interrupted; then delete it", stale
            )
        partial.mkdir()
        with _pool(workers) as draw_all:
            for split in SPLITS:
                _write_split(partial, split, recipe, draw_all)
        shutil.copyfile(Path(__file__).with_name(TABLE_FILE), partial / TABLE_FILE)
        (partial / "README.txt").write_text(README)
        (partial / RECIPE_FILE).write_text(_dumps(recipe))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            _check_existing(folder, recipe)  # another process was quicker: its set is as good
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "Free some space, or choose a root that you may write to."
        raise OSError(
            error.errno, f"cannot write the tabletop data set: {reason}. {cure}", str(root)
        ) from error
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that draws tabletop died; try again with workers=1"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
