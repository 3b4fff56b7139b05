"""``python -m arcnn.data``: check annotation files, make amodal data, convert, fetch."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arcnn.data.rates import COCOA_CLS, RateDistribution
from arcnn.data.reading import MAX_SKIPPED
from arcnn.files import data_folder, write_text
from arcnn.workshop.check import check
from arcnn.workshop.convert import coco_to_cocoa, labelme_to_cocoa
from arcnn.workshop.fetch import fetch
from arcnn.workshop.pasting import Recipe, make_amodal


def _check(arguments: argparse.Namespace) -> int:
    names = ("dataset", "split", "max_skipped", "workers", "decode", "allow_links")
    options = {name: getattr(arguments, name) for name in names}
    report = check(arguments.file, arguments.images, **options)
    print(str(report).encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode())
    if arguments.json:
        write_text(arguments.json, json.dumps(report.to_json(), indent=1, default=repr) + "\n")
    return 1 if report.errors else 0


def _synthesize(arguments: argparse.Namespace) -> int:
    rates = RateDistribution.of_file(arguments.rates) if arguments.rates else COCOA_CLS
    recipe = Recipe(
        image_size=arguments.image_size,
        objects=tuple(arguments.objects),
        occluders=arguments.occluders,
        scale=tuple(arguments.scale),
        sizes=tuple(arguments.sizes),
        rates=rates,
        seed=arguments.seed,
    )
    made = make_amodal(
        arguments.file,
        arguments.images,
        arguments.out,
        train_images=arguments.train,
        val_images=arguments.val,
        recipe=recipe,
        workers=arguments.workers,
        allow_links=arguments.allow_links,
    )
    print(json.dumps(made, indent=1))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.visible:
        if len(arguments.files) > 1:
            raise ValueError("--visible converts one COCO file at a time")
        made = coco_to_cocoa(arguments.files[0], arguments.out, visible=arguments.visible)
    else:
        made = labelme_to_cocoa(arguments.files, arguments.out, arguments.classes)
    print(", ".join(f"{number:,} {what}" for what, number in made.items()))
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    print("\n".join(fetch(arguments.dataset, data_folder(arguments.data_root), yes=arguments.yes)))
    return 0


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="report on an annotation file; exit status 1 if anything in it cannot be used",
        description="Decode every mask, look at every image, and report. Exit status: 0 if all of "
        "it can be used (some perhaps repaired), 1 if anything is wrong or left out.",
    )
    share = "share of the objects that may be left out (default: %(default)s)"
    links = "accept links that lead out of the folder"
    option = command.add_argument
    option("file", type=Path, help="annotation file, or folder of raw COCOA files")
    option("--images", type=Path, help="folder of the images; without: not checked")
    option("--dataset", default="", help="compare with the counts of this data set")
    option("--split", default="", help="train or val, for --dataset")
    option("--max-skipped", type=float, default=MAX_SKIPPED, help=share)
    option("--workers", type=int, help="processes (default: one per core)")
    option("--decode", action="store_true", help="decode every pixel of the images")
    option("--allow-links", action="store_true", help=links)
    option("--json", type=Path, help="write the report here as well")
    command.set_defaults(run=_check)


def _add_synthesize(commands: Any) -> None:
    command = commands.add_parser(
        "synthesize",
        help="make amodal data from a COCO-format modal data set",
        description="Cut full objects out of photos and paste them over other photos.",
    )
    command.add_argument("file", type=Path, help="COCO instances file")
    command.add_argument("--images", type=Path, required=True, help="folder of its images")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument("--train", type=int, default=1000, help="images for training")
    command.add_argument("--val", type=int, default=100, help="images for validation")
    command.add_argument("--image-size", type=int, default=320, help="longest side, pixels")
    for name, kind, low, high, words in (
        ("objects", int, 3, 6, "objects pasted into an image"),
        ("scale", float, 0.7, 1.4, "size, relative to that in an object's own photo"),
        ("sizes", float, 0.1, 0.5, "square root of an object's area, by that of the image's"),
    ):
        command.add_argument(
            f"--{name}",
            type=kind,
            nargs=2,
            default=(low, high),
            metavar=("LOW", "HIGH"),
            help=words,
        )
    command.add_argument("--occluders", type=int, default=2, help="most that cover one object")
    command.add_argument(
        "--rates", type=Path, help="amodal annotation file to match (default: COCOA-cls, a sample)"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--workers", type=int, help="processes (default: one per core)")
    command.add_argument(
        "--allow-links", action="store_true", help="use photos behind links out of their folder"
    )
    command.set_defaults(run=_synthesize)


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="labelme files, or a COCO file with a visible mask, to the kit's format",
        description="With --visible FIELD one COCO file, else labelme files; "
        "see data/reference/formats.md.",
    )
    command.add_argument("files", type=Path, nargs="+")
    command.add_argument("--out", type=Path, required=True, help="annotation file to write")
    command.add_argument("--visible", default="", help="COCO: the field with the visible mask")
    command.add_argument("--classes", nargs="*", default=[], help="labelme: classes, in order")
    command.set_defaults(run=_convert)


def _add_fetch(commands: Any) -> None:
    command = commands.add_parser(
        "fetch",
        help="download what of a data set has a direct address; says where the rest is",
        description="Without --yes nothing is downloaded.",
    )
    command.add_argument("dataset")
    command.add_argument("--data-root", default="", help="folder of data sets")
    command.add_argument("--yes", action="store_true", help="really download")
    command.set_defaults(run=_fetch)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m arcnn.data", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_check, _add_synthesize, _add_convert, _add_fetch):
        add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    chosen = parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
