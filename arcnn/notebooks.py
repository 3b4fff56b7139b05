"""A door: ``python -m arcnn.notebooks`` runs a notebook, see :mod:`arcnn.workshop.notebooks`."""

import sys

from arcnn.workshop.notebooks import main

if __name__ == "__main__":
    sys.exit(main())
