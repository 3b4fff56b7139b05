"""Bad profiles: each is refused before Snakemake, in one sentence that says what is wrong."""

import os
from pathlib import Path

import pytest

from arcnn.workshop.run import reproduce

GOOD = {"datasets": "[tabletop]", "models": "[arcnn]", "seeds": "[0]"}
HUGE = 10**20

# By entry: what it is, as YAML, and what the sentence says of it.
ENTRIES = {
    "datasets": {
        **dict.fromkeys(("5", "null", "tabletop", "true", "{tabletop: 1}"), "is not of type"),
        **dict.fromkeys(("[5]", "[null]", "[[tabletop]]"), "datasets.0"),
        "[]": "datasets is empty",
        "[../x]": 'unknown "../x"',
        "[tabletop, tabletop]": "non-unique",
        "[own]": "own",  # whose files are not there
    },
    "models": {
        **dict.fromkeys(("5", "arcnn", "{arcnn: 1}", "!!set {arcnn}"), "is not of type"),
        **dict.fromkeys(("[true]", "[null]", "[!!binary aGVsbG8=]"), "models.0"),
        "[arcnn, arcnn]": "non-unique",
        "[panet]": 'unknown "panet"',
        "[arcnn_published]": 'unknown "arcnn_published"',
    },
    "seeds": {
        **dict.fromkeys(("3", "a", "null", "{0: 1}"), "is not of type"),
        **dict.fromkeys(("[a]", "[1.5]", "[1.0]", "[true]", "[.nan]", '["0"]'), "seeds.0"),
        **dict.fromkeys(("[2020-01-01]", "[-1]", f"[{HUGE}]"), "seeds.0"),
        "[0, 0]": "non-unique",
        f"[{'9' * 5000}]": "is not YAML",
        str([*range(2_000)]): "is too long",
        str([*range(20_000)]): "more than 100000",
    },
    "options": {
        **dict.fromkeys(("text", "5", "null", "{a: 1}"), "is not of type"),
        **dict.fromkeys(
            ("[SOLVER.MAX_ITER]", "[5, 5]", "[null, 5]", "[[[SOLVER.MAX_ITER, 5]]]"), "KEY"
        ),
        "[[SOLVER.MAX_ITER, 5], SOLVER.MAX_ITER]": "KEY, VALUE",
        **dict.fromkeys(("[SOLVER.BASE_LR, .nan]", "[SOLVER.STEPS, [.inf]]"), "options.1"),
        **dict.fromkeys(("[X, {a: 1}]", "[X, 2020-01-01]"), "options.1"),
        "[SOLVER.MAX_ITR, 5]": "SOLVER.MAX_ITR",
        "[SOLVER.MAX_ITER.X, 5]": "not iterable",
        "[SOLVER, 5]": "Type mismatch",
        "[SOLVER.MAX_ITER, a]": "Type mismatch",
        "[SOLVER.MAX_ITER, -3]": "it is 1 to",
        "[SOLVER.IMS_PER_BATCH, null]": "it is 1 to",
        '[SOLVER.BASE_LR, "1e999"]': "SOLVER.BASE_LR is inf",
        "[INPUT.MIN_SIZE_TRAIN, [96, 0]]": "it is 1 to",
        "[MODEL.PIXEL_MEAN, [1e300, 0, 0]]": "it is 0 to",
        "[MODEL.RPN.BBOX_REG_WEIGHTS, [1, 1, 0, 1]]": "it is 0.001 to",
        "[DATALOADER.NUM_WORKERS, -1]": "it is 0 to",
        "[SEED, 3]": "SEED is none",
        "[OUTPUT_DIR, /x]": "OUTPUT_DIR is none",
        "[DATASETS.TRAIN, [foo]]": "DATASETS.TRAIN is none",
        "[MODEL.ROI_MASK_HEAD.NUM_CONV, 100000]": "it is 0 to",
        "[INPUT.FORMAT, XYZ]": "BGR or RGB",
        "[MODEL.ARCNN.INPUT, x]": "MODEL.ARCNN.INPUT",
        "[MODEL.BACKBONE.NAME, X]": "can be built",
        "[SOLVER.OPTIMIZER, Adam]": "can be built",
        "[SOLVER.LR_SCHEDULER_NAME, X]": "can be built",
        "&a [*a]": "alias",
    },
    "max_skipped": dict.fromkeys(("a", ".nan", "-1", "2", "true", "null"), "max_skipped"),
    "num_gpus": dict.fromkeys(("0", "1.5", "true", "null", ".nan", "99"), "num_gpus"),
    "tabletop": {
        **dict.fromkeys(("5", "[1]", "null"), "is not of type"),
        "{foo: 1}": 'unknown parameter "foo" of tabletop',
        **dict.fromkeys(("{val_images: -5}", "{val_images: 1e9}", "{val_images: .nan}"), "val_"),
        f"{{train_images: {HUGE}}}": "train_images",
        "{data_seed: -1}": "data_seed",
    },
    "figure5_class": {
        **dict.fromkeys(("cat", "[cat]", "null"), "is not of type"),
        "{tabletop: 5}": "figure5_class.tabletop",
        "{5: cat}": 'unknown parameter "5"',
        "{tabletop: unicorn}": 'no "unicorn"; choose among',
    },
    "ablation": {
        **dict.fromkeys(("5", "null"), "is not of type"),
        **dict.fromkeys(("{max_seeds: a}", "{max_seeds: 0}", "{max_seeds: .nan}"), "max_seeds"),
        **dict.fromkeys(("{trunk: resnet}", "{trunk: null}"), "trunk"),
        **dict.fromkeys(("{variants: 5}", "{variants: [half]}"), "variant"),
        "{variants: [orcnn, orcnn]}": "non-unique",
        "{networks: [add-logits-long]}": "alone",
        "{options: text}": "ablation.options",
        "{options: [SOLVER.MAX_ITER]}": "KEY, VALUE",
        "{options: [SEED, 3]}": "SEED is none",
        "{options: [SOLVER.MAX_ITER, 0]}": "it is 1 to",
    },
    "compare_with": {
        **dict.fromkeys(("5", "[arcnn]", r'"\ud800"', r'"\e[2J"'), "compare_with"),
        "orcnn": "not trained",
    },
    "data_root": {**dict.fromkeys(("5", "null", '"a\\0b"'), "data_root")},
    "results_root": {**dict.fromkeys(("5", "null", '"a\\0b"'), "results_root")},
    "base": {
        "zz": "builds on it",
        "dmeo": 'no profile "dmeo"',
        "../demo": "no profile",
        '""': "base",
        r'"\ud800"': "base",
    },
    "model": {"[arcnn]": 'unknown parameter "model"'},
    "5": {"5": 'unknown parameter "5"'},
    "null": {"5": 'unknown parameter "None"'},
    "[1, 2]": {"5": "is not YAML"},
    "<<": {"5": "is not YAML"},
}
# Whole files.
FILES = {
    "empty": b"",
    "a list": b"- a",
    "text": b"hello",
    "cut off": b"datasets: [",
    "in Latin-1": "datasets: [\xe9]".encode("latin1"),
    "with a NUL": b"datasets: [tabletop\0]",
    "a constructor": b"datasets: !!python/object/apply:os.system [false]",
    "two documents": b"datasets: [tabletop]\n---\ndatasets: [kins]\n",
    "brackets": b"[" * 2000,
    "a bomb": b"a: &a [x, x]\nb: &b [*a, *a]\n",
}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """``refused(content)``: what `make reproduce` says of a profile ``zz`` with this content."""
    monkeypatch.setattr("arcnn.workshop.run.profiles.PROFILES", tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)

    def say(content: bytes) -> str:
        (tmp_path / "zz.yaml").write_bytes(content)
        places = ["--results-root", str(tmp_path / "results")]
        if b"data_root" not in content:
            places += ["--data-root", str(tmp_path / "data")]
        assert reproduce.main(["--profile", "zz", *places[b"results_root" in content and 2 :]]) == 2
        return capsys.readouterr().err.strip()

    return say


def is_a_sentence(said: str) -> bool:
    return said.startswith("make reproduce PROFILE=zz: ") and "\n" not in said


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [(key, *each) for key, values in ENTRIES.items() for each in values.items()],
)
def test_a_bad_entry_is_named(refused, key: str, value: str, named: str) -> None:
    entries = GOOD | {key: value}
    said = refused("".join(f"{k}: {v}\n" for k, v in entries.items()).encode())
    assert is_a_sentence(said) and named in said, said


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_is_no_profile_is_named(refused, content: bytes) -> None:
    said = refused(content)
    assert is_a_sentence(said) and "notebooks/profiles/zz.yaml" in said


def test_a_pipe_is_no_profile(refused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    said = refused(b"base: pipe\n")
    assert is_a_sentence(said) and "pipe.yaml is no plain file" in said
