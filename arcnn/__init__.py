"""Amodal segmentation just like doing a jigsaw: the models, data and protocol of ARCNN.

Importing the package registers the three mask heads with detectron2.
"""

import logging
import warnings

try:
    with warnings.catch_warnings():
        # detectron2 uses torch.jit.script and torch.cuda.amp by their old names; nothing to be done
        # about it here, and it would stand at the top of every notebook.
        warnings.simplefilter("ignore", FutureWarning)
        import detectron2.modeling  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "detectron2 is missing. `make setup` installs it into .venv; in an environment of your "
        "own, run `python arcnn/tools/install_detectron2.py` once."
    ) from error
warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
# torch tells every caller of a name that detectron2 uses about its successor.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

from arcnn import modeling  # noqa: E402
from arcnn.config import DATASETS, MODELS, add_arcnn_config, get_config  # noqa: E402

__version__ = "0.1.0"
__all__ = ["DATASETS", "MODELS", "add_arcnn_config", "get_config", "modeling"]
