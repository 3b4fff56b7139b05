"""How often objects are hidden, and how much: distributions of occlusion rates to aim at."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arcnn.data.reading import load_annotations

BINS = 10


@dataclass(frozen=True)
class RateDistribution:
    """Occlusion rates of the objects of a data set; all shares are in [0, 1] and sum to 1."""

    visible: float  # share of objects that nothing covers
    shares: tuple[float, ...]  # of the bins (0, 0.1], (0.1, 0.2] ... (0.9, 1]

    @classmethod
    def of(cls, rates: Iterable[float]) -> "RateDistribution":
        """The distribution of these rates; raises ValueError if there are none."""
        rates = np.asarray(list(rates), dtype=np.float64)
        if not len(rates):
            raise ValueError("no object, so no distribution of occlusion rates")
        bins = np.ceil(rates[rates > 0] * BINS - 1e-9).astype(int).clip(1, BINS) - 1
        shares = np.bincount(bins, minlength=BINS) / len(rates)
        return cls(float((rates <= 0).mean()), tuple(shares.tolist()))

    @classmethod
    def of_file(cls, json_file: str | Path) -> "RateDistribution":
        """That of an annotation file, in any schema the kit reads; see :meth:`of`."""
        records = load_annotations(json_file, Path(json_file).parent).records
        objects = [a for r in records for a in r["annotations"] if not a["iscrowd"]]
        return cls.of(a["occlusion_rate"] for a in objects)

    def sample(self, random: np.random.Generator, covered: float) -> float:
        """0, or with the probability ``covered`` a rate within a bin drawn by its share."""
        if random.random() >= covered:
            return 0.0
        k = random.choice(BINS, p=np.array(self.shares) / sum(self.shares))
        return (k + random.uniform(0.25, 1.0)) / BINS  # to cover less than that is hard

    def distance(self, other: "RateDistribution") -> float:
        """Total variation distance in [0, 1]: the share of objects in the wrong bin."""
        ours, theirs = ((d.visible, *d.shares) for d in (self, other))
        return float(np.abs(np.subtract(ours, theirs)).sum() / 2)


# COCOA-cls as far as real validation records at hand tell. Of all 22 objects of 5 images, 11 are
# not occluded, 4 are up to 0.1, 4 between 0.1 and 0.3, 3 above; the shape above 0.3 is that of 182
# objects of 100 images. A small sample: with a copy of COCOA-cls, `of_file` is better.
_ABOVE = np.array([60, 59, 20, 18, 15, 8, 2]) / 182
COCOA_CLS = RateDistribution(11 / 22, (4 / 22, 2 / 22, 2 / 22, *(3 / 22 * _ABOVE).tolist()))
