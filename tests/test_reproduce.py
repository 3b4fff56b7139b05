"""`make reproduce`: refused early with a sentence, or run to the end, once."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from arcnn.config import CONFIG_DIR, load_config
from arcnn.data import AnnotationError, register_dataset
from arcnn.errors import FileError
from arcnn.experiments import network_differences
from arcnn.files import NOTEBOOKS, PROFILES, ROOT, hold
from arcnn.workshop.notebooks.report import make_report
from arcnn.workshop.notebooks.runner import run_notebook
from arcnn.workshop.run.beforehand import check_folders, name_own_classes
from arcnn.workshop.run.outdated import Outdated, find_outdated
from arcnn.workshop.run.profiles import DEFAULTS, ProfileError, check_choices, load_profile
from arcnn.workshop.run.reproduce import (
    find_executor,
    main,
    run_snakemake,
    snakemake,
    write_parameters,
)


@pytest.mark.parametrize("name", sorted(file.stem for file in PROFILES.glob("*.yaml")))
def test_every_profile_is_complete(name: str) -> None:
    profile = load_profile(name)
    assert set(profile) == {"profile", *DEFAULTS}
    check_choices(profile)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("models", ["panet"], 'unknown "panet"'),
        ("datasets", ["coco"], 'unknown "coco"'),
        ("seeds", [], "seeds is empty"),
        ("options", ["SOLVER.MAX_ITR", 5], "SOLVER.MAX_ITR"),
        ("options", ["SOLVER.MAX_ITER"], "KEY, VALUE"),
        (
            "ablation",
            {"trunk": "resnet", "variants": [], "networks": []},
            "the trunk is start or one of",
        ),
        ("ablation", {"trunk": "orcnn", "variants": ["half"], "networks": []}, 'variant "half"'),
        ("ablation", {"trunk": "orcnn", "variants": [], "networks": ["half"]}, 'variant "half"'),
        ("ablation", {"trunk": "orcnn", "variants": [], "networks": ["add-logits-long"]}, "alone"),
    ],
)
def test_a_wrong_choice_is_named(key: str, value: list, named: str) -> None:
    with pytest.raises(ProfileError, match=named):
        check_choices(load_profile("demo") | {key: value})


def test_an_unknown_profile_or_parameter_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ProfileError, match="choose one of demo, field, overfit, paper, small"):
        load_profile("dmeo")
    assert main(["--profile", "dmeo"]) == 2
    assert capsys.readouterr().err.startswith("make reproduce PROFILE=dmeo: there is no")
    (tmp_path / "mine.yaml").write_text("datasets: [tabletop]\nmodel: [arcnn]\n")
    monkeypatch.setattr("arcnn.workshop.run.profiles.PROFILES", tmp_path)
    with pytest.raises(ProfileError, match='unknown parameter "model"'):
        load_profile("mine")
    for text, said in (("datasets: [", "is not YAML"), ("", "has no parameters")):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ProfileError, match=f"mine.yaml {said}"):
            load_profile("mine")


def test_an_environment_without_a_kernel_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("arcnn.workshop.run.reproduce.importlib.util.find_spec", lambda name: None)
    assert main(["--profile", "smoke"]) == 2
    assert "no Python kernel for notebooks" in capsys.readouterr().err


def test_own_data_says_how_many_classes_there_are(tmp_path: Path) -> None:
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cup"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    profile = load_profile("small") | {"data_root": str(tmp_path)}
    name_own_classes(profile)
    assert profile["options"][-2:] == ["MODEL.ROI_HEADS.NUM_CLASSES", 1]
    name_own_classes(profile)  # what is said already stays
    assert profile["options"].count("MODEL.ROI_HEADS.NUM_CLASSES") == 1


def test_a_profile_may_build_on_another() -> None:
    small, overfit = load_profile("small"), load_profile("overfit")
    assert overfit["options"][: len(small["options"])] == small["options"]
    assert overfit["options"][len(small["options"]) :][:2] == ["DATASETS.OVERFIT_IMAGES", 5]
    assert overfit["models"] == small["models"] and overfit["datasets"] == ["cocoa_cls"]


def test_missing_data_and_an_unwritable_folder_are_named(tmp_path: Path) -> None:
    profile = load_profile("paper") | {"results_root": str(tmp_path), "data_root": str(tmp_path)}
    with pytest.raises(ProfileError, match="COCO_amodal_train2014_with_classes.json"):
        check_folders(profile)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileError, match="RESULTS=<folder>"):
        check_folders(profile | {"results_root": str(tmp_path / "file")})


def places(root: Path) -> list[str]:
    """The arguments of a run in this folder."""
    return ["--profile", "smoke", "--results-root", str(root), "--data-root", str(root / "data")]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile, from nothing to all results, run from another working directory."""
    root = tmp_path_factory.mktemp("results with a space")
    command = [sys.executable, "-m", "arcnn.workshop.run.reproduce", *places(root)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for notebook in ("01_prepare_data", "04_train.tabletop.orcnn.seed0", "06_table1"):
        assert notebook in run.stderr
    return root / "smoke"


def reproduce(results: Path, *arguments: str, fails: bool = False) -> str:
    """What a further run says. Checks beforehand are made in this process, the rest in another."""
    runs = []

    def execute(_: str, command: list[str]) -> None:
        runs.append(subprocess.run(command, capture_output=True, text=True, check=False))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arcnn.workshop.run.reproduce.os.execv", execute)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        main([*places(results.parent), *arguments])
    (run,) = runs
    assert (run.returncode != 0) is fails, run.stdout + run.stderr
    return run.stdout + run.stderr


def listed_rules(results: Path, *arguments: str) -> dict[str, int]:
    """What a dry run would do: jobs by rule."""
    lines = [line.split() for line in reproduce(results, "--dry-run", *arguments).splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def files_with_times(folder: Path) -> dict[str, float]:
    found = (f for f in folder.rglob("*.*") if ".snakemake" not in str(f) and f.name != ".lock")
    return {str(f): f.stat().st_mtime for f in found}


def test_everything_is_there(smoke: Path) -> None:
    for name in ("table1.md", "table1.csv", "figure4.png", "figure5.png"):
        assert (smoke / name).stat().st_size > 200
    for model in ("arcnn", "arcnn_add", "orcnn"):
        run = smoke / "runs" / "tabletop" / model / "seed0"
        metrics = json.loads((run / "metrics.json").read_text())
        for task in ("amodal", "visible", "occluded"):
            assert {"AP", "AP50", "AP75", "AR@1", "AR@10", "AR@100"} <= set(metrics[task])
        record = json.loads((run / "record.json").read_text())
        assert record["parameters"]["model"] == model
        assert set(record["dataset"]["sha256"]) == {"train", "val"}
        assert {"seed", "commit", "versions", "device", "seconds", "metrics"} <= set(record)
    executed = {file.name.split(".")[0] for file in (smoke / "notebooks").glob("*.html")}
    sources = {file.stem for file in PROFILES.parent.glob("[0-9]*.ipynb")}
    # 10 and 14 make data and a model of one's own; 11 and 12 are `make ablation`.
    assert executed == {name for name in sources if name[:2] not in ("10", "11", "12", "14", "15")}
    assert not list(smoke.rglob("*.partial*"))
    table = (smoke / "table1.md").read_text()  # never shown as the paper's numbers
    assert "tabletop" in table and "KINS" not in table and "COCOA" not in table
    assert "one seed" in table


def test_more_trainings_of_each_are_a_word_on_the_command_line(smoke: Path) -> None:
    planned = listed_rules(smoke, "--seeds", "2")
    assert planned["train"] == planned["evaluate"] == 3


def test_the_ablation_runs_on_top_of_it(smoke: Path) -> None:
    reproduce(smoke, "--target", "ablation")
    for name in ("ablation.png", "ablation.csv", "occlusion_order.png"):
        assert (smoke / name).stat().st_size > 100
    record = json.loads(next((smoke / "records").glob("11_*.json")).read_text())
    assert "own-bias-logits-normal amodal AP" in record["metrics"]["networks"]
    assert any("no run" in sentence for sentence in record["left_out"])  # smoke trains a few only
    record = json.loads(next((smoke / "records").glob("12_*.json")).read_text())
    assert len(record["metrics"]["order: VW - OW, with bias"]["by_seed"]) == 1
    (smoke / "networks" / "my_notes").mkdir()
    networks, left_out = network_differences(smoke, "tabletop")
    assert ("own-bias-logits-normal", "amodal AP") in networks.index
    assert left_out == ["my_notes: no variant of the ablation"]
    assert "Nothing to be done" in reproduce(smoke, "--target", "ablation")


def test_nobodys_own_snakemake_settings_have_a_say(
    smoke: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the folder of this name, Snakemake would take them by itself.
    own = smoke / "profiles" / "default" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("forcerun: [table1]\n")
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(own))
    try:
        assert "Nothing to be done" in reproduce(smoke)
    finally:
        shutil.rmtree(smoke / "profiles")


def test_a_run_is_reported_in_one_file_that_needs_no_network(smoke: Path) -> None:
    assert str(smoke / "report.html") in make_report(smoke)
    page = (smoke / "report.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?https?:", page)
    shown = ["table1.csv", "figure4.png", "figure5.png"]
    shown += [f"notebooks/{file.name}" for file in (smoke / "notebooks").glob("*.html")]
    for name in shown:
        assert f'"{name}"' in page, name
    assert "a run of the profile" in page
    with pytest.raises(FileNotFoundError, match="has no run"):
        make_report(smoke.parent / "demo")


@pytest.mark.parametrize(("told", "threads"), [(1, 8), (2, 4)])
def test_jobs_on_one_gpu_take_turns_unless_told(
    told: int, threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = []
    monkeypatch.setattr(
        "arcnn.workshop.run.reproduce.os.execv", lambda _, said: commands.append(said)
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    chosen = Namespace(target="all", cores=8, gpu_jobs=told, dry_run=False)
    monkeypatch.setenv("PYTHONPATH", "")  # which it adds to
    run_snakemake(load_profile("smoke"), tmp_path, chosen, None)
    assert f"--resources gpu={told}" in " ".join(commands[0])
    assert f"train_threads={threads}" in commands[0]


def test_no_job_on_the_gpu_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["--profile", "smoke", "--gpu-jobs", "0"]) == 2
    assert "GPU_JOBS is 0" in capsys.readouterr().err
    for seeds in ("20261129", "9" * 400):
        assert main(["--profile", "smoke", "--seeds", seeds]) == 2
        assert "SEEDS is so many trainings of each, 1000 at most" in capsys.readouterr().err


def test_a_cluster_that_there_is_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProfileError, match="slrum.yaml is not there; EXECUTOR is slurm"):
        find_executor("slrum")
    file = tmp_path / "mine.yaml"
    for text in ("jobs: 3", "[", "executor", "[" * 5000):
        file.write_text(text)
        with pytest.raises(ProfileError, match="names its executor"):
            find_executor(str(file))
    for text in ("executor: ../../x", "executor: a.b.c", "executor: ''", "executor: {a: 1}"):
        file.write_text(text)
        with pytest.raises(ProfileError, match="names an executor that cannot be"):
            find_executor(str(file))
    file.write_text("executor: cloud")
    with pytest.raises(ProfileError, match="pip install snakemake-executor-plugin-cloud"):
        find_executor(str(file))
    monkeypatch.setattr("arcnn.workshop.run.reproduce.importlib.util.find_spec", lambda name: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProfileError, match="no `sbatch` here"):
        find_executor("slurm")


def test_two_runs_at_once_in_one_folder_are_refused(
    smoke: Path, capsys: pytest.CaptureFixture
) -> None:
    with hold(smoke / ".lock", "runs"):
        assert main(places(smoke.parent)) == 2
    assert "another run is at work" in capsys.readouterr().err


# --- settings, data and protocol of earlier results ----------------------------------------------


@pytest.fixture
def moved(smoke: Path, tmp_path: Path) -> Path:
    """A copy of the smoke results, and of the data they were made on, somewhere else."""
    shutil.copytree(smoke.parent, tmp_path / "moved", symlinks=True)
    return tmp_path / "moved" / "smoke"


def outdated_in(results: Path) -> Outdated:
    roots = {"results_root": str(results.parent), "data_root": str(results.parent / "data")}
    return find_outdated(load_profile("smoke") | roots, results)


def edit_config(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, text: str) -> None:
    """Edit a YAML file, in a copy of arcnn/configs."""
    shutil.copytree(CONFIG_DIR, folder / "configs", dirs_exist_ok=True)
    with (folder / "configs" / name).open("a") as file:
        file.write(text)
    monkeypatch.setattr("arcnn.config.CONFIG_DIR", folder / "configs")


def test_a_second_call_does_nothing_wherever_results_and_data_have_moved(moved: Path) -> None:
    before = files_with_times(moved)
    assert "Nothing to be done" in reproduce(moved)
    after = files_with_times(moved)
    changed = {Path(name).name for name in after if before.get(name) != after[name]}
    assert changed <= {"profile.yaml", "own-bias-logits-normal.yaml"}  # which say where they lie


def test_a_training_whose_settings_changed_is_named_and_kept(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    text = "  ARCNN:\n    INPUT: probs\n"
    edit_config(monkeypatch, tmp_path, "models/arcnn.yaml", text)
    before = files_with_times(moved)
    assert main(places(moved.parent)) == 2
    said = capsys.readouterr().err
    run = moved / "runs/tabletop/arcnn/seed0"
    assert f"{run} was trained with other settings or data" in said
    assert "MODEL.ARCNN.INPUT: now probs, before logits" in said and f"rm -r '{run}'" in said
    assert "orcnn" not in said and files_with_times(moved) == before


def test_what_only_needs_measuring_is_measured_again(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outdated_in(moved) == Outdated([], {}, {}, [])
    edit_config(monkeypatch, tmp_path, "models/orcnn.yaml", "TEST: {DETECTIONS_PER_IMAGE: 7}\n")
    outdated = outdated_in(moved)
    metrics = moved / "runs/tabletop/orcnn/seed0/metrics.json"
    assert outdated.measured == {metrics: "TEST.DETECTIONS_PER_IMAGE: now 7, before 100"}
    outdated.put_right()
    assert load_config(metrics.parent / "train").TEST.DETECTIONS_PER_IMAGE == 7
    assert outdated_in(moved) == Outdated([], {}, {}, [])
    assert {"evaluate": 1, "table1": 1}.items() <= listed_rules(moved).items()


def test_another_protocol_measures_every_run_again(
    moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcnn.workshop.run.outdated.protocol_version", lambda: "another")
    outdated = outdated_in(moved)
    assert list(outdated.measured.values()) == ["the protocol changed"] * 3
    assert not outdated.trainings


@pytest.mark.parametrize("split", ["val", "train"])
def test_annotations_that_changed_are_noticed(split: str, moved: Path) -> None:
    file = moved.parent / "data" / "tabletop" / f"tabletop_{split}.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content))  # other bytes, the same objects
    outdated = outdated_in(moved)
    assert not outdated.trainings and not outdated.measured
    del content["annotations"][:3]
    file.write_text(json.dumps(content))
    outdated = outdated_in(moved)
    assert outdated.reports == [moved / "data" / "tabletop.json"]
    if split == "train":
        assert len(outdated.trainings) == 3
        assert all("(the training data)" in sentence for sentence in outdated.trainings)
    else:
        assert list(outdated.measured.values()) == ["the data changed"] * 3
        outdated.put_right()
        rules = {"prepare_data": 1, "evaluate": 3, "table1": 1}
        assert rules.items() <= listed_rules(moved).items()


def test_glitches_that_the_profile_allows_are_left_out_everywhere(tmp_path: Path) -> None:
    square = [[2, 2, 20, 2, 20, 20, 2, 20]]
    annotations = [
        {"id": k, "image_id": 1, "category_id": 1, "segmentation": square, "visible_mask": square}
        for k in range(1, 51)
    ]
    annotations[7]["segmentation"] = [[1, 2]]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 24, "width": 24}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": annotations,
    }
    own = tmp_path / "data" / "own"
    (own / "val").mkdir(parents=True)
    (own / "val.json").write_text(json.dumps(content))
    Image.new("RGB", (24, 24)).save(own / "val" / "1.png")
    before = sorted(own.rglob("*"))
    parameters = {"dataset": "own", "results_root": str(tmp_path / "results")}
    parameters["data_root"] = str(tmp_path / "data")
    with pytest.raises(AnnotationError, match="1 of 50 objects"):
        register_dataset("own", tmp_path / "data")
    notebook = NOTEBOOKS / "01_prepare_data.ipynb"
    run_notebook(notebook, tmp_path / "allowed.ipynb", parameters | {"max_skipped": 0.05})
    report = json.loads((tmp_path / "results/demo/data/own.json").read_text())
    assert report["dataset"]["used"]["val"]["objects"] == 49
    assert report["parameters"]["max_skipped"] == 0.05
    assert sorted(own.rglob("*")) == before
    profile = load_profile("small") | {"max_skipped": 0.05}
    assert yaml.safe_load(write_parameters(profile, tmp_path).read_text())["max_skipped"] == 0.05


def test_a_failed_run_stops_no_other_and_is_redone_alone(moved: Path) -> None:
    runs = moved / "runs" / "tabletop"
    shutil.rmtree(runs / "orcnn")
    (runs / "arcnn_add" / "seed0" / "metrics.json").unlink()
    with hold(runs / "orcnn" / "seed0" / "train" / ".lock", "trains"):
        said = reproduce(moved, "--target", "start", fails=True)
    assert "04_train.ipynb failed" in said and "trains in" in said
    assert (runs / "arcnn_add" / "seed0" / "metrics.json").is_file()
    planned = listed_rules(moved, "--target", "start")
    assert planned["train"] == planned["evaluate"] == 1


def descendants(process: int) -> list[int]:
    """A process and all below it, from what the system says of each one's parent."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = dict(map(int, line.split()) for line in lines.stdout.splitlines())
    found = [process]
    for parent in found:
        found += [child for child, above in parents.items() if above == parent]
    return found


@pytest.mark.long
def test_a_killed_tree_loses_no_more_than_a_checkpoint_period(
    moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    period, train = 5, moved / "runs" / "tabletop" / "arcnn" / "seed0" / "train"
    shutil.rmtree(train.parent)
    profile = yaml.safe_load((moved / "profile.yaml").read_text())
    profile |= {"results_root": str(moved.parent), "data_root": str(moved.parent / "data")}
    profile["options"] += ["SOLVER.MAX_ITER", 30, "SOLVER.CHECKPOINT_PERIOD", period]
    (moved / "profile.yaml").write_text(yaml.safe_dump(profile))
    target = str(train.relative_to(moved) / "model_final.pth")
    command = snakemake([target], moved, moved / "profile.yaml")
    command += ["--cores", "1", "--config", "cores=1", "train_threads=1", "side_by_side=1"]
    command += ["--rerun-triggers", "mtime", "--rerun-incomplete"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tree:
        while tree.poll() is None and not [*train.glob("model_[0-9]*.pth")]:
            time.sleep(0.05)
        for process in descendants(tree.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert not (train / "model_final.pth").exists()
    (kept,) = train.glob("model_[0-9]*.pth")  # there is one each period
    subprocess.run(command, capture_output=True, check=True)
    first, second = json.loads((train / "sessions.json").read_text())
    assert first["first"] == 0
    assert f"model_{second['first'] - 1:07d}" == kept.stem


def test_a_deleted_run_is_redone_with_what_hangs_on_it(moved: Path) -> None:
    shutil.rmtree(moved / "runs" / "tabletop" / "orcnn")
    listed = listed_rules(moved)
    assert {"train": 1, "evaluate": 1, "table1": 1, "figure4_tabletop": 1}.items() <= listed.items()
    assert not {"prepare_data", "figure5_tabletop", "introduction"} & listed.keys()
