"""docs/pipeline.md against the code: it names every file, and its block runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")


def test_the_page_has_every_file():
    linked = set(re.findall(r"\]\(\.\./sd_scratch/((?:pipeline|dialects)/\w+\.py)\)", PAGE))
    files = {
        f"{room}/{file.name}"
        for room in ("pipeline", "dialects")
        for file in (ROOT / "sd_scratch" / room).glob("*.py")
        if file.name != "__init__.py"
    }
    assert linked == files


def test_the_loop_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "pipeline.md", "exec"), {})
    assert (tmp_path / "star.png").stat().st_size > 0
