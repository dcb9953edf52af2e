"""The walkthroughs run as they are printed, on a tiny model in the place of the shipped one, a few patterns
in the place of a data set, and a few steps of training in the place of many."""

import re
from pathlib import Path

import pytest
import torch

import sd_scratch.pipeline.load
from tests.digits import digits, write_idx
from tests.tiny import tiny_model

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "walkthroughs").glob("*.md"))
SHORTENED = {"ddpm": ("steps = 1000\n", "steps = 3\n")}


def write_digits(folder: Path) -> None:
    """Pictures of MNIST's size, where the data sets are kept."""
    folder.mkdir()
    for stem, count in (("train", 100), ("t10k", 50)):
        data = digits(count, side=28)
        write_idx(folder / f"{stem}-images-idx3-ubyte", data.images[:, 0])
        write_idx(folder / f"{stem}-labels-idx1-ubyte", data.labels.to(torch.uint8))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page, tmp_path, monkeypatch, capsys):
    model = tiny_model()
    monkeypatch.setattr(sd_scratch.pipeline.load, "load", lambda *source, **options: model)
    monkeypatch.setenv("SD_SCRATCH_DATA", str(tmp_path))
    write_digits(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    if page.stem in SHORTENED:
        long, short = SHORTENED[page.stem]
        assert text.count(long) == 1
        text = text.replace(long, short)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    space: dict[str, object] = {}
    for block in blocks:
        line = text[: text.index(block)].count("\n")
        code = compile("\n" * line + block, str(page), "exec")  # errors name the page's own lines
        exec(code, space)
    assert capsys.readouterr().out
