"""tqdm's bars: widgets in a notebook that somebody looks at, lines of text everywhere else."""

import os

from arcnn.files import IN_BATCH

# A widget leaves nothing on the page of a batch run, nor in its terminal.
if IN_BATCH in os.environ:
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
