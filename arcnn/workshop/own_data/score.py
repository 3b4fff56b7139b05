"""Score anyone's predictions:

python -m arcnn.evaluation --ground-truth GT.json --predictions P.json --output metrics.json

GT is in any format that the kit reads; P is a COCO result list with the class ids of GT and three
masks per entry, ``segmentation`` (amodal), ``visible_mask`` and ``occlusion_mask``, as RLE.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arcnn.data import MAX_SKIPPED, AmodalAnnotations, load_annotations
from arcnn.data.image_files import short
from arcnn.evaluation import METRICS, Evaluation, PredictionError, image_draws, intervals
from arcnn.evaluation.predictions import check_mask, image_size, image_sizes, named
from arcnn.files import not_itself, printable, read_json, write_json
from arcnn.names import MASK_KEYS, TABLE_1

MOST_DRAWS = 100_000  # of the images; 500 tell an interval well


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status, 0 or, with a sentence on stderr, 1."""
    parser = argparse.ArgumentParser(
        prog="python -m arcnn.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--ground-truth", type=Path, required=True, metavar="GT.json")
    add("--predictions", type=Path, required=True, metavar="P.json")
    add("--output", type=Path, required=True, metavar="metrics.json")
    what = "of GT, for a file that does not say how large its images are (raw COCOA)"
    add("--images", type=Path, metavar="DIR", help=what)
    what = "of GT's objects that may be left out, in [0, 1]"
    add("--max-skipped", type=float, default=MAX_SKIPPED, metavar="SHARE", help=what)
    what = "95 %% intervals of Table 1's numbers, from N draws of the images"
    add("--bootstrap", type=int, default=0, metavar="N", help=what)
    options = parser.parse_args(arguments)
    if not 0 <= options.bootstrap <= MOST_DRAWS:
        parser.error(f"--bootstrap: a number of draws is 0 to {MOST_DRAWS:,}")
    try:
        not_itself(options.output, options.ground_truth, options.predictions)
        metrics = _score(options)
        write_json(options.output, metrics)
    except (OSError, ValueError) as error:
        print(f"Nothing was written: {printable(str(error))}", file=sys.stderr)
        return 1
    for task, numbers in metrics.items():
        values = ((metric, numbers[metric]) for metric in METRICS)
        shown = "  ".join(f"{m} {'    –' if v is None else f'{v:5.2f}'}" for m, v in values)
        print(f"{task:16s} {shown}" + (f"  ({numbers['note']})" if "note" in numbers else ""))
    return 0


def _score(options: argparse.Namespace) -> dict:
    if not options.ground_truth.exists():
        raise FileNotFoundError(f"there is no ground truth {options.ground_truth}")
    images = options.images or options.ground_truth.parent
    truth = load_annotations(options.ground_truth, images, max_skipped=options.max_skipped)
    predictions, names = read_results(options.predictions, truth), truth.class_names
    evaluation = Evaluation(truth.records, predictions, len(names), class_names=names)
    metrics = evaluation.metrics()
    if options.bootstrap:
        draws = image_draws(evaluation, samples=options.bootstrap)
        for name, interval in intervals(draws).items():
            task, metric = TABLE_1[name]
            bounds = interval and [interval.low, interval.high]
            metrics[task].setdefault("interval_95", {})[metric] = bounds
    return metrics


def read_results(path: Path, truth: AmodalAnnotations) -> list[dict]:
    """Read a COCO result list that was made for a ground-truth file.

    Returns:
        Predictions with contiguous ``category_id``; uncompressed RLEs are compressed.

    Raises:
        FileNotFoundError, ValueError: no such file, or no JSON.
        PredictionError: not a list, an image or a class that the ground truth doesn't have,
            or a mask whose runs are not those of a mask of its image.
    """
    content = read_json(path, "write it again, as a COCO result list.")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise PredictionError(f"{path} is not a COCO result list, a list of one dict per detection")
    sizes = image_sizes(truth.records)
    contiguous = {number: k for k, number in enumerate(truth.category_ids)}
    for n, entry in enumerate(content):
        category = entry.get("category_id")
        if not isinstance(category, int) or category not in contiguous:
            ids = short(truth.category_ids)
            raise named(f"the ground truth has no class {category!r}; its ids are {ids}", n, entry)
        entry["category_id"] = contiguous[category]
        try:
            size = image_size(entry, sizes)
            for key in MASK_KEYS.values():
                if entry.get(key) is not None:
                    entry[key] = check_mask(entry[key], key, size)
        except PredictionError as error:
            raise named(error, n, entry) from None
    return content
