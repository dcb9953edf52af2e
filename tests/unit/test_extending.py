"""docs/extending.md is followed: each thing that it adds is there afterwards, and gone after the test."""

import re
from pathlib import Path

from sd_scratch.checkpoints.adapters import changes
from sd_scratch.diffusion import spacing
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.training.pixels.datasets import DATA_SETS
from tests.tiny import tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


def test_the_page_is_followed(monkeypatch):
    for table in (SAMPLERS, spacing.SIGMA_SPACINGS, DATA_SETS):
        for key, value in table.items():
            monkeypatch.setitem(table, key, value)
    monkeypatch.setattr(spacing, "SPACINGS", spacing.SPACINGS)
    monkeypatch.setattr(changes, "FORMULAS", changes.FORMULAS)
    added = {"ddim_by_hand": SAMPLERS, "halves": spacing.SIGMA_SPACINGS, "digits-again": DATA_SETS}
    for key, table in added.items():
        assert key not in table
    model = tiny_model()
    space = {"model": model, "prompt": model.prompt("a red circle"), "noise": model.noise(1)}
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == 6
    try:
        for block in blocks:
            line = text[: block.start(1)].count("\n")
            exec(compile("\n" * line + block.group(1), str(PAGE), "exec"), space)
        assert all(key in table for key, table in added.items())
    finally:
        for key, table in added.items():
            table.pop(key, None)
