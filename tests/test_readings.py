"""What the notebooks say of their numbers: each sentence on opposite outcomes."""

import numpy as np
import pandas as pd
import pytest

from arcnn import readings
from arcnn.evaluation import evaluate
from arcnn.evaluation.uncertainty import Interval
from arcnn.exchange import Papers
from arcnn.experiments.order import Agreement


def test_what_a_run_knows():
    def known(data: str, count: int) -> str:
        config = f"DATASETS: {{TRAIN: [{data}_train]}}"
        return readings.classes_known(Papers(config, [f"c{k}" for k in range(count)], {}))

    assert "knows 2 drawn things (c0 and c1) and nothing else" in known("tabletop", 2)
    assert "trained on kins: it knows 3 kinds of things (c0, c1 and c2)" in known("kins", 3)
    assert "80 kinds of things (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 70 more)" in known(
        "cocoa_cls", 80
    )
    assert "1 drawn things (c0)" in known("tabletop", 1)


@pytest.mark.parametrize(("share", "word"), [(0.0, "None"), (0.44, "Some"), (0.9, "Most")])
def test_objects_that_nothing_covers(share, word):
    text = readings.objects_without_a_hidden_part(share)
    assert f"{word} of the objects are fully visible ({share:.0%})" in text


def test_losses_that_fall_rise_and_stay():
    log = pd.DataFrame({"a": [0.69, 0.2], "b": [0.4, 0.6], "c": [1.0, 1.05], "d": [1e-4, 3e-4]})
    fell, rose, stayed = readings.falling_losses(log).split("  \n")
    assert fell == "Fell: `a` (0.69 → 0.20)."
    assert rose == "Rose: `b` (0.40 → 0.60)."
    assert stayed.startswith("Stayed") and "`c`" in stayed and "`d`" in stayed
    assert "Fell: `b`" in readings.falling_losses(log[::-1])


def test_a_loss_that_rises_first_is_not_said_to_have_stayed():
    log = pd.DataFrame({"a": [0.09, 0.18, 0.10], "b": [0.0002, 0.0011, 0.0003], "c": [1, 1.1, 1]})
    rose, stayed = readings.falling_losses(log).split("  \n")
    assert rose.startswith("Rose first, and fell again: `a` (0.090 → 0.18 → 0.10)")
    assert (
        "`b` (0.00020 → 0.0011 → 0.00030)" in rose
        and stayed == "Stayed, by and large: `c` (1.0 → 1.0)."
    )


def metrics(**of_amodal):
    return {task: {"AP50": None, "AP75": None} for task in ("visible", "occluded")} | {
        "amodal": of_amodal
    }


@pytest.mark.parametrize(("loose", "tight", "where"), [(97, 82, "drawing"), (60, 55, "finding")])
def test_points_are_lost_in_finding_or_in_drawing(loose, tight, where):
    text = readings.found_or_drawn(metrics(AP50=loose, AP75=tight))
    assert f"amodal: {100 - loose:.1f} points" in text and f"more in **{where}**" in text
    assert "visible" not in text  # None: no object takes part


def test_the_widths_of_the_intervals_are_those_of_the_images():
    text = readings.widths({"a": Interval(70, 69, 72), "b": Interval(50, 45, 55.5)})
    assert "3.0 to 10.5 points wide" in text
    assert text == readings.widths(
        {"a": Interval(70, 69, 72), "b": Interval(50, 45, 55.5), "c": None}
    )
    assert "Nothing was measured" in readings.widths({"a": None})


def test_the_lowest_curve_is_named_and_where_it_ends():
    full, short = np.ones(101), np.where(np.arange(101) < 40, 1.0, 0.0)
    text = readings.precision_recall({"amodal": full, "occluded": short})
    assert "lowest curve is *occluded*" in text
    assert (
        "amodal: precision 0.9 or more to the end; the last objects are found at recall 1.00"
        in text
    )
    assert "occluded: precision 0.9 or more until recall 0.40; the last objects" in text
    assert "found at recall 0.39" in text
    assert "lowest curve is *amodal*" in readings.precision_recall(
        {"amodal": short, "occluded": full}
    )


def by_rate(*values, strict, piece):
    tasks = ("occluded", "occluded@0.25", "occluded@0.40", "occluded_strict", "occlusion")
    return {t: {"AP": v} for t, v in zip(tasks, (*values, strict, piece), strict=True)}


def test_ap_by_occlusion_falls_or_does_not():
    falls = readings.more_hidden(by_rate(60, 50, 40, strict=20, piece=5))
    assert "falls the more is hidden: 60.0, 50.0, 40.0" in falls
    assert "40.0 points lower" in falls and "AP of 5.0" in falls
    rises = readings.more_hidden(by_rate(40, 50, 45, strict=41, piece=None))
    assert "does *not* fall" in rises and "1.0 points higher" in rises and "by itself" not in rises
    nothing = evaluate([], [], 1)
    assert "Nothing to compare" in readings.more_hidden(nothing)


def pieces(**by_model):
    columns = ("visible", "occlusion", "amodal", "empty")
    rows = [
        {"model": model, "hidden pixels": 100} | dict(zip(columns, row, strict=True))
        for model, of_model in by_model.items()
        for row in of_model
    ]
    return pd.DataFrame(rows)


def test_a_hidden_piece_is_missing_or_misplaced():
    text = readings.hidden_pieces(
        pieces(
            arcnn=[(0.8, 0.0, 0.7, True), (0.8, 0.6, 0.7, False)], orcnn=[(0.8, 0.4, 0.7, False)]
        )
    )
    assert "square of 10 × 10 pixels" in text
    assert "ARCNN: 2 objects found; the hidden piece is empty for 50%" in text
    assert "0.30 (median), 0.60 where there is one" in text
    assert "ORCNN: 1 object found; the hidden piece is empty for 0%" in text
    empty = readings.hidden_pieces(pieces(arcnn=[(0.8, 0.0, 0.7, True)]))
    assert "empty for 100%" in empty and "where there is one" not in empty
    none = readings.hidden_pieces(pieces(mask_rcnn=[(np.nan, np.nan, 0.7, True)]))
    assert "Mask R-CNN predicts no hidden piece." in none
    assert "No object" in readings.hidden_pieces(pieces(arcnn=[(0.8, 0.0, 0.7, True)])[:0])


def test_models_differ_in_the_mask_in_which_they_do():
    hidden = pieces(arcnn=[(0.8, 0.2, 0.7, False)], orcnn=[(0.8, 0.6, 0.7, False)])
    text = readings.pieces_apart(hidden)
    assert "easiest mask is the visible, the hardest the occlusion one" in text
    assert "most in the **occlusion** mask" in text
    visible = pieces(arcnn=[(0.3, 0.5, 0.7, False)], orcnn=[(0.8, 0.5, 0.7, False)])
    assert "most in the **visible** mask" in readings.pieces_apart(visible)
    assert "most in" not in readings.pieces_apart(hidden[:1])  # one model differs from nobody
    assert "no object that all" in readings.pieces_apart(hidden[:0])


def test_seams_are_shares_of_the_whole():
    table = pd.DataFrame({"whole": [200, 100], "in neither piece": [0, 28]}, ["orcnn", "arcnn"])
    assert readings.seams(table).endswith("ORCNN 0%, ARCNN 28%; the largest seams are ARCNN's.")
    assert "largest" not in readings.seams(table[:1])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((0.06, 0.05), "a pixel of either piece speaks"),
        ((0.06, 0.01), "that piece has little to say"),
        ((0.06, -0.01), "The hidden piece does *not* speak"),
        ((-0.02, -0.01), "The visible and the hidden piece do *not* speak"),
    ],
)
def test_the_own_weights_join_the_pieces_or_do_not(weights, said):
    text = readings.own_weights(*weights, "cat")
    assert said in text and f"VW = {weights[0]:+.3f}" in text


@pytest.mark.parametrize(("total", "said"), [(0.2, "is no OR gate"), (-0.2, "the OR gate of")])
def test_the_context_is_a_gate_or_none(total, said):
    numbers = {f"mean own-class {w}": 0.1 for w in ("VW", "OW")}
    numbers |= {f"mean |{w}| of other classes": 0.05 for w in ("VW", "OW")}
    numbers["mean sum of all context weights of a row"] = total
    text = readings.context_weights(numbers)
    assert said in text and "50% of the own class's" in text


def test_the_order_is_seen_contradicted_or_neither():
    above = readings.occlusion_order(Agreement(0.5, (0.5,), -0.2, 0.2, 0.001, 6))
    below = readings.occlusion_order(Agreement(-0.5, (-0.5,), -0.2, 0.2, 0.001, 6))
    assert "supports the paper's reading" in above and "contradicts it" not in above
    assert "contradicts the paper's reading" in below
    inside = readings.occlusion_order(Agreement(0.1, (0.1,), -0.2, 0.2, 0.3, 6))
    assert "these weights show no occlusion order" in inside and "supports" not in inside


def test_ignored_shares_are_told():
    assert "58% of the objects do not count" in readings.ignored(0.58, 0.4)


def test_a_context_draws_or_is_a_bias_in_disguise():
    columns = {"amodal IoU": [90.0, 90.0], "with constant context": [66.0, 89.5]}
    text = readings.constant_context(pd.DataFrame(columns, ["full-a", "full-b"]))
    assert "`full-a` loses 24.0 points: the other maps draw a part" in text
    assert "`full-b` loses 0.5 points: a bias could do the same" in text
    assert "No variant" in readings.constant_context(pd.DataFrame())


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.5, 3, "better"),
        (-3, -1.5, "worse"),
        (0.5, 1.5, "better"),
        (-0.6, -0.1, "level"),
        (-0.5, 0.5, "level"),
        (-0.5, 1.5, "no difference can be claimed"),
    ],
)
def test_a_difference_is_level_large_or_unclear(low, high, word):
    assert readings.verdict(low, high) == word
    row = pd.Series({"difference": (low + high) / 2, "low": low, "high": high})
    assert readings.claim("a head", row).endswith(f"[{low:+.1f}, {high:+.1f}], {word}.")


def test_a_claim_needs_a_partner():
    alone = pd.Series({"difference": np.nan, "low": np.nan, "high": np.nan})
    assert readings.claim("a head", None) == "a head: not trained here."
    assert "not trained as long" in readings.claim("a head", alone)


def test_twice_the_steps_change_verdicts_or_do_not():
    table = pd.DataFrame({"verdict": ["level", "worse"], "verdict then": ["level", "level"]})
    table.index = ["a", "b"]
    assert readings.doubled(table).endswith("1 of 2 verdicts stay the same; not those of b")
    assert readings.doubled(table[:1]).endswith("1 of 1 verdicts stay the same")
    assert "nothing" in readings.doubled(table[:0])
