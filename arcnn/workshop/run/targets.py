"""What the make targets that work on a profile's results have in common."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from arcnn.errors import InputError
from arcnn.files import printable, results_folder
from arcnn.workshop.run.folders import check_writable, files_below


def on_results(
    target: str, description: str, work: Callable[[Path], str], arguments: Sequence[str] | None
) -> int:
    """A make target that works on the results of a profile: its command line and its errors.

    Args:
        target: as in ``make <target>``.
        work: takes the folder of results, and says what was made.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog=f"make {target}", description=description)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--results-root", default="")
    given = parser.parse_args(arguments)
    try:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", given.profile):
            raise InputError("this is not the name of a profile.")
        results = results_folder(given.profile, given.results_root)
        if results.is_dir():
            files_below(results) if target == "reference" else check_writable(results)
        print(work(results))
        return 0
    except (OSError, ValueError) as error:
        print(printable(f"make {target} PROFILE={given.profile}: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
