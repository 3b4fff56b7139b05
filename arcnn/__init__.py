"""Amodal segmentation just like doing a jigsaw: the models, data and protocol of ARCNN.

The house has two wings. What a reader of the paper opens:

``modeling``       the three mask heads, Eq. (1), and their losses, Eq. (2); in it ``amodal_head``,
                   the contract of a head, and ``field``, other papers' models
``config``         every switch, with ``configs/``; ``training`` trains what it says, by
                   ``launch`` on several GPUs; ``logbook`` and ``film`` tell of it
``data``           annotation files to records, the mapper, statistics, the drawn ``tabletop``
``evaluation``     the protocol of Table 1; ``reporting`` makes the table of it
``predict``        what a trained model sees in an image of one's own; ``exchange``, a run as one
                   file
``visualization``  the figures; ``readings`` what the notebooks say of their numbers
``experiments``    the ablation that the paper lacks, and the field side by side
``names``          what several of them call by one name; ``files`` where things lie; ``errors``,
                   ``parameters`` and ``cells`` what is said of bad inputs

``workshop`` holds what runs and serves all that: setting up, running notebooks, checking,
converting, fetching and pasting data. No model, loss or number of the paper is made there.
"""

import importlib.util
import logging
import warnings

import lazy_loader

if importlib.util.find_spec("detectron2") is None:
    raise ModuleNotFoundError(
        "detectron2 is missing. `make setup` installs it into .venv; in an environment of your "
        "own, run `python arcnn/workshop/setup/install_detectron2.py` once."
    )
# detectron2 calls these by names that torch is about to drop, and torch tells every caller; nothing
# to be done about it here.
warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
warnings.filterwarnings("ignore", "`torch.cuda.amp", FutureWarning)
warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

__version__ = "0.1.0"
# Importing a part brings what that part needs, and no more.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"config": ["add_arcnn_config", "get_config"], "names": ["DATASETS", "MODELS"]},
)
