"""The ablation on frozen features, and the tests of Figure 5's reading."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from detectron2.modeling import build_model

import arcnn
from arcnn import experiments
from arcnn.experiments import (
    DEFAULT,
    VARIANTS,
    agreement,
    collect,
    head_differences,
    meetings,
    p_value,
    permuted_correlations,
)
from arcnn.experiments.__main__ import main
from arcnn.experiments.frozen import build_head, extract, predict, score, summary, train_head
from arcnn.experiments.order import constant_context, take_apart
from arcnn.experiments.runs import head_config
from arcnn.files import run_folder
from arcnn.modeling import MaskTargets
from arcnn.settings import write_settings
from arcnn.visualization import ablation, agreements, permutations
from arcnn.workshop.run.profiles import load_profile

HEADS = ["SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 4]


def test_the_variants_are_the_readings_that_the_text_leaves_open():
    grid = [v for v in VARIANTS if v.startswith(("full", "own")) and v.count("-") == 3]
    assert len(grid) == 16
    keys = {
        tuple(arcnn.get_config("tabletop", v.model, options=v.options).MODEL.ARCNN.values())
        for v in (VARIANTS[name] for name in grid)
    }
    assert len(keys) == 16
    default = arcnn.get_config("tabletop", "arcnn", options=VARIANTS[DEFAULT].options)
    assert default.MODEL == arcnn.get_config("tabletop", "arcnn").MODEL
    assert VARIANTS[DEFAULT].seeds >= 5 and VARIANTS[experiments.NO_BIAS].seeds >= 5
    assert {v.model for v in VARIANTS.values()} == set(arcnn.MODELS)
    for name, variant in VARIANTS.items():
        if name.startswith(("full", "own")):
            cfg = arcnn.get_config("tabletop", "arcnn", options=variant.options)
            assert ("-detach" in name) == cfg.MODEL.ARCNN.DETACH, name
        if name.endswith("-long"):
            assert variant.options == VARIANTS[name.removesuffix("-long")].options


@pytest.fixture
def features(tiny_config):
    cfg = tiny_config("orcnn")
    return extract(cfg, build_model(cfg).eval(), "train")


def test_features_are_those_of_every_object(features, tiny_config):
    records = arcnn.data.split_records(tiny_config(), "train")
    annotations = [a for r in records for a in r["annotations"]]
    assert features.classes.tolist() == [a["category_id"] for a in annotations]
    assert features.images.tolist() == [r["image_id"] for r in records for _ in r["annotations"]]
    rates = [a["occlusion_rate"] for a in annotations]
    assert features.rates.numpy() == pytest.approx(rates, abs=0.06)  # after resizing
    amodal, visible, occlusion = features.targets[:3]
    assert torch.equal(amodal, visible | occlusion) and not (visible & occlusion).any()
    assert features.x.shape == (len(annotations), 16, 14, 14) and amodal.shape[1:] == (28, 28)


def test_training_a_head_lowers_its_losses_and_repeats_itself(features, tiny_config):
    cfg = tiny_config("arcnn", "SOLVER.MAX_ITER", 40, "SOLVER.IMS_PER_BATCH", 8)
    head = train_head(cfg, features)
    untrained = summary(score(predict(build_head(cfg, 16).eval(), features), features))
    trained = summary(score(predict(head, features), features))
    assert trained["visible"] > untrained["visible"] + 10
    again = train_head(cfg, features)
    assert all(
        torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True)
    )


def test_scores_are_ious_of_the_true_classes_masks(features):
    perfect = score(features.targets, features)
    assert (perfect[["amodal", "visible"]] == 100).all(axis=None)
    hidden = features.targets.occlusion.flatten(1).any(1).numpy()
    assert (perfect.occlusion[hidden] == 100).all() and perfect.occlusion[~hidden].isna().all()
    nothing = MaskTargets(*(torch.zeros_like(mask) for mask in features.targets[:3]))
    assert summary(score(nothing, features))["amodal"] == 0
    half = features.targets.amodal.clone()
    half[:, :14] = False
    one = score(features.targets._replace(amodal=half), features).amodal[0]
    true = features.targets.amodal[0]
    assert one == pytest.approx(100 * float(true[14:].sum() / true.sum()), abs=1e-3)


@pytest.mark.parametrize("inputs", ["logits", "probs"])
@pytest.mark.parametrize("bias", [True, False])
def test_own_part_and_context_add_up_to_the_amodal_logit(features, tiny_config, inputs, bias):
    cfg = tiny_config("arcnn", "MODEL.ARCNN.INPUT", inputs, "MODEL.ARCNN.BIAS", bias)
    head = build_head(cfg, 16).eval()
    torch.nn.init.normal_(head.amodal_head.conv.weight)
    own, context = take_apart(head, features)
    with torch.no_grad():
        amodal = head.layers(features.x.float()).amodal
    logits = amodal[torch.arange(len(features.classes)), features.classes]
    assert torch.allclose(own + context, logits, atol=1e-5)
    means = constant_context(context, features.classes, 10)
    k = int(features.classes[0])
    assert means[k] == pytest.approx(float(context[features.classes == k].mean()), abs=1e-5)
    with torch.no_grad():  # without weights on other classes there is no context
        weight = head.amodal_head.conv.weight
        weight.mul_(torch.eye(10).repeat_interleave(2, dim=1)[:, :, None, None])
    assert take_apart(head, features)[1].abs().max() < 1e-4


def known_order(count: int = 8) -> np.ndarray:
    upper = np.triu(np.random.default_rng(0).random((count, count)), 1)
    return upper + np.tril(1 - upper.T, -1)


def test_agreement_tells_order_from_chance():
    truth = known_order()
    rng = np.random.default_rng(1)
    right = agreement([truth, truth], truth, shuffles=200)
    assert right.rho == pytest.approx(1) and right.p == pytest.approx(1 / 201)
    assert right.low < right.high < 1 and right.pairs == 56 and len(right.by_seed) == 2
    assert agreement([-truth], truth, shuffles=50).rho == pytest.approx(-1)
    noise = [agreement([rng.normal(size=(8, 8))], truth, shuffles=100).p for _ in range(30)]
    assert 0.3 < np.mean(noise) < 0.7  # p is uniform where nothing is to be found
    assert agreement([np.eye(8)], truth, shuffles=10).rho == 0  # no context at all
    truth[0, 1:4] = truth[1:4, 0] = 0  # never meet
    assert agreement([truth], truth, shuffles=10).pairs == 50


def test_permutations_that_are_drawn_one_by_one_are_those_of_the_test():
    truth, weights = known_order(), [np.random.default_rng(k).normal(size=(8, 8)) for k in (1, 2)]
    test = agreement(weights, truth, shuffles=60)
    correlations = permuted_correlations(weights, truth, shuffles=60)
    assert correlations.shape == (2, 61) and tuple(correlations[:, 0]) == test.by_seed
    assert p_value(test.rho, correlations[:, 1:].mean(0)) == test.p
    # By hand: of -0.9, 0.1 and 0.5 two are at least 0.5 away from zero, and so is what was found.
    assert p_value(0.5, np.array([-0.9, 0.1, 0.5])) == 3 / 4
    assert p_value(0.99, np.zeros(20)) == 1 / 21  # never 0
    for count, said in ((1, "of 1 permutations"), (60, f"p = {test.p:.4f}")):
        figure = permutations(correlations, count, "order")
        assert said in figure.get_suptitle()
        bars = figure.axes[0].containers[0]
        assert sum(bar.get_height() for bar in bars) == count


def test_agreement_tells_pairs_from_classes():
    height = np.linspace(-3, 3, 8)  # what each class is, whoever the other
    rule = 1 / (1 + np.exp(height[:, None] - height))
    assert agreement([np.tile(height, (8, 1))], rule, shuffles=10).rho > 0.5
    assert agreement([np.tile(height, (8, 1))], rule, pairs_only=True, shuffles=10).rho == 0
    truth = known_order()
    levels = truth + 5 * np.arange(8) - 3 * np.arange(8)[:, None]
    assert agreement([levels], truth, pairs_only=True, shuffles=10).rho == pytest.approx(1)


def test_meetings_counts_images():
    records = [
        {"annotations": [{"category_id": 0}, {"category_id": 2}, {"category_id": 2}]},
        {"annotations": [{"category_id": 0}]},
    ]
    assert meetings(records, 3).tolist() == [[2, 0, 1], [0, 0, 0], [1, 0, 1]]


@pytest.fixture(scope="module")
def ablation_folder(tabletop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with two seeds each, by the commands that Snakemake calls."""
    results = tmp_path_factory.mktemp("results")
    tiny = ["MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
    arcnn.data.register_dataset("tabletop", tabletop_root)
    output = run_folder(results, "tabletop", "orcnn", 0) / "train"
    output.mkdir(parents=True)
    cfg = arcnn.get_config("tabletop", "orcnn", options=tiny, device="cpu")
    torch.save({"model": build_model(cfg).state_dict()}, output / "model_final.pth")
    write_settings(cfg, output / "config.yaml")
    shared = ["--dataset", "tabletop", "--profile-file", str(profile(results, tabletop_root, tiny))]
    assert main(["features", *shared]) == 0
    for variant in (DEFAULT, "add-logits"):
        for seed in ("0", "1"):
            assert main(["head", *shared, "--variant", variant, "--seed", seed]) == 0
    assert main(["head", *shared, "--variant", "add-logits-long", "--seed", "0"]) == 0
    return results / "ablation" / "tabletop"


def profile(results: Path, data_root: Path, options: list) -> Path:
    """What the commands take their settings from."""
    content = load_profile("smoke") | {"data_root": str(data_root), "options": options}
    content["ablation"] = content["ablation"] | {"options": HEADS}
    (results / "profile.yaml").write_text(yaml.safe_dump(content))
    return results / "profile.yaml"


def test_a_longer_training_is_the_same_one_stretched():
    options = ["SOLVER.STEPS", (300, 700), "SOLVER.MAX_ITER", 1000]
    short = head_config("tabletop", "add-logits", options)
    long = head_config("tabletop", "add-logits-long", options)
    assert (short.SOLVER.MAX_ITER, short.SOLVER.STEPS) == (1000, (300, 700))
    assert (long.SOLVER.MAX_ITER, long.SOLVER.STEPS) == (2000, (600, 1400))


def test_runs_are_gathered_and_compared(ablation_folder):
    found = collect(ablation_folder, [DEFAULT, "add-logits", "orcnn"])
    assert set(found.records) == {(v, k) for v in (DEFAULT, "add-logits") for k in (0, 1)}
    assert found.left_out == ["orcnn: no run"]
    joint = found.records[DEFAULT, 0]["joint"]
    assert np.array(joint["VW"]).shape == (10, 10) and len(joint["bias"]) == 10
    assert found.records["add-logits", 0]["joint"] is None
    table = head_differences(found, "visible", samples=50)
    row = table.loc["add-logits"]
    assert row.low <= row.difference <= row.high and np.isnan(table.difference[DEFAULT])
    assert row.seeds == 2
    by_run = {key: record["metrics"]["visible"] for key, record in found.records.items()}
    means = pd.Series(by_run).groupby(level=0).mean()
    assert table.score.to_dict() == pytest.approx(means.to_dict(), abs=1e-3)
    ablation(table, by_run, "visible").canvas.draw()
    agreements({"any": agreement([known_order()], known_order(), shuffles=10)}).canvas.draw()


def test_like_is_compared_with_like(ablation_folder):
    found = collect(ablation_folder, [DEFAULT, "add-logits", "add-logits-long"])
    steps = {variant: r["parameters"]["steps"] for (variant, _), r in found.records.items()}
    assert steps == {DEFAULT: 3, "add-logits": 3, "add-logits-long": 6}
    assert np.isnan(head_differences(found, "visible", samples=10).difference["add-logits-long"])
    twin = {(f"{DEFAULT}-long", 0): found.objects["add-logits-long", 0]}
    both = found._replace(objects=found.objects | twin)
    table = head_differences(both, "visible", samples=10)
    assert table.difference["add-logits-long"] == 0 and table.difference["add-logits"] != 0
    by_run = {key: record["metrics"]["visible"] for key, record in found.records.items()}
    ablation(table, by_run, "visible").canvas.draw()


def test_a_run_against_itself_shows_no_difference(ablation_folder):
    found = collect(ablation_folder, [DEFAULT])
    twin = {("add-logits", k): objects for (_, k), objects in found.objects.items()}
    same = found._replace(objects=found.objects | twin)
    row = head_differences(same, "amodal", samples=20).loc["add-logits"]
    assert row.low == row.difference == row.high == 0


def test_bad_runs_are_left_out_and_named(ablation_folder, tmp_path):
    folder = tmp_path / "ablation"
    shutil.copytree(ablation_folder, folder)
    file = folder / DEFAULT / "seed1" / "record.json"
    record = json.loads(file.read_text())
    origin = record["origin"] | {"trunk_sha256": "0" * 64}
    settings = record["settings"] | {"SOLVER.BASE_LR": 0.5}
    for text, said in (
        (None, "no record.json"),
        ('{"seed":', "not a whole run"),
        (json.dumps(record | {"joint": {"VW": []}}), "an older version's (no 'OW in record.json')"),
        (json.dumps(record | {"metrics": {}}), "older version's (no 'amodal, occluded objects in"),
        (
            json.dumps(record | {"origin": origin}),
            "without the features or settings of most runs (trunk",
        ),
        (json.dumps(record | {"settings": settings}), "SOLVER.BASE_LR: 0.5, most have"),
    ):
        file.unlink(missing_ok=True)
        if text:
            file.write_text(text)
        found = collect(folder, [DEFAULT, "add-logits"])
        assert set(found.records) == {(DEFAULT, 0), ("add-logits", 0), ("add-logits", 1)}
        (sentence,) = found.left_out
        assert sentence.startswith(f"{DEFAULT}/seed1: ") and said in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_root", 5),
        ("data_root", None),
        ("seeds", []),
        ("models", [[]]),
        ("options", "text"),
        ("ablation", None),
        ("ablation", {"trunk": "start"}),
        ("max_skipped", "a"),
    ],
)
def test_a_profile_that_is_none_is_a_sentence(name, value, tmp_path, tabletop_root, capsys):
    file = profile(tmp_path, tabletop_root, [])
    content = yaml.safe_load(file.read_text())
    for damaged in (content | {name: value}, {k: v for k, v in content.items() if k != name}):
        file.write_text(yaml.safe_dump(damaged))
        assert main(["cost", "--dataset", "tabletop", "--profile-file", str(file)]) == 1
        assert f"{file} is no whole profile ({name}" in capsys.readouterr().err.replace("'", "")
    with pytest.raises(SystemExit):
        main(["cost", "--dataset", "nope", "--profile-file", str(file)])
    file.unlink()
    os.mkfifo(file)
    assert main(["cost", "--dataset", "tabletop", "--profile-file", str(file)]) == 1
    assert f"{file} is no plain file" in capsys.readouterr().err


def test_what_is_missing_is_a_sentence(tmp_path, tabletop_root, capsys):
    shared = ["--dataset", "tabletop", "--profile-file", str(profile(tmp_path, tabletop_root, []))]
    assert main(["head", *shared, "--variant", DEFAULT, "--seed", "0"]) == 1
    assert "make ablation" in capsys.readouterr().err
    assert main(["features", *shared]) == 1
    assert "04_train" in capsys.readouterr().err
    assert not list(tmp_path.rglob("features*"))
    with pytest.raises(ValueError, match="no run to compare with"):
        head_differences(collect(tmp_path, [DEFAULT]), "amodal")
    assert isinstance(collect(tmp_path).objects, dict)
    assert pd.DataFrame(collect(tmp_path).records).empty
