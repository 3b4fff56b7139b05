"""The published start: what it is, what a training takes from it, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from safetensors import safe_open
from safetensors.torch import load_file

from arcnn import initial_weights as starts
from arcnn import training
from arcnn.config import get_config
from arcnn.data import register_dataset
from arcnn.data.tabletop import draw_scene
from arcnn.files import PROFILES, read_yaml, sha256
from arcnn.initial_weights import initial_weights, load_initial_weights
from arcnn.logbook import read_log, read_sessions
from arcnn.names import MODELS, SPLITS
from arcnn.training import train
from arcnn.weights import Checkpointer
from arcnn.workshop.run.start import write_weights

START = Path(initial_weights(get_config("tabletop", "arcnn")))


def start(cfg, model: torch.nn.Module | None = None) -> str:
    model = model or build_model(cfg)
    return load_initial_weights(cfg, Checkpointer(model, cfg.OUTPUT_DIR))


def config(model: str = "arcnn", *options):
    return get_config("tabletop", model, options=options, device="cpu")


def test_scenes_of_the_start_are_no_others() -> None:
    """The seed of the drawing decides; no other profile draws with that of the start."""
    seeds = {
        file.stem: read_yaml(file.read_text()).get("tabletop", {}).get("data_seed", 0)
        for file in PROFILES.glob("*.yaml")
    }
    own = seeds.pop("start")
    assert own not in seeds.values()
    assert (
        json.loads(START.with_suffix(".json").read_text())["profile"]["tabletop"]["data_seed"]
        == own
    )
    scenes = [
        draw_scene(seed, split, index, 64).amodal_masks.tobytes()
        for seed in (0, own)
        for split in SPLITS
        for index in range(10)
    ]
    assert len(set(scenes)) == len(scenes)


def test_it_is_small_and_in_half_precision() -> None:
    assert START.stat().st_size < 10_000_000
    with safe_open(START, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("arcnn", "new: the joint; not taken: the amodal mask head."),
        ("arcnn_add", "new: nothing; not taken: the amodal mask head."),
        ("orcnn", "new: nothing; not taken: the occlusion mask head."),
        ("pieces", "new: nothing."),
    ],
)
def test_each_model_takes_the_heads_that_it_has(model, sentence, tabletop_root) -> None:
    register_dataset("tabletop", tabletop_root)
    cfg = config(model, "MODEL.WEIGHTS", starts.KIT + "data/start/tabletop.safetensors")
    network = build_model(cfg)
    assert start(cfg, network).endswith(sentence)
    with safe_open(START, "pt") as file:
        loaded = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    for key, value in network.state_dict().items():
        if key in loaded:
            assert torch.equal(value, loaded[key]), key
    assert set(MODELS) > {"arcnn", "arcnn_add"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256), "does not fit"),
        (("MODEL.FPN.OUT_CHANNELS", 32), "does not fit this network: it has no"),
        (("MODEL.ROI_MASK_HEAD.CONV_DIM", 32), "occlusion_head.deconv.bias"),
    ],
)
def test_another_network_is_refused(options, sentence, tabletop_root) -> None:
    register_dataset("tabletop", tabletop_root)
    with pytest.raises(ValueError, match=sentence):
        start(config("arcnn", *options))


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tabletop_root: Path) -> Path:
    """A start of one's own to break, in the place of the kit's."""
    register_dataset("tabletop", tabletop_root)
    monkeypatch.setattr(starts, "ROOT", tmp_path)
    file = tmp_path / "data/start" / START.name
    file.parent.mkdir(parents=True)
    shutil.copy(START, file)
    shutil.copy(START.with_suffix(".json"), file.parent)
    return file


@pytest.mark.parametrize("change", ["truncated", "altered"])
def test_a_damaged_file_is_refused(change, copy) -> None:
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content[:-100] if change == "truncated" else content)
    with pytest.raises(ValueError, match="is cut off or altered: get data/start .* `make start`"):
        start(config())


@pytest.mark.parametrize("lost", ["", ".json"])
def test_a_missing_file_is_named(lost, copy) -> None:
    (copy.with_suffix(lost) if lost else copy).unlink()
    with pytest.raises(FileNotFoundError, match=r"tabletop\.\w+ is not there: get data/start"):
        start(config())


@pytest.mark.parametrize("what", ["drawing", "classes"])
def test_a_start_for_other_data_is_refused(what, copy, monkeypatch) -> None:
    if what == "drawing":
        monkeypatch.setattr(starts, "DRAWING_VERSION", 2)
    else:
        metadata = starts.MetadataCatalog.get("tabletop_train")
        monkeypatch.setitem(metadata.__dict__, "thing_classes", ["cat", "dog"])
    with pytest.raises(ValueError, match=f"was trained on {what} .*make start"):
        start(config())


def test_a_run_from_another_start_is_another_run(tiny_config, monkeypatch) -> None:
    cfg = tiny_config()
    train(cfg)
    monkeypatch.setattr(training, "start_record", lambda cfg: {"sha256": "another"})
    with pytest.raises(ValueError, match="the kit's start is another file now"):
        train(cfg)


# ---- torchvision's ResNets, for real photos


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_of_torchvision_computes_the_same(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(starts, "get_cache_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    published = torchvision.models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(published), "get_state_dict", lambda *_, **__: theirs.state_dict())
    wide = 64 if name == "resnet18" else 256
    options = ["MODEL.WEIGHTS", f"torchvision://{name}", "MODEL.RESNETS.DEPTH", int(name[6:])]
    options += ["MODEL.RESNETS.RES2_OUT_CHANNELS", wide, "MODEL.RESNETS.STRIDE_IN_1X1", False]
    cfg = get_config("own", "arcnn", options=options, device="cpu")
    network = build_model(cfg).eval()
    new = (
        "the FPN, the RPN, the box head, the visible mask head, the occlusion mask head, the joint"
    )
    assert start(cfg, network) == f"Started from torchvision://{name}; new: {new}."
    image = torch.rand(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    for k in (1, 2, 3, 4):
        x = getattr(theirs, f"layer{k}")(x)
    ours = network.backbone.bottom_up(image)["res5"]
    assert torch.allclose(ours, x, atol=1e-4)


def test_without_a_network_it_says_so_and_starts_from_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(starts, "get_cache_dir", lambda: str(tmp_path))

    def unreachable(*_, **__):
        raise OSError("no network")

    published = torchvision.models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(type(published), "get_state_dict", unreachable)
    cfg = get_config("own", "arcnn", options=["MODEL.WEIGHTS", "torchvision://resnet18"])
    sentence = start(cfg, torch.nn.Identity())
    assert sentence.startswith("Started from random weights") and "no network" in sentence


# ---- bfloat16


def in_bfloat16(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has)


def test_the_machine_is_asked(monkeypatch) -> None:
    cfg = config()
    in_bfloat16(monkeypatch, True)
    assert training.precision(cfg) == torch.bfloat16
    assert training.precision(config("arcnn", "SOLVER.AMP.ENABLED", False)) == torch.float32
    in_bfloat16(monkeypatch, False)
    assert training.precision(cfg) == torch.float32


@pytest.mark.long
def test_both_precisions_learn_alike(tiny_config, monkeypatch) -> None:
    options = ("SOLVER.MAX_ITER", 30, "SOLVER.CHECKPOINT_PERIOD", 100)
    monkeypatch.setattr(training, "LOG_PERIOD", 1)
    logs, bytes_of = {}, {}
    for name, has in (("half", True), ("full", False)):
        in_bfloat16(monkeypatch, has)
        cfg = tiny_config("arcnn", *options, run=name)
        bytes_of[name] = train(cfg).weights.read_bytes()
        logs[name] = read_log(cfg.OUTPUT_DIR).total_loss
        assert read_sessions(cfg.OUTPUT_DIR)[0]["precision"] == ("bfloat16" if has else "float32")
    assert bytes_of["half"] != bytes_of["full"]
    half, full = logs["half"], logs["full"]
    assert half.iloc[0] == pytest.approx(full.iloc[0], rel=0.02)
    learned = [log.iloc[:3].mean() - log.iloc[-3:].mean() for log in (half, full)]
    assert min(learned) > 0.1 and learned[0] == pytest.approx(learned[1], rel=0.3)


def test_a_machine_that_computes_nonsense_in_bfloat16(tiny_config, monkeypatch) -> None:
    in_bfloat16(monkeypatch, True)
    forward = training._InBFloat16.forward

    def nonsense(self, batch):
        return {name: loss * torch.nan for name, loss in forward(self, batch).items()}

    monkeypatch.setattr(training._InBFloat16, "forward", nonsense)
    cfg = tiny_config()
    with pytest.raises(FloatingPointError, match=r"computed in bfloat16: .*SOLVER.AMP.ENABLED"):
        train(cfg)
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


def test_the_published_file_follows_from_its_weights(tmp_path: Path) -> None:
    """Written again, it has the same bytes, in whatever order the library puts its metadata."""
    with safe_open(START, "pt") as stored:
        metadata = {key: stored.metadata()[key] for key in ("drawing", "classes")}
    for k in range(8):  # whose order would be another half of the time
        write_weights(load_file(START), tmp_path / f"{k}", metadata)
        assert sha256(tmp_path / f"{k}") == sha256(START)
