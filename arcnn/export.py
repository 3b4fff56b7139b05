"""A door: ``python -m arcnn.export`` writes a run as one file, see
:mod:`arcnn.workshop.own_photos.export`."""

import sys

from arcnn.workshop.own_photos.export import main

if __name__ == "__main__":
    sys.exit(main())
