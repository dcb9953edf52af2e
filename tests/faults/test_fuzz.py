"""A short run of the mutation tests, one kind of file after the other."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"
SPEC = importlib.util.spec_from_file_location("fuzz", FILE)
assert SPEC is not None and SPEC.loader is not None
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutated_files_are_read_or_refused_in_one_line(kind: str) -> None:
    found = fuzz.fuzz(kind, 60)
    assert set(found) <= {"loaded", "refused"}, dict(found)
    assert sum(found.values()) == 60
