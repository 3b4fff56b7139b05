"""``python -m arcnn.experiments``: the steps of experiments, which Snakemake calls.

For the ablation, ``features`` freezes a trained trunk and ``head`` trains one mask head on its
features, into ``ablation/``. For the field, ``given-boxes`` draws a trained model's masks in the
true boxes, into its run's folder, and ``cost`` measures what the models cost, into ``cost.csv``.
All take their settings from the ``profile.yaml`` of a results folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from arcnn.data import AnnotationError, register_dataset
from arcnn.errors import InputError
from arcnn.experiments.cost import FILE, costs
from arcnn.experiments.given_boxes import write_given_boxes
from arcnn.experiments.runs import make_features, run_variant
from arcnn.experiments.variants import VARIANTS
from arcnn.files import (
    data_folder,
    in_a_line,
    json_validator,
    object_of,
    run_folder,
    write_table,
)
from arcnn.names import DATASETS
from arcnn.parameters import read_parameters
from arcnn.weights import load_trained

# What is taken of a profile.
_TEXT, _LIST = {"type": "string"}, {"type": "array"}
_ABLATION = object_of(trunk=_TEXT, options=_LIST) | {"required": ["trunk", "options"]}
_SOME = _LIST | {"minItems": 1}
_PROFILE = object_of(
    data_root=_TEXT,
    max_skipped={"type": "number"},
    seeds=_SOME | {"items": {"type": "integer"}},
    models=_SOME | {"items": _TEXT},
    options=_LIST,
    compare_with=_TEXT,
    ablation=_ABLATION,
)
_PROFILE |= {"required": [*_PROFILE["properties"]]}


def features(given: argparse.Namespace, profile: dict) -> None:
    results, trunk = given.profile_file.resolve().parent, profile["ablation"]["trunk"]
    where = {"data_root": data_folder(profile["data_root"]), "trunk": trunk}
    folder, skipped = results / "ablation" / given.dataset, profile["max_skipped"]
    make_features(folder, results, given.dataset, max_skipped=skipped, **where)


def head(given: argparse.Namespace, profile: dict) -> None:
    folder = given.profile_file.resolve().parent / "ablation" / given.dataset
    options = [*profile["options"], *profile["ablation"]["options"]]
    scores = run_variant(folder, given.dataset, given.variant, given.seed, options)
    text = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
    print(f"{given.variant} seed {given.seed}: IoU {text}", file=sys.stderr)


def given_boxes(given: argparse.Namespace, profile: dict) -> None:
    register_dataset(
        given.dataset, data_folder(profile["data_root"]), max_skipped=profile["max_skipped"]
    )
    results = given.profile_file.resolve().parent
    write_given_boxes(run_folder(results, given.dataset, given.model, given.seed))


def cost(given: argparse.Namespace, profile: dict) -> None:
    register_dataset(
        given.dataset, data_folder(profile["data_root"]), max_skipped=profile["max_skipped"]
    )
    results, seed = given.profile_file.resolve().parent, profile["seeds"][0]
    runs = {m: run_folder(results, given.dataset, m, seed) for m in profile["models"]}
    torch.set_num_threads(1)  # several wait for one another wherever a core has other work
    table = costs({m: load_trained(run) for m, run in runs.items()}, profile["compare_with"])
    write_table(results / FILE, table.round(4).rename_axis("model").reset_index())


COMMANDS = {"features": features, "head": head, "given-boxes": given_boxes, "cost": cost}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("features", "RoI features of a trained model's trunk"),
        ("head", "train one mask head on these features"),
        ("given-boxes", "masks of a trained model in the true boxes"),
        ("cost", "parameters, operations and seconds of the trained models"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("--profile-file", type=Path, required=True)
        command.add_argument("--dataset", required=True, choices=DATASETS)
        if name == "head":
            command.add_argument("--variant", required=True, choices=VARIANTS)
        if name == "given-boxes":
            command.add_argument("--model", required=True)
        if name in ("head", "given-boxes"):
            command.add_argument("--seed", type=int, required=True)
    given = parser.parse_args(arguments)
    try:
        profile = read_parameters(given.profile_file)
        if fault := next(json_validator()(_PROFILE).iter_errors(profile), None):
            cure = "take the profile.yaml that `make reproduce` writes into a results folder."
            why = in_a_line(fault)
            raise InputError(f"{given.profile_file} is no whole profile ({why}): {cure}")
        COMMANDS[given.command](given, profile)
    except (AnnotationError, ValueError, OSError) as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
