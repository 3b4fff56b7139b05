"""One report on an annotation file and its images: what is in it, what is wrong, what was done.

Every mask is decoded once, in several processes, so that 15,000 street scenes take minutes.
"""

import math
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcnn.data.image_files import Problem, missing_images
from arcnn.data.index import AnnotationError, index_files
from arcnn.data.reading import MAX_SKIPPED, ImageFolder, check_share, read_images
from arcnn.files import printable
from arcnn.progress import tqdm
from arcnn.reporting.paper import COUNTS, MISPRINT


@dataclass
class Report:
    """What :func:`check` found. ``str(report)`` is the text for people."""

    file: str
    max_skipped: float = MAX_SKIPPED
    schema: str = "not readable"
    images: int = 0
    used: int = 0  # objects read into records
    instances: Counter[str] = field(default_factory=Counter)  # of these, no crowd, by class
    not_occluded: int = 0
    occlusion_rates: list[int] = field(default_factory=lambda: [0] * 10)  # (0, 0.1] ... (0.9, 1]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_objects(self, annotations: list[dict], class_names: list[str]) -> None:
        """Count what the record of an image has."""
        self.used += len(annotations)
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
    def counts(self) -> dict[str, dict[str, int]]:
        """Numbers of problems: by what was done about them, and by kind."""
        counts: dict[str, dict[str, int]] = {}
        numbers = Counter((problem.action, problem.kind) for problem in self.problems)
        for (action, kind), number in sorted(numbers.items()):
            counts.setdefault(action, {})[kind] = number
        return counts

    @property
    def skipped_objects(self) -> int:
        """Number of objects that were left out."""
        return sum(problem.lost for problem in self.problems)

    @property
    def objects(self) -> int:
        """Number of objects in the file."""
        return self.used + self.skipped_objects

    @property
    def errors(self) -> int:
        """Number of problems that could not be repaired."""
        return sum(problem.action != "repaired" for problem in self.problems)

    @property
    def usable(self) -> bool:
        """Whether training may start: the file is complete, and not too much of it was left out."""
        few = self.skipped_objects <= self.max_skipped * self.objects
        return few and not any(problem.action == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        derived = ("counts", "skipped_objects", "objects", "errors", "usable")
        content = vars(self) | {name: getattr(self, name) for name in derived}
        return content | {"problems": [p._asdict() for p in self.problems]}

    def __str__(self) -> str:
        classes = self.instances.most_common()
        empty = sum(not number for _, number in classes)
        bins = [f"({k / 10}, {k / 10 + 0.1:.1f}] {n:,}" for k, n in enumerate(self.occlusion_rates)]
        lost = self.skipped_objects
        share = f"{lost / max(self.objects, 1):.2%}"
        about = f"{lost:,} objects ({share}) left out, {self.max_skipped:.2%} allowed"
        verdict = "usable" if self.usable else "not usable as it is"
        if self.usable and self.errors:
            verdict += "; the exit status is 1 because something was left out"
        lines = [
            f"{self.images:,} images; {self.objects:,} objects, {self.used:,} of them used",
            *self.notes,
            f"classes: {len(classes)}, {empty} of them without an instance",
            _wrapped([f"{printable(name)} {number:,}" for name, number in classes if number]),
            "occlusion rates:",
            _wrapped([f"not occluded {self.not_occluded:,}", *bins]),
        ]
        for action, kinds in self.counts.items():
            lines.append(f"{action}:")
            lines += [f"  {number:>7,} {kind}" for kind, number in kinds.items()]
        if self.schema == Report.schema:  # nothing was read
            lines, about = [], self.file
        lines += [f"  {p.action}: {p}" for p in self.problems if p.action != "repaired"]
        if self.problems:
            repairs = "; `--json FILE` lists each repair with its record"
            cures = 'cures: data/reference/formats.md, "Is my file good?"'
            lines.append(cures + repairs * ("repaired" in self.counts))
        lines = [f"{self.file}: {self.schema}", *lines, f"{about}: {verdict}."]
        return "\n".join(line for line in lines if line)


def _wrapped(items: list[str]) -> str:
    return textwrap.fill(", ".join(items), 98, initial_indent="  ", subsequent_indent="  ")


def compare_counts(dataset: str, split: str, images: int, objects: int) -> list[str]:
    """Sentences about a split's counts against the published ones; empty where none are known.

    A copy that was filtered by somebody has other counts, which is no error.
    """
    here, sentences = {"images": images, "objects": objects}, []
    for what, published in COUNTS.get((dataset, split), {}).items():
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
    decode: bool = False,
) -> Report:
    """Check an annotation file and its images; never stops at the first problem.

    Args:
        json_file: the annotation file; for raw COCOA also a folder with one file per image.
        image_root: the folder of the images; None leaves the images out.
        dataset, split: compare with the published counts of these, where known.
        max_skipped: share of the objects that may be left out, in [0, 1].
        decode: decode every pixel of every image, which is slower.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ``max_skipped`` is no share.
    """
    check_share(max_skipped)
    json_file = Path(json_file)
    report, sentence = Report(str(json_file), max_skipped), ""
    if image_root is None:
        report.notes.append("Images were not looked at (no folder given).")
    elif sentence := missing_images(image_root):
        report.problems.append(Problem("no images", "error", None, None, sentence))
    look = image_root is not None and not sentence
    beside = json_file if json_file.is_dir() else json_file.parent
    folder = ImageFolder(str(image_root or beside), look, decode)
    with tqdm(desc=f"checking {json_file.name}", unit="image", mininterval=1, delay=1) as bar:
        for index in index_files(json_file):
            if isinstance(index, AnnotationError):
                report.problems.append(index.problem)
                continue
            report.schema = index.schema.title
            report.images += len(index.images)
            report.instances.update(dict.fromkeys(index.class_names, 0))
            report.problems += index.problems
            bar.total = report.images
            for record, problems in read_images(index, folder):
                report.problems += problems
                report.add_objects(record["annotations"] if record else [], index.class_names)
                bar.update()
    if crowd := report.used - report.instances.total():
        report.notes.append(f"{crowd:,} objects are marked as crowd.")
    report.notes += compare_counts(dataset, split, report.images, report.objects)
    return report
