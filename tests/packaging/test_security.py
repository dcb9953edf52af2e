"""Every line of SECURITY.md has tests, and they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_line_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 8
    for row in rows:
        assert "`tests/" in row, row
    for name in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert re.search(r"^def test_", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE), (
            name
        )
