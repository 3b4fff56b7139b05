"""A trained run as one file: weights, settings, the names of its classes, and its records.

A safetensors file, which any program that knows the format can read. The kit's own is in its
metadata, texts by name:

===============  ===================================================================================
``format``       :data:`FORMAT`
``config.yaml``  all settings, as in the run's folder
``classes``      JSON: what the classes are called, in their order
``records``      JSON: ``record.json`` of the ``training`` and of the ``evaluation``, as far as
                 there are such
``sha256``       of all that, and of the weights: a file that was changed or damaged is refused
===============  ===================================================================================

Nothing in it is code, and nothing of it is ever run. A model of one's own needs its class beside
the file, in the folder of one's own models.

``python -m arcnn.export RUN FILE`` writes one; :func:`arcnn.weights.load_trained` opens
it, as it opens a run's folder.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from arcnn.errors import InputError, MissingError
from arcnn.files import compact_json, json_validator, write_atomically
from arcnn.settings import read_configuration

FORMAT = "arcnn run 1"
# As JSON Schema: what a class is called, all of them, and the records.
NAME = {"type": "string", "pattern": r"\A[^\0-\x1f\x7f-\x9f\ud800-\udfff]{1,100}\Z"}
CLASS_NAMES = {"type": "array", "items": NAME, "minItems": 1}
RECORD = {"type": "object"}
RECORDS = {"type": "object", "properties": {"training": RECORD, "evaluation": RECORD}}
RECORDS |= {"additionalProperties": False}


class Papers(NamedTuple):
    """What is known of a run beside its weights."""

    config: str  # YAML
    classes: list[str]  # in the order of their numbers
    records: dict[str, Any]  # "training", "evaluation"


def write_run_file(file: Path, papers: Papers, weights: Mapping[str, Tensor]) -> str:
    """Write a run as one file, in one piece; returns its ``sha256``.

    Raises:
        OSError: it cannot be written.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    config = yaml.dump(read_configuration(papers.config), Dumper=_WithoutAliases)
    texts = {"format": FORMAT, "config.yaml": config}
    texts |= {"classes": compact_json(papers.classes), "records": compact_json(papers.records)}
    texts["sha256"] = _digest(texts, weights)
    write_atomically(file, lambda partial: partial.write_bytes(save(weights, texts)))
    return texts["sha256"]


class _WithoutAliases(yaml.SafeDumper):
    """Writes a list once more where another has the same."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_papers(file: Path) -> Papers:
    """What an exported run says of itself. Quick: the weights are not read, nor checked; nor is
    the configuration, which :func:`arcnn.config.config_of_file` reads.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no exported run, or not whole.
    """
    texts = _texts(file)
    try:
        parsed = [json.loads(texts[name]) for name in ("classes", "records")]
        papers = Papers(texts["config.yaml"], *parsed)
        compact_json(papers.records)  # no NaN, which could not be exported again
    except (KeyError, RecursionError, ValueError) as error:
        raise _altered(file) from error
    for given, schema in zip(parsed, (CLASS_NAMES, RECORDS), strict=True):
        if not json_validator()(schema).is_valid(given):
            raise _altered(file)
    return papers


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights of an exported run, by name, on the CPU.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_papers`; or its content is not what was
            written.
    """
    texts = _texts(file)
    with safe_open(file, "pt") as content:
        weights = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    if texts.pop("sha256", "") != _digest(texts, weights):
        raise _altered(file)
    return weights


def _texts(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise MissingError(f"{file} is not there.")
    try:
        with safe_open(file, "pt") as content:
            texts = content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file} is no exported run, or only a part of it ({error}). `python -m "
            "arcnn.export` writes one of a run's folder; a pickle (.pkl, .pth) is not "
            "opened."
        ) from error
    if texts.get("format") != FORMAT:
        raise InputError(
            f"{file} is no exported run: its format is {texts.get('format')!r}, not {FORMAT!r}. "
            "`python -m arcnn.export` writes one of a run's folder."
        )
    return texts


def _digest(texts: Mapping[str, str], weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(compact_json(dict(texts)).encode())
    for key in sorted(weights):
        value = weights[key]
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _altered(file: Path) -> InputError:
    return InputError(f"{file} was altered or damaged since it was exported; get it again.")
