"""`make rehearse`: what it measures is what a training takes, and every problem is said."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from detectron2.engine import HookBase
from made import data_of_all_kinds, stand_ins_for_weights

from arcnn.config import get_config
from arcnn.data import register_dataset, split_records
from arcnn.files import run_folder, write_json
from arcnn.training import train
from arcnn.workshop.run import beforehand, estimate, rehearse, reproduce
from arcnn.workshop.run.estimate import cost, machine, planned, rehearsed, what_is_left
from arcnn.workshop.run.profiles import load_profile
from arcnn.workshop.run.rehearsal import Measured, hardest_batch
from arcnn.workshop.run.rehearsal import rehearse as rehearse_one

OPTIONS = [*TINY, "SOLVER.IMS_PER_BATCH", 4]


def profile_of(root: Path, **changes: Any) -> dict[str, Any]:
    profile = load_profile("smoke") | {"options": OPTIONS, "models": ["arcnn"]}
    return profile | {"data_root": str(root), "results_root": str(root / "results")} | changes


@pytest.fixture(scope="module")
def rehearsal(tabletop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Measured in this process; as `make rehearse` would keep it."""
    order = {"dataset": "tabletop", "model": "arcnn", "options": OPTIONS, "max_skipped": 0.01}
    order |= {"data_root": str(tabletop_root), "seconds": 600, "images": 100}
    place = tmp_path_factory.mktemp("rehearsal")
    found = Measured(place / "measured.json")
    rehearse_one(order, found, place)
    assert json.loads((place / "measured.json").read_text()) == found
    (run,) = planned(profile_of(tabletop_root))
    runs = {"tabletop/arcnn": found | {"settings_sha256": estimate.settings_of(run.cfg)}}
    of = {"format": estimate.FORMAT, "machine": machine(2), "started": "2030-01-01T10:00"}
    of |= {"side_by_side": 2, "threads": 1, "load": 0.5, "seconds": 3, "problems": [], "runs": runs}
    return of


class Sizes(HookBase):
    """Of the checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, set()

    def before_step(self) -> None:
        self.seen |= {file.stat().st_size for file in self.folder.glob("model_0*.pth")}


def test_what_was_measured_is_what_a_training_then_takes(
    rehearsal: dict, tabletop_root: Path, tmp_path: Path
) -> None:
    (run,) = planned(profile_of(tabletop_root))
    expected = cost(run, rehearsal)
    register_dataset("tabletop", tabletop_root)
    cfg = get_config("tabletop", "arcnn", options=OPTIONS, device="cpu", output_dir=tmp_path)
    looking = Sizes(tmp_path)
    weights = train(cfg, watch=lambda _: looking).weights
    assert expected.weights == pytest.approx(weights.stat().st_size, rel=0.01)
    assert expected.checkpoint == pytest.approx(max(looking.seen), rel=0.01)
    own = rehearsal["runs"]["tabletop/arcnn"]
    assert expected.training[0] - own["start_seconds"] > 0  # this process began with other tests
    # The first two of six steps warm up, as does one of four images.
    assert len(own["steps"]) == 4 and len(own["image_seconds"]) == 3
    # Three stand-ins for each object of a hundred images.
    records = split_records(cfg, "val")
    objects = 100 * sum(len(r["annotations"]) for r in records) / len(records)
    assert 200 < expected.predictions / (3 * objects) < 3000  # bytes of a detection
    assert 0 < own["evaluation_bytes"] < 1e6 < own["cpu_bytes"]
    assert own["batch_bytes"] > 4 * 96 * 96 * 3  # its images alone


def test_the_hardest_batch_has_as_many_objects_as_are_trained(tabletop_root: Path) -> None:
    register_dataset("tabletop", tabletop_root)
    cfg = get_config("tabletop", "arcnn", options=[*OPTIONS, "SOLVER.IMS_PER_BATCH", 2])
    records = split_records(cfg, "train")
    batch = hardest_batch(cfg, records)
    assert [len(example["instances"]) for example in batch] == [12, 12]  # half of 24 RoIs
    most = sorted(records, key=lambda record: -len(record["annotations"]))[0]
    assert len(batch[0]["instances"].gt_masks.objects) == len(most["annotations"])


def test_a_sum_by_hand(rehearsal: dict, tabletop_root: Path) -> None:
    own = rehearsal["runs"]["tabletop/arcnn"] | {"steps": [1.0, 3.0], "hardest_seconds": 2.5}
    own |= {"save_seconds": 5.0, "start_seconds": 3.0, "cpu_bytes": 10, "held_bytes": 4}
    own |= {"images": 10, "image_seconds": [0.4, 0.6], "evaluation_seconds": 0.2}
    own |= {"fixed_seconds": 1.0, "evaluation_bytes": 2.0, "predictions_bytes": 9.0}
    (run,) = planned(profile_of(tabletop_root))
    of = cost(run, rehearsal | {"runs": {"tabletop/arcnn": own}})
    # Six steps of 2 s, three checkpoints of 5 s, and the start.
    assert of.training[0] == pytest.approx(6 * 2 + 3 * 5 + 3)
    assert of.training[1] == pytest.approx(6 * 1 + 18)  # no less than the fastest step
    assert of.training[2] > 6 * 12  # t of two measurements is wide
    # Ten images of 0.7 s, half and twice that, and the start and what is fixed.
    assert of.evaluation == pytest.approx([7 + 4, 3.5 + 4, 14 + 4])
    assert (of.predictions, of.cpu) == (90, 4 + 20)
    assert estimate.total([of, of], 2) == pytest.approx(of.training + of.evaluation)
    assert estimate.step_seconds([1.0, 1.0, 1.0], 1.5)[2] == 1.5
    assert list(estimate.step_seconds([2.0], 1.5)) == [2, 1, 4]  # of one step


def test_an_estimate_is_for_its_settings_and_its_machine(
    rehearsal: dict, tabletop_root: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / estimate.FILE, rehearsal)
    found = estimate.find_rehearsal(tmp_path, 2)
    assert found and not estimate.find_rehearsal(tmp_path, 3)
    profile = profile_of(tabletop_root)
    (said,) = beforehand.costs(profile, tmp_path, {}, found)
    assert said.startswith("Trainings and evaluations to come: 1, which take ")
    assert "as rehearsed here on 2030-01-01" in said
    other = profile | {"options": [*OPTIONS, "SOLVER.MAX_ITER", 7]}
    assert not beforehand.costs(other, tmp_path, {}, found)
    (run,) = planned(profile)
    own = found["runs"]["tabletop/arcnn"] | {"part": "inference"}  # which it did not survive
    assert not rehearsed(run, found | {"runs": {"tabletop/arcnn": own}})


def test_what_is_left_follows_from_what_is_finished(rehearsal: dict, tmp_path: Path) -> None:
    profile = profile_of(tmp_path, seeds=[0, 1, 2, 3])
    for seed, seconds in ((0, 100.0), (1, 300.0)):
        run = run_folder(tmp_path, "tabletop", "arcnn", seed)
        killed = {"first": 0, "last": None, "seconds": None}
        ended = {"first": 3, "last": 6, "seconds": seconds}
        write_json(run / "train" / "sessions.json", [killed, ended])
        (run / "train" / "model_final.pth").touch()
    run = run_folder(tmp_path, "tabletop", "arcnn", 0)
    write_json(run / "record.json", {"seconds": 60})
    write_json(run / "metrics.json", {})
    log = run_folder(tmp_path, "tabletop", "arcnn", 2) / "train" / "metrics.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"iteration": 2}\n{"itera')  # a line that is being written
    # Six steps at 200 s for three: half of a training, a whole one, and three evaluations.
    said = what_is_left(profile, tmp_path, 2, 1)
    assert said.startswith("2 of 4 trainings are done. Trainings and evaluations to come: ")
    assert estimate.duration(200 + 400 + 3 * 60) in said and "rehearsal" not in said
    assert estimate.duration((200 + 400 + 3 * 60) / 2) in what_is_left(profile, tmp_path, 2, 2)
    assert "without" not in said
    # Of another model the rehearsal knows, times how wrong it was of the one that is finished.
    own = rehearsal["runs"]["tabletop/arcnn"]
    both = profile | {"models": ["arcnn", "orcnn"], "seeds": [0]}
    other = own | {"settings_sha256": estimate.settings_of(list(planned(both))[1].cfg)}
    runs = {"tabletop/arcnn": own, "tabletop/orcnn": other}
    write_json(tmp_path / estimate.FILE, rehearsal | {"runs": runs})
    said = what_is_left(both, tmp_path, 2, 1)
    assert estimate.duration(200 + 60) in said and "finished and the rehearsal" in said
    alone = what_is_left(profile | {"datasets": ["kins"], "seeds": [0]}, tmp_path, 2, 1)
    assert "without training on kins, evaluation on kins, of which none is finished" in alone


def test_every_problem_is_listed_and_nothing_else_is_left_behind(
    tabletop_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    profile = load_profile("smoke") | {"models": ["arcnn"], "datasets": ["tabletop", "kins", "own"]}
    profile |= {"data_root": "", "options": OPTIONS, "compare_with": ""}
    monkeypatch.setattr(reproduce, "load_profile", lambda _: profile)
    places = ["--data-root", str(tabletop_root), "--results-root", str(tmp_path)]
    assert rehearse.main(["--cores", "2", *places]) == 1
    said = capsys.readouterr().out
    assert "kins: no update_train_2020.json" in said and "own: no train.json" in said
    assert "tabletop/arcnn  " in said and "all 1 runs" in said
    left = sorted(file.name for file in (tmp_path / "smoke").iterdir())
    assert left == [".lock", "rehearsal.json"]
    kept = json.loads((tmp_path / "smoke" / "rehearsal.json").read_text())
    assert len(kept["problems"]) == 2 and kept["runs"]["tabletop/arcnn"]["part"] == "done"


def test_a_missing_class_of_figure_5_keeps_nothing_from_being_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_of_all_kinds(tmp_path)
    for name, value in stand_ins_for_weights(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    paper = load_profile("paper") | {"data_root": str(root), "models": ["arcnn"]}
    problems, sound = rehearse.check_all(paper | {"figure5_class": {"kins": "unicorn"}}, tmp_path)
    assert [run.name for run in sound] == ["cocoa_cls/arcnn", "kins/arcnn"]
    assert len(problems) == 1 and "figure5_class is 'unicorn'" in problems[0]
    wrong = paper | {"options": ["MODEL.ROI_HEADS.NUM_CLASSES", 80]}
    problems, sound = rehearse.check_all(wrong, tmp_path)
    assert [run.name for run in sound] == ["cocoa_cls/arcnn"]
    assert len(problems) == 1 and problems[0].startswith("kins has ")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("kill -9 $$", "is out of memory in the start: the system ended the process, most often"),
        ("exec sleep 60", "failed in the start: stopped after 1 s"),
        ("echo no such thing; exit 3", "failed in the start: no such thing"),
    ],
)
def test_a_process_that_ends_early_is_named(
    does: str,
    said: str,
    rehearsal: dict,
    tabletop_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = profile_of(tabletop_root)
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(rehearse, "LIMIT", 1)
    found = rehearse.measure(profile, list(planned(profile)), tmp_path, 1)
    told = rehearse.report(profile, tmp_path, rehearsal | {"runs": found, "problems": []})
    assert f"- tabletop/arcnn {said}" in told


def test_where_memory_is_short_it_says_what_to_change(
    rehearsal: dict, tabletop_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profile_of(tabletop_root, options=[*OPTIONS, "SOLVER.STEPS", (4,)])
    found = {"problem": "CUDA out of memory. Tried to allocate 2 GiB.", "out_of_memory": True}
    found |= {"part": "training on the hardest batch"}
    short = rehearsal | {"runs": {"tabletop/arcnn": found}, "problems": []}
    said = rehearse.report(profile, tmp_path, short)
    assert "is out of memory in training on the hardest batch: CUDA out of memory" in said
    (line,) = (line for line in said.splitlines() if "A batch of 2 takes about half" in line)
    options = json.loads(line[line.index("[") : line.rindex("]") + 1])
    cfg = get_config("tabletop", "arcnn", options=[*profile["options"], *options])
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (2, 12, (8,))
    (run,) = planned(profile)
    assert pytest.approx(run.cfg.SOLVER.BASE_LR / 2) == cfg.SOLVER.BASE_LR
    assert '"ours, other settings"' in said and "Nothing is missing" not in said
    # Everything ran, and yet there is less memory than it takes.
    monkeypatch.setattr(rehearse, "memory_there", lambda: 1)
    tight = rehearse.report(profile_of(tabletop_root), tmp_path, rehearsal | {"problems": []})
    assert "1 at a time take" in tight and "there are 0 MB" in tight
