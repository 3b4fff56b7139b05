"""What a training tells: a bar while it runs, its log, and its sessions for whoever asks later."""

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage

from arcnn.files import is_whole, object_of, read_json, write_json, write_text
from arcnn.names import MASK_KINDS
from arcnn.progress import tqdm
from arcnn.reporting.record import commit, device, moment

logger = logging.getLogger(__name__)

SESSIONS, LOG = "sessions.json", "metrics.json"
LOG_PERIOD = 20  # iterations between two lines of the log, detectron2's own default

_TYPES = {"first": "integer", "last": ["integer", "null"], "seconds": ["number", "null"]}
_SESSION = object_of(**{k: {"type": of} for k, of in _TYPES.items()}) | {"required": [*_TYPES]}


class Session:
    """A line of ``sessions.json``: from where to where a process trained, when, and on what; and
    how many trained together, with the settings that were scaled to their number.

    One that was killed has no end.
    """

    def __init__(
        self, output: Path, start: str, first: int, computed_in: str, scaled: list[str]
    ) -> None:
        self.file = output / SESSIONS
        self.earlier = read_sessions(output)
        self.began = time.monotonic()  # a clock that nobody sets
        self.line = {"start": start, "first": first, "last": None, "device": device()}
        self.line |= {"processes": comm.get_world_size(), "scaled": scaled}
        self.line |= {"precision": computed_in}
        self.line |= {"commit": commit(), "started": moment(time.time()), "seconds": None}
        self._write()

    def end(self, last: int) -> None:
        """Note that ``last`` iterations are done."""
        self.line |= {"last": last, "seconds": round(time.monotonic() - self.began, 1)}
        self._write()

    def _write(self) -> None:
        write_json(self.file, [*self.earlier, self.line])


def read_sessions(output_dir: str | Path) -> list[dict[str, Any]]:
    """All sessions of a training, in order; empty if there was none.

    Raises:
        OSError, ValueError: the file is damaged.
    """
    file = Path(output_dir) / SESSIONS
    schema = {"type": "array", "items": _SESSION}
    cure = "delete it to go on without what it told of earlier sessions."
    return read_json(file, cure, schema) if os.path.lexists(file) else []


class LogWindow(HookBase):
    """Keeps in each checkpoint what the log's medians are taken of: the last values of every loss.

    So a training that goes on logs what an undisturbed one does.
    """

    before: dict[str, list[list[float]]] = {}  # [value, iteration] by name

    def state_dict(self) -> dict[str, Any]:
        histories = self.trainer.storage.histories()
        kept = {name: list(map(list, h.values()[-LOG_PERIOD:])) for name, h in histories.items()}
        return {"values": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = state["values"]

    def before_train(self) -> None:
        for name, values in self.before.items():
            for value, iteration in values:
                self.trainer.storage.histories()[name].update(value, iteration)


class ProgressBar(HookBase):
    """One line in notebook and terminal: iterations, total loss, mask losses, time left."""

    def before_train(self) -> None:
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            mininterval=2,
        )

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % 5 == 0:
            latest = self.trainer.storage.latest_with_smoothing_hint(window_size=LOG_PERIOD)
            shown = [f"loss {latest['total_loss'][0]:.2f}"]
            for kind in MASK_KINDS:
                if f"loss_{kind}_mask" in latest:
                    shown.append(f"{kind} {latest[f'loss_{kind}_mask'][0]:.2f}")
            self.bar.set_postfix_str(", ".join(shown), refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()


class LogWriter(EventWriter):
    """Writes the log of a training that begins at iteration ``first``, each time in one piece.

    What it will log again is taken out; so is a line that is damaged.
    """

    def __init__(self, output: Path, first: int) -> None:
        self.file = output / LOG
        lines = _log_lines(self.file) if self.file.is_file() else []
        self.lines = [line for line in lines if line["iteration"] < first]

    def write(self) -> None:
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(LOG_PERIOD).items()
        line = {name: value for name, (value, iteration) in latest if iteration == storage.iter}
        if not line or (self.lines and self.lines[-1]["iteration"] == storage.iter):
            return
        self.lines.append(line | {"iteration": storage.iter})
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in self.lines)
        write_text(self.file, text)


def _log_lines(log: Path) -> Iterator[dict]:
    for text in log.read_bytes().splitlines():
        try:
            line = json.loads(text)
            sound = is_whole(line["iteration"]) and {*map(type, line.values())} <= {int, float}
        except (ValueError, TypeError, LookupError, RecursionError):
            sound = False
        if sound:
            yield line
        else:  # older kits left the last one cut off where they were interrupted
            logger.info("%s: left out a line that is damaged", log)


def read_log(output_dir: str | Path) -> pd.DataFrame:
    """The training log, indexed by iteration: every loss by name, learning rate, times. Empty
    before its first line."""
    file = Path(output_dir) / LOG
    log = pd.DataFrame(_log_lines(file) if file.is_file() else [])
    if log.empty:
        return log
    # A run of an older kit that was resumed has logged some twice; the later line counts.
    return log.drop_duplicates("iteration", keep="last").set_index("iteration").sort_index()
