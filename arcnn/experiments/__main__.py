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
from arcnn.experiments.cost import FILE, costs
from arcnn.experiments.given_boxes import write_given_boxes
from arcnn.experiments.runs import make_features, run_variant
from arcnn.experiments.variants import VARIANTS
from arcnn.files import data_folder, run_folder, write_table
from arcnn.parameters import read_parameters
from arcnn.weights import load_trained


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
        command.add_argument("--dataset", required=True)
        if name == "head":
            command.add_argument("--variant", required=True, choices=VARIANTS)
        if name == "given-boxes":
            command.add_argument("--model", required=True)
        if name in ("head", "given-boxes"):
            command.add_argument("--seed", type=int, required=True)
    given = parser.parse_args(arguments)
    try:
        COMMANDS[given.command](given, read_parameters(given.profile_file))
    except (AnnotationError, ValueError, OSError) as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
