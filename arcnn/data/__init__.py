"""Data sets: files to internal records, registration, the mapper and the embedded ``tabletop``."""

from arcnn.data.annotations import (
    AmodalAnnotations,
    AnnotationError,
    decode_masks,
    load_annotations,
    occlusion_mask,
)
from arcnn.data.mapper import AmodalDatasetMapper
from arcnn.data.registration import (
    find_splits,
    fingerprint,
    register_dataset,
    split_name,
    split_records,
)

__all__ = [
    "AmodalAnnotations",
    "AmodalDatasetMapper",
    "AnnotationError",
    "decode_masks",
    "find_splits",
    "fingerprint",
    "load_annotations",
    "occlusion_mask",
    "register_dataset",
    "split_name",
    "split_records",
]
