"""tabletop: a synthetic amodal data set, drawn by rule, with exact masks and a known occluder.

Every image is drawn from ``(seed, split, index)`` alone. Who is in front of whom is drawn from a
published table, ``occluder_probabilities.csv``: P(row in front of column | the two overlap). The
annotations are the same bytes on every machine: the layout uses scalar draws of numpy's PCG64, and
polygons are rounded to a grid of 1/128 pixel, then filled in integer arithmetic.

shapes.py   the ten classes as outlines
paint.py    outlines to pixels: masks, textures, the table top and clutter on it
scenes.py   the table of probabilities, the layout of a scene, ``draw_scene``
files.py    images and annotations on disk, ``make_tabletop``
looking.py  scenes for a close look, as figures need them
"""

import lazy_loader

# Importing a part brings what that part needs, and no more: the workers that draw need no torch.
PARTS = {
    "files": "make_tabletop",
    "looking": "find_scene scene_maps scene_masks",
    "scenes": "TABLETOP_CLASSES Scene draw_scene occluder_probabilities",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
