"""What a notebook says of its own numbers, made from these numbers.

A text that was written for one outcome is wrong for the next. So each function here takes what a
cell has measured and returns the sentences (Markdown) that are true of it, whichever way it went.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from arcnn.evaluation.protocol import OCCLUSION_LEVELS, TASKS
from arcnn.evaluation.uncertainty import Interval
from arcnn.files import read_yaml
from arcnn.names import model_name

if TYPE_CHECKING:
    from arcnn.exchange import Papers
    from arcnn.experiments.order import Agreement

Metrics = Mapping[str, Mapping[str, float | None]]

# Points of IoU between heads: less is level, however sure. A hundredth of an object is not seen in
# a picture, and some hundred steps of training more change as much.
LEVEL = 1.0


def classes_known(papers: "Papers") -> str:
    """Notebook 15 and ``python -m arcnn.predict``, of a run: what it can find, and in what."""
    data = read_yaml(papers.config)["DATASETS"]["TRAIN"][0].removesuffix("_train")
    names = papers.classes
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    if len(names) > 20:
        listed = f"{', '.join(names[:10])} and {len(names) - 10} more"
    if data == "tabletop":
        return (
            f"This model was trained on tabletop: it knows {len(names)} drawn things ({listed}) "
            "and nothing else, and what it finds in a photo is a curiosity."
        )
    return (
        f"This model was trained on {data}: it knows {len(names)} kinds of things ({listed}), and "
        "takes anything else for one of them or for nothing."
    )


def objects_without_a_hidden_part(fully_visible: float) -> str:
    """Notebook 02, of the share of the objects (in [0, 1]) that nothing covers."""
    how = "Most" if fully_visible > 0.5 else "Some" if fully_visible > 0 else "None"
    return (
        f"**Reading.** {how} of the objects are fully visible ({fully_visible:.0%}). For them, "
        "amodal and visible mask are the same, and the right hidden piece is *nothing*: a model "
        f"that never predicts a hidden piece is right about {fully_visible:.0%} of the objects. "
        "That is why Table 1 has a column of its own for occluded objects."
    )


def falling_losses(losses: pd.DataFrame) -> str:
    """Notebook 04, of the log's losses, a row for each logged step: which fell, which did not, and
    which rose first and fell again."""
    first, last = losses.iloc[0], losses.iloc[-1]
    words = "Fell", "Rose", "Rose first, and fell again", "Stayed, by and large"
    parts: dict[str, list[str]] = {word: [] for word in words}
    for name in losses.columns:
        highest = losses[name].max()
        change, ends = last[name] - first[name], max(first[name], last[name])
        # By less than a tenth, a loss differs from batch to batch.
        stayed = abs(change) <= max(0.1 * first[name], 0.01)
        word = "Stayed, by and large" if stayed else "Fell" if change < 0 else "Rose"
        way = [first[name], last[name]]
        if highest > 1.25 * ends:
            word, way = "Rose first, and fell again", [first[name], highest, last[name]]
        parts[word].append(f"`{name}` ({' → '.join(f'{loss:#.2g}' for loss in way)})")
    return "  \n".join(f"{word}: {', '.join(texts)}." for word, texts in parts.items() if texts)


def found_or_drawn(metrics: Metrics) -> str:
    """Notebook 05, of AP50 and AP75: are points lost in finding objects, or in drawing them?"""
    lines = []
    for task in TASKS:
        loose, tight = metrics[task]["AP50"], metrics[task]["AP75"]
        if loose is None or tight is None:
            continue
        missed, drawn = 100 - loose, loose - tight
        more = "drawing" if drawn > missed else "finding"
        lines.append(
            f"- {task}: {missed:.1f} points are lost before AP50, {drawn:.1f} between AP50 and "
            f"AP75: more in **{more}**."
        )
    return (
        "**Reading.** What AP50 lacks was not found, or found twice, or taken for another; what "
        "AP75 lacks beyond was found, but drawn badly.\n\n" + "\n".join(lines)
    )


def widths(intervals: Mapping[str, Interval | None]) -> str:
    """Notebook 05, of the 95 % intervals over images: how large must a difference be?"""
    wide = sorted(interval.high - interval.low for interval in intervals.values() if interval)
    if not wide:
        return "**Reading.** Nothing was measured."
    return (
        f"**Reading.** These images leave intervals {wide[0]:.1f} to {wide[-1]:.1f} points wide. "
        "Two models whose numbers differ by less cannot be told apart by these intervals; "
        "[06 Table 1](06_table1.ipynb) compares models on the *same* draws, where what is hard "
        "for both cancels."
    )


def precision_recall(curves: Mapping[str, np.ndarray]) -> str:
    """Notebook 05, of each task's precision at the recall levels 0, 0.01, ... 1 of COCO."""
    lines = []
    for task, precision in curves.items():
        falls, ends = np.flatnonzero(precision < 0.9), np.flatnonzero(precision > 0)
        until = f"until recall {falls[0] / 100:.2f}" if falls.size else "to the end"
        end = ends[-1] / 100 if ends.size else 0.0
        lines.append(f"- {task}: precision 0.9 or more {until}; the last objects are found at "
                     f"recall {end:.2f}, area {100 * precision.mean():.1f}.")  # fmt: skip
    lowest = min(curves, key=lambda task: curves[task].mean())
    return (
        f"**Reading.** The lowest curve is *{lowest}*.\n\n" + "\n".join(lines) + "\n\n"
        "A curve that is low early has false positives with high scores; one that ends early has "
        "objects that nobody found. Each is a mean over classes: it goes on as long as *one* does."
    )


def more_hidden(metrics: Metrics) -> str:
    """Notebook 05, of AP by occlusion rate, the strict reading and the occlusion mask itself."""
    by_rate = {rate: metrics[task]["AP"] for task, rate in OCCLUSION_LEVELS.items()}
    by_rate = {rate: value for rate, value in by_rate.items() if value is not None}
    if not by_rate:
        return (
            "**Reading.** Nothing to compare: no object is hidden by 15 % or more, or the model "
            "predicts no visible mask, which these ask for."
        )
    values = list(by_rate.values())
    falls = all(b < a for a, b in zip(values, values[1:], strict=False))
    trend = "falls the more is hidden" if falls else "does *not* fall at each step"
    said = [f"**Reading.** The AP {trend}: {', '.join(f'{value:.1f}' for value in values)}."]
    strict, piece = metrics["occluded_strict"]["AP"], metrics["occlusion"]["AP"]
    if strict is not None:
        lower = values[0] - strict
        said.append(
            f"The strict reading is {abs(lower):.1f} points {'lower' if lower > 0 else 'higher'}: "
            "there, a detection of an object that is not occluded counts as a false positive."
        )
    if piece is not None:
        said.append(f"The hidden part by itself has an AP of {piece:.1f}.")
    return " ".join([*said, "These answer other questions: never compare across the names."])


def ignored(objects: float, detections: float) -> str:
    """Notebook 05, of the shares (in [0, 1]) that the occluded protocol ignores."""
    return (
        f"**Reading.** {objects:.0%} of the objects do not count here at all, and {detections:.0%} "
        "of the detections are forgiven if they match nothing. That is why a model may gain in "
        "this column without drawing hidden parts any better."
    )


def hidden_pieces(table: pd.DataFrame) -> str:
    """Notebooks 05 and 07, of :func:`arcnn.evaluation.piece_table`: is it drawn at all?"""
    lines = []
    if not len(table):
        return "No object that is hidden by 15 % or more was found."
    for model, rows in table.groupby("model", sort=False):
        empty, iou = rows["empty"].mean(), rows["occlusion"]
        if iou.isna().all():
            lines.append(f"- {model_name(model)} predicts no hidden piece.")
            continue
        lines.append(
            f"- {model_name(model)}: {len(rows)} object{'s' * (len(rows) != 1)} found; the hidden "
            f"piece is empty for {empty:.0%}, its IoU with the truth {iou.median():.2f} (median)"
            + (f", {iou[~rows['empty']].median():.2f} where there is one." if empty < 1 else ".")
        )
    side = np.sqrt(table["hidden pixels"].median())
    return (
        f"The true hidden pieces are as large as a square of {side:.0f} × {side:.0f} pixels "
        "(median).\n\n" + "\n".join(lines)
    )


def pieces_apart(table: pd.DataFrame) -> str:
    """Notebook 07, of :func:`arcnn.evaluation.piece_table`: in which mask do models differ?"""
    means = table.groupby("model", sort=False)[["visible", "occlusion", "amodal"]].mean()
    means = means.dropna(axis="columns", how="all").dropna()  # one that predicts no such mask
    if not len(means):
        return "**Reading.** There is no object that all of these models found."
    spread = (means.max() - means.min()).sort_values()
    easiest, hardest = means.mean().idxmax(), means.mean().idxmin()
    text = f"**Reading.** The easiest mask is the {easiest}, the hardest the {hardest} one."
    if len(means) > 1:
        listed = ", ".join(f"{kind} {value:.2f}" for kind, value in spread[::-1].items())
        text += (
            f" Between the best model's mean IoU and the worst's lie {listed}: most in the "
            f"**{spread.index[-1]}** mask."
        )
    return text


def seams(pixels: pd.DataFrame) -> str:
    """Notebook 07, of pixels by model: columns ``whole`` and ``in neither piece``."""
    share = (pixels["in neither piece"] / pixels["whole"].clip(lower=1)).sort_values()
    listed = ", ".join(f"{model_name(model)} {value:.0%}" for model, value in share.items())
    worst = f"; the largest seams are {model_name(share.index[-1])}'s" if share.iloc[-1] else ""
    return f"**Reading.** Of each whole, this much lies in neither piece: {listed}{worst}."


def own_weights(visible: float, occlusion: float, name: str) -> str:
    """Notebook 08, of the own class's two weights in Eq. (1): did the joint join its pieces?"""
    weights = f"VW = {visible:+.3f}, OW = {occlusion:+.3f}"
    if visible > 0 and occlusion > 0:
        text = "Both are positive: a pixel of either piece speaks for the whole."
        small, large = sorted((visible, occlusion))
        if small < large / 4:
            text += " But one is less than a quarter of the other: that piece has little to say."
    else:
        unused = [k for k, w in {"visible": visible, "hidden": occlusion}.items() if w <= 0]
        do = "do" if len(unused) > 1 else "does"
        text = (
            f"The {' and the '.join(unused)} piece {do} *not* speak "
            "for the whole: the joint has not learned the jigsaw of its own class here; whatever "
            "it knows of that piece comes through other classes' maps."
        )
    return f"**Reading.** The own class, {name}: {weights}. {text}"


def context_weights(numbers: Mapping[str, float]) -> str:
    """Notebook 08, of its mean weights: how large is the context, and of which sign?"""
    own = max(abs(numbers[f"mean own-class {w}"]) for w in ("VW", "OW"))
    context = max(numbers[f"mean |{w}| of other classes"] for w in ("VW", "OW"))
    total = numbers["mean sum of all context weights of a row"]
    gate = (
        "a *negative* sum: where other classes' maps say no (negative logits), it acts like a "
        "positive bias, the OR gate of [03 Anatomy of the model](03_anatomy_of_the_model.ipynb)"
        if total < 0
        else "a *positive* sum: where other classes' maps are faint copies of the own one it makes "
        "that map stronger, and where they say no (negative logits) it is no OR gate"
    )
    return (
        f"**Reading.** A context weight is {context / max(own, 1e-12):.0%} of the own class's in "
        f"size ({context:.3f} against {own:.3f} on average). The context weights of a row add up "
        f"to {total:+.2f}, {gate}. Either can happen without any knowledge of who covers whom."
    )


def occlusion_order(agreed: "Agreement") -> str:
    """Notebook 08, of the rank correlation of the weights with the published order."""
    if agreed.rho > agreed.high:
        verdict = "above the band of chance: it supports the paper's reading of the weights"
    elif agreed.rho < agreed.low:
        verdict = "below the band of chance: it contradicts the paper's reading of the weights"
    else:
        verdict = "inside the band of chance: these weights show no occlusion order"
    return (
        "**Reading.** The rank correlation of VW - OW with P(i in front of T) is "
        f"{agreed.rho:+.2f}; "
        f"95 % of shuffled truths lie between {agreed.low:+.2f} and {agreed.high:+.2f}. It lies "
        f"{verdict}. It is one run; "
        "[12 Occlusion order](12_occlusion_order.ipynb) asks whether other seeds give the same "
        "sign. And such weights need not be of any use: whether the context *helps* is what "
        "[11 Context or an OR gate](11_context_or_an_or_gate.ipynb) asks."
    )


def verdict(low: float, high: float) -> str:
    """Of a difference of IoU, by its 95 % interval: level if all of it is within :data:`LEVEL`,
    else better or worse if zero is not in it."""
    if low > -LEVEL and high < LEVEL:
        return "level"
    return "better" if low > 0 else "worse" if high < 0 else "no difference can be claimed"


def claim(what: str, row: pd.Series | None) -> str:
    """Notebook 11, of a row of :func:`arcnn.experiments.head_differences`."""
    if row is None:
        return f"{what}: not trained here."
    if pd.isna(row.difference):
        return f"{what}: ARCNN was not trained as long."
    interval = f"{row.difference:+.1f} points [{row.low:+.1f}, {row.high:+.1f}]"
    return f"{what}: {interval}, {verdict(row.low, row.high)}."


def doubled(pairs: pd.DataFrame) -> str:
    """Notebook 11, of :func:`verdict` before and after twice the steps, columns ``verdict`` and
    ``verdict then``: were they enough?"""
    if not len(pairs):
        return "nothing was trained twice as long"
    changed = pairs.index[pairs["verdict"] != pairs["verdict then"]]
    said = (
        f"trained twice as long, {len(pairs) - len(changed)} of {len(pairs)} verdicts stay the same"
    )
    return said + (f"; not those of {', '.join(changed)}" if len(changed) else "")


def constant_context(context: pd.DataFrame) -> str:
    """Notebook 11, of amodal IoU by variant, percent, as it is and with a constant for context."""
    if not len(context):
        return "**Reading.** No variant here has context."
    lines = []
    for variant, row in context.iterrows():
        lost = row["amodal IoU"] - row["with constant context"]
        said = "the other maps draw a part of the mask" if lost >= 2 else "a bias could do the same"
        lines.append(f"- `{variant}` loses {lost:.1f} points: {said}.")
    return "**Reading.** With a constant in place of the context:\n\n" + "\n".join(lines)
