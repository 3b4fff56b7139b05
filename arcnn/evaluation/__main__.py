"""A door: ``python -m arcnn.evaluation`` scores anyone's predictions; see
:mod:`arcnn.workshop.score`."""

import sys

from arcnn.workshop.score import main

if __name__ == "__main__":
    sys.exit(main())
