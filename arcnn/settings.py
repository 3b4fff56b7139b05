"""What a run was made with, as plain settings: compared, hashed, and named where two differ.

A configuration has some 300 keys. For a training, those do not matter that say where it lies, what
it runs on, or how it is tested; for an evaluation, those that testing uses do.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from detectron2.config import CfgNode

from arcnn.errors import InputError
from arcnn.files import LONGEST_YAML, compact_json, write_text

Settings = dict[str, Any]

# Where a run lies, what it runs on, how its examples are fetched and its weights saved.
WITHOUT_EFFECT = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "SOLVER.CHECKPOINT_PERIOD",
    "DATALOADER.NUM_WORKERS",
)
MOST_ALIASES = 100  # detectron2's own dump has a handful
DEEPEST = 20  # levels; a real one has 5
MAX_ITER, SCHEDULER = "SOLVER.MAX_ITER", "SOLVER.LR_SCHEDULER_NAME"


def settings(cfg: CfgNode) -> Settings:
    """Every key that matters, ``{"SOLVER.MAX_ITER": 900, ...}``, values as YAML has them."""
    return _flat(yaml.safe_load(cfg.dump()))


def read_settings(file: Path) -> Settings:
    """:func:`settings` of a ``config.yaml``.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no configuration.
    """
    if file.exists() and not file.is_file():  # a pipe would never end
        raise InputError(f"{file} is no file")
    try:
        content = read_configuration(file.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not YAML ({shorten(str(error), 200)})") from error
    return _flat(content)


class _Plain(yaml.SafeLoader):
    """Safe YAML, in which a few lines stay a few lines: aliases of aliases would multiply, and
    brackets in brackets take the square of their number."""

    aliases = 0  # so far
    anchored, depth = 0, 0  # anchors and levels around the node that is read now

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.anchored or self.aliases > MOST_ALIASES:
                raise yaml.YAMLError(f"too many aliases: *{event.anchor}")
            return super().compose_node(parent, index)
        if self.depth == DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels")
        anchored = event.anchor is not None
        self.anchored, self.depth = self.anchored + anchored, self.depth + 1
        node = super().compose_node(parent, index)
        self.anchored, self.depth = self.anchored - anchored, self.depth - 1
        return node


def read_configuration(text: str) -> dict[str, Any]:
    """The content of a configuration's YAML as plain data: it can name no code, and no other file.

    Raises:
        yaml.YAMLError, ValueError: it is none.
    """
    if len(text) > LONGEST_YAML:
        raise ValueError(f"{len(text)} characters, more than {LONGEST_YAML}")
    content = yaml.load(text, _Plain)
    if not isinstance(content, dict):
        raise ValueError("there are no settings in it")
    return content


def _flat(tree: Mapping, above: str = "") -> Settings:
    flat: Settings = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        elif name not in WITHOUT_EFFECT:
            flat[name] = value
    return flat


def is_for_testing(key: str) -> bool:
    """Whether a key says how a model is tested, and training does not depend on it."""
    return key.startswith("TEST.") or key.endswith("_TEST") or key == "DATASETS.TEST"


def for_training(all_of_them: Settings) -> Settings:
    """Those that decide what is learned."""
    return {key: value for key, value in all_of_them.items() if not is_for_testing(key)}


def differences(now: Settings, before: Settings) -> list[str]:
    """Each setting that differs, as ``KEY: now A, before B``."""
    return [
        f"{key}: now {now.get(key, 'not there')}, before {before.get(key, 'not there')}"
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    ]


def training_differences(now: Settings, before: Settings) -> list[str]:
    """What keeps a training from going on: :func:`differences` that decide what is learned.

    More iterations are no difference, unless the schedule of the learning rate is stretched to
    their number, as a cosine is.
    """
    now, before = for_training(now), for_training(before)
    stretched = now.get(SCHEDULER) != "WarmupMultiStepLR"
    if not stretched and now[MAX_ITER] > before.get(MAX_ITER, now[MAX_ITER]):
        before = before | {MAX_ITER: now[MAX_ITER]}
    return differences(now, before)


def settings_hash(of: Settings) -> str:
    """SHA-256; equal for equal settings, on any machine."""
    return hashlib.sha256(compact_json(of).encode()).hexdigest()


def write_settings(cfg: CfgNode, file: Path) -> None:
    """Write the ``config.yaml`` of a run: the whole configuration, but where it lies."""
    kept = cfg.clone()
    kept.defrost()
    kept.OUTPUT_DIR, kept.MODEL.DEVICE = "", ""
    write_text(file, kept.dump())
