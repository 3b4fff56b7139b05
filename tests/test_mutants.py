"""What `make mutants` leaves out as no error speaks of code that exists."""

import tomllib

import pytest
from mutate import KNOWN, ROOT, Known, known

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]


@pytest.mark.parametrize("entry", known(KNOWN.read_text()), ids=lambda entry: entry.why[:40])
def test_what_is_explained_still_exists(entry: Known) -> None:
    assert entry.file in SETTINGS and len(entry.why) > 20 and entry.changes
    lines = "\n".join(line.strip() for line in (ROOT / entry.file).read_text().splitlines())
    for old, new in entry.changes:
        assert f"\n{old}\n" in f"{lines}\n" and new != old, old


def test_the_files_and_their_tests_exist() -> None:
    for file, tests in SETTINGS.items():
        assert (ROOT / file).is_file() and tests
        assert all((ROOT / "tests" / f"{test}.py").is_file() for test in tests)
