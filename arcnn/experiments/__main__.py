"""``python -m arcnn.experiments``: the steps of the ablation, which Snakemake calls.

``features`` freezes a trained trunk; ``head`` trains one mask head on its features.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from arcnn.experiments.runs import make_features, run_variant
from arcnn.experiments.variants import VARIANTS
from arcnn.files import data_folder


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    features = commands.add_parser("features", help="RoI features of a trained model's trunk")
    features.add_argument("--results", type=Path, required=True, help="results/<profile>")
    features.add_argument("--data-root", default="")
    features.add_argument("--trunk", required=True, help="the model whose run, seed 0, is taken")
    head = commands.add_parser("head", help="train one mask head on these features")
    head.add_argument("--variant", required=True, choices=VARIANTS)
    head.add_argument("--seed", type=int, required=True)
    for command in (features, head):
        command.add_argument("--dataset", required=True)
        command.add_argument("--folder", type=Path, required=True, help="of the ablation")
        command.add_argument("--options", type=json.loads, default=[], help="a JSON list")
    given = parser.parse_args(arguments)
    shared = {"dataset": given.dataset, "options": given.options}
    try:
        if given.command == "features":
            make_features(
                given.folder,
                results=given.results.resolve(),
                data_root=data_folder(given.data_root),
                trunk=given.trunk,
                **shared,
            )
        else:
            scores = run_variant(given.folder, variant=given.variant, seed=given.seed, **shared)
            text = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
            print(f"{given.variant} seed {given.seed}: IoU {text}", file=sys.stderr)
    except (FileNotFoundError, ValueError, OSError) as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
