"""The heads that the ablation compares: every reading of the paper that is a switch of the kit."""

import itertools
from typing import NamedTuple


class Variant(NamedTuple):
    """A mask head: a model of the paper, and what differs from the kit's defaults."""

    model: str
    options: tuple = ()  # detectron2 overrides: KEY, VALUE, ...
    seeds: int = 3
    times: int = 1  # steps, as a multiple of the others'


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
        decisive = maps == "logits" and (start == "normal" or bias == "bias")
        seeds = 1 if not decisive else 5 if (joined, start) == ("full", "normal") else 3
        joints[f"{joined}-{bias}-{maps}-{start}"] = Variant("arcnn", options, seeds)
    return joints


DEFAULT = "full-bias-logits-normal"  # the kit's ARCNN
NO_BIAS = "full-nobias-logits-normal"
VARIANTS: dict[str, Variant] = {
    **_joints(),
    "add-logits": Variant("arcnn_add"),
    "add-probs": Variant("arcnn_add", ("MODEL.ARCNN_ADD.SUM", "probs")),
    "add-noisy_or": Variant("arcnn_add", ("MODEL.ARCNN_ADD.SUM", "noisy_or")),
    "add-noisy_or-detach": Variant(
        "arcnn_add", ("MODEL.ARCNN_ADD.SUM", "noisy_or", "MODEL.ARCNN_ADD.DETACH", True), 1
    ),
    "orcnn": Variant("orcnn"),
    "orcnn-two_losses": Variant("orcnn", ("MODEL.ORCNN.OCCLUSION_LOSS", False)),
}
# The amodal loss trains the 1x1 convolution alone.
VARIANTS |= {
    f"{name}-detach": VARIANTS[name]._replace(
        options=(*VARIANTS[name].options, "MODEL.ARCNN.DETACH", True), seeds=3
    )
    for name in ("full-bias-logits-normal", "full-bias-logits-identity")
    + ("own-bias-logits-normal", "own-bias-logits-identity")
}
# A joint that is slow to learn is not a joint that cannot: those that the answer hangs on, longer.
VARIANTS |= {
    f"{name}-long": VARIANTS[name]._replace(seeds=3, times=2)
    for name in (DEFAULT, NO_BIAS, "own-bias-logits-normal", "own-bias-logits-identity")
    + (f"{DEFAULT}-detach", "add-logits", "add-noisy_or", "orcnn")
}
NETWORK_SEEDS = 3  # at most, of a variant that is trained as a whole network too
