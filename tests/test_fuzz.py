"""A few cases of ``tests/fuzz.py``, always the same ones."""

from pathlib import Path

import fuzz
import pytest
from hypothesis import seed


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_files_that_are_nearly_right_end_in_documented_ways(target: str, tmp_path: Path) -> None:
    before = fuzz.tried
    seed(1)(fuzz.drawn(target, tmp_path / "case", 25))()
    assert fuzz.tried >= before + 25


def test_a_find_is_raised_and_its_files_stay(tmp_path: Path, monkeypatch) -> None:
    def broken(folder: Path) -> None:
        raise RecursionError

    monkeypatch.setitem(fuzz.TARGETS, "read", broken)
    with pytest.raises(RecursionError):
        fuzz.drawn("read", tmp_path / "case", 1)()
    assert (tmp_path / "case" / "a.json").is_file()
