"""Data sets: files to internal records, registration, the mapper and the embedded ``tabletop``.

``schemas`` says what the files look like, ``index`` what a file lists, ``reading`` what of that is
repaired or left out, ``image_files`` which images are;
:mod:`arcnn.workshop.own_data.check` reports on all.
"""

import lazy_loader

# Importing a part brings what that part needs, and no more.
PARTS = {
    "masks": "decode_masks",
    "mapper": "AmodalDatasetMapper",
    "index": "AnnotationError",
    "reading": "MAX_SKIPPED AmodalAnnotations load_annotations",
    "registration": (
        "find_splits fingerprint register_dataset split_fingerprint split_name split_records"
    ),
    "statistics": (
        "class_index count_named_occluders count_orders front_shares most_occluded_class "
        "objects_table order_probabilities ordered_pairs split_summary told_by_class"
    ),
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
