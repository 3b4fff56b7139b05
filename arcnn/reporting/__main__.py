"""``make reference``: keep the small files of a profile's results in ``results/reference/``."""

import argparse
import sys
from collections.abc import Sequence

from arcnn.paths import results_folder
from arcnn.reporting.reference import REFERENCE, keep


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcnn.reporting", description=__doc__)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--results-root", default="")
    given = parser.parse_args(arguments)
    try:
        results = results_folder(given.profile, given.results_root)
        kept = keep(results, REFERENCE / given.profile)
    except (OSError, ValueError) as error:
        print(f"make reference: {error}", file=sys.stderr)
        return 1
    print(f"{len(kept)} files in {REFERENCE / given.profile}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
