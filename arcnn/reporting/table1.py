"""Table 1 regenerated: the paper's numbers and ours, each of ours traceable to its records."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from arcnn.paths import run_folder
from arcnn.reporting.paper import COLUMNS, paper_table

logger = logging.getLogger(__name__)

MODEL_ROWS = {
    "orcnn": "ORCNN",
    "vrs_sp": "VRS&SP",
    "arcnn_add": "ARCNN-add",
    "arcnn": "ARCNN",
}
DATASET_TITLES = {
    "kins": "KINS",
    "cocoa_cls": "COCOA-cls",
    "tabletop": "tabletop (drawn by rule; the paper has no numbers for it)",
}
# The AR of the paper is AR@1 (results/README.md).
METRIC_OF_COLUMN = {
    "amodal AP": ("amodal", "AP"),
    "amodal AR": ("amodal", "AR@1"),
    "visible AP": ("visible", "AP"),
    "visible AR": ("visible", "AR@1"),
    "occluded AP": ("occluded", "AP"),
}


def collect_runs(
    results: Path, datasets: Sequence[str], models: Sequence[str], seeds: Sequence[int]
) -> tuple[pd.DataFrame, list[str]]:
    """Every finished run, a row each, and what was left out and why.

    A run is left out, never averaged in, if its metrics or record is missing, or if its data
    fingerprint or its options differ from those of the first run on the same data set.

    Returns:
        Rows with ``dataset``, ``model``, ``seed``, the five columns (percent), ``commit`` and
        ``record`` (path relative to ``results``); and sentences on what was left out.
    """
    rows, left_out, reference = [], [], {}
    for dataset in datasets:
        for model in models:
            for seed in seeds:
                run = run_folder(results, dataset, model, seed)
                name = f"{dataset}/{model}/seed{seed}"
                try:
                    metrics = json.loads((run / "metrics.json").read_text())
                    record = json.loads((run / "record.json").read_text())
                except FileNotFoundError as missing:
                    left_out.append(f"{name}: no {Path(missing.filename).name}")
                    continue
                except json.JSONDecodeError as error:
                    left_out.append(f"{name}: not complete JSON ({error})")
                    continue
                settings = (record["dataset"]["sha256"], record["parameters"]["options"])
                if reference.setdefault(dataset, settings) != settings:
                    left_out.append(f"{name}: made with other data or options than its neighbours")
                    continue
                rows.append(
                    {"dataset": dataset, "model": model, "seed": seed}
                    | {c: metrics[task][key] for c, (task, key) in METRIC_OF_COLUMN.items()}
                    | {
                        "commit": record["commit"],
                        "record": str((run / "record.json").relative_to(results)),
                    }
                )
    for sentence in left_out:
        logger.warning("left out of Table 1: %s", sentence)
    columns = ["dataset", "model", "seed", *COLUMNS, "commit", "record"]
    return pd.DataFrame(rows, columns=columns), left_out


def table1(runs: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """Table 1 in long form: one row per data set, model and metric.

    Columns: ``dataset``, ``model``, ``metric``, ``paper`` (percent, NaN where the paper has none),
    ``quoted``, ``ours`` (mean over seeds), ``spread`` (standard deviation, NaN below two seeds),
    ``difference`` (ours - paper), ``seeds``, ``commit``, ``records``.
    """
    published = paper_table()
    rows = []
    for dataset in datasets:
        for model in MODEL_ROWS:
            ours = runs[(runs.dataset == dataset) & (runs.model == model)]
            in_paper = (dataset, model) in published.index
            if not in_paper and ours.empty:
                continue
            for metric in COLUMNS:
                paper = published.loc[(dataset, model), metric] if in_paper else float("nan")
                values = ours[metric].astype(float)
                rows.append(
                    {
                        "dataset": dataset,
                        "model": model,
                        "metric": metric,
                        "paper": paper,
                        "quoted": bool(in_paper and published.loc[(dataset, model), "quoted"]),
                        "ours": values.mean(),
                        "spread": values.std() if len(values) > 1 else float("nan"),
                        "difference": values.mean() - paper,
                        "seeds": len(values),
                        "commit": " ".join(sorted({str(c)[:7] for c in ours.commit})),
                        "records": " ".join(ours.record),
                    }
                )
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame, left_out: Sequence[str] = ()) -> str:
    """The paper's layout as Markdown, one block per data set; every number of ours a link."""
    blocks = []
    for dataset, rows in table.groupby("dataset", sort=False):
        lines = [
            f"### {DATASET_TITLES[dataset]}",
            "",
            "| | | " + " | ".join(COLUMNS) + " | seeds | commit |",
            "|---|---|" + "---:|" * len(COLUMNS) + "---:|---|",
        ]
        for model, cells in rows.groupby("model", sort=False):
            by_metric = cells.set_index("metric")
            first = cells.iloc[0]
            if cells.paper.notna().any():
                source = "quoted by the paper" if first.quoted else "paper"
                numbers = " | ".join(f"{by_metric.paper[c]:.2f}" for c in COLUMNS)
                lines.append(f"| {MODEL_ROWS[model]} | {source} | {numbers} | | |")
            if first.seeds:
                numbers = " | ".join(_ours(by_metric.loc[c]) for c in COLUMNS)
                lines.append(
                    f"| {MODEL_ROWS[model]} | ours | {numbers} | {first.seeds} | {first.commit} |"
                )
            elif not first.quoted:
                dashes = " | ".join("no run" for _ in COLUMNS)
                lines.append(f"| {MODEL_ROWS[model]} | ours | {dashes} | 0 | |")
        blocks.append("\n".join(lines))
    notes = [
        "AP and AR in percent. AR is COCO's AR@1. Occluded AP is the AP of the amodal mask on "
        "objects with an occlusion rate of 0.15 or more. Ours: mean over seeds, ± standard "
        "deviation where there are two seeds or more; with one seed, no difference between models "
        "is claimed. Numbers link to the records that they come from.",
        *(f"Left out: {sentence}." for sentence in left_out),
    ]
    return "# Table 1\n\n" + "\n\n".join(blocks) + "\n\n" + "\n\n".join(notes) + "\n"


def _ours(row: pd.Series) -> str:
    if pd.isna(row.ours):
        return "–"
    spread = "" if pd.isna(row.spread) else f" ± {row.spread:.2f}"
    difference = "" if pd.isna(row.difference) else f" ({row.difference:+.2f})"
    return f"[{row.ours:.2f}{spread}]({row.records.split()[0]}){difference}"
