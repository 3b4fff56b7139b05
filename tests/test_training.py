"""Training: reproducible, resumable, and never trusting what is half-written."""

from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer

from arcnn import training
from arcnn.evaluation import TASKS, predict_and_evaluate
from arcnn.training import initial_weights, load_trained, read_log, train

MASK_LOSSES = {"loss_amodal_mask", "loss_visible_mask", "loss_occlusion_mask"}


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=False)["model"]


def test_the_same_seed_gives_the_same_weights(tiny_config, tmp_path: Path) -> None:
    runs = {
        name: weights_of(train(tiny_config("arcnn", "OUTPUT_DIR", str(tmp_path / name), seed=seed)))
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    }
    first, again, other = runs["first"], runs["again"], runs["other"]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_log_names_every_loss_of_equation_2(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(training, "LOG_PERIOD", 1)
    cfg = tiny_config()
    train(cfg)
    log = read_log(cfg.OUTPUT_DIR)
    assert list(log.index) == list(range(6))
    assert MASK_LOSSES | {"loss_cls", "loss_box_reg"} < set(log.columns)
    first = log.iloc[0]  # later lines are smoothed, each loss by itself
    assert first.filter(regex="^loss_").sum() == pytest.approx(first["total_loss"], rel=1e-4)


class Interrupted(RuntimeError):
    pass


def interrupt_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    step = SimpleTrainer.run_step

    def run_step(self: SimpleTrainer) -> None:
        if self.iter == iteration:
            raise Interrupted
        step(self)

    monkeypatch.setattr(SimpleTrainer, "run_step", run_step)


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train(cfg)
    output = Path(cfg.OUTPUT_DIR)
    assert [file.name for file in output.glob("*.pth")] == ["model_0000003.pth"]
    assert not (output / "model_final.pth").exists()
    with pytest.raises(FileNotFoundError, match="04_train"):
        load_trained(cfg)

    steps = []

    class Count(HookBase):
        def after_step(self) -> None:
            steps.append(self.trainer.iter)

    monkeypatch.setattr(training, "ProgressBar", Count)
    train(cfg)
    assert steps == [4, 5]
    assert (output / "model_final.pth").exists()
    train(cfg)  # complete: nothing more to do
    assert steps == [4, 5]
    (output / "model_final.pth").unlink()  # as Snakemake does before it runs a rule again
    (output / "model_0000003.pth").unlink(missing_ok=True)
    train(cfg)  # the last checkpoint holds the same weights
    assert steps == [4, 5] and (output / "model_final.pth").exists()


def test_a_checkpoint_cut_off_in_writing_is_not_resumed_from(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()

    def cut_off(state: dict, file: Path) -> None:
        Path(file).write_bytes(b"half a file")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training.torch, "save", cut_off)
        with pytest.raises(OSError, match="run the same again: what is finished is kept"):
            train(cfg)
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth*"))
    assert train(cfg).is_file()


def test_a_run_with_other_settings_is_not_mixed_up(tiny_config) -> None:
    train(tiny_config())
    with pytest.raises(ValueError, match=r"BASE_LR: 0.5.*Delete"):
        train(tiny_config("arcnn", "SOLVER.BASE_LR", 0.5))


def test_a_run_on_other_data_is_not_gone_on_with(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()
    train(cfg)
    monkeypatch.setattr(training, "sha256", lambda path: "that of other data")
    with pytest.raises(ValueError, match=r"SHA-256 .*Delete"):
        train(cfg)


def test_a_log_cut_off_in_its_last_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 19, "total_loss": 3.0}\n{"iteration": 39, "total_loss": 2.0}\n'
        '{"iteration": 39, "total_loss": 1.0}\n{"iteration": 59, "tot'
    )
    assert read_log(tmp_path)["total_loss"].to_dict() == {19: 3.0, 39: 1.0}


def test_missing_initial_weights_say_which_file_to_put_where(tiny_config, monkeypatch) -> None:
    def no_network(path: str) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(training.PathManager, "get_local_path", no_network)
    name = "ImageNetPretrained/MSRA/R-50.pkl"
    cfg = tiny_config("arcnn", "MODEL.WEIGHTS", f"detectron2://{name}")
    with pytest.raises(FileNotFoundError, match=rf"Download \S+{name}.*put it at \S+{name}"):
        initial_weights(cfg)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        initial_weights(tiny_config("arcnn", "MODEL.WEIGHTS", "nowhere.pth"))


def test_adamw_is_a_choice_and_an_unknown_optimizer_is_refused(tiny_config) -> None:
    cfg = tiny_config("arcnn", "SOLVER.OPTIMIZER", "SGD", "SOLVER.MAX_ITER", 1)
    assert train(cfg).is_file()
    with pytest.raises(ValueError, match="AdamW"):
        train(tiny_config("arcnn", "SOLVER.OPTIMIZER", "Adam", "OUTPUT_DIR", cfg.OUTPUT_DIR + "2"))


@pytest.mark.parametrize("model", ["arcnn", "arcnn_add", "orcnn"])
def test_from_training_to_metrics(model: str, tiny_config) -> None:
    cfg = tiny_config(model, "SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    train(cfg)
    metrics, predictions = predict_and_evaluate(cfg, load_trained(cfg))
    assert set(TASKS) <= set(metrics)
    assert predictions
    assert {"segmentation", "visible_mask", "occlusion_mask"} < set(predictions[0])
