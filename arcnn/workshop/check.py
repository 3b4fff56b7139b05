"""One report on an annotation file and its images: what is in it, what is wrong, what was done.

Every mask is decoded once, in several processes, so that 15,000 street scenes take minutes.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arcnn.data.image_files import missing_images
from arcnn.data.pool import default_workers
from arcnn.data.reading import (
    MAX_SKIPPED,
    AnnotationError,
    FileIndex,
    ImageFolder,
    ImageResult,
    Problem,
    index_files,
    read_images,
    too_many_lost,
)
from arcnn.workshop.sources import compare_counts

LISTED = 1000  # problems of one kind that a report lists; all are counted
IN_PARALLEL = 200  # images to look at; below that, starting processes takes longer


@dataclass
class Report:
    """What :func:`check` found. ``str(report)`` is the text for people."""

    file: str
    images_folder: str | None
    schema: str = ""
    images: int = 0
    images_with_objects: int = 0
    objects: int = 0  # in the file
    used: int = 0  # of these, read into records
    instances: dict[str, int] = field(default_factory=dict)  # used and not crowd, by class
    not_occluded: int = 0
    occlusion_rates: list[int] = field(default_factory=lambda: [0] * 10)  # (0, 0.1] ... (0.9, 1]
    with_occluders: int = 0  # objects whose occluders the file tells
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # action -> kind -> number
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    max_skipped: float = MAX_SKIPPED
    skipped_objects: int = 0
    seconds: float = 0.0

    def add(self, problem: Problem) -> None:
        """Count a problem and list it, unless there are very many of its kind."""
        kinds = self.counts.setdefault(problem.action, {})
        kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
        redundant = problem.kind == "missing image" and "no images" in self.counts.get("error", {})
        if kinds[problem.kind] <= LISTED and not redundant:
            self.problems.append(problem)
        self.skipped_objects += problem.lost

    def add_index(self, index: FileIndex) -> None:
        """Count what a file lists."""
        self.schema = index.schema.title
        self.images += len(index.images)
        self.objects += sum(p.lost for p in index.problems)
        self.instances = dict.fromkeys(index.class_names, 0) | self.instances
        for problem in index.problems:
            self.add(problem)

    def add_image(self, result: ImageResult, class_names: list[str]) -> None:
        """Count what an image has."""
        self.objects += result.objects
        for problem in result.problems:
            self.add(problem)
        annotations = result.record["annotations"] if result.record else []
        self.images_with_objects += bool(annotations)
        self.used += len(annotations)
        for annotation in annotations:
            self.with_occluders += "occluders" in annotation
            if annotation["iscrowd"]:
                continue
            self.instances[class_names[annotation["category_id"]]] += 1
            rate = annotation["occlusion_rate"]
            if rate <= 0:
                self.not_occluded += 1
            else:
                self.occlusion_rates[min(math.ceil(rate * 10 - 1e-9) - 1, 9)] += 1

    @property
    def errors(self) -> int:
        """Number of problems that could not be repaired."""
        return sum(sum(self.counts.get(action, {}).values()) for action in ("error", "skipped"))

    @property
    def usable(self) -> bool:
        """Whether training may start: the file is complete, and not too much of it was left out."""
        too_many = too_many_lost(self.skipped_objects, self.objects, self.max_skipped)
        return not self.counts.get("error") and not too_many

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        content = vars(self) | {"errors": self.errors, "usable": self.usable}
        return content | {"problems": [p._asdict() for p in self.problems]}

    def __str__(self) -> str:
        lines = [f"{self.file}: {self.schema or 'not readable'}"]
        if self.images_folder is None:
            lines.append("Images were not looked at (no folder given).")
        classes = sorted(self.instances.items(), key=lambda item: -item[1])
        empty = sum(not number for _, number in classes)
        lines += [
            f"{self.images:,} images, {self.images_with_objects:,} of them with objects; "
            f"{self.objects:,} objects, {self.used:,} of them used",
            *self.notes,
            f"classes: {len(classes)}, {empty} of them without an instance",
            *_wrapped([f"{name} {number:,}" for name, number in classes if number]),
        ]
        if self.used:
            bins = [f"not occluded {self.not_occluded:,}"] + [
                f"({k / 10:.1f}, {(k + 1) / 10:.1f}] {number:,}"
                for k, number in enumerate(self.occlusion_rates)
                if number
            ]
            lines += ["occlusion rates:", *_wrapped(bins)]
            if self.with_occluders:
                lines.append(f"the file says who covers whom: {self.with_occluders:,} objects")
        lines += self._problem_lines()
        share = self.skipped_objects / max(self.objects, 1)
        verdict = "usable" if self.usable else "not usable as it is"
        lines.append(
            f"{self.skipped_objects:,} objects ({share:.2%}) left out, {self.max_skipped:.2%} "
            f"allowed: {verdict}. Checked in {self.seconds:.0f} s."
        )
        return "\n".join(lines)

    def _problem_lines(self) -> list[str]:
        lines = []
        for action, kinds in sorted(self.counts.items()):
            lines.append(f"{action}:")
            lines += [f"  {number:>7,} {kind}" for kind, number in sorted(kinds.items())]
        listed = [p for p in self.problems if p.action in ("error", "skipped")]
        lines += [f"  {p.action}: {p}" for p in listed]
        shown = Counter((p.action, p.kind) for p in listed)
        return lines + [
            f"  {action}: {kind}: ... and {number - shown[action, kind]:,} more"
            for action in ("error", "skipped")
            for kind, number in self.counts.get(action, {}).items()
            if number > shown[action, kind]
        ]


def _wrapped(items: list[str], width: int = 96) -> list[str]:
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) > width:
            lines.append(line)
            line = ""
        line += ("  " if not line else ", ") + item
    return [*lines, line] if line else lines


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
    started, json_file = time.time(), Path(json_file)
    root = None if image_root is None else str(image_root)
    report = Report(str(json_file), root, max_skipped=max_skipped)
    sentence = "" if root is None else missing_images(root)
    if sentence:
        report.add(Problem("no images", "error", None, None, sentence))
    look = root is not None and not sentence
    beside = json_file if json_file.is_dir() else json_file.parent
    folder = ImageFolder(root or str(beside), look, False, decode, allow_links)
    bar = tqdm(desc=f"checking {json_file.name}", unit="image", mininterval=1, disable=not progress)
    with bar:
        for index in index_files(json_file):
            if isinstance(index, AnnotationError):
                report.add(index.problem)
                continue
            report.add_index(index)
            bar.total = report.images
            many = look and workers is None and len(index.images) >= IN_PARALLEL
            for result in read_images(index, folder, default_workers() if many else workers):
                report.add_image(result, index.class_names)
                bar.update()
    crowd = report.used - sum(report.instances.values())
    if crowd:
        report.notes.append(f"{crowd:,} objects are marked as crowd.")
    report.notes += compare_counts(dataset, split, report.images, report.objects)
    report.seconds = round(time.time() - started, 1)
    return report
