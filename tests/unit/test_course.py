"""The course: its pages run as they are printed, its links and figures are there, and no page uses a word of the
glossary before the page that introduces it."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)")


def load_script():
    spec = importlib.util.spec_from_file_location("course", ROOT / "scripts" / "course.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


course = load_script()
PAGES = [*course.pages(), ROOT / "docs" / "errata.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_makes_its_figures(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    course.run_page(page)
    assert capsys.readouterr().out
    for name in course.figures_of(page):
        assert (tmp_path / name).stat().st_size > 0
        assert (course.FIGURES / name).is_file(), "python scripts/course.py figures"


@pytest.mark.parametrize(
    "page", [*sorted(COURSE.glob("*.md")), ROOT / "docs" / "errata.md"], ids=lambda p: p.stem
)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for path in re.findall(r"`(sd_scratch/[\w/.]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def glossary() -> dict[str, str]:
    rows = (COURSE / "glossary.md").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"\| (.+?) \| .+ \| (\d\d) \|", row) for row in rows]
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("page", course.pages(), ids=lambda page: page.stem)
def test_no_word_is_used_before_it_is_introduced(page):
    text = re.sub(
        r"```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)",
        "",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    number = page.stem[:2]
    terms = glossary()
    assert len(terms) > 20
    for term, introduced in terms.items():
        used = re.search(rf"(?<![\w-]){re.escape(term)}(?![\w-])", text)
        if used and number < introduced:
            raise AssertionError(
                f"{page.name} uses '{term}', which chapter {introduced} introduces"
            )
        if number == introduced and term not in ("v", "guidance"):
            assert re.search(
                rf"{re.escape(term)}", page.read_text(encoding="utf-8"), re.IGNORECASE
            ), term


@pytest.mark.parametrize("name", ["README.md", "sources.md"])
def test_the_entrances_lead_somewhere(name):
    page = ROOT / "docs" / name
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
