"""Score anyone's predictions:

python -m arcnn.evaluation --ground-truth GT.json --predictions P.json --output metrics.json

GT is in any format that the kit reads; P is a COCO result list with the class ids of GT and three
masks per entry, ``segmentation`` (amodal), ``visible_mask`` and ``occlusion_mask``, as RLE.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arcnn.data import MAX_SKIPPED, AnnotationError, load_annotations
from arcnn.evaluation import (
    ALL_TASKS,
    DEFAULT_TASKS,
    METRICS,
    Evaluation,
    PredictionError,
    bootstrap,
    read_results,
)
from arcnn.files import write_json
from arcnn.names import TABLE_1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status, 0 or, with a sentence on stderr, 1."""
    parser = argparse.ArgumentParser(
        prog="python -m arcnn.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="GT.json")
    parser.add_argument("--predictions", type=Path, required=True, metavar="P.json")
    parser.add_argument("--output", type=Path, required=True, metavar="metrics.json")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="of GT, for a file that does not say how large its images are (raw COCOA)",
    )
    parser.add_argument(
        "--max-skipped",
        type=float,
        default=MAX_SKIPPED,
        metavar="SHARE",
        help="of GT's objects that may be left out, in [0, 1]",
    )
    parser.add_argument("--boundary", action="store_true", help="boundary AP too; takes longer")
    parser.add_argument(
        "--bootstrap",
        type=_count,
        default=0,
        metavar="N",
        help="95 %% intervals of Table 1's numbers, from N draws of the images",
    )
    options = parser.parse_args(arguments)
    try:
        metrics = _score(options)
        write_json(options.output, metrics)
    except (AnnotationError, PredictionError, OSError, ValueError) as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    for task, numbers in metrics.items():
        shown = "  ".join(f"{m} {_text(numbers[m])}" for m in METRICS)
        print(f"{task:16s} {shown}" + (f"  ({numbers['note']})" if "note" in numbers else ""))
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("a number of draws is 0 or more")
    return number


def _score(options: argparse.Namespace) -> dict:
    if not options.ground_truth.exists():
        raise FileNotFoundError(f"there is no ground truth {options.ground_truth}")
    images = options.images or options.ground_truth.parent
    truth = load_annotations(options.ground_truth, images, max_skipped=options.max_skipped)
    predictions = read_results(options.predictions, truth.category_ids, truth.records)
    evaluation = Evaluation(
        truth.records,
        predictions,
        len(truth.class_names),
        class_names=truth.class_names,
        tasks=ALL_TASKS if options.boundary else DEFAULT_TASKS,
    )
    metrics = evaluation.metrics()
    if options.bootstrap:
        for name, interval in bootstrap(evaluation, samples=options.bootstrap).items():
            task, metric = TABLE_1[name]
            bounds = interval and [interval.low, interval.high]
            metrics[task].setdefault("interval_95", {})[metric] = bounds
    return metrics


def _text(value: float | None) -> str:
    return "    –" if value is None else f"{value:5.2f}"


if __name__ == "__main__":
    sys.exit(main())
