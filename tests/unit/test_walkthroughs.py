"""The walkthroughs run as they are printed, on a tiny model in the place of the shipped one."""

import re
from pathlib import Path

import pytest

import sd_scratch.pipeline
from tests.tiny import tiny_model

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "walkthroughs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page, tmp_path, monkeypatch, capsys):
    model = tiny_model()
    monkeypatch.setattr(sd_scratch.pipeline, "load", lambda *source, **options: model)
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    space: dict[str, object] = {}
    for block in blocks:
        line = text[: text.index(block)].count("\n")
        code = compile("\n" * line + block, str(page), "exec")  # errors name the page's own lines
        exec(code, space)
    assert capsys.readouterr().out
