"""Polygons on their way to masks: what is cut off, what is refused, and what is left as it is."""

import math
import re

import numpy as np
import pytest

from arcnn.data.masks import clean_polygons, clip_polygon

HEIGHT, WIDTH = 10, 12


def corners(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((2, 3, 7, 8), (2, 3, 7, 8)),
        ((0, 0, 12, 10), (0, 0, 12, 10)),
        ((-3, 3, 7, 8), (0, 3, 7, 8)),
        ((2, -0.5, 7, 8), (2, 0, 7, 8)),
        ((2, 3, 99, 8), (2, 3, 12, 8)),
        ((2, 3, 7, 10.5), (2, 3, 7, 10)),
        ((-1, -2, 13, 14), (0, 0, 12, 10)),
    ],
)
def test_a_polygon_is_cut_at_each_side_of_the_image(box: tuple, inside: tuple) -> None:
    clipped = clip_polygon(np.array(corners(*box), dtype=float), HEIGHT, WIDTH)
    assert sorted(map(tuple, clipped.tolist())) == sorted(corners(*inside))


def test_slanted_edges_are_cut_where_they_cross() -> None:
    """By hand: at x = 0 the edges of this triangle are at y = 1 and y = 5."""
    triangle = np.array([(-4, 2), (4, 0), (4, 8)], dtype=float)
    assert clip_polygon(triangle, HEIGHT, WIDTH).tolist() == [[0, 5], [0, 1], [4, 0], [4, 8]]


@pytest.mark.parametrize("shift", [(-20, 0), (20, 0), (0, -20), (0, 20)])
def test_of_a_polygon_outside_nothing_is_left(shift: tuple) -> None:
    outside = np.array(corners(2, 3, 7, 8), dtype=float) + shift
    assert clip_polygon(outside, HEIGHT, WIDTH).shape == (0, 2)


TRIANGLE = [1, 1, 5, 1, 5, 6]
NO_LIST, NO_PAIRS = "a polygon that is no list of numbers", "a polygon that is no list of x, y, "
BAD = [  # none of these is a polygon
    (["1, 2"], NO_LIST),
    ([[1, 1], [5, 1], [5, 5], [4, 5], [3, 5], [1, 5]], f"{NO_PAIRS}x, y, ..."),
    ([*TRIANGLE, 3], f"{NO_PAIRS}x, y, ..."),
    ([1, 2, 3, 4], "a polygon of fewer than 3 points (2)"),
    ([*TRIANGLE, 3, math.nan], "a polygon with a coordinate that is no number"),
    ([*TRIANGLE, math.inf, 3], "a polygon with a coordinate that is no number"),
]


@pytest.mark.parametrize(("polygon", "why"), BAD)
def test_a_bad_polygon_is_named_and_the_next_one_kept(polygon: list, why: str) -> None:
    kept, wrong = clean_polygons([polygon, TRIANGLE], HEIGHT, WIDTH)
    assert kept == [TRIANGLE] and all(type(number) is float for number in kept[0])
    assert wrong == [why]


def test_where_no_polygon_is_left_all_reasons_are_given() -> None:
    (one, first), (other, second) = BAD[0], BAD[3]
    said = f"no polygon of 3 points or more inside the image: {first}; {second}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        clean_polygons([one, other], HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="the image: there is none$"):
        clean_polygons([], HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("box", "inside"),
    [  # one pixel beyond the image is how annotation tools draw along its border
        ((-1, -1, 13, 11), None),
        ((-1.5, 2, 5, 8), (0, 2, 5, 8)),
        ((2, -1.5, 5, 8), (2, 0, 5, 8)),
        ((2, 2, 13.5, 8), (2, 2, 12, 8)),
        ((2, 2, 5, 11.5), (2, 2, 5, 10)),
    ],
)
def test_a_pixel_beyond_the_image_is_left_and_more_is_cut_off(
    box: tuple, inside: tuple | None
) -> None:
    polygon = np.array(corners(*box), dtype=float).ravel().tolist()
    (kept,), wrong = clean_polygons([polygon], HEIGHT, WIDTH)
    assert wrong == ([] if inside is None else ["a polygon that leaves the image"])
    points = np.reshape(kept, (-1, 2)).tolist()
    assert sorted(map(tuple, points)) == sorted(corners(*(inside or box)))
