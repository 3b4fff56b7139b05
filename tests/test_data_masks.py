"""Polygons and runs on their way to masks: what is cut off, refused, and left as it is."""

import math
import re

import numpy as np
import pytest

from arcnn.data import masks
from arcnn.data.masks import check_rle, clean_polygons, clip_polygon, run_lengths, to_json_rle

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
    ([*TRIANGLE, 1e9, 3], "a polygon with a coordinate that is no number"),
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


def test_outlines_of_a_mask_have_a_length_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: around a box of 4 x 3 pixels it is 14."""
    box = np.array(corners(2, 3, 6, 6), dtype=float).ravel().tolist()
    monkeypatch.setattr(masks, "LONGEST", 28)
    assert clean_polygons([box, box], HEIGHT, WIDTH) == ([box, box], [])
    monkeypatch.setattr(masks, "LONGEST", 27)
    with pytest.raises(ValueError, match="an outline of 28 pixels, more than 27"):
        clean_polygons([box, box], HEIGHT, WIDTH)


@pytest.mark.parametrize("counts", ["/", "0/", "p", "0p", "\xe9", "\ud800"])
def test_a_character_that_no_rle_has_is_named(counts: str) -> None:
    with pytest.raises(ValueError, match="a character that no RLE has"):
        run_lengths(counts)


def test_the_longest_runs_are_of_six_characters() -> None:
    """By hand: 10^8 is 2 * 32^5 + 31 * 32^4 + 11 * 32^3 + 24 * 32^2 + 8 * 32."""
    assert run_lengths("0PXh[o2").tolist() == [0, 10**8]
    for counts in ("PPPPPP0", "0PPPPPP0", "PPPPPP00"):
        with pytest.raises(ValueError, match="a run that no image holds"):
            run_lengths(counts)


@pytest.mark.parametrize("runs", [[5, -5, 120], [-5, 125], [121, -1], [121]])
def test_a_run_below_nothing_is_refused(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="a run that this image does not hold"):
        check_rle({"size": [HEIGHT, WIDTH], "counts": runs}, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("runs", "without"),
    [
        ([5, 0, 115], [120]),
        ([0, 0, 120], [120]),
        ([0, 5, 0, 115], [0, 120]),
        ([3, 0, 0, 7, 110], [3, 7, 110]),
        ([3, 7, 0, 2, 108], [3, 9, 108]),
        ([3, 7, 110, 0], [3, 7, 110]),
    ],
)
def test_runs_of_nothing_are_left_out(runs: list[int], without: list[int]) -> None:
    checked = check_rle({"size": [HEIGHT, WIDTH], "counts": runs}, HEIGHT, WIDTH)
    assert run_lengths(checked["counts"]).tolist() == without


def test_counts_are_text_in_json() -> None:
    for counts in ("05", b"05"):
        assert to_json_rle({"size": [2, 3], "counts": counts}) == {"size": [2, 3], "counts": "05"}
