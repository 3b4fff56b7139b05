"""``python -m arcnn.experiments``: the steps of the ablation, which Snakemake calls.

``features`` freezes a trained trunk; ``head`` trains one mask head on its features. Both take their
settings from the ``profile.yaml`` of a results folder and write into ``ablation/`` beside it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arcnn.data import AnnotationError
from arcnn.experiments.runs import make_features, run_variant
from arcnn.experiments.variants import VARIANTS
from arcnn.files import data_folder, read_yaml


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    features = commands.add_parser("features", help="RoI features of a trained model's trunk")
    head = commands.add_parser("head", help="train one mask head on these features")
    head.add_argument("--variant", required=True, choices=VARIANTS)
    head.add_argument("--seed", type=int, required=True)
    for command in (features, head):
        command.add_argument("--profile-file", type=Path, required=True)
        command.add_argument("--dataset", required=True)
    given = parser.parse_args(arguments)
    try:
        profile = read_yaml(given.profile_file.read_text())
        results, ablation = given.profile_file.resolve().parent, profile["ablation"]
        folder = results / "ablation" / given.dataset
        if given.command == "features":
            where = {"data_root": data_folder(profile["data_root"]), "trunk": ablation["trunk"]}
            make_features(
                folder, results, given.dataset, max_skipped=profile["max_skipped"], **where
            )
        else:
            options = [*profile["options"], *ablation["options"]]
            scores = run_variant(folder, given.dataset, given.variant, given.seed, options)
            text = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
            print(f"{given.variant} seed {given.seed}: IoU {text}", file=sys.stderr)
    except (AnnotationError, ValueError, OSError) as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
