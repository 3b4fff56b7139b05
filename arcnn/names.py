"""What several parts of the kit call by one name. Each of these facts has its only home here."""

SPLITS = ("train", "val")
DATASETS = ("tabletop", "kins", "cocoa_cls", "d2sa", "cocoa", "own")
DATASET_TITLES = {
    "kins": "KINS",
    "cocoa_cls": "COCOA-cls",
    "tabletop": "tabletop (drawn by rule; the paper has no numbers for it)",
}

# The three masks of an object, and the fields that hold them in records and predictions. The
# occlusion mask is amodal and not visible; records derive it, predictions store it.
MASK_KEYS = {
    "amodal": "segmentation",
    "visible": "visible_mask",
    "occlusion": "occlusion_mask",
}
MASK_KINDS = tuple(MASK_KEYS)

# From here on an object counts as occluded: "exceeds 15 %" (Section 4.3), read as >=.
OCCLUSION_RATE = 0.15

MODELS = ("arcnn", "arcnn_add", "orcnn")  # the paper's three
PUBLISHED = "_published"  # after a model's name: with the schedule of its own paper or code
MODEL_NAMES = {  # in the order of Table 1; others follow, under the names of their files
    "mask_rcnn": "Mask R-CNN",
    "sln": "SLN",
    "asn": "ASN",
    "orcnn": "ORCNN",
    "vrs_sp": "VRS&SP",
    "bcnet": "BCNet",
    "aisformer": "AISFormer",
    "arcnn_add": "ARCNN-add",
    "arcnn": "ARCNN",
}

# Table 1's columns, and what is measured for each. The AR of the paper is AR@1.
TABLE_1 = {
    "amodal AP": ("amodal", "AP"),
    "amodal AR": ("amodal", "AR@1"),
    "visible AP": ("visible", "AP"),
    "visible AR": ("visible", "AR@1"),
    "occluded AP": ("occluded", "AP"),
}


def model_name(model: str) -> str:
    """The display name; a model that the kit does not know keeps its own."""
    bare = model.removesuffix(PUBLISHED)
    return MODEL_NAMES.get(bare, bare) + (", its own schedule" if model != bare else "")


def dataset_title(dataset: str) -> str:
    """The heading of a data set; says which have no numbers in the paper."""
    return DATASET_TITLES.get(dataset, f"{dataset} (the paper has no numbers for it)")
