"""The questions that the paper leaves open, as experiments: which joint, and what did it learn?"""

import lazy_loader

# Importing a part brings what that part needs, and no more.
PARTS = {
    "cost": "read_costs",
    "frozen": "SCORES",
    "given_boxes": "collect_given_boxes region_logits soft_masks",
    "order": "Agreement agreement meetings p_value permuted_correlations",
    "runs": "CONSTANT_CONTEXT collect head_differences network_differences",
    "variants": "DEFAULT NO_BIAS VARIANTS",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
