"""Table 1 regenerated: the paper's numbers and ours, each of ours traceable to its records."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from arcnn.evaluation import intervals, mean_of_trainings
from arcnn.names import MODEL_NAMES, MODELS, OCCLUSION_RATE, TABLE_1, dataset_title, model_name
from arcnn.reporting.paper import ELSEWHERE, PUBLISHED, QUOTED
from arcnn.reporting.runs import Runs, few, first_run

COLUMNS = tuple(TABLE_1)
NAN = float("nan")
NO_BOUNDS = {"low": NAN, "high": NAN}
DIFFERENCES = ["dataset", "first", "second", "metric", "difference", "low", "high", "seeds"]
PAIRS = (("arcnn", "orcnn"), ("arcnn", "arcnn_add"), ("arcnn_add", "orcnn"))


def paper_table() -> pd.DataFrame:
    """The published numbers: index (dataset, model), the five columns, and ``quoted`` (bool)."""
    table = pd.DataFrame.from_dict(PUBLISHED, orient="index", columns=list(TABLE_1))
    table.index = pd.MultiIndex.from_tuples(PUBLISHED, names=["dataset", "model"])
    return table.assign(quoted=table.index.isin(QUOTED, level="model"))


def table1(runs: Runs, datasets: Sequence[str]) -> pd.DataFrame:
    """Table 1 in long form: one row per data set, model and metric.

    Columns: ``dataset``, ``model``, ``metric``, ``paper`` (percent, NaN where the paper has none),
    ``quoted``, ``ours`` (mean over seeds), ``spread`` (standard deviation, NaN below two seeds),
    ``low`` and ``high`` (95 % interval over images and seeds), ``difference`` (ours - paper; NaN
    where ours was made otherwise), ``departures`` (in which way), ``seeds``, ``commit``,
    ``records`` (paths, one per seed, separated by spaces).

    Raises:
        FileNotFoundError: there is no run.
    """
    first_run(runs.runs, runs.left_out)
    published = paper_table()
    rows = []
    for dataset in datasets:
        for model in dict.fromkeys((*MODEL_NAMES, *runs.models(dataset))):
            ours = list(runs.of(dataset, model).values())
            in_paper = (dataset, model) in published.index
            if not in_paper and not ours:
                continue
            papers = published.loc[(dataset, model)] if in_paper else {}
            departs = list(dict.fromkeys(text for run in ours for text in run.departures))
            bounds = intervals(mean_of_trainings([r.draws for r in ours])) if ours else {}
            for metric in COLUMNS:
                values = pd.Series([run.numbers[metric] for run in ours], dtype=float)
                paper, interval = papers.get(metric, NAN), bounds.get(metric)
                row = {"dataset": dataset, "model": model, "metric": metric, "paper": paper}
                row |= {"quoted": bool(papers.get("quoted", False)), "ours": values.mean()}
                row |= {"spread": values.std()}  # NaN below two
                row |= {"low": interval.low, "high": interval.high} if interval else NO_BOUNDS
                row |= {"difference": NAN if departs else values.mean() - paper}
                row |= {"departures": few(departs), "seeds": len(values)}
                row |= {"commit": " ".join(sorted({_short(run.commit) for run in ours}))}
                rows.append(row | {"records": " ".join(run.record for run in ours)})
    return pd.DataFrame(rows)


def model_differences(runs: Runs, datasets: Sequence[str], against: str = "") -> pd.DataFrame:
    """Paired differences between models, with 95 % intervals over images and seeds, in points.

    Args:
        against: the model that every other one is compared with; by default the paper's pairs, and
            ARCNN for models that are not the paper's.

    Columns: :data:`DIFFERENCES`; ``difference`` is first - second, ``seeds`` the smaller number.
    """
    rows = []
    for dataset in datasets:
        pairs = () if against else PAIRS
        others = [model for model in runs.models(dataset) if against or model not in MODELS]
        second = against or "arcnn"
        for first, second in (*pairs, *((other, second) for other in others if other != second)):
            pair = [runs.of(dataset, model) for model in (first, second)]
            if not all(pair):
                continue
            draws = difference_draws(runs, dataset, first, second)
            for metric, interval in intervals(draws).items():
                if interval:
                    bounds = interval.value, interval.low, interval.high
                    rows.append((dataset, first, second, metric, *bounds, min(map(len, pair))))
    return pd.DataFrame(rows, columns=DIFFERENCES)


def difference_draws(runs: Runs, dataset: str, first: str, second: str) -> pd.DataFrame:
    """:func:`arcnn.evaluation.image_draws` of the difference first - second, in points, over the
    draws that both models share; each has a run."""
    # Different seeds of the drawing of trainings: two models' trainings are not paired.
    one, other = (
        mean_of_trainings([run.draws for run in runs.of(dataset, model).values()], seed=seed)
        for seed, model in enumerate((first, second))
    )
    return one - other


def sentences(differences: pd.DataFrame) -> list[str]:
    """What may be said about the differences: never "better" where the interval spans zero."""
    said = []
    of_pairs = differences.groupby(["dataset", "first", "second"], sort=False)
    for (dataset, first, second), rows in of_pairs:
        parts = {"is better": [], "is worse": [], "no difference can be claimed": []}
        better, worse, unclear = parts.values()
        for row in rows.itertuples():
            text = f"{row.metric} ({row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}])"
            (better if row.low > 0 else worse if row.high < 0 else unclear).append(text)
        clauses = [f"{word} in {', '.join(texts)}" for word, texts in parts.items() if texts]
        who, whom = model_name(first), model_name(second)
        if rows.seeds.min() == 1:
            who, whom = f"this one training of {who}", f"this one of {whom}"
        said.append(f"{_short_title(dataset)}, {who} against {whom}: {'; '.join(clauses)}.")
    return said


NOTES = (
    "AP and AR in percent. AR is COCO's AR@1. Occluded AP is the AP of the amodal mask on objects "
    f"with an occlusion rate of {OCCLUSION_RATE} or more. Ours: mean over seeds, "
    "± standard deviation where there are two seeds or more; in parentheses the difference from "
    "the paper, where ours has the paper's settings and splits."
)
HOW_SURE = (
    "Differences are in points, with 95 % intervals over images and seeds drawn anew, both models "
    "on the same images. With one seed the interval knows nothing of the luck of a training."
)


def to_markdown(table: pd.DataFrame, differences: pd.DataFrame, left_out: Sequence[str]) -> str:
    """The paper's layout as Markdown, one block per data set; every number of ours a link."""
    blocks = []
    for dataset, rows in table.groupby("dataset", sort=False):
        lines = [
            f"### {dataset_title(dataset)}",
            "",
            "| | | " + " | ".join(COLUMNS) + " | seeds | commit |",
            "|---|---|" + "---:|" * len(COLUMNS) + "---|---|",
        ]
        for model, source, cells, first in _lines(rows):
            records = map(Path, first.records.split())
            seeds = " ".join(f"[{r.parent.name.removeprefix('seed')}]({r})" for r in records)
            shown = [f"[{text}]({link})" if link else text for text, link in cells]
            ran = source.startswith("ours") and first.seeds
            shown.append(f"{seeds} | {first.commit}" if ran else " | ")
            lines.append(f"| {model} | {source} | {' | '.join(shown)} |")
        blocks.append("\n".join(lines))
    said = "\n".join(f"- {sentence}" for sentence in sentences(differences))
    notes = [NOTES + " Numbers link to the records that they come from."]
    notes += [said, HOW_SURE] if said else []
    for (dataset, model), rows in table.groupby(["dataset", "model"], sort=False):
        if text := rows.departures.iloc[0]:
            who = f"{_short_title(dataset)}, {model_name(model)}"
            notes.append(f"{who}: not the paper's settings ({text}).")
    for other in ELSEWHERE:
        if other.dataset in set(table.dataset):
            numbers = ", ".join(f"{value:.2f} {column}" for column, value in other.numbers.items())
            who = f"{_short_title(other.dataset)}, {model_name(other.model)}"
            notes.append(f"Published elsewhere: {who}: {numbers} ({other.source}).")
    notes += [f"Left out: {sentence}." for sentence in left_out]
    return "# Table 1\n\n" + "\n\n".join([*blocks, *notes]) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    """The same for a paper: needs booktabs and hyperref; every number of ours a link."""
    lines = [r"\begin{tabular}{ll" + "r" * len(COLUMNS) + "r}", r"\toprule"]
    lines.append(" & & " + " & ".join(COLUMNS) + r" & seeds \\")
    for dataset, rows in table.groupby("dataset", sort=False):
        title = _escaped(dataset_title(dataset))
        lines += [r"\midrule", rf"\multicolumn{{{len(COLUMNS) + 3}}}{{l}}{{{title}}} \\"]
        for model, source, cells, first in _lines(rows):
            shown = [_latex(text, link) for text, link in cells]
            count = str(first.seeds) if source.startswith("ours") else ""
            lines.append(f"{_escaped(model)} & {source} & {' & '.join(shown)} & {count} " + r"\\")
            if source.startswith("ours") and first.departures:
                note = _escaped(f"not the paper's settings: {first.departures}")
                lines.append(rf"\multicolumn{{{len(COLUMNS) + 3}}}{{l}}{{\footnotesize {note}}} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(text: str, link: str) -> str:
    text = text.replace("±", r"\ensuremath{\pm}").replace("–", "--")
    return rf"\href{{run:{_escaped(link)}}}{{{text}}}" if link else text


def _escaped(text: str) -> str:
    for character in "&_%#":
        text = text.replace(character, "\\" + character)
    return text


def _short_title(dataset: str) -> str:
    return dataset_title(dataset).split(" (")[0]


def _short(commit: str | None) -> str:
    """Seven digits, + for edited files."""
    if commit is None:
        return "unknown"
    return commit[:7] + ("+" if commit.endswith("+changes") else "")


def _lines(rows: pd.DataFrame) -> list[tuple[str, str, list[tuple[str, str]], pd.Series]]:
    """The lines of a block: model, source, cells (text, link) and the model's first row."""
    lines = []
    for model, cells in rows.groupby("model", sort=False):
        name, first = model_name(model), cells.iloc[0]
        if cells.paper.notna().any():
            source = "quoted by the paper" if first.quoted else "paper"
            lines.append((name, source, [(f"{paper:.2f}", "") for paper in cells.paper], first))
        if first.seeds:
            source = "ours, other settings" if first.departures else "ours"
            lines.append((name, source, [_ours(row) for row in cells.itertuples()], first))
        elif not first.quoted:
            lines.append((name, "ours", [("no run", "")] * len(COLUMNS), first))
    return lines


def _ours(row: tuple) -> tuple[str, str]:
    if pd.isna(row.ours):
        return "–", ""
    spread = "" if pd.isna(row.spread) else f" ± {row.spread:.2f}"
    difference = "" if pd.isna(row.difference) else f" ({row.difference:+.2f})"
    records = row.records.split()
    # Of several seeds, the folder that holds all of their records.
    link = records[0] if len(records) == 1 else str(Path(records[0]).parents[1])
    return f"{row.ours:.2f}{spread}{difference}", link
