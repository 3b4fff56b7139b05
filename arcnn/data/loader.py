"""The training examples in their order: a function of the seed and the step alone.

So an interrupted training goes on with just the examples that it would have seen, and the number of
worker processes changes nothing; nor does that of processes that train together, which share each
step's batch.
"""

from collections.abc import Iterator

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from arcnn.data.mapper import AmodalDatasetMapper


def build_train_loader(cfg: CfgNode, records: list[dict], first: int) -> DataLoader:
    """Batches of mapped examples, endless, from step ``first`` on; this process's share of each."""
    return build_detection_train_loader(
        Examples(records, AmodalDatasetMapper(cfg, is_train=True), cfg.SEED),
        mapper=None,
        sampler=ExampleOrder(records, cfg, first),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,  # the order has it
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=cfg.SEED,  # else its start would draw from the model's random numbers
    )


def seed_of(*key: int) -> int:
    """A seed of 32 bits from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Examples(Dataset):
    """Mapped records, each augmented by draws that follow from its place in the training.

    So neither an interruption nor the number of worker processes changes anything.
    """

    def __init__(self, records: list[dict], mapper: AmodalDatasetMapper, seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        place, index = key
        np.random.seed(seed_of(self.seed, 1, place))  # detectron2's augmentations draw from numpy
        return self.mapper(self.records[index])


class _EndlessShuffle(TrainingSampler):
    """detectron2's, whole in every process: it is shared out a batch at a time."""

    def __iter__(self) -> Iterator[int]:
        return self._infinite_indices()


class ExampleOrder(Sampler):
    """detectron2's endless shuffle as (place in the training, index) pairs, from a step on.

    Of processes that train together, the k-th of n takes every n-th pair of a batch from its k-th.

    With ``DATALOADER.ASPECT_RATIO_GROUPING``, a batch has images of one orientation, as
    detectron2 groups them; a batch of 2 from the shuffle L P L L P ... (landscape, portrait)
    gives L L, then P P, then L ...
    """

    def __init__(self, records: list[dict], cfg: CfgNode, first: int) -> None:
        grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
        self.group = [grouped and r["width"] > r["height"] for r in records]
        self.seed, self.batch, self.first = cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        waiting: dict[bool, list[int]] = {True: [], False: []}
        step = 0
        for index in _EndlessShuffle(len(self.group), seed=self.seed):
            bucket = waiting[self.group[index]]
            bucket.append(index)
            if len(bucket) == self.batch:
                if step >= self.first:
                    batch = list(enumerate(bucket, start=step * self.batch))
                    yield from batch[comm.get_rank() :: comm.get_world_size()]
                bucket.clear()
                step += 1
