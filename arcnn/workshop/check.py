"""One report on an annotation file and its images: what is in it, what is wrong, what was done.

Every mask is decoded once. The file is read in pieces by several processes, so that 15,000 street
scenes take minutes and little memory.
"""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arcnn.data.file_index import Earlier, annotation_files, index_file
from arcnn.data.image_files import missing_images
from arcnn.data.image_records import read_images
from arcnn.data.pool import default_workers
from arcnn.data.problems import (
    MAX_SKIPPED,
    AnnotationError,
    Problem,
    allowed_share,
    name_file,
    too_many_lost,
)
from arcnn.workshop.sources import compare_counts

LISTED = 1000  # problems of one kind that a report lists; all are counted
RATE_EDGES = np.linspace(0.0, 1.0, 11)


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
        told = problem.kind == "missing image" and "no images" in self.counts.get("error", {})
        if kinds[problem.kind] <= LISTED and not told:
            self.problems.append(problem)
        self.skipped_objects += problem.lost

    @property
    def errors(self) -> int:
        """Problems that could not be mended."""
        return sum(sum(self.counts.get(action, {}).values()) for action in ("error", "skipped"))

    @property
    def usable(self) -> bool:
        """Whether training may start: the file is whole, and not too much of it was left out."""
        too_many = too_many_lost(self.skipped_objects, self.objects, self.max_skipped)
        return not self.counts.get("error") and not too_many

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        content = asdict(self) | {"errors": self.errors, "usable": self.usable}
        content["problems"] = [p._asdict() for p in self.problems]
        return content

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
                f"({low:.1f}, {low + 0.1:.1f}] {number:,}"
                for low, number in zip(RATE_EDGES, self.occlusion_rates, strict=False)
                if number
            ]
            lines += ["occlusion rates:", *_wrapped(bins)]
            if self.with_occluders:
                lines.append(f"the file says who covers whom: {self.with_occluders:,} objects")
        for action, kinds in sorted(self.counts.items()):
            lines.append(f"{action}:")
            lines += [f"  {number:>7,} {kind}" for kind, number in sorted(kinds.items())]
        listed = [p for p in self.problems if p.action in ("error", "skipped")]
        lines += [f"  {p.action}: {p}" for p in listed]
        shown = Counter((p.action, p.kind) for p in listed)
        lines += [
            f"  {action}: {kind}: ... and {number - shown[action, kind]:,} more"
            for action in ("error", "skipped")
            for kind, number in self.counts.get(action, {}).items()
            if number > shown[action, kind]
        ]
        share = self.skipped_objects / max(self.objects, 1)
        verdict = "usable" if self.usable else "not usable as it is"
        lines.append(
            f"{self.skipped_objects:,} objects ({share:.2%}) left out, {self.max_skipped:.2%} "
            f"allowed: {verdict}. Checked in {self.seconds:.0f} s."
        )
        return "\n".join(lines)


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
    max_skipped: float | None = None,
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
        max_skipped: share of the objects that may be left out, in [0, 1]; by default 0.01, or what
            the file ``max_skipped.txt`` beside the annotations says.
        workers: processes; by default one per core for large files.
        decode: decode every pixel of every image, which is slower.
        allow_links: accept links that lead out of the image folder.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: ``max_skipped.txt`` says no share.
    """
    started, json_file = time.time(), Path(json_file)
    report = Report(
        file=str(json_file),
        images_folder=None if image_root is None else str(image_root),
        max_skipped=allowed_share(json_file) if max_skipped is None else max_skipped,
    )
    files = annotation_files(json_file)
    sentence = "" if image_root is None else missing_images(image_root)
    if sentence:
        report.add(Problem("no images", "error", None, None, sentence))
    images_too = image_root is not None and not sentence
    options = {"images_too": images_too, "decode": decode, "allow_links": allow_links}
    bar = tqdm(desc=f"checking {json_file.name}", unit="image", mininterval=1, disable=not progress)
    instances: Counter = Counter()
    earlier = Earlier() if len(files) > 1 else None
    with bar:
        for file in files:
            _check_file(file, image_root, report, instances, bar, earlier, workers, options)
    report.instances = dict(instances)
    crowd = report.used - sum(instances.values())
    if crowd:
        report.notes.append(f"{crowd:,} objects are marked as crowd.")
    report.notes += compare_counts(dataset, split, report.images, report.objects)
    report.seconds = round(time.time() - started, 1)
    return report


def _check_file(
    file: Path,
    image_root: str | Path | None,
    report: Report,
    instances: Counter,
    bar: tqdm,
    earlier: Earlier | None,
    workers: int | None,
    options: dict[str, bool],
) -> None:
    def add(problem: Problem) -> None:
        report.add(name_file(problem, file, Path(report.file)))

    try:
        index = index_file(file, earlier)
    except AnnotationError as error:
        add(Problem("not a readable annotation file", "error", None, None, str(error)))
        return
    for problem in index.problems:
        add(problem)
        report.objects += problem.lost
    report.schema = index.schema.title
    report.images += len(index.images)
    instances.update(dict.fromkeys(index.class_names, 0))
    bar.total = (bar.total or 0) + len(index.images)
    bar.refresh()
    if workers is None and options["images_too"] and len(index.images) >= 200:
        workers = default_workers()
    root = image_root if image_root is not None else file.parent
    for result in read_images(index, root, workers=workers, **options):
        bar.update()
        report.objects += result.objects
        for problem in result.problems:
            add(problem)
        if result.record is None:
            continue
        annotations = result.record["annotations"]
        report.images_with_objects += bool(annotations)
        report.used += len(annotations)
        for annotation in annotations:
            report.with_occluders += "occluders" in annotation
            if annotation["iscrowd"]:
                continue
            instances[index.class_names[annotation["category_id"]]] += 1
            rate = annotation["occlusion_rate"]
            if rate <= 0:
                report.not_occluded += 1
            else:
                report.occlusion_rates[min(int(np.ceil(rate * 10 - 1e-9)) - 1, 9)] += 1
