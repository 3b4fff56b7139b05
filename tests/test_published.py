"""Load instead of train: published models stand in where nothing was trained, and say so."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from arcnn.data import register_dataset, split_records
from arcnn.data.tabletop import make_tabletop
from arcnn.evaluation import evaluate, predict
from arcnn.experiments import collect_given_boxes
from arcnn.files import REFERENCE, ROOT, run_folder
from arcnn.initial_weights import load_start
from arcnn.names import MODEL_NAMES, MODELS, TABLE_1
from arcnn.published import results_or_reference, runs_to_show, trained_or_published
from arcnn.reporting import collect_runs
from arcnn.weights import load_trained


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_tabletop(root, train_images=1, val_images=12, workers=1)
    return root


def test_the_published_models_are_the_start_with_a_head_and_do_what_they_should(
    scenes: Path, tmp_path: Path
) -> None:
    register_dataset("tabletop", scenes)
    folder, shown, (which,) = runs_to_show(tmp_path, "tabletop", MODELS, 0)
    assert folder == tmp_path / "published" and shown == list(MODELS)
    assert "Nothing was trained" in which and "not those of trainings" in which
    start = load_start("tabletop", device="cpu").model.state_dict()
    for model in MODELS:
        run = run_folder(folder, "tabletop", model, 0)
        assert (run / "predictions.json").is_file()
        cfg, network = load_trained(run, device="cpu")
        for key, value in network.state_dict().items():
            if "mask_head" not in key and "num_batches" not in key:
                assert torch.equal(value, start[key]), key
        found = evaluate(split_records(cfg, "val"), predict(cfg, network), 10)
        for task in ("amodal", "visible"):
            assert found[task]["AP"] > 50, (model, task)
        assert found["occlusion"]["AP"] > 5, model


def test_ones_own_training_comes_first(tmp_path: Path) -> None:
    train = run_folder(tmp_path, "tabletop", "orcnn", 0) / "train"
    train.mkdir(parents=True)
    (train / "model_final.pth").touch()
    folder, which = trained_or_published(tmp_path, "tabletop", MODELS)
    assert folder == tmp_path and which.startswith("Your own trainings")


def test_where_nothing_is_published_the_cure_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no arcnn is published for kins: run notebook 04"):
        trained_or_published(tmp_path, "kins", ["arcnn"])


def test_reference_results_stand_in_for_tables(tmp_path: Path) -> None:
    folder, which = results_or_reference(tmp_path, "runs/tabletop/*/*/metrics.json")
    assert folder == REFERENCE / "demo" and "reference results" in which
    own = tmp_path / "runs/tabletop/arcnn/seed0"
    own.mkdir(parents=True)
    (own / "metrics.json").touch()
    assert results_or_reference(tmp_path, "runs/tabletop/*/*/metrics.json")[0] == tmp_path
    with pytest.raises(FileNotFoundError, match="no reference result"):
        results_or_reference(tmp_path, "runs/kins/*/*/metrics.json")


def test_the_reference_of_the_field_stands_in_one_table() -> None:
    """Every method's trainings, made and measured alike, with the masks in given boxes."""
    folder, _ = results_or_reference(Path("nowhere"), "runs/tabletop/mask_rcnn/*/*.json", "field")
    runs = collect_runs(folder, ["tabletop"], tuple(MODEL_NAMES), [0, 1, 2])
    given = collect_given_boxes(folder, runs, "tabletop")
    assert runs.left_out == [] and given.left_out == []
    assert runs.models("tabletop") == list(MODEL_NAMES)
    assert {key: len(table) for key, table in given.objects.items()} == dict.fromkeys(
        ((model, seed) for model in MODEL_NAMES for seed in (0, 1, 2)), 656
    )


# --- what README says of them -------------------------------------------------------------------


def intervals_on_record() -> set[tuple[float, float]]:
    """Every 95 % interval of the reference records, as printed, and of the reverse difference."""
    pairs = set()
    for file in (*REFERENCE.glob("demo/records/*.json"), *REFERENCE.glob("field/records/*.json")):
        record = json.loads(file.read_text())
        text = json.dumps(record["metrics"].get("findings", ""))
        pairs |= {
            (float(a), float(b)) for a, b in re.findall(r"\[([+-][\d.]+), ([+-][\d.]+)\]", text)
        }
        rows = record.get("differences", []) + list(record["metrics"].get("networks", {}).values())
        pairs |= {(row["low"], row["high"]) for row in rows}
    for variant in pd.read_csv(REFERENCE / "demo/ablation.csv").itertuples():
        pairs.add((variant.low, variant.high))
    both = pairs | {(-b, -a) for a, b in pairs}
    return {(round(a, 1) + 0.0, round(b, 1) + 0.0) for a, b in both}


def test_every_interval_in_the_readme_is_on_record() -> None:
    text = (ROOT / "README.md").read_text()
    printed = re.findall(r"\[(-?\d+\.\d), (-?\d+\.\d)\]", text.replace("\n", " "))
    known = intervals_on_record()
    unknown = [pair for pair in printed if tuple(map(float, pair)) not in known]
    assert len(printed) > 12 and not unknown


@pytest.mark.parametrize("profile", ["demo", "field"])
def test_the_tables_in_the_readme_are_those_on_record(profile: str) -> None:
    table = pd.read_csv(REFERENCE / profile / "table1.csv").set_index(["model", "metric"])
    digits = 2 if profile == "demo" else 1
    lines = re.findall(
        rf"^\| \[.*?\]\(results/reference/{profile}/runs/tabletop/(\w+)\) \| (.*) \|$",
        (ROOT / "README.md").read_text(),
        re.M,
    )
    assert sorted(model for model, _ in lines) == sorted(set(table.index.get_level_values(0)))
    metrics = list(TABLE_1) if profile == "demo" else ["amodal AP", "visible AP"]
    for model, cells in lines:
        for metric, cell in zip(metrics, cells.split(" | "), strict=False):
            ours, spread = table.loc[(model, metric), ["ours", "spread"]]
            known = "–" if pd.isna(ours) else f"{ours:.{digits}f} ± {spread:.{digits}f}"
            assert cell == known, (model, metric)
