"""tabletop: a synthetic amodal data set, drawn by rule, with exact masks and a known occluder.

Every image is drawn from ``(seed, split, index)`` alone. Who is in front of whom is drawn from a
published table, ``occluder_probabilities.csv``: P(row in front of column | the two overlap). The
annotations are the same bytes on every machine: the layout uses scalar draws of numpy's PCG64, and
polygons are rounded to a grid of 1/128 pixel, then filled in integer arithmetic.

shapes.py  the ten classes as outlines
paint.py   outlines to pixels: masks, textures, the table top and clutter on it
scenes.py  the table of probabilities, the layout of a scene, ``draw_scene``
files.py   images and annotations on disk, ``make_tabletop``
"""

from arcnn.data.tabletop.files import make_tabletop, scene_annotations
from arcnn.data.tabletop.scenes import (
    TABLETOP_CLASSES,
    VERSION,
    Scene,
    draw_scene,
    occluder_probabilities,
)
from arcnn.data.tabletop.shapes import KINDS

__all__ = [
    "KINDS",
    "TABLETOP_CLASSES",
    "VERSION",
    "Scene",
    "draw_scene",
    "make_tabletop",
    "occluder_probabilities",
    "scene_annotations",
]
