"""Table 1: what counts as a run, what may be said, and where every number comes from."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from arcnn.config import get_config
from arcnn.evaluation import intervals, mean_of_trainings, protocol_version
from arcnn.experiments import collect_given_boxes
from arcnn.files import ROOT, run_folder, write_table, write_text
from arcnn.names import DATASETS, TABLE_1, model_name
from arcnn.reporting import (
    about,
    collect_runs,
    compare,
    device,
    difference_draws,
    earlier_protocol,
    model_differences,
    paper_table,
    table1,
    to_latex,
    to_markdown,
    write_record,
)
from arcnn.reporting.paper import SETTINGS
from arcnn.reporting.table import COLUMNS, sentences
from arcnn.settings import settings, settings_hash, write_settings
from arcnn.workshop.run.reference import MAX_BYTES, keep

MODELS = ("arcnn", "arcnn_add", "orcnn")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 2, size=(201, 1))  # what the draws of the images do to every model alike


def test_a_record_is_a_file_and_shows_as_a_line(tmp_path: Path, capsys) -> None:
    record = write_record(
        tmp_path / "a.json", parameters={"seed": 3}, started=time.time(), metrics={"AP": 1.5}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == record
    assert record["seed"] == 3 and record["metrics"] == {"AP": 1.5}
    InteractiveShell.instance().display_formatter.format(record)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Recorded in {tmp_path / 'a.json'}, after ")
    assert about().startswith("python 3.") and device() in about()


def make_run(results: Path, dataset: str, model: str, seed: int, level: float, **changes) -> Path:
    """A run whose five numbers are ``level``, ``level`` + 1, ..."""
    run = run_folder(results, dataset, model, seed)
    values = level + np.arange(5.0)
    metrics: dict = {}
    for column, value in zip(COLUMNS, values, strict=True):
        task, key = TABLE_1[column]
        metrics.setdefault(task, {})[key] = value
    noise = IMAGES + RNG.normal(0, 0.2, size=(201, 5))
    noise[0] = 0
    write_table(run / "draws.csv", pd.DataFrame(values + noise, columns=list(COLUMNS)))
    (run / "metrics.json").write_text(json.dumps(metrics))
    used = {"images": 7517, "objects": 3, "used": changes.get("used", "aa")}
    record = {
        "dataset": {"used": {"train": {"images": 7474}, "val": used}},
        "tested_on": used,
        "trained_on": {"used": "bb", "start": changes.get("start", "ss")},
        "protocol": changes.get("protocol", "cc"),
        "commit": "0123456789",
    }
    known = (dataset, model) in paper_table().index and dataset in DATASETS
    options = changes.get("options", [])
    cfg = get_config(dataset, model if known else "arcnn", options=options, seed=seed, device="cpu")
    write_settings(cfg, run / "train" / "config.yaml")
    record["settings_sha256"] = settings_hash(settings(cfg))
    (run / "record.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="session")
def nine_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nine_runs")
    for seed in (0, 1, 2):
        make_run(folder, "kins", "arcnn", seed, 30 + seed)
        make_run(folder, "kins", "orcnn", seed, 20 + seed)
        make_run(folder, "kins", "arcnn_add", seed, 30.1 + seed)
    return folder


def test_a_record_with_the_same_content_is_no_newer(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    given = {"parameters": {"seed": 0}, "metrics": {"AP": 1.5, "classes": (1, 2)}}
    write_record(file, started=time.time() - 100, **given)
    before = file.read_text(), file.stat().st_mtime_ns
    again = write_record(file, started=time.time(), **given)
    assert (file.read_text(), file.stat().st_mtime_ns) == before and again.file == file
    write_record(file, started=time.time(), **given, further=1)
    assert json.loads(file.read_text())["further"] == 1
    file.write_text('{"parameters":')
    for left in (lambda: file.write_text('{"parameters":'), lambda: os.mkfifo(file)):
        file.unlink()
        left()
        write_record(file, started=time.time(), **given)
        assert json.loads(file.read_text())["seed"] == 0
    text = tmp_path / "table.md"
    write_text(text, "ä")
    os.utime(text, ns=(0, 0))
    write_text(text, "ä")
    assert text.stat().st_mtime_ns == 0
    write_text(text, "b")
    assert text.stat().st_mtime_ns > 0 and text.read_text() == "b"


def test_who_runs_another_copy_of_the_kit_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(about().splitlines()) == 1
    monkeypatch.chdir(ROOT / "notebooks")
    assert len(about().splitlines()) == 1
    (tmp_path / "arcnn").mkdir()
    (tmp_path / "arcnn/__init__.py").touch()
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path / "lab")
    assert about().splitlines()[1].startswith(f"Mind: you are in {tmp_path}, and what runs is")


@pytest.fixture
def results(nine_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nine_runs, tmp_path, dirs_exist_ok=True))


def test_the_papers_numbers_and_ours_stand_side_by_side(results: Path) -> None:
    runs = collect_runs(results, ["kins"], MODELS, [0, 1, 2])
    assert runs.left_out == []
    table = table1(runs, ["kins"]).set_index(["model", "metric"])
    row = table.loc["arcnn", "amodal AP"]
    assert row.paper == 32.94 and row.ours == 31 and row.spread == 1 and row.seeds == 3
    assert row.difference == pytest.approx(31 - 32.94)
    assert row.low < 31 < row.high
    assert row.records.split() == [f"runs/kins/arcnn/seed{k}/record.json" for k in (0, 1, 2)]
    quoted = table.loc["vrs_sp", "amodal AP"]
    assert quoted.quoted and quoted.seeds == 0 and np.isnan(quoted.ours)


def test_every_form_has_the_numbers_and_their_records(results: Path) -> None:
    runs = collect_runs(results, ["kins", "cocoa_cls"], MODELS, [0, 1, 2])
    table = table1(runs, ["kins", "cocoa_cls"])
    text = to_markdown(table, model_differences(runs, ["kins"]), runs.left_out)
    assert "| ARCNN | paper | 32.94 |" in text
    assert "[31.00 ± 1.00 (-1.94)](runs/kins/arcnn)" in text
    assert "[2](runs/kins/arcnn/seed2/record.json)" in text
    assert "| VRS&SP | quoted by the paper | 32.08 |" in text
    assert "| ARCNN | ours | no run | no run |" in text  # COCOA-cls
    assert "cocoa_cls/arcnn/seed0: no metrics.json" in text
    latex = to_latex(table)
    assert r"\href{run:runs/kins/arcnn}{31.00 \ensuremath{\pm} 1.00 (-1.94)}" in latex
    assert r"VRS\&SP & quoted by the paper & 32.08" in latex
    assert latex.count("no run") == 15 and latex.count(r"\begin") == latex.count(r"\end")


def test_a_fourth_model_gets_its_row_and_its_difference(results: Path) -> None:
    make_run(results, "kins", "mine", 0, 40)
    runs = collect_runs(results, ["kins"], [*MODELS, "mine"], [0])
    table = table1(runs, ["kins"])
    text = to_markdown(table, model_differences(runs, ["kins"]), runs.left_out)
    assert "| mine | ours | [40.00](runs/kins/mine/seed0/record.json) |" in text
    assert "this one training of mine against this one of ARCNN: is better" in text
    assert "mine & ours" in to_latex(table)


def test_the_commit_says_that_files_were_edited(tmp_path: Path) -> None:
    for seed, commit in enumerate(['"0123456789+changes"', "null"]):
        file = make_run(tmp_path, "tabletop", "arcnn", seed, 50) / "record.json"
        file.write_text(file.read_text().replace('"0123456789"', commit))
    table = table1(collect_runs(tmp_path, ["tabletop"], MODELS, [0, 1]), ["tabletop"])
    assert table.commit.iloc[0] == "0123456+ unknown"


def test_better_is_said_only_where_the_interval_excludes_zero(results: Path) -> None:
    runs = collect_runs(results, ["kins"], MODELS, [0, 1, 2])
    first, second, third = sentences(model_differences(runs, ["kins"]))
    assert first.startswith("KINS, ARCNN against ORCNN: is better in amodal AP (+10.0 [")
    assert "no difference can be claimed in amodal AP" in second and "better" not in second
    assert "worse" not in third
    one = collect_runs(results, ["kins"], MODELS, [0])
    said = sentences(model_differences(one, ["kins"]))
    assert all("this one training of" in sentence for sentence in said)


def test_draws_are_paired_by_images_and_take_the_trainings_in(results: Path) -> None:
    runs = collect_runs(results, ["kins"], MODELS, [0, 1, 2])
    draws = [run.draws for run in runs.of("kins", "arcnn").values()]
    assert intervals(mean_of_trainings(draws))["amodal AP"].value == pytest.approx(31)
    alone = intervals(draws[0] - runs.of("kins", "orcnn")[0].draws)["amodal AP"]
    both = model_differences(runs, ["kins"]).iloc[0]
    same = intervals(difference_draws(runs, "kins", both["first"], both["second"]))[both.metric]
    assert tuple(same) == (both.difference, both.low, both.high)
    # The images' luck, a deviation of 2, cancels; that of the trainings, about 1, does not.
    assert alone.high - alone.low < 1.5 < both.high - both.low < 6


def test_bad_runs_are_named_and_never_averaged_in(results: Path) -> None:
    make_run(results, "kins", "arcnn", 0, 80, used="bb")
    make_run(results, "kins", "orcnn", 0, 80, options=["SOLVER.MAX_ITER", 5])
    (run_folder(results, "kins", "arcnn_add", 0) / "metrics.json").write_text('{"amodal": {')
    (run_folder(results, "kins", "arcnn_add", 1) / "draws.csv").unlink()
    make_run(results, "kins", "arcnn_add", 2, 80)
    draws = run_folder(results, "kins", "arcnn_add", 2) / "draws.csv"
    draws.write_text("\n".join(draws.read_text().splitlines()[:50]) + "\n")
    runs = collect_runs(results, ["kins"], MODELS, [0, 1, 2, 3])
    table = table1(runs, ["kins"]).set_index(["model", "metric"])
    assert table.loc["arcnn", "amodal AP"].ours == 31.5
    assert table.loc["orcnn", "amodal AP"].ours == 21.5
    assert table.loc["arcnn_add", "amodal AP"].seeds == 0
    named = "\n".join(runs.left_out)
    for sentence in (
        "kins/arcnn/seed0: not made with the data and settings of most (test data: bb, most have",
        "kins/orcnn/seed0: not made with the data and settings of most (SOLVER.MAX_ITER: 5, most",
        "kins/arcnn_add/seed0: not a whole run",
        "kins/arcnn_add/seed1: no draws.csv",
        "kins/arcnn_add/seed2: not made with",
        "kins/arcnn/seed3: no metrics.json",
    ):
        assert sentence in named


AP, COMMIT, TESTED = '"AP": 31.0', '"0123456789"', '"tested_on": {"images": 7517'
NUMBERS = ("-5", "900", "1e308", "1e999", "Infinity", "true", '"1"', "[1]", "{}", "30.5", "null")


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("metrics.json", AP, [f'"AP": {number}' for number in NUMBERS]),
        ("metrics.json", '{"amodal"', ["5", "[1]", "\xff", "[" * 100_000]),
        ("record.json", COMMIT, ["5", "[]", "{}", "NaN", '"\\u001b[2J"', '"](x)"']),
        ("record.json", TESTED, [f'"tested_on": {{"images": {k}' for k in ("NaN", "1e999", "[1]")]),
        ("record.json", TESTED, ['"tested_on": 5, "x": {"images": 5']),
        ("record.json", '"protocol": "cc"', ['"protocol": NaN', '"protocol": 1']),
        ("record.json", '{"used": "bb"', ['{"used": NaN', '{"used": [1]']),
        ("draws.csv", "\n31.0,", [f"\n{k}," for k in ("", "inf", "-1", "101", "a", "30", "1,31")]),
        ("draws.csv", "\n31.0,", ["\n31.0,1\n31.0,", "\0", "\n31.0,32,33,34,35\n1e308,", "\n\n"]),
    ],
)
def test_a_number_that_is_none_leaves_a_run_out(
    name: str, was: str, becomes: list[str], results: Path
) -> None:
    file = run_folder(results, "kins", "arcnn", 1) / name
    text = file.read_text()
    assert collect_runs(results, ["kins"], ["arcnn"], [1]).left_out == []
    for damaged in becomes:
        file.write_bytes(text.replace(was, damaged, 1).encode("latin"))
        runs = collect_runs(results, ["kins"], ["arcnn"], [1])
        assert not runs.runs and runs.left_out[0].startswith("kins/arcnn/seed1: not a whole run")
        assert name in runs.left_out[0] and runs.left_out[0].isprintable(), damaged
    assert text.replace(was, damaged, 1) != text


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_a_table_whose_last_line_is_cut_off_leaves_a_run_out(cut: int, results: Path) -> None:
    file = run_folder(results, "kins", "arcnn", 1) / "draws.csv"
    file.write_bytes(file.read_bytes()[:-cut])
    runs = collect_runs(results, ["kins"], ["arcnn"], [1])
    assert not runs.runs and "its last line is cut off" in runs.left_out[0]


@pytest.mark.parametrize("name", ["metrics.json", "record.json", "draws.csv", "train/config.yaml"])
def test_what_is_no_file_leaves_a_run_out(name: str, results: Path) -> None:
    file = run_folder(results, "kins", "arcnn", 1) / name
    for put in (
        os.mkfifo,
        os.mkdir,
        lambda f: f.symlink_to(f),
        lambda f: f.symlink_to("/dev/zero"),
    ):
        file.unlink()
        put(file)
        runs = collect_runs(results, ["kins"], ["arcnn"], [0, 1])
        assert list(runs.runs) == [("kins", "arcnn", 0)]
        assert runs.left_out[0].startswith("kins/arcnn/seed1: not a whole run")
        file.rmdir() if file.is_dir() else file.unlink()
        file.touch()


OBJECTS = "image,class,rate,amodal,visible,occlusion\n1,5,0.66,83.5,32.2,0.0\n1,2,0.0,84,89,\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OBJECTS, "given_boxes.csv has 2 rows for 3 objects: delete it"),
        (OBJECTS.splitlines()[0] + "\n", "given_boxes.csv has 0 rows for 3 objects"),
        (OBJECTS + 2 * "3,1,0.5,50,50,50\n", "given_boxes.csv has 4 rows for 3 objects"),
        (OBJECTS + "3,1,0.5,inf,50,50\n", "amodal is not all between 0 and 100"),
        (OBJECTS + "3,1,0.5,50,-5,50\n", "visible is not all between 0 and 100"),
        (OBJECTS + "3,1,0.5,50,50,text\n", "occlusion is not all numbers"),
        (OBJECTS + "3,1,5,50,50,50\n", "rate is not all between 0 and 1"),
        (
            OBJECTS + "3,1,0.4,50,50,50\n",
            "given_boxes.csv has not the objects of most",
        ),
        ("", "given_boxes.csv is not whole"),
        (None, "given_boxes.csv is no plain file"),
    ],
)
def test_masks_in_given_boxes_are_whole_or_left_out(
    text: str | None, said: str, results: Path
) -> None:
    runs = collect_runs(results, ["kins"], ["arcnn"], [0, 1, 2])
    files = [run_folder(results, "kins", "arcnn", k) / "given_boxes.csv" for k in range(3)]
    for file in files:
        file.write_text(OBJECTS + "3,1,0.5,50,50,50\n")
    assert len(collect_given_boxes(results, runs, "kins").objects) == 3
    files[1].unlink()
    os.mkfifo(files[1]) if text is None else files[1].write_text(text)
    found = collect_given_boxes(results, runs, "kins")
    assert set(found.objects) == {("arcnn", 0), ("arcnn", 2)}
    (sentence,) = found.left_out
    assert sentence.startswith("arcnn/seed1: ") and said in sentence


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": ["MODEL.ARCNN.INPUT", "probs"]}, "MODEL.ARCNN.INPUT: probs, most have logits"),
        ({"protocol": "dd"}, "protocol: dd, most have cc"),
        ({"start": "tt"}, "start: tt, most have ss"),
    ],
)
def test_runs_made_otherwise_are_never_mixed_and_the_setting_is_named(
    change: dict, named: str, results: Path
) -> None:
    make_run(results, "kins", "arcnn", 1, 60, **change)
    runs = collect_runs(results, ["kins"], MODELS, [0, 1, 2])
    assert ("kins", "arcnn", 1) not in runs.runs and len(runs.runs) == 8
    (sentence,) = runs.left_out
    assert sentence.startswith("kins/arcnn/seed1: not made with") and named in sentence
    # Of two that differ nobody knows which is right.
    runs = collect_runs(results, ["kins"], ["arcnn"], [0, 1])
    assert not runs.runs and "as many have" in runs.left_out[0]
    assert named.replace("most", "as many") in runs.left_out[1]
    assert all("delete those that do not belong" in said for said in runs.left_out)


def test_numbers_measured_with_other_settings_than_the_runs_are_left_out(results: Path) -> None:
    run = run_folder(results, "kins", "arcnn", 1)
    cfg = get_config("kins", "arcnn", options=["TEST.DETECTIONS_PER_IMAGE", 7], seed=1)
    write_settings(cfg, run / "train" / "config.yaml")
    (sentence,) = collect_runs(results, ["kins"], MODELS, [0, 1, 2]).left_out
    assert sentence.startswith("kins/arcnn/seed1: not a whole run")
    assert "measured with other settings" in sentence


def test_results_of_an_older_version_are_named_with_what_to_run(results: Path) -> None:
    for seed, key in enumerate(("trained_on", "protocol", "amodal")):
        name = "metrics.json" if key == "amodal" else "record.json"
        file = run_folder(results, "kins", "arcnn", seed) / name
        content = json.loads(file.read_text())
        del content[key]
        file.write_text(json.dumps(content))
    runs = collect_runs(results, ["kins"], ["arcnn"], [0, 1, 2])
    for seed, key in enumerate(("trained_on", "protocol", "amodal")):
        assert runs.left_out[seed].startswith(f"kins/arcnn/seed{seed}: ")
        assert f"an older version's (no '{key}')" in runs.left_out[seed]
    with pytest.raises(FileNotFoundError, match="seed0: not a whole run.*05_evaluate measures"):
        table1(runs, ["kins"])
    (sentence,) = earlier_protocol(collect_runs(results, ["kins"], ["orcnn"], [0, 1]))
    assert sentence.startswith("kins/orcnn/seed0; kins/orcnn/seed1: measured with protocol cc")
    assert protocol_version() in sentence and "05_evaluate" in sentence
    make_run(results, "kins", "orcnn", 0, 9, protocol=protocol_version())
    assert not earlier_protocol(collect_runs(results, ["kins"], ["orcnn"], [0]))


def test_switches_of_one_models_head_do_not_set_it_apart_from_the_others(tmp_path: Path) -> None:
    own = {"arcnn": ["MODEL.ARCNN.BIAS", False], "orcnn": ["MODEL.ROI_MASK_HEAD.NUM_CONV", 8]}
    for model in ("arcnn", "orcnn"):
        make_run(tmp_path, "tabletop", model, 0, 50, options=own[model])
    runs = collect_runs(tmp_path, ["tabletop"], MODELS, [0])
    assert len(runs.runs) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["SOLVER.MAX_ITER", 3, "INPUT.MIN_SIZE_TEST", 400], "SOLVER.MAX_ITER 3 instead of 48000"),
        (["DATASETS.OVERFIT_IMAGES", 5], "measured on its own 5 training images"),
        (["SOLVER.IMS_PER_BATCH", 2], "SOLVER.IMS_PER_BATCH 2 instead of 4"),
        (["INPUT.MIN_SIZE_TRAIN", (600,)], "INPUT.MIN_SIZE_TRAIN [600] instead of [800]"),
        (["MODEL.WEIGHTS", ""], 'MODEL.WEIGHTS "" instead of detectron2://'),
        (["MODEL.ARCNN.INPUT", "probs"], "MODEL.ARCNN.INPUT probs instead of logits"),
    ],
)
def test_a_row_made_otherwise_than_the_papers_is_marked_and_gets_no_difference(
    options: list, named: str, tmp_path: Path
) -> None:
    make_run(tmp_path, "kins", "arcnn", 0, 30, options=options)
    runs = collect_runs(tmp_path, ["kins"], MODELS, [0])
    table = table1(runs, ["kins"])
    assert table[table.model == "arcnn"].difference.isna().all()
    text = to_markdown(table, model_differences(runs, ["kins"]), runs.left_out)
    assert "| ARCNN | ours, other settings | [30.00](runs/kins/arcnn/seed0/record.json) |" in text
    assert f"KINS, ARCNN: not the paper's settings ({named}" in text
    latex = to_latex(table)
    assert "ours, other settings & " in latex
    assert f"not the paper's settings: {named.split(' ')[0].replace('_', chr(92) + '_')}" in latex


def test_a_shortened_split_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path, "kins", "arcnn", 0, 30)
    text = (run / "record.json").read_text()
    (run / "record.json").write_text(text.replace("7517", "100"))
    table = table1(collect_runs(tmp_path, ["kins"], MODELS, [0]), ["kins"])
    row = table[table.model == "arcnn"].iloc[0]
    assert row.departures == "100 of 7517 images of val" and np.isnan(row.difference)


def test_the_papers_own_settings_are_those_of_the_configurations() -> None:
    for dataset, stated in SETTINGS.items():
        ours = settings(get_config(dataset, "arcnn"))
        assert {key: ours[key] for key in stated} == stated


def test_a_metric_without_a_number_is_a_dash_and_one_seed_links_to_its_record(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "own", "arcnn", 0, 50)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["occluded"]["AP"] = None
    (run / "metrics.json").write_text(json.dumps(metrics))
    draws = pd.read_csv(run / "draws.csv").assign(**{"occluded AP": np.nan})
    write_table(run / "draws.csv", draws)
    runs = collect_runs(tmp_path, ["own"], ["arcnn"], [0])
    text = to_markdown(table1(runs, ["own"]), model_differences(runs, ["own"]), [])
    assert "| – |" in text and "the paper has no numbers" in text
    assert "[50.00](runs/own/arcnn/seed0/record.json)" in text
    assert "KINS" not in text and "ORCNN" not in text


def test_the_papers_table_is_as_printed() -> None:
    table = paper_table()
    assert len(table) == 8 and table.quoted.sum() == 2
    assert table.loc[("cocoa_cls", "arcnn"), "occluded AP"] == 20.84


def test_reference_results_are_kept_and_compared_with(results: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        keep(results, tmp_path / "reference")
    runs = collect_runs(results, ["kins"], MODELS, [0, 1, 2])
    table = table1(runs, ["kins"])
    write_table(results / "table1.csv", table)
    flat = np.full((40, 60, 3), (0, 114, 178), np.uint8)
    Image.fromarray(flat).save(results / "figure4.png")
    reference = tmp_path / "reference"
    kept = {str(file.relative_to(reference)) for file in keep(results, reference)}
    assert {"table1.csv", "runs/kins/arcnn/seed0/record.json"} <= kept
    assert not any("predictions" in name for name in kept)
    assert (np.asarray(Image.open(reference / "figure4.png").convert("RGB")) == flat).all()
    # Three trainings beside three: Student's t of 4.30 at a spread of 1 reaches 3.51 points.
    table.loc[table.model == "orcnn", "ours"] += 3.5
    table.loc[table.model == "arcnn", "ours"] += 3.6
    keys = ["dataset", "model", "metric"]
    compared = compare(table, reference / "table1.csv", keys=keys, value="ours")
    assert len(compared) == 15  # not the row that is quoted, which has no run
    assert set(compared.model[~compared.within]) == {"arcnn"}
    assert compare(table, tmp_path / "none.csv", keys=keys, value="ours") is None


def test_a_file_too_large_for_git_leaves_the_reference_as_it_is(
    results: Path, tmp_path: Path
) -> None:
    (results / "table1.csv").write_text("new")
    (results / "table1.tex").write_text("x" * (MAX_BYTES + 1))
    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "table1.csv").write_text("old")
    with pytest.raises(ValueError, match=r"table1.tex would take more than"):
        keep(results, reference)
    assert [file.read_text() for file in reference.iterdir()] == ["old"]
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_every_model_is_set_beside_the_one_that_is_named(tmp_path):
    for model, level in (("mask_rcnn", 30), ("sln", 34), ("arcnn", 32)):
        make_run(tmp_path, "kins", model, 0, level)
    runs = collect_runs(tmp_path, ["kins"], ["arcnn", "sln", "mask_rcnn"], [0])
    assert runs.models("kins") == ["mask_rcnn", "sln", "arcnn"]
    against = model_differences(runs, ["kins"], "mask_rcnn")
    found = against.groupby(["first", "second"]).difference.mean().round(6).to_dict()
    assert found == {("sln", "mask_rcnn"): 4, ("arcnn", "mask_rcnn"): 2}
    usual = model_differences(runs, ["kins"])
    assert set(zip(usual["first"], usual["second"], strict=True)) == {
        ("mask_rcnn", "arcnn"),
        ("sln", "arcnn"),
    }


def test_numbers_published_elsewhere_stand_below_the_table_with_their_source(tmp_path):
    for dataset in ("kins", "tabletop"):
        make_run(tmp_path, dataset, "arcnn", 0, 30)
    runs = collect_runs(tmp_path, ["kins", "tabletop"], ["arcnn"], [0])

    def text(dataset: str) -> str:
        return to_markdown(table1(runs, [dataset]), model_differences(runs, [dataset]), [])

    assert "KINS, ASN: 31.10 amodal AP (the KINS paper; BCNet's issue #4)" in text("kins")
    assert "Published elsewhere" not in text("tabletop")


def test_a_model_with_its_own_schedule_is_called_so():
    assert model_name("aisformer_published") == "AISFormer, its own schedule"
    assert model_name("panet") == "panet"
