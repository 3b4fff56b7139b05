"""``python -m arcnn.data``: check annotation files, make amodal data, convert, fetch."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.data.reading import MAX_SKIPPED
from arcnn.files import data_folder, printable, write_text
from arcnn.workshop.own_data.check import check
from arcnn.workshop.own_data.convert import coco_to_cocoa, labelme_to_cocoa
from arcnn.workshop.own_data.fetch import fetch
from arcnn.workshop.own_data.pasting import make_amodal


def _check(options: argparse.Namespace) -> int:
    names = ("dataset", "split", "max_skipped", "decode")
    report = check(options.file, options.images, **{name: getattr(options, name) for name in names})
    print(str(report).encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode())
    if options.json:
        write_text(options.json, json.dumps(report.to_json(), indent=1, default=repr) + "\n")
    return 1 if report.errors else 0


def _synthesize(options: argparse.Namespace) -> int:
    made = make_amodal(
        *(options.file, options.images, options.out),
        train_images=options.train,
        val_images=options.val,
        occluders=options.occluders,
        rates=RateDistribution.of_file(options.rates) if options.rates else COCOA_CLS,
    )
    print(json.dumps(made, indent=1))
    return 0


def _convert(options: argparse.Namespace) -> int:
    if options.visible:
        if len(options.files) > 1:
            raise ValueError("--visible converts one COCO file at a time")
        made = coco_to_cocoa(options.files[0], options.out, visible=options.visible)
    else:
        made = labelme_to_cocoa(options.files, options.out, options.classes)
    print(", ".join(f"{number:,} {what}" for what, number in made.items()))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    print("\n".join(fetch(options.dataset, data_folder(options.data_root), yes=options.yes)))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m arcnn.data", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    what = "report on an annotation file; exit status 1 if anything in it cannot be used"
    command = commands.add_parser("check", help=what, description=what)
    command.set_defaults(run=_check)
    add = command.add_argument
    add("file", type=Path, help="annotation file, or folder of raw COCOA files")
    add("--images", type=Path, help="folder of the images; without: not checked")
    add("--dataset", default="", help="compare with the counts of this data set")
    add("--split", default="", help="train or val, for --dataset")
    share = "share of the objects that may be left out (default: %(default)s)"
    add("--max-skipped", type=float, default=MAX_SKIPPED, help=share)
    add("--decode", action="store_true", help="decode every pixel of the images")
    add("--json", type=Path, help="write the report here as well")

    what = "make amodal data from a COCO-format modal data set: paste full objects over photos"
    command = commands.add_parser("synthesize", help=what, description=what)
    command.set_defaults(run=_synthesize)
    add = command.add_argument
    add("file", type=Path, help="COCO instances file")
    add("--images", type=Path, required=True, help="folder of its images")
    add("--out", type=Path, required=True, help="folder to write")
    add("--train", type=int, default=1000, help="images for training")
    add("--val", type=int, default=100, help="images for validation")
    add("--occluders", type=int, default=2, help="most that cover one object")
    target = "amodal annotation file to match (default: COCOA-cls, a sample)"
    add("--rates", type=Path, help=target)

    what = "labelme files, or a COCO file with a visible mask, to the kit's format"
    command = commands.add_parser("convert", help=what, description=what)
    command.set_defaults(run=_convert)
    add = command.add_argument
    add("files", type=Path, nargs="+", help="labelme files; with --visible one COCO file")
    add("--out", type=Path, required=True, help="annotation file to write")
    add("--visible", default="", help="COCO: the field with the visible mask")
    add("--classes", nargs="*", default=[], help="labelme: classes, in order")

    what = "say where the parts of a data set are; with --yes, download what can be"
    command = commands.add_parser("fetch", help=what, description=what)
    command.set_defaults(run=_fetch)
    add = command.add_argument
    add("dataset")
    add("--data-root", default="", help="folder of data sets")
    add("--yes", action="store_true", help="really download")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (OSError, ValueError) as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
