"""What docs/features.md names is there: no cell is empty, and the tests and flags exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "features.md").read_text(encoding="utf-8").splitlines()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in LINES
    if line.startswith("| ") and not line.startswith("| |")
]
FLAGS = {"--lora-dir"} | {  # whose name is put together
    flag
    for path in [*(ROOT / "sd_scratch").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    if path.is_file()
    for flag in re.findall(r"--[a-z][a-z0-9-]+", path.read_text(encoding="utf-8", errors="ignore"))
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_is_whole_and_true(row: list[str]) -> None:
    _, flag, _, tests, _ = row
    assert flag == "not yet" or all(row)
    assert all((ROOT / path).is_file() for path in re.findall(r"tests/[\w/]+\.py", tests))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", flag)) <= FLAGS


def test_the_rows_are_found() -> None:
    assert len(ROWS) > 35
