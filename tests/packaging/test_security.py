"""Every line of SECURITY.md names tests, each by its function, and they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`(tests/[^`]+)`", PAGE)


def test_every_line_names_tests() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 9
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row), row
    assert all("::" in name for name in NAMES), "a whole file proves no line"


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_what_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert functions.count(function) >= 1
