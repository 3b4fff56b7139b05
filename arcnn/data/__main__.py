"""A door: ``python -m arcnn.data`` checks, converts, fetches and makes data; see
:mod:`arcnn.workshop.own_data.data_commands`."""

import sys

from arcnn.workshop.own_data.data_commands import main

if __name__ == "__main__":
    sys.exit(main())
