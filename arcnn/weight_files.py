"""Files of weights that may come from anywhere: read as numbers, or refused by a sentence.

A pickle can run any code when it is opened; of a ``.pkl`` and of a ``.pth``, nothing but arrays and
tensors is taken.
"""

import hashlib
import mmap
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from arcnn.errors import InputError

# What the zoo's files are that configs start from, as others who fetched them have it; the zoo
# itself gives the beginning of an MD5, in the name, and of the first file nothing.
ZOO = {
    "ImageNetPretrained/MSRA/R-50.pkl": "md5:6652b4a9c782d82bb3d42118be74d79b",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl": "sha256:"
    "3c25caca37baabbff3e22cc9eb0923db165a0c18b867871a3bf3570bac9b7ef0",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl": "sha256:"
    "9a737e290372f1f70994ebcbd89d8004dbb3ae30a605fd915a190fa4a782dd66",
}
CURE = (
    "Delete it, and get it again where it comes from; where it is a checkpoint of a training, that "
    "goes on from an earlier one, or from the start."
)


def read_checkpoint(file: Path, cure: str) -> dict[str, Any]:
    """What ``torch.save`` wrote: a dictionary of tensors and plain values, on the CPU.

    It is a pickle; torch opens it as one that names no code. What would be larger in memory than on
    disk is refused before: compressed archives, and texts that ask for so many empty bytes.

    Args:
        cure: what to do, for the sentence.

    Raises:
        ValueError: it is something else, or cut off; names the file.
    """
    try:
        if not file.is_file():
            raise ValueError("no file")
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(each.compress_type for each in archive.infolist()):
                    raise ValueError("it is compressed, as torch.save does not")
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as all_of,
        ):
            if all_of.find(b"bytearray") >= 0:
                raise ValueError("it asks for builtins.bytearray")
        content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError("no dictionary")
    except Exception as error:  # a pickle, a zip or a tensor that is broken may raise anything
        # torch's own words are a page, and tell how to run the code.
        said = str(error) if isinstance(error, ValueError) else "it is cut off, or none"
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            said = f"it asks for {asked[1]}"
        raise InputError(f"{file} cannot be read as PyTorch's weights ({said}). {cure}") from error
    return content


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is none, or cut off; names the file.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is no safetensors file, or cut off ({error}). {CURE}") from error


def check_zoo(name: str, file: Path) -> None:
    """Is this the file that detectron2's model zoo has under a name?

    Args:
        name: as ``detectron2://`` has it, a key of :data:`ZOO`; of others nothing is known.

    Raises:
        ValueError: it is not.
    """
    if name in ZOO:
        kind, _, known = ZOO[name].partition(":")
        with file.open("rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if found != known:
            raise InputError(
                f"{file} is not the model zoo's {name}: its {kind.upper()} is {found}, and was "
                f"{known}. Delete it, and it is fetched again; or give a file of your own by its "
                "path, as MODEL.WEIGHTS."
            )


# What arrays, and containers of them, are pickled as: by numpy 1 and 2, Python 2 and 3.
ARRAYS = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def check_pickle(file: Path) -> None:
    """Refuse a ``.pkl`` that holds anything but arrays, before detectron2 opens it: a pickle may
    run any code. (A ``.pth`` is opened by torch, which sees to that itself.)

    Raises:
        ValueError: it does, or cannot be read.
    """
    try:
        with file.open("rb") as content:
            _ArraysOnly(content, encoding="latin1").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise InputError(
            f"{file} is not opened: a model zoo's .pkl holds arrays and nothing else, and here "
            f"{error}. Get it again where it comes from."
        ) from error
