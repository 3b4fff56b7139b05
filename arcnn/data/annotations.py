"""Annotation files of the data sets -> one internal record per image.

The internal record is detectron2's standard dataset dict: ``file_name``, ``image_id``, ``height``,
``width`` and ``annotations``, each of these with

=================  ================================================================================
``id``             int, as in the file (raw COCOA has none: entry id * 1000 + place in the entry)
``category_id``    int in [0, C), contiguous
``bbox``           ``[x0, y0, x1, y1]`` of the amodal mask, absolute pixels (``BoxMode.XYXY_ABS``)
``segmentation``   RLE of the **amodal** mask (the stock key, so that stock tools see that mask)
``visible_mask``   RLE of the visible mask, inside the amodal one
``occlusion_rate`` float in [0, 1]: the file's own value if the masks agree, else theirs
``iscrowd``        0 or 1
``occluders``      ids of the annotations in front of it; only where the file tells
=================  ================================================================================

The occlusion mask is never stored: it is *amodal and not visible*, always. RLE means pycocotools'
``{"size": [H, W], "counts": bytes | str}``. The files' own field names are read in
:mod:`arcnn.data.schemas` alone.

Real files have glitches. What can be mended is mended and what cannot is left out; each case is a
:class:`Problem`, and more objects left out than allowed is an error.
"""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from arcnn.data.file_index import Earlier, annotation_files, index_file
from arcnn.data.image_files import missing_images
from arcnn.data.image_records import read_images
from arcnn.data.problems import AnnotationError, Problem, allowed_share, name_file, too_many_lost

logger = logging.getLogger(__name__)


class AmodalAnnotations(NamedTuple):
    """A read annotation file."""

    records: list[dict]
    class_names: list[str]  # length C, by contiguous id
    category_ids: list[int]  # the file's own ids, by contiguous id
    problems: tuple[Problem, ...] = ()
    schema: str = ""


def load_annotations(
    json_file: str | Path,
    image_root: str | Path,
    *,
    max_skipped: float | None = None,
    workers: int | None = None,
    look_at_images: bool = False,
    allow_links: bool = False,
) -> AmodalAnnotations:
    """Read a KINS (2019 or 2020), COCOA, COCOA-cls, D2SA or tabletop file, or your own.

    The schema is told by the fields of the annotations, never by the file's name.

    Args:
        json_file: the annotation file; for raw COCOA also a folder with one file per image.
        image_root: the folder that its ``file_name`` entries are relative to.
        max_skipped: share of the objects that may be left out, in [0, 1]; by default 0.01, or what
            the file ``max_skipped.txt`` beside the annotations says.
        workers: processes; by default one per core for large files.
        look_at_images: leave out images that are missing, cut off, of another size or outside their
            folder. Only headers are read; :func:`arcnn.workshop.check.check` looks closer.
        allow_links: accept links that lead out of the image folder.

    Raises:
        FileNotFoundError: no such file, or no images where they are to be looked at.
        AnnotationError: truncated or not JSON, an unknown schema, or too many objects that cannot
            be used; names the first of them.
    """
    json_file = Path(json_file)
    max_skipped = allowed_share(json_file) if max_skipped is None else max_skipped
    if look_at_images and (sentence := missing_images(image_root)):
        raise FileNotFoundError(
            f"{json_file}: {sentence}. To do without them, move the annotation file away."
        )
    options = {"images_too": look_at_images, "quick": True, "allow_links": allow_links}
    records, problems, objects = [], [], 0
    files = annotation_files(json_file)
    earlier = Earlier() if len(files) > 1 else None
    for file in files:
        index = index_file(file, earlier)
        found = list(index.problems)
        for problem in found:
            if problem.action == "error":
                cure = "Repair the file, or fetch or write it again."
                raise AnnotationError(f"{file} cannot be used: {problem}. {cure}")
        objects += sum(p.lost for p in found)
        for result in read_images(index, image_root, workers=workers, **options):
            objects += result.objects
            found += result.problems
            if result.record is not None:
                records.append(result.record)
        problems += [name_file(p, file, json_file) for p in found]
    lost = sum(p.lost for p in problems)
    if too_many_lost(lost, objects, max_skipped):
        left_out = [p for p in problems if p.lost]
        shown = "; ".join(map(str, left_out[:5])) + ("; ..." if len(left_out) > 5 else "")
        raise AnnotationError(
            f"{json_file}: {lost} of {objects} objects cannot be used, more than "
            f"{max_skipped:.2%}: {shown}. Repair or remove them, or allow more with max_skipped; "
            "`python -m arcnn.data check` lists all of them."
        )
    for (action, kind), number in Counter((p.action, p.kind) for p in problems).items():
        logger.info("%s: %s, %s: %d", json_file, kind, action, number)
    return AmodalAnnotations(
        records=records,
        class_names=index.class_names,
        category_ids=index.category_ids,
        problems=tuple(problems),
        schema=index.schema.name,
    )
