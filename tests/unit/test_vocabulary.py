"""docs/vocabulary.md and docs/networks.md against the code."""

import argparse
import ast
import inspect
import re
from pathlib import Path

import pytest

import sd_scratch as sd
from sd_scratch.cli import COMMANDS, _parser
from sd_scratch.config import SD15
from sd_scratch.networks.blocks import stack_widths

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| concept")
]


def quoted(column: int) -> set[str]:
    return {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[column])}


def flags(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= {name for name in action.option_strings if name.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*(flags(sub) for sub in action.choices.values()))
    return found


FLAGS = flags(_parser([command.name for command in COMMANDS]))


def public_names() -> set[str]:
    names = set(sd.__all__)
    for name in sd.__all__:
        thing = getattr(sd, name)
        members = thing.__all__ if inspect.ismodule(thing) else dir(thing)
        own = {m for m in members if not m.startswith("_")} if not callable(thing) else set()
        if inspect.isclass(thing):
            own = {m for m in dir(thing) if not m.startswith("_")}
        functions = [getattr(thing, m, None) for m in own] + [thing]
        names |= own | {
            parameter
            for function in functions
            if inspect.isfunction(function)
            for parameter in inspect.signature(function).parameters
        }
    return names


def journal_columns() -> set[str]:
    tree = ast.parse((ROOT / "sd_scratch" / "training" / "loop.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    rows = [call for call in calls if ast.unparse(call.func).endswith("journal.write")]
    return {"step"} | {k.arg for call in rows for k in call.keywords if k.arg}


def test_every_python_name_is_there():
    for name in quoted(2):
        path, _, parameter = name.rstrip(")").partition("(")
        thing: object = sd
        for part in path.split("."):
            fields = getattr(thing, "__dataclass_fields__", {})
            assert hasattr(thing, part) or part in fields, name
            thing = getattr(thing, part, None)
        if parameter:
            assert parameter in inspect.signature(thing).parameters, name  # type: ignore[arg-type]


def test_every_flag_is_there():
    assert quoted(3) <= FLAGS


def test_the_journals_columns_are_these():
    assert quoted(4) == journal_columns()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_no_name_uses_another_word(row):
    never = set(filter(None, re.split(r",\s*", row[5])))
    for name in public_names() | FLAGS | journal_columns():
        parts = set(re.split(r"[_-]+", name.strip("-").lower()))
        assert not parts & never, f"{name}: the word is {row[1]}"


def test_the_page_on_networks_has_every_file_and_the_stack():
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(\.\./sd_scratch/networks/(\w+\.py)\)", page))
    folder = ROOT / "sd_scratch" / "networks"
    assert linked == {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    stack = stack_widths(SD15.unet.block_out_channels, SD15.unet.layers_per_block)
    assert f"{len(stack)} tensors, of {' '.join(map(str, stack))} channels" in page
