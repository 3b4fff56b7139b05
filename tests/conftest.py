"""What several tests need: a tiny tabletop data set, a tiny configuration, the real records."""

import os
import warnings
from pathlib import Path

os.environ["ARCNN_MODELS"] = os.devnull  # nobody's own models change what is tested

import pytest
from detectron2.config import CfgNode

from arcnn.config import get_config
from arcnn.data import register_dataset
from arcnn.data.tabletop import make_tabletop

# Real records that others published; see the tests that use them. Nothing else depends on it.
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

TINY = [
    *("MODEL.WEIGHTS", ""),  # the published start is of another size
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6, "SOLVER.WARMUP_ITERS", 1),
    *("SOLVER.CHECKPOINT_PERIOD", 2, "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96),
]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


@pytest.fixture(autouse=True)
def _stays_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check lets through becomes Snakemake: pytest would end there, without a failure."""

    def refuse(*call: object) -> None:
        raise AssertionError(f"the tests would become another program: {call}")

    monkeypatch.setattr(os, "execv", refuse)


@pytest.fixture(scope="session")
def tabletop_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tabletop data set of 8 training and 4 validation images."""
    root = tmp_path_factory.mktemp("data")
    make_tabletop(root, train_images=8, val_images=4, image_size=96, workers=1)
    return root


@pytest.fixture
def tiny_config(tabletop_root: Path, tmp_path: Path):
    """``tiny_config(model, *options)``: a small tabletop configuration, data registered. The run's
    folder is ``tmp_path / run``."""
    register_dataset("tabletop", tabletop_root)

    def config(model: str = "arcnn", *options: object, seed: int = 0, run: str = "run") -> CfgNode:
        return get_config(
            "tabletop",
            model,
            options=[*TINY, *options],
            seed=seed,
            device="cpu",
            output_dir=tmp_path / run / "train",
        )

    return config


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real records of {REAL_DATA} are not on this machine")
    return REAL_DATA
