"""The heads that the ablation compares: every reading of the paper that is a switch of the kit."""

import itertools
from typing import NamedTuple


class Variant(NamedTuple):
    """A mask head: a model of the paper, and what differs from the kit's defaults."""

    model: str
    options: tuple = ()  # detectron2 overrides: KEY, VALUE, ...
    seeds: int = 3


def _joints() -> dict[str, Variant]:
    """Eq. (1) in its 16 readings: {full, own class} x {bias, none} x {maps} x {start}."""
    joints = {}
    for joined, bias, maps, start in itertools.product(
        ("full", "own"), ("bias", "nobias"), ("logits", "probs"), ("normal", "identity")
    ):
        options = ("MODEL.ARCNN.OWN_CLASS", joined == "own", "MODEL.ARCNN.BIAS", bias == "bias")
        options += ("MODEL.ARCNN.INPUT", maps, "MODEL.ARCNN.INIT", start)
        # The explanations part ways in the readings closest to the text: several trainings of
        # these, and five of the two that Figure 5 may show. The others complete the picture.
        seeds = {"full": 5, "own": 3}[joined] if (maps, start) == ("logits", "normal") else 1
        joints[f"{joined}-{bias}-{maps}-{start}"] = Variant("arcnn", options, seeds)
    return joints


DEFAULT = "full-bias-logits-normal"  # the kit's ARCNN
NO_BIAS = "full-nobias-logits-normal"
VARIANTS: dict[str, Variant] = {
    **_joints(),
    # L_AM trains the 1x1 convolution alone.
    f"{DEFAULT}-detach": Variant("arcnn", ("MODEL.ARCNN.DETACH", True)),
    "own-bias-logits-normal-detach": Variant(
        "arcnn", ("MODEL.ARCNN.DETACH", True, "MODEL.ARCNN.OWN_CLASS", True)
    ),
    "add-logits": Variant("arcnn_add"),
    "add-probs": Variant("arcnn_add", ("MODEL.ARCNN_ADD.SUM", "probs")),
    "add-noisy_or": Variant("arcnn_add", ("MODEL.ARCNN_ADD.SUM", "noisy_or")),
    "add-noisy_or-detach": Variant(
        "arcnn_add", ("MODEL.ARCNN_ADD.SUM", "noisy_or", "MODEL.ARCNN_ADD.DETACH", True), 1
    ),
    "orcnn": Variant("orcnn"),
    "orcnn-two_losses": Variant("orcnn", ("MODEL.ORCNN.OCCLUSION_LOSS", False)),
}
