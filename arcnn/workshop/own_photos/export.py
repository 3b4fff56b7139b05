"""A trained run for others: as one file of the kit's, or as TorchScript.

::

    python -m arcnn.export results/demo/runs/tabletop/arcnn/seed0 jigsaw.safetensors
    python -m arcnn.predict PHOTOS --run jigsaw.safetensors --out FOLDER

The first writes weights, settings, class names and records into one file (:mod:`arcnn.exchange`),
which opens wherever a run's folder does, without that folder. An exported file may be exported
again.

A name that ends in ``.ts`` gives TorchScript, for programs without the kit and without
detectron2: they need PyTorch and torchvision alone. It is traced on a CPU, runs on a CPU, and is
written only if it gives the same numbers as the model, for images of other sizes too. It takes one
image, uint8 or float ``(3, H, W)``, already at the size that the model was tested at and with its
order of colours, and gives a tuple of tensors; ``arcnn.json`` inside tells of all that::

    import torch, torchvision  # torchvision has the operators

    about = {"arcnn.json": ""}
    model = torch.jit.load("jigsaw.ts", _extra_files=about)
    outputs = dict(zip(json.loads(about["arcnn.json"])["outputs"], model(image)))

``boxes`` are XYXY in pixels of the given image, ``classes`` are numbers from 0, and ``amodal``,
``visible`` and ``occlusion`` are probabilities ``(R, M, M)`` inside the R boxes, as far as a model
predicts them.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from PIL import Image
from torch import Tensor, nn

from arcnn.data.tabletop import draw_scene
from arcnn.errors import InputError
from arcnn.exchange import write_run_file
from arcnn.files import PHOTOS, printable, write_atomically
from arcnn.names import MASK_KINDS
from arcnn.predict import at_test_size
from arcnn.weights import load_trained, run_papers


def export_run(run: Path, file: Path) -> str:
    """Write a run as one file; returns what identifies its content, a SHA-256.

    Raises:
        FileNotFoundError, ValueError: the run was not trained to its end, or is not whole.
        OSError: the file cannot be written.
    """
    trained, papers = load_trained(run, device="cpu"), run_papers(run)
    digest = write_run_file(file, papers, trained.model.state_dict())
    try:
        load_trained(file, device="cpu")  # nobody gets a file that was never opened
    except BaseException:
        file.unlink()
        raise
    return digest


def export_torchscript(run: Path, file: Path) -> list[str]:
    """Write a run's model as TorchScript; returns the names of its outputs, in their order.

    Raises:
        FileNotFoundError, ValueError: as :func:`export_run`; or the traced model is another one.
    """
    cfg, model = load_trained(run, device="cpu")
    images = list(_images(cfg))
    with torch.no_grad():
        own = [outputs(model, image) for image in images]
    names = list(own[0])

    def inference(model: nn.Module, inputs: list[dict[str, Tensor]]) -> tuple[Tensor, ...]:
        return tuple(outputs(model, inputs[0]["image"]).values())

    # The picture with most in it: what is never gone through is not traced.
    found = [len(output["scores"]) for output in own]
    if not max(found):
        raise InputError(f"the model of {run} finds nothing in any image; train it for longer.")
    adapter = TracingAdapter(model, [{"image": images[found.index(max(found))]}], inference)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that are constants: compared below
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        for image, output in zip(images, own, strict=True):
            for name, of_traced in zip(names, traced(image), strict=True):
                if not torch.equal(of_traced, output[name]):
                    raise InputError(
                        f"the model of {run} cannot be traced: its {name} come out otherwise for "
                        f"an image of {list(image.shape)}. Export it as .safetensors."
                    )
    about = {
        "inputs": {"image": f"{cfg.INPUT.FORMAT}, 0 to 255, (3, H, W)"}
        | {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST},
        "outputs": names,
        "classes": run_papers(run).classes,
    }
    extra = {"arcnn.json": json.dumps(about)}
    write_atomically(file, lambda partial: traced.save(str(partial), _extra_files=extra))
    return names


def outputs(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What a model says of one image ``(3, H, W)``, before masks are pasted into it."""
    (found,) = model.inference([{"image": image}], do_postprocess=False)
    said = {"boxes": found.pred_boxes.tensor, "classes": found.pred_classes, "scores": found.scores}
    fields = {kind: f"pred_{kind}_masks" for kind in MASK_KINDS}
    return said | {kind: found.get(field) for kind, field in fields.items() if found.has(field)}


def _images(cfg: CfgNode) -> Iterator[Tensor]:
    """What a model is traced with and compared on: scenes and photographs, of several shapes."""
    pictures = [draw_scene(seed, "val", 0).image for seed in range(2)]
    pictures += [np.asarray(Image.open(file).convert("RGB")) for file in PHOTOS.glob("*.jpg")]
    for picture in [*pictures, pictures[0][:, : pictures[0].shape[1] // 2]]:
        yield at_test_size(cfg, picture)


def main(arguments: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m arcnn.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("run", type=Path, help="folder of a training, or an exported file")
    top.add_argument("file", type=Path, help="a new file: .safetensors, or .ts for TorchScript")
    given = top.parse_args(arguments)
    try:
        if given.file.exists():
            raise InputError(f"{given.file} is there already; give another name.")
        if given.file.suffix == ".safetensors":
            said = f"sha256 {export_run(given.run, given.file)}"
        elif given.file.suffix == ".ts":
            said = "outputs: " + ", ".join(export_torchscript(given.run, given.file))
        else:
            raise InputError(f"{given.file}: its name ends neither in .safetensors nor in .ts.")
    except (OSError, ValueError) as error:
        print(printable(f"export: {error}"), file=sys.stderr)
        return 1
    print(f"{given.file}, {given.file.stat().st_size / 1e6:.1f} MB, {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
