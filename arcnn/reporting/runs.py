"""The finished runs of a results folder: which may stand in one table, and which are as printed."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from arcnn.config import get_config
from arcnn.errors import MissingError
from arcnn.evaluation import protocol_version
from arcnn.files import compact_json, object_of, plain, read_json, read_table, run_folder
from arcnn.names import MODEL_NAMES, TABLE_1
from arcnn.reporting.paper import COUNTS, PUBLISHED, SETTINGS
from arcnn.settings import Settings, differences, read_settings, settings, settings_hash

logger = logging.getLogger(__name__)
Key = TypeVar("Key")
Content = TypeVar("Content")

# What it was measured with, and on; beside the configuration, as settings of a run.
MEASURED_WITH = ("protocol", "draws of the images", "images of the test split", "test data")
# Settings that are a model's own: they need be equal among its runs alone.
OF_THE_HEAD = ("MODEL.ROI_MASK_HEAD", "MODEL.HEAD", "MODEL.ARCNN", "MODEL.ORCNN")
OF_THE_HEAD += ("MODEL.ROI_HEADS.NAME", "MODEL.ROI_BOX_HEAD.NUM_")

AGAIN = "Notebook 05_evaluate measures a run again; `make reproduce` all that need it."
MEASURE = "measure it again."

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
PERCENT = {"type": ["number", "null"], "minimum": 0, "maximum": 100}

# What Table 1 takes of metrics.json and record.json; what is missing is missed where it is taken.
METRICS = {key: PERCENT for _, key in TABLE_1.values()}
METRICS = object_of(**{task: object_of(**METRICS) for task, _ in TABLE_1.values()})
_DATA = object_of(images=_COUNT, objects=_COUNT, used=_TEXT, start={"type": ["string", "null"]})
RECORD = object_of(
    protocol=_TEXT,
    settings_sha256=_TEXT,
    tested_on=_DATA,
    trained_on=_DATA,
    dataset=object_of(used={"type": "object", "additionalProperties": _DATA}),
    commit={"type": ["string", "null"], "pattern": r"^[0-9a-f]+(\+changes)?$"},
)


class Run(NamedTuple):
    """A finished run."""

    numbers: dict[str, float]  # by column of Table 1, percent
    draws: pd.DataFrame  # the same over draws of the images, row 0 without drawing
    data: dict[str, Any]  # fingerprint of the images and objects that were tested on
    commit: str | None
    record: str  # path relative to the results folder
    settings: Settings  # all that matter, with what it was measured with
    departures: list[str]  # from the paper's settings and splits, where it has this row


class Runs(NamedTuple):
    """Runs by (data set, model, seed), and sentences on what was left out and why."""

    runs: dict[tuple[str, str, int], Run]
    left_out: list[str]

    def of(self, dataset: str, model: str) -> dict[int, Run]:
        """The runs of one row of the table, by seed."""
        return {s: r for (d, m, s), r in self.runs.items() if (d, m) == (dataset, model)}

    def models(self, dataset: str) -> list[str]:
        """Those with a run, in the order of Table 1; what the kit does not know comes last."""
        found = dict.fromkeys(m for d, m, _ in self.runs if d == dataset)
        known = [model for model in MODEL_NAMES if model in found]
        return known + [model for model in found if model not in MODEL_NAMES]


def collect_runs(
    results: Path, datasets: Sequence[str], models: Sequence[str], seeds: Sequence[int]
) -> Runs:
    """Every finished run that may stand beside the others.

    A run is left out, and named, never averaged in, if a file of it is missing or cut off, or if
    its settings, its data, its protocol or its draws are not those of most runs on the same data
    set; the settings of its mask head, if they are not those of most runs of its model.
    """
    keys = [(d, m, s) for d in datasets for m in models for s in seeds]
    runs, left_out = read_complete(keys, lambda key: _read_run(results, *key))
    for dataset in datasets:
        left_out += _leave_out(runs, [k for k in runs if k[0] == dataset], of_the_head=False)
        for model in models:
            left_out += _leave_out(runs, [k for k in runs if k[:2] == (dataset, model)], True)
    for sentence in left_out:
        logger.warning("left out of Table 1: %s", sentence)
    return Runs(runs, left_out)


def read_complete(
    keys: Iterable[Key], read: Callable[[Key], Content]
) -> tuple[dict[Key, Content], list[str]]:
    """What can be read, by key, and sentences on what is missing or cut off."""
    found, left_out = {}, []
    for key in keys:
        try:
            found[key] = read(key)
        except FileNotFoundError as missing:
            name = missing.filename and Path(missing.filename).name
            left_out.append(f"{run_name(key)}: {f'no {name}' if name else missing}")
        except KeyError as error:
            left_out.append(f"{run_name(key)}: not a whole run, or an older version's (no {error})")
        except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
            left_out.append(f"{run_name(key)}: not a whole run ({error})")
    return found, left_out


def first_run(found: Mapping[Key, Content], left_out: Iterable[str], cure: str = AGAIN) -> Content:
    """The first of what was found.

    Raises:
        FileNotFoundError: nothing was; tells what was left out, and why.
    """
    if not found:
        why = few(left_out) or "nothing was made"
        raise MissingError(f"There is no run that can be shown: {why}. {cure}")
    return next(iter(found.values()))


def earlier_protocol(runs: Runs) -> list[str]:
    """Sentences on runs that were measured by another text of the protocol than the kit's now."""
    now, old = protocol_version(), {}
    for key, run in runs.runs.items():
        if (version := run.settings[MEASURED_WITH[0]]) != now:
            old.setdefault(version, []).append(run_name(key))
    return [
        f"{few(names)}: measured with protocol {version}; the kit's is {now} now. {AGAIN}"
        for version, names in old.items()
    ]


def _leave_out(runs: dict, keys: Sequence[tuple], of_the_head: bool) -> list[str]:
    """Remove those of the runs that are :func:`unlike_most`; sentences on them."""
    names = {name for key in keys for name in runs[key].settings}
    names = {n for n in names - {"SEED"} if n.startswith(OF_THE_HEAD) == of_the_head}
    odd = unlike_most(
        {k: {n: of for n, of in runs[k].settings.items() if n in names} for k in keys}
    )
    for key in odd:
        del runs[key]
    made = "not made with the data and settings of most"
    return [f"{run_name(key)}: {made} ({what})" for key, what in odd.items()]


def unlike_most(made_with: Mapping[Key, Settings]) -> dict[Key, str]:
    """Those that were not made as most of them, and what differs, by key.

    All of them where no way is the most frequent one: which are right cannot be told.
    """
    ways = Counter(compact_json(of) for of in made_with.values()).most_common(2)
    none = len({times for _, times in ways}) < len(ways)
    odd = {}
    for key, of in made_with.items():
        other, have = ways[0][0], "as many have" if none else "most have"
        if none and compact_json(of) == other:
            other = ways[1][0]
        if differs := differences(of, json.loads(other)):
            odd[key] = few(t.replace("now ", "").replace("before", have) for t in differs)
            odd[key] += "; delete those that do not belong here" if none else ""
    return odd


def _read_run(results: Path, dataset: str, model: str, seed: int) -> Run:
    folder = run_folder(results, dataset, model, seed)
    metrics = read_json(plain(folder / "metrics.json"), MEASURE, METRICS)
    record = read_json(plain(folder / "record.json"), MEASURE, RECORD)
    draws = read_table(plain(folder / "draws.csv"), MEASURE, dict.fromkeys(TABLE_1, (0, 100)))
    made_with = read_settings(folder / "train" / "config.yaml")
    if list(draws.columns) != list(TABLE_1):
        raise ValueError("draws.csv has other columns than Table 1")
    numbers = {c: metrics[task][key] for c, (task, key) in TABLE_1.items()}
    stated = pd.Series(numbers, dtype=float)
    if draws.empty or not np.allclose(draws.iloc[0], stated, 0, 1e-3, equal_nan=True):
        raise ValueError("draws.csv begins with other numbers than those of metrics.json")
    if record["settings_sha256"] != settings_hash(made_with):
        raise ValueError("measured with other settings than those in its config.yaml")
    data = record["tested_on"]
    measured = (record["protocol"], len(draws), data["images"], data["used"])
    measured_with = dict(zip(MEASURED_WITH, measured, strict=True))
    measured_with["training data"] = record["trained_on"]["used"]
    measured_with["start"] = record["trained_on"].get("start")
    return Run(
        numbers=numbers,
        draws=draws,
        data=data,
        commit=record["commit"],
        record=str((folder / "record.json").relative_to(results)),
        settings=made_with | measured_with,
        departures=departures(dataset, model, made_with, record["dataset"].get("used", {})),
    )


def departures(
    dataset: str, model: str, made_with: Settings, used: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Where a run is not the paper's: in a few words each, empty where the paper has no such row.

    Args:
        made_with: its settings.
        used: images and objects that were used, by split.
    """
    found = []
    if overfit := made_with.get("DATASETS.OVERFIT_IMAGES"):
        found.append(f"measured on its own {overfit} training images")
    if (dataset, model) not in PUBLISHED:
        return found
    papers = settings(get_config(dataset, model)) | SETTINGS[dataset]
    stated_first = sorted(papers, key=lambda key: key not in SETTINGS[dataset])
    for key in stated_first:
        if key != "SEED" and made_with.get(key) != papers[key]:
            own = '""' if made_with.get(key) == "" else made_with.get(key)
            found.append(f"{key} {own} instead of {papers[key]}")
    for (of, split), counts in COUNTS.items():
        for what, count in counts.items() if of == dataset else ():
            own = used.get(split, {}).get(what, "unknown")
            if own != count:
                found.append(f"{own} of {count} {what} of {split}")
    return found


def few(texts: Iterable[str]) -> str:
    """The first four of many, and how many more there are."""
    texts = list(texts)
    more = [f"and {len(texts) - 4} more"] if len(texts) > 4 else []
    return "; ".join(texts[:4] + more)


def run_name(key: tuple) -> str:
    """For instance "kins/arcnn/seed0"."""
    return "/".join([*key[:-1], f"seed{key[-1]}"])
