"""A door: ``python -m arcnn.notebooks`` runs one, see :mod:`arcnn.workshop.notebooks.runner`."""

import sys

from arcnn.workshop.notebooks.runner import main

if __name__ == "__main__":
    sys.exit(main())
