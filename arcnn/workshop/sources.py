"""What is known about the published data sets: their counts, and where their files come from.

Counts are of the published annotation files. They tell a complete file from a part of one; a copy
that was filtered by somebody differs, and the report says so without calling it an error. The table
in ``data/README.md`` says what :data:`SOURCES` says; a test holds it to that.
"""

from typing import NamedTuple


class Counts(NamedTuple):
    """Of one split; None: not known."""

    images: int | None
    instances: int | None
    note: str = ""


MISPRINT = (
    "The paper (and papers before it) print 2,476 training images. That is a known misprint: the "
    "author who printed it first confirmed 2,276."
)

COUNTS: dict[tuple[str, str], Counts] = {
    ("kins", "train"): Counts(7474, None),
    ("kins", "val"): Counts(7517, None),
    ("cocoa_cls", "train"): Counts(2276, 6763, MISPRINT),
    ("cocoa_cls", "val"): Counts(1223, 3799),
}


class Source(NamedTuple):
    """Something to get, for a data set."""

    what: str
    where: str
    size: str
    terms: str
    put: str  # below data/
    address: str = ""  # direct: what `python -m arcnn.data fetch` can download
    known_hash: str | None = None  # of what that gives: "md5:..." or "sha256:..."

    def __str__(self) -> str:
        return (
            f"{self.what}, from {self.where}; {self.size}; terms: {self.terms}; "
            f"put it into data/{self.put}."
        )


SOURCES: dict[str, list[Source]] = {
    "kins": [
        Source(
            "images: KITTI object, left colour",
            "cvlibs.net/datasets/kitti, after registration (data_object_image_2.zip)",
            "12 GB",
            "CC BY-NC-SA 3.0, non-commercial",
            "kins/training/image_2, kins/testing/image_2",
        ),
        Source(
            "annotations, release of 2020 or 2019",
            "the drive linked by qqlu/Amodal-Instance-Segmentation-through-KINS-Dataset",
            "below 0.5 GB",
            "as the repository says",
            "kins/update_train_2020.json and update_test_2020.json, or the older "
            "instances_train.json and instances_val.json",
        ),
    ],
    "cocoa_cls": [
        Source(
            "images: COCO train2014",
            "cocodataset.org",
            "13 GB",
            "Flickr licences, per image in the annotation file",
            "cocoa_cls/train2014",
            "http://images.cocodataset.org/zips/train2014.zip",
            "md5:0da8c0bd3d6becc4dcb32757491aca88",
        ),
        Source(
            "images: COCO val2014",
            "cocodataset.org",
            "6 GB",
            "Flickr licences, per image in the annotation file",
            "cocoa_cls/val2014",
            "http://images.cocodataset.org/zips/val2014.zip",
            "md5:a3d79f5ed8d289b7a7554ce06a5782b3",
        ),
        Source(
            "annotations",
            "MVTec's page for COCOA-cls, or the drive linked by YihongSun/Bayesian-Amodal (the FTP "
            "link in older READMEs is dead)",
            "below 0.1 GB",
            "CC BY-NC-SA 4.0",
            "cocoa_cls/COCO_amodal_train2014_with_classes.json and "
            "COCO_amodal_val2014_with_classes.json",
        ),
    ],
    "cocoa": [
        Source(
            "annotations with regions and order",
            "the repository Wakeupbuddy/amodalAPI, or the drive linked by "
            "YihongSun/Bayesian-Amodal",
            "below 0.5 GB",
            "as the repository says",
            "cocoa/COCO_amodal_train2014.json and COCO_amodal_val2014.json, or folders "
            "COCO_amodal_train2014 and COCO_amodal_val2014 with a file per image; the images of "
            "cocoa_cls in cocoa/train2014, cocoa/val2014 (links to these folders will do)",
        ),
    ],
    "d2sa": [
        Source(
            "images and annotations",
            "MVTec's page for D2S (D2S amodal)",
            "several GB",
            "CC BY-NC-SA 4.0",
            "d2sa/images, d2sa/D2S_amodal_augmented.json (or D2S_amodal_training_rot0.json) and "
            "D2S_amodal_validation.json",
        ),
    ],
}


def compare_counts(dataset: str, split: str, images: int, instances: int) -> list[str]:
    """Sentences about a split's counts against the published ones; empty where none are known."""
    known = COUNTS.get((dataset, split))
    if known is None:
        return []
    sentences = []
    for what, here, published in (
        ("images", images, known.images),
        ("instances", instances, known.instances),
    ):
        if published is not None:
            verdict = "as published" if here == published else f"published are {published:,}"
            sentences.append(f"{dataset} {split}: {here:,} {what}, {verdict}.")
    return sentences + ([known.note] if known.note else [])
