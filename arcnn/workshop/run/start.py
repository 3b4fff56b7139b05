"""``make start``: the weights that trainings on tabletop start from, as one small file in git.

Runs after the profile ``start``; writes its network, in half precision, to ``data/start/``,
with a record of how it came about beside it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from safetensors.torch import save_file
from torch import Tensor

from arcnn.config import get_config
from arcnn.data import register_dataset
from arcnn.data.tabletop.scenes import VERSION
from arcnn.files import (
    data_folder,
    read_yaml,
    results_folder,
    run_folder,
    sha256,
    write_atomically,
    write_json,
)
from arcnn.initial_weights import initial_weights
from arcnn.names import TABLE_1
from arcnn.weights import load_trained

DATASET, MODEL = "tabletop", "pieces"


def keep(results: Path, file: Path) -> dict:
    """Write the trained network of the profile ``start`` to ``file``, and its record beside it.

    Weights are kept as float16, the counters of normalisation layers not at all.

    Raises:
        FileNotFoundError: it is not trained or not evaluated.
    """
    run = run_folder(results, DATASET, MODEL, 0)
    _, model = load_trained(run, device="cpu")
    record = json.loads((run / "record.json").read_text())
    trained = json.loads((run / "train" / "record.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    profile = read_yaml((results / "profile.yaml").read_text())
    register_dataset(DATASET, data_folder(profile["data_root"]))
    made_for = {
        "drawing": str(VERSION),
        "classes": ",".join(MetadataCatalog.get(f"{DATASET}_train").thing_classes),
    }
    weights = {
        key: value.half().contiguous()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    write_atomically(file, lambda partial: write_weights(weights, partial, made_for))
    file.chmod(0o644)
    about = {
        "sha256": sha256(file),
        "made for": made_for,
        "profile": {key: profile[key] for key in ("tabletop", "options")},
        "numbers on its own validation scenes": {
            name: round(metrics[task][metric], 2)
            for name, (task, metric) in (TABLE_1 | {"hidden AP": ("occlusion", "AP")}).items()
        },
        "training": {key: trained[key] for key in ("sessions", "versions", "commit")},
        "trained_on": record["trained_on"],
    }
    write_json(file.with_suffix(".json"), about)
    return about


def write_weights(weights: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    """A safetensors file whose bytes follow from its content.

    The library writes the metadata in an order of chance, so that equal weights would have
    different hashes.
    """
    save_file(weights, file, metadata=metadata)
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")  # of the header, which is JSON
    header = json.loads(content[8 : 8 + size]) | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    file.write_bytes(content[:8] + text + content[8 + size :])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.workshop.run.start", description=__doc__)
    parser.add_argument("--results-root", default="")
    given = parser.parse_args(arguments)
    file = Path(initial_weights(get_config(DATASET, "arcnn")))
    try:
        about = keep(results_folder("start", given.results_root), file)
    except (OSError, ValueError) as error:
        print(f"make start: {error}", file=sys.stderr)
        return 1
    size = file.stat().st_size / 1e6
    print(f"{file}: {size:.1f} MB; {about['numbers on its own validation scenes']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
