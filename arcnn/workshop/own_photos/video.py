"""The frames of a video, one at a time, by PyAV: the extra ``video`` of the kit."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arcnn.errors import MissingError

if TYPE_CHECKING:
    import av

ENDINGS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"}


def check_video_reader(file: Path) -> None:
    """See to it that a video can be read here at all.

    Raises:
        FileNotFoundError: PyAV is not installed; says how to get it.
    """
    try:
        import av  # noqa: F401 - only whoever has a video needs it
    except ImportError as error:
        raise MissingError(
            f"{file} is a video, and PyAV, which reads them, is not installed: `pip install av`, "
            "or give a folder of its frames."
        ) from error


def frames(file: Path, every: int = 1) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Every so many-th frame of a video with its number, from 0; one is in memory at a time.

    Raises:
        OSError: it cannot be read, or from some frame on cannot be.
    """
    import av

    try:
        with closing(av.open(str(file))) as content:
            if not content.streams.video:
                raise OSError(f"{file} cannot be read: it has no picture")
            for number, frame in enumerate(content.decode(video=0)):
                if number % every == 0:
                    yield number, frame
    except av.FFmpegError as error:
        raise OSError(f"{file} cannot be read: {error}") from error


def upright(frame: "av.VideoFrame", max_pixels: int) -> np.ndarray:
    """A frame as it is meant to be seen, uint8 ``(H, W, 3)`` RGB, of ``max_pixels`` at most."""
    scale = min(1.0, (max_pixels / (frame.width * frame.height)) ** 0.5)
    width, height = (max(round(scale * side), 1) for side in (frame.width, frame.height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    # A telephone films lying on its side, and says so; counterclockwise, as numpy turns.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
