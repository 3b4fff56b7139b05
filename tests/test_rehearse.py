"""`make rehearse`: what it measures is what a training takes, and every problem is said."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from detectron2.engine import HookBase

from arcnn.config import get_config
from arcnn.data import register_dataset, split_records
from arcnn.files import run_folder, write_json
from arcnn.training import train
from arcnn.workshop import beforehand, estimate, rehearse, reproduce
from arcnn.workshop.estimate import cost, machine, planned, step_seconds, total, what_is_left
from arcnn.workshop.profiles import load_profile
from arcnn.workshop.rehearsal import (
    Measured,
    hardest_batch,
    rehearse_evaluation,
    rehearse_training,
)

OPTIONS = [*TINY, "SOLVER.IMS_PER_BATCH", 4]


def profile_of(root: Path, **changes: Any) -> dict[str, Any]:
    profile = load_profile("smoke") | {"options": OPTIONS, "models": ["arcnn"]}
    return profile | {"data_root": str(root), "results_root": str(root / "results")} | changes


@pytest.fixture(scope="module")
def rehearsal(tabletop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Measured in this process; as `make rehearse` would keep it."""
    found = {}
    order = {"dataset": "tabletop", "model": "arcnn", "options": OPTIONS, "max_skipped": 0.01}
    order |= {"data_root": str(tabletop_root), "seconds": 20, "images": 100}
    for name, work in (("training", rehearse_training), ("evaluation", rehearse_evaluation)):
        place = tmp_path_factory.mktemp(name)
        found[name] = Measured(place / "measured.json")
        work(order, found[name], place)
        assert json.loads((place / "measured.json").read_text()) == found[name]
    (run,) = planned(profile_of(tabletop_root))
    own = found["training"] | {"settings_sha256": estimate.settings_of(run.cfg)}
    of = {
        "format": 1,
        "machine": machine(2),
        "started": "2030-01-01T10:00",
        "side_by_side": 2,
        "threads": 1,
    }
    of |= {"seconds": 3, "problems": [], "evaluations": {"tabletop": found["evaluation"]}}
    return of | {"runs": {"tabletop/arcnn": own}}


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
    (session,) = json.loads((tmp_path / "sessions.json").read_text())
    assert session["seconds"] / 8 < expected.training.value < 8 * session["seconds"] + 8
    # Of six steps two warm up.
    assert len(rehearsal["runs"]["tabletop/arcnn"]["training"]["steps"]) == 4
    assert "4 steps, 4 images" not in expected.sources  # one image of the four warms up too
    assert "4 steps, 3 images" in expected.sources
    # Extrapolated to a hundred images: three stand-ins for each of their objects.
    records = split_records(cfg, "val")
    objects = 100 * sum(len(r["annotations"]) for r in records) / len(records)
    assert rehearsal["evaluations"]["tabletop"]["objects"] == pytest.approx(objects)
    assert 200 < expected.predictions.value / (3 * objects) < 3000  # bytes of a detection
    assert expected.predictions.low == pytest.approx(expected.predictions.value / 2)
    assert expected.evaluation.low < expected.evaluation.value < expected.evaluation.high


def test_the_hardest_batch_has_as_many_objects_as_are_trained(tabletop_root: Path) -> None:
    register_dataset("tabletop", tabletop_root)
    cfg = get_config("tabletop", "arcnn", options=[*OPTIONS, "SOLVER.IMS_PER_BATCH", 2])
    records = split_records(cfg, "train")
    batch = hardest_batch(cfg, records)
    assert [len(example["instances"]) for example in batch] == [12, 12]  # half of 24 RoIs
    most = sorted(records, key=lambda record: -len(record["annotations"]))[0]
    assert len(batch[0]["instances"].gt_masks.objects) == len(most["annotations"])


def test_a_sum_by_hand(rehearsal: dict, tabletop_root: Path) -> None:
    own = dict(rehearsal["runs"]["tabletop/arcnn"])
    own["training"] = own["training"] | {"steps": [1.0, 3.0], "hardest_seconds": 2.5}
    own["training"] |= {"save_seconds": 5.0, "cpu_bytes": 10, "batch_bytes": 7}
    own["training"]["workers_bytes"] = 3
    own |= {"register_seconds": 1.0, "start_seconds": 2.0}
    own["inference"] = {"images": [0.5], "seconds_per_detection": 0.1, "cpu_bytes": 4}
    of = {"images": 10, "objects": 20, "seconds_per_detection": 0.2, "seconds_fixed": 3.0}
    of |= {"bytes_per_detection": 9.0, "memory_per_detection": 2.0}
    own["inference"]["gpu_bytes"] = own["training"]["gpu_bytes"] = None
    made = rehearsal | {"runs": {"tabletop/arcnn": own}, "evaluations": {"tabletop": of}}
    (run,) = planned(profile_of(tabletop_root))
    costs = cost(run, made)
    # Six steps of 2 s, three checkpoints of 5 s, data and start.
    assert costs.training.value == pytest.approx(6 * 2 + 3 * 5 + 1 + 2)
    assert costs.training.low == pytest.approx(6 * 1 + 18)  # no less than the fastest step
    assert costs.training.high > 6 * 12  # t of two measurements is wide
    # 60, 30 and 1,000 detections of 0.3 s, ten images of 0.5 s, data and what is fixed.
    assert costs.evaluation.value == pytest.approx(60 * 0.3 + 5 + 1 + 3)
    assert costs.predictions == estimate.Range(540, 270, 9000)
    assert (costs.cpu.value, costs.cpu.high) == (4 + 120, 4 + 2000)
    assert total([costs, costs], 2) == costs.seconds
    assert step_seconds({"steps": [1.0, 1.0, 1.0], "hardest_seconds": 1.5}).high == 1.5


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


def test_what_is_left_follows_from_what_is_finished(rehearsal: dict, tmp_path: Path) -> None:
    profile = profile_of(tmp_path, seeds=[0, 1, 2, 3])
    for seed, seconds in ((0, 100.0), (1, 300.0)):
        run = run_folder(tmp_path, "tabletop", "arcnn", seed)
        killed = {"first": 0, "last": None, "seconds": None}
        ended = {"first": 3, "last": 6, "seconds": seconds}
        write_json(run / "train" / "sessions.json", [killed, ended])
        (run / "train" / "model_final.pth").touch()
    for seed in (0,):
        write_json(run_folder(tmp_path, "tabletop", "arcnn", seed) / "record.json", {"seconds": 60})
        write_json(run_folder(tmp_path, "tabletop", "arcnn", seed) / "metrics.json", {})
    log = run_folder(tmp_path, "tabletop", "arcnn", 2) / "train" / "metrics.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"iteration": 2}\n')
    # Six steps at 200 s for three: half of a training, a whole one, and three evaluations.
    said = what_is_left(profile, tmp_path, 2, 1)
    assert said.startswith("2 of 4 trainings are done. Trainings and evaluations to come: ")
    assert estimate.duration(200 + 400 + 3 * 60) in said and "what the finished ones took" in said
    assert estimate.duration((200 + 400 + 3 * 60) / 2) in what_is_left(profile, tmp_path, 2, 2)
    assert "without" not in said
    # Of another model the rehearsal knows, times how wrong it was of the one that is finished.
    own = rehearsal["runs"]["tabletop/arcnn"]
    both = profile | {"models": ["arcnn", "orcnn"], "seeds": [0]}
    other = own | {"settings_sha256": estimate.settings_of(list(planned(both))[1].cfg)}
    runs = {"tabletop/arcnn": own, "tabletop/orcnn": other}
    write_json(tmp_path / estimate.FILE, rehearsal | {"runs": runs})
    said = what_is_left(both, tmp_path, 2, 1)
    assert estimate.duration(200 + 60) in said and "finished runs and the rehearsal" in said
    alone = what_is_left(profile | {"datasets": ["kins"], "seeds": [0]}, tmp_path, 2, 1)
    assert "without evaluation on kins, training on kins, of which none is finished" in alone


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
    assert rehearse.main(["--cores", "2", "--seconds", "10", *places]) == 1
    said = capsys.readouterr().out
    assert "kins: no update_train_2020.json" in said and "own: no train.json" in said
    assert "tabletop/arcnn  " in said and "4 steps, 3 images" in said
    left = sorted(file.name for file in (tmp_path / "smoke").iterdir())
    assert left == [".lock", "rehearsal.json"]
    kept = json.loads((tmp_path / "smoke" / "rehearsal.json").read_text())
    assert len(kept["problems"]) == 2 and "training" in kept["runs"]["tabletop/arcnn"]


def program(folder: Path, text: str) -> str:
    """A program in the place of Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("does", "key", "said"),
    [
        ("kill -9 $$", "out_of_memory", "the system ended the process, most often for want"),
        ("sleep 60", "problem", "stopped after 1 s, in the start"),
        ("echo no such thing; exit 3", "problem", "failed in the start: no such thing"),
    ],
)
def test_a_process_that_ends_early_is_named(
    does: str, key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profile_of(tmp_path, options=[*TINY, "SOLVER.IMS_PER_BATCH", 1])
    (run,) = planned(profile)
    monkeypatch.setattr(sys, "executable", program(tmp_path, does))
    work = rehearse.Rehearsal(profile | {"data_root": ""}, tmp_path, 1, 1, 1)
    monkeypatch.setattr(work, "data_root", lambda _: tmp_path)
    assert said in work.training(run)[key]


def test_where_memory_is_short_a_smaller_batch_is_tried_and_told(
    rehearsal: dict, tabletop_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profile_of(tabletop_root, options=[*OPTIONS, "SOLVER.STEPS", (4,)])
    (run,) = planned(profile)
    tried = []

    def process(work: str, run: estimate.Planned, more: list = ()) -> dict:
        tried.append(list(more))
        if len(tried) < 3:
            short = "CUDA out of memory. Tried to allocate 2 GiB."
            return {"out_of_memory": short, "part": "training on the hardest batch"}
        return {"part": "done", "training": rehearsal["runs"]["tabletop/arcnn"]["training"]}

    work = rehearse.Rehearsal(profile, tmp_path, 1, 1, 1)
    monkeypatch.setattr(work, "_process", process)
    found = work.training(run)
    assert tried == [[], ["SOLVER.IMS_PER_BATCH", 2], ["SOLVER.IMS_PER_BATCH", 1]]
    checked = rehearse.Checked(sound=[run])
    said = rehearse.report(
        profile, tmp_path, rehearsal | {"runs": {run.name: found}, "problems": []}, checked
    )
    assert "is out of memory in training on the hardest batch: CUDA out of memory" in said
    assert "A batch of 1 in place of 4, which was tried and took " in said
    for option in ('"SOLVER.BASE_LR", 0.00025', '"SOLVER.MAX_ITER", 24', '"SOLVER.STEPS", [16]'):
        assert option in said
    assert '"ours, other settings"' in said
    get_config("tabletop", "arcnn", options=rehearse.of_batch(run.cfg, 1))  # they can be given
