"""Errors that say themselves what is missing or wrong, and what to do about it.

They are what they always were to Python, a FileNotFoundError for instance. A notebook shows the
sentence alone: where in the kit it was noticed helps nobody who only has to get a file.
"""

import textwrap


class Told:
    """Mixed into an exception class: IPython shows its sentence in the place of a traceback."""

    def _render_traceback_(self) -> list[str]:  # asked by IPython
        kept = {"break_long_words": False, "break_on_hyphens": False}  # paths to be copied
        return [
            line for text in str(self).splitlines() for line in textwrap.wrap(text, 100, **kept)
        ]


class MissingError(Told, FileNotFoundError):
    """Something is not there that the reader can get, draw, or make by an earlier notebook."""


class InputError(Told, ValueError):
    """Parameters, settings, data or weights that are not what they should be."""


class FileError(Told, OSError):
    """A file that cannot be read or written."""


class BusyError(Told, BlockingIOError):
    """Another process is at it."""
