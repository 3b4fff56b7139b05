"""What is known about the published data sets: where their files come from.

A copy that was filtered by somebody has other counts than the published files, and the report says
so without calling it an error. The table
in ``data/README.md`` says what :data:`SOURCES` says; a test holds it to that.
"""

from typing import NamedTuple

from arcnn.reporting.paper import COUNTS, MISPRINT


class Source(NamedTuple):
    """Something to get, for a data set."""

    put: str  # below data/
    what: str  # and its size
    where: str  # and on which terms
    address: str = ""  # direct: what `python -m arcnn.data fetch` can download
    known_hash: str | None = None  # of what that gives: "md5:..." or "sha256:..."


_COCO = "cocodataset.org; Flickr licences, per image in the annotation file"
_COCO_ZIPS = "http://images.cocodataset.org/zips"
SOURCES: dict[str, list[Source]] = {
    "kins": [
        Source(
            "kins/training/image_2, kins/testing/image_2",
            "images: KITTI object, left colour; 12 GB",
            "cvlibs.net/datasets/kitti, after registration (data_object_image_2.zip); "
            "CC BY-NC-SA 3.0, non-commercial",
        ),
        Source(
            "kins/update_train_2020.json and update_test_2020.json, or the older "
            "instances_train.json and instances_val.json",
            "annotations, release of 2020 or 2019; below 0.5 GB",
            "the drive linked by qqlu/Amodal-Instance-Segmentation-through-KINS-Dataset; as the "
            "repository says",
        ),
    ],
    "cocoa_cls": [
        Source(
            "cocoa_cls/train2014",
            "images: COCO train2014; 13 GB",
            _COCO,
            f"{_COCO_ZIPS}/train2014.zip",
            "md5:0da8c0bd3d6becc4dcb32757491aca88",
        ),
        Source(
            "cocoa_cls/val2014",
            "images: COCO val2014; 6 GB",
            _COCO,
            f"{_COCO_ZIPS}/val2014.zip",
            "md5:a3d79f5ed8d289b7a7554ce06a5782b3",
        ),
        Source(
            "cocoa_cls/COCO_amodal_train2014_with_classes.json and "
            "COCO_amodal_val2014_with_classes.json",
            "annotations; below 0.1 GB",
            "MVTec's page for COCOA-cls, or the drive linked by YihongSun/Bayesian-Amodal (the FTP "
            "link in older READMEs is dead); CC BY-NC-SA 4.0",
        ),
    ],
    "cocoa": [
        Source(
            "cocoa/COCO_amodal_train2014.json and COCO_amodal_val2014.json, or folders "
            "COCO_amodal_train2014 and COCO_amodal_val2014 with a file per image; the images of "
            "cocoa_cls in cocoa/train2014, cocoa/val2014 (links to these folders will do)",
            "annotations with regions and order; below 0.5 GB",
            "the repository Wakeupbuddy/amodalAPI, or the drive linked by "
            "YihongSun/Bayesian-Amodal; as the repository says",
        ),
    ],
    "d2sa": [
        Source(
            "d2sa/images, d2sa/D2S_amodal_augmented.json (or D2S_amodal_training_rot0.json) and "
            "D2S_amodal_validation.json",
            "images and annotations; several GB",
            "MVTec's page for D2S (D2S amodal); CC BY-NC-SA 4.0",
        ),
    ],
}


def compare_counts(dataset: str, split: str, images: int, instances: int) -> list[str]:
    """Sentences about a split's counts against the published ones; empty where none are known."""
    here, sentences = {"images": images, "instances": instances}, []
    for what, published in COUNTS.get((dataset, split), {}).items():
        what = what.replace("objects", "instances")
        verdict = "as published" if here[what] == published else f"published are {published:,}"
        sentences.append(f"{dataset} {split}: {here[what]:,} {what}, {verdict}.")
    return sentences + [MISPRINT] * ((dataset, split) == ("cocoa_cls", "train"))
