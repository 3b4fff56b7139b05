"""One report on an annotation file and its images: what is in it, what is wrong, what was done.

Every mask is decoded once, in several processes, so that 15,000 street scenes take minutes.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arcnn.data.image_files import Problem, missing_images
from arcnn.data.reading import MAX_SKIPPED, AnnotationError, ImageFolder, index_files, read_images
from arcnn.reporting.paper import COUNTS, MISPRINT

LISTED = 1000  # problems of one kind that a report lists; all are counted


@dataclass
class Report:
    """What :func:`check` found. ``str(report)`` is the text for people."""

    file: str
    images_folder: str | None
    max_skipped: float = MAX_SKIPPED
    schema: str = "not readable"
    images: int = 0
    objects: int = 0  # in the file
    used: int = 0  # of these, read into records
    instances: dict[str, int] = field(default_factory=dict)  # used and not crowd, by class
    not_occluded: int = 0
    occlusion_rates: list[int] = field(default_factory=lambda: [0] * 10)  # (0, 0.1] ... (0.9, 1]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # action -> kind -> number
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped_objects: int = 0

    def add(self, problems: Sequence[Problem]) -> None:
        """Count problems and list them, unless there are very many of a kind."""
        for problem in problems:
            kinds = self.counts.setdefault(problem.action, {})
            kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
            if kinds[problem.kind] <= LISTED:
                self.problems.append(problem)
            self.skipped_objects += problem.lost
            self.objects += problem.lost

    def add_objects(self, annotations: Sequence[dict], class_names: list[str]) -> None:
        """Count what the record of an image has."""
        self.used += len(annotations)
        self.objects += len(annotations)
        for annotation in annotations:
            if annotation["iscrowd"]:
                continue
            self.instances[class_names[annotation["category_id"]]] += 1
            rate = annotation["occlusion_rate"]
            if rate <= 0:
                self.not_occluded += 1
            else:
                self.occlusion_rates[max(math.ceil(rate * 10 - 1e-9), 1) - 1] += 1

    @property
    def errors(self) -> int:
        """Number of problems that could not be repaired."""
        return sum(sum(self.counts.get(action, {}).values()) for action in ("error", "skipped"))

    @property
    def usable(self) -> bool:
        """Whether training may start: the file is complete, and not too much of it was left out."""
        few = self.skipped_objects <= self.max_skipped * self.objects
        return few and not self.counts.get("error")

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        content = vars(self) | {"errors": self.errors, "usable": self.usable}
        return content | {"problems": [p._asdict() for p in self.problems]}

    def __str__(self) -> str:
        classes = sorted(self.instances.items(), key=lambda item: -item[1])
        empty = sum(not number for _, number in classes)
        bins = [(k / 10, (k + 1) / 10, n) for k, n in enumerate(self.occlusion_rates) if n]
        lines = [
            f"{self.file}: {self.schema}",
            "Images were not looked at (no folder given)." if self.images_folder is None else "",
            f"{self.images:,} images; {self.objects:,} objects, {self.used:,} of them used",
            *self.notes,
            f"classes: {len(classes)}, {empty} of them without an instance",
            _wrapped([f"{name} {number:,}" for name, number in classes if number]),
            "occlusion rates:",
            _wrapped(
                [f"not occluded {self.not_occluded:,}", *(f"({a}, {b}] {n:,}" for a, b, n in bins)]
            ),
        ]
        for action, kinds in sorted(self.counts.items()):
            lines.append(f"{action}:")
            for kind, number in sorted(kinds.items()):
                more = f" (the first {LISTED:,} are listed)" if number > LISTED else ""
                lines.append(f"  {number:>7,} {kind}{more}")
        lines += [f"  {p.action}: {p}" for p in self.problems if p.action != "repaired"]
        share = self.skipped_objects / max(self.objects, 1)
        verdict = "usable" if self.usable else "not usable as it is"
        lines.append(
            f"{self.skipped_objects:,} objects ({share:.2%}) left out, {self.max_skipped:.2%} "
            f"allowed: {verdict}."
        )
        return "\n".join(line for line in lines if line)


def _wrapped(items: list[str]) -> str:
    text = ", ".join(item.replace(" ", "\0") for item in items)  # no line ends within an item
    lines = textwrap.fill(text, 98, initial_indent="  ", subsequent_indent="  ")
    return lines.replace("\0", " ")


def compare_counts(dataset: str, split: str, images: int, instances: int) -> list[str]:
    """Sentences about a split's counts against the published ones; empty where none are known.

    A copy that was filtered by somebody has other counts, which is no error.
    """
    here, sentences = {"images": images, "instances": instances}, []
    for what, published in COUNTS.get((dataset, split), {}).items():
        what = what.replace("objects", "instances")
        verdict = "as published" if here[what] == published else f"published are {published:,}"
        sentences.append(f"{dataset} {split}: {here[what]:,} {what}, {verdict}.")
    return sentences + [MISPRINT] * ((dataset, split) == ("cocoa_cls", "train"))


def check(
    json_file: str | Path,
    image_root: str | Path | None = None,
    *,
    dataset: str = "",
    split: str = "",
    max_skipped: float = MAX_SKIPPED,
    workers: int | None = None,
    decode: bool = False,
    allow_links: bool = False,
    progress: bool = True,
) -> Report:
    """Check an annotation file and its images; never stops at the first problem.

    Args:
        json_file: the annotation file; for raw COCOA also a folder with one file per image.
        image_root: the folder of the images; None leaves the images out.
        dataset, split: compare with the published counts of these, where known.
        max_skipped: share of the objects that may be left out, in [0, 1].
        workers: processes; by default one per core for large files.
        decode: decode every pixel of every image, which is slower.
        allow_links: accept links that lead out of the image folder.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such file.
    """
    json_file = Path(json_file)
    root = None if image_root is None else str(image_root)
    report = Report(str(json_file), root, max_skipped)
    sentence = "" if root is None else missing_images(root)
    if sentence:
        report.add([Problem("no images", "error", None, None, sentence)])
    beside = json_file if json_file.is_dir() else json_file.parent
    look = root is not None and not sentence
    folder = ImageFolder(root or str(beside), look, {"decode": decode, "allow_links": allow_links})
    bar = tqdm(desc=f"checking {json_file.name}", unit="image", mininterval=1, disable=not progress)
    with bar:
        for index in index_files(json_file):
            if isinstance(index, AnnotationError):
                report.add([index.problem])
                continue
            report.schema = index.schema.title
            report.images += len(index.images)
            report.instances = dict.fromkeys(index.class_names, 0) | report.instances
            report.add(index.problems)
            bar.total = report.images
            for record, problems in read_images(index, folder, workers):
                report.add(problems)
                report.add_objects(record["annotations"] if record else [], index.class_names)
                bar.update()
    crowd = report.used - sum(report.instances.values())
    if crowd:
        report.notes.append(f"{crowd:,} objects are marked as crowd.")
    report.notes += compare_counts(dataset, split, report.images, report.objects)
    return report
