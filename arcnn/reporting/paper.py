"""What is published: the paper's Table 1 (arXiv 2107.07464), its settings, others' numbers."""

from typing import NamedTuple

# By data set and model, in the order of names.TABLE_1.
PUBLISHED = {
    ("kins", "orcnn"): (30.57, 19.88, 30.95, 20.6, 36.15),
    ("kins", "vrs_sp"): (32.08, 20.9, 29.88, 19.88, 37.4),
    ("kins", "arcnn_add"): (30.2, 19.75, 30.89, 20.61, 36.27),
    ("kins", "arcnn"): (32.94, 20.96, 30.68, 20.56, 38.71),
    ("cocoa_cls", "orcnn"): (30.75, 32.55, 34.8, 36.78, 18.9),
    ("cocoa_cls", "vrs_sp"): (35.41, 37.11, 34.58, 36.42, 22.17),
    ("cocoa_cls", "arcnn_add"): (32.26, 34.06, 35.46, 37.25, 19.32),
    ("cocoa_cls", "arcnn"): (36.29, 37.39, 35.48, 36.69, 20.84),
}
QUOTED = ("vrs_sp",)  # models whose numbers the paper takes from another paper


class Elsewhere(NamedTuple):
    """A number that the paper does not print; made with other heads, schedules or classes."""

    dataset: str
    model: str
    numbers: dict[str, float]  # by column of names.TABLE_1, percent
    source: str


USERS_RUN = "a user's run of its public code, issue #10"
ELSEWHERE = (
    Elsewhere("kins", "mask_rcnn", {"amodal AP": 29.3, "visible AP": 26.6},
              "the KINS paper; as quoted in its code's issue #14"),
    Elsewhere("kins", "mask_rcnn", {"amodal AP": 30.01}, "VRS&SP's Table 1; its code's issue #13"),
    Elsewhere("kins", "asn", {"amodal AP": 31.1}, "the KINS paper; BCNet's issue #4"),
    Elsewhere("kins", "asn", {"amodal AP": 25.62}, "its code, run by BCNet's author; issue #4"),
    Elsewhere("kins", "bcnet", {"amodal AP": 19.09}, "a user's run, BCNet's issue #83"),
    Elsewhere("kins", "aisformer", {"amodal AP": 30.01}, USERS_RUN),
    Elsewhere("cocoa_cls", "aisformer", {"amodal AP": 33.30}, USERS_RUN),
    Elsewhere("d2sa", "aisformer", {"amodal AP": 62.19}, USERS_RUN),
)  # fmt: skip

# Section 4.2.
SETTINGS: dict[str, dict[str, float | str]] = {
    dataset: {"SOLVER.IMS_PER_BATCH": images, "SOLVER.BASE_LR": rate, "SOLVER.MAX_ITER": steps}
    | {"SOLVER.OPTIMIZER": "SGD", "MODEL.RESNETS.DEPTH": 50}
    for dataset, images, rate, steps in (
        ("kins", 4, 0.0025, 48000),
        ("cocoa_cls", 2, 0.0005, 10000),
    )
}
# What the published annotation files hold, by data set and split, where it is known. They tell a
# complete file from a part of one.
COUNTS: dict[tuple[str, str], dict[str, int]] = {
    ("kins", "train"): {"images": 7474},
    ("kins", "val"): {"images": 7517},
    ("cocoa_cls", "train"): {"images": 2276, "objects": 6763},
    ("cocoa_cls", "val"): {"images": 1223, "objects": 3799},
}
MISPRINT = (
    "The paper (and papers before it) print 2,476 training images. That is a known misprint: the "
    "author who printed it first confirmed 2,276."
)
