"""What whole objects of a class look like: an auto-encoder of masks, and a codebook by class.

The codebook is made once, before a training, from the amodal masks of the training split alone. It
follows from them and from its settings; no seed of a training changes it.

Shapes: N masks, C classes, M side of the mask maps, D length of a code (8 channels of a small map).
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import BitMasks
from pycocotools import mask as mask_util
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from arcnn.errors import InputError, MissingError
from arcnn.files import hold, write_atomically

logger = logging.getLogger(__name__)

CHANNELS = 8  # VRS&SP's public code
BATCH, LEARNING_RATE = 128, 0.003  # not told; enough for a loss that no longer falls
VECTORS_PER_CODE = 32  # what k-means looks at: more of them move its centers little


class ShapePrior(nn.Module):
    """An auto-encoder of masks, and the codes of known shapes by class; empty until filled.

    Its shapes follow from the arguments alone, so that trained weights open without the file that
    the codes came from. Nothing in it learns while a mask head does.

    Args:
        num_classes: C.
        side: M.
        convs: stride-2 convolutions of the encoder; 2 make 7x7x8 codes of 28x28 masks, 3 4x4x8.
        codes: the most that a class may have.
    """

    def __init__(self, num_classes: int, *, side: int, convs: int, codes: int) -> None:
        super().__init__()
        self.sides = [side]  # of the maps, on the way down: 28, 14, 7
        for _ in range(convs):
            self.sides.append((self.sides[-1] + 1) // 2)
        down: list[nn.Module] = []
        for place in range(convs):
            down += [nn.Conv2d(CHANNELS if place else 1, CHANNELS, 3, stride=2, padding=1)]
            down += [nn.ReLU()]
        self.encoder = nn.Sequential(*down[:-1])
        self.up = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(convs))
        self.predictor = nn.Conv2d(CHANNELS, 1, 3, padding=1)
        self.register_buffer(
            "codes", torch.zeros(num_classes, codes, CHANNELS * self.sides[-1] ** 2)
        )
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self.requires_grad_(False)

    def encode(self, masks: Tensor) -> Tensor:
        """Codes, float ``(N, D)``, of masks, float ``(N, M, M)``."""
        return self.encoder(masks[:, None]).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Masks, float ``(N, M, M)`` in [0, 1], of codes, float ``(N, D)``."""
        x = codes.unflatten(1, (CHANNELS, self.sides[-1], self.sides[-1]))
        for conv, side in zip(self.up, self.sides[-2::-1], strict=True):
            x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
            x = conv(x).relu()
        return self.predictor(x)[:, 0].sigmoid()

    @torch.no_grad()
    def nearest(self, masks: Tensor, classes: Tensor, k: int) -> Tensor:
        """The shapes whose codes are nearest to those of ``masks``, in L2, of the same class.

        Args:
            masks: ``(N, M, M)``, any float type.
            classes: int64 ``(N,)``.

        Returns:
            Float ``(N, k, M, M)``, nearest first. A class with fewer than k codes repeats them from
            the first; one without any gives zeros.
        """
        shapes = masks.new_zeros(len(masks), k, *masks.shape[1:], dtype=torch.float32)
        with torch.autocast(masks.device.type, enabled=False):
            queries = self.encode(masks.float())
            for of_class in classes.unique():
                count, rows = int(self.counts[of_class]), (classes == of_class).nonzero()[:, 0]
                if count:
                    codes = self.codes[of_class, :count]
                    order = torch.cdist(queries[rows], codes).topk(min(k, count), largest=False)
                    chosen = order.indices[:, torch.arange(k) % min(k, count)]  # (rows, k)
                    decoded = self.decode(codes[chosen].flatten(0, 1))
                    shapes[rows] = decoded.unflatten(0, (len(rows), k))
        return shapes

    def load_codebook(self, file: Path) -> None:
        """Fill it from a file that :func:`prepare_codebook` has found in order.

        Raises:
            FileNotFoundError: it is not there.
        """
        if not file.is_file():
            raise MissingError(
                f"{file} is not there: the codebook of shapes is made before the first step of "
                "arcnn.training.train; a loop of your own calls the mask head's prepare() first."
            )
        with safe_open(file, "pt") as stored:
            self.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118


def prepare_codebook(
    file: Path,
    records: Sequence[dict],
    class_names: Sequence[str],
    *,
    side: int,
    convs: int,
    codes: int,
    epochs: int,
) -> None:
    """Make the codebook of a training split, unless it is there.

    Args:
        file: to be written, with what it was made from as its metadata.
        records: of the training split.
        class_names: C names.
        side, convs, codes: see :class:`ShapePrior`.
        epochs: that the auto-encoder learns for.

    Raises:
        ValueError: the file is there, and cut off, or of other data, classes or settings; or no
            object of the records has a mask to learn from.
        BlockingIOError: another training makes it at this moment.
    """
    made_from = {"class names": json.dumps(list(class_names)), "classes": str(len(class_names))}
    made_from |= {"training data": _fingerprint(records), "mask side": str(side)}
    made_from |= {"encoder convolutions": str(convs), "codes": str(codes), "epochs": str(epochs)}
    with hold(file.with_name(file.name + ".lock"), "makes the codebook"):
        if file.is_file():
            return _check(file, made_from)
        prior = make_codebook(
            records, len(class_names), side=side, convs=convs, codes=codes, epochs=epochs
        )
        state = {name: tensor.contiguous() for name, tensor in prior.state_dict().items()}
        write_atomically(file, lambda partial: save_file(state, partial, made_from))


def _check(file: Path, made_from: dict[str, str]) -> None:
    cure = (
        "Delete it, and it is made anew; or name another with the option MODEL.HEAD.CODEBOOK, "
        '"" for one of this training alone.'
    )
    try:
        with safe_open(file, "pt") as stored:
            before = stored.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{file} is cut off, or no codebook ({error}). {cure}") from error
    for what, now in made_from.items():
        if before.get(what) != now:
            raise InputError(
                f"{file} is a codebook of other {what}: {before.get(what, 'none')}, and this "
                f"training has {now}. {cure}"
            )


def _fingerprint(records: Sequence[dict]) -> str:
    digest = hashlib.sha256()
    for annotation in _objects(records):
        used = [annotation[key] for key in ("category_id", "bbox", "segmentation")]
        digest.update(str(used).encode())
    return digest.hexdigest()


def _objects(records: Sequence[dict]) -> list[dict]:
    return [a for record in records for a in record["annotations"] if not a.get("iscrowd", 0)]


def make_codebook(
    records: Sequence[dict], num_classes: int, *, side: int, convs: int, codes: int, epochs: int
) -> ShapePrior:
    """Train an auto-encoder on the amodal masks, and cluster their codes.

    Nothing here depends on a seed of the caller, or changes the state of its generators.

    Raises:
        ValueError: no object has a mask to learn from.
    """
    masks, classes = crop_masks(records, side)
    if not len(masks):
        raise InputError("No object of the training split has an amodal mask to learn shapes from.")
    # On a CPU whatever the training runs on: the same codebook for all of them.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        prior = ShapePrior(num_classes, side=side, convs=convs, codes=codes)
        error = _fit(prior, masks, epochs)
    generator = np.random.default_rng(0)
    for of_class in classes.unique().tolist():
        own = masks[classes == of_class]
        # DEVIATION: of very many objects a part, for time; VRS&SP's clusters all.
        most = -(-VECTORS_PER_CODE * codes // len(variants(own[:1])))
        own = own[torch.from_numpy(generator.permutation(len(own))[:most])]
        centers = _centers(prior, variants(own).flatten(0, 1), codes, generator)
        prior.codes[of_class, : len(centers)] = centers
        prior.counts[of_class] = len(centers)
    logger.info(
        "Codebook of shapes: %d masks, mean squared error %.4f, %s codes by class",
        *(len(masks), error, prior.counts.tolist()),
    )
    return prior


def crop_masks(records: Sequence[dict], side: int) -> tuple[Tensor, Tensor]:
    """The amodal masks in their own boxes, bool ``(N, M, M)``, and classes, int64 ``(N,)``.

    Without those that have no pixel there.
    """
    crops, classes = [torch.zeros(0, side, side, dtype=torch.bool)], []
    for annotation in _objects(records):
        mask = torch.from_numpy(mask_util.decode(annotation["segmentation"]))[None]
        box = torch.tensor([annotation["bbox"]], dtype=torch.float32)
        crops.append(BitMasks(mask).crop_and_resize(box, side))
        classes.append(annotation["category_id"])
    masks = torch.cat(crops)
    kept = masks.flatten(1).any(dim=1)
    return masks[kept], torch.tensor(classes, dtype=torch.int64)[kept]


def variants(masks: Tensor) -> Tensor:
    """Masks ``(N, M, M)`` as they are, flipped either way, and turned by 90, 180 and 270 degrees,
    ``(6, N, M, M)``; the augmentation of VRS&SP's public code."""
    turned = [masks.rot90(turns, (1, 2)) for turns in range(4)]
    return torch.stack([*turned, masks.flip(1), masks.flip(2)])


def _fit(prior: ShapePrior, masks: Tensor, epochs: int) -> float:
    """Train the auto-encoder; the mean squared error of the last epoch."""
    # DEVIATION: before the network's training and on ground truth alone; VRS&SP's learns in a first
    # training of the whole network, also from predictions with a mask IoU above 0.95.
    prior.requires_grad_(True)
    optimizer = torch.optim.Adam(prior.parameters(), lr=LEARNING_RATE)
    errors: list[float] = []
    for _ in range(epochs):
        errors = []
        for rows in torch.randperm(len(masks)).split(BATCH):
            shapes = variants(masks[rows])[torch.randint(6, ())].float()
            error = F.mse_loss(prior.decode(prior.encode(shapes)), shapes)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            errors.append(error.item())
    prior.requires_grad_(False)
    return sum(errors) / max(len(errors), 1)


def _centers(
    prior: ShapePrior, masks: Tensor, codes: int, generator: np.random.Generator
) -> Tensor:
    from scipy.cluster.vq import kmeans2  # a third of a second, for one head alone

    # DEVIATION: codes of ground truth alone; VRS&SP's codebook also has those of good predictions.
    vectors = torch.cat([prior.encode(some.float()) for some in masks.split(4096)])
    if len(vectors) <= codes:
        return vectors
    # Few distinct shapes leave some clusters empty, which keep the vectors that they started from.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        centers, _ = kmeans2(vectors.numpy(), codes, minit="points", rng=generator)
    return torch.from_numpy(centers)
