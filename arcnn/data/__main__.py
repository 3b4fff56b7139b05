"""``python -m arcnn.data``: check annotation files, make amodal data, convert, fetch."""

import argparse
import json
import sys
from pathlib import Path

from arcnn.data.annotations import MAX_SKIPPED
from arcnn.data.check import check


def _check(arguments: argparse.Namespace) -> int:
    report = check(
        arguments.file,
        arguments.images,
        dataset=arguments.dataset,
        split=arguments.split,
        max_skipped=arguments.max_skipped,
        workers=arguments.workers,
        decode=arguments.decode,
        allow_links=arguments.allow_links,
    )
    print(str(report).encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.to_json(), indent=1, default=repr) + "\n")
    return 1 if report.errors else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m arcnn.data", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "check",
        help="report on an annotation file; exit status 1 if anything in it cannot be used",
        description="Decode every mask, look at every image, and report. Exit status: 0 if all of "
        "it can be used (some perhaps repaired), 1 if anything is wrong or left out.",
    )
    command.add_argument("file", type=Path, help="annotation file, or folder of raw COCOA files")
    command.add_argument("--images", type=Path, help="folder of the images; without: not checked")
    command.add_argument("--dataset", default="", help="compare with the counts of this data set")
    command.add_argument("--split", default="", help="train or val, for --dataset")
    command.add_argument(
        "--max-skipped",
        type=float,
        default=MAX_SKIPPED,
        help="share of the objects that may be left out (default: %(default)s)",
    )
    command.add_argument("--workers", type=int, help="processes (default: one per core)")
    command.add_argument("--decode", action="store_true", help="decode every pixel of the images")
    command.add_argument(
        "--allow-links", action="store_true", help="accept links that lead out of the folder"
    )
    command.add_argument("--json", type=Path, help="write the report here as well")
    command.set_defaults(run=_check)
    return top


def main() -> int:
    arguments = parser().parse_args()
    try:
        return arguments.run(arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
