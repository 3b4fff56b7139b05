"""A door: ``python -m arcnn.evaluation`` scores anyone's predictions; see
:mod:`arcnn.workshop.own_data.score`."""

import sys

from arcnn.workshop.own_data.score import main

if __name__ == "__main__":
    sys.exit(main())
