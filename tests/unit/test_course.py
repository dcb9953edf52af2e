"""The course: its pages run as they are printed, its links and figures are there, and no page uses a word of the
glossary before the page that introduces it."""

import io
import re
import sys
from pathlib import Path

import pytest

from sd_scratch.cli.map import EXPERIMENTS
from sd_scratch.teaching import EXERCISES

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)")

sys.path.insert(0, str(ROOT / "scripts"))
import course_pages as course  # noqa: E402

PAGES = [*course.pages(), ROOT / "docs" / "errata.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_prints_what_it_says_and_makes_its_figures(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = course.run_page(page)
    text = page.read_text(encoding="utf-8")
    for block, output in zip(course.blocks(text), printed, strict=True):
        told, found = map(course.without_numbers, (block.output, output))
        assert told == found, f"line {block.line}; python scripts/course.py outputs writes it anew"
    for name in course.figures_of(page):
        assert (tmp_path / name).stat().st_size > 0
        assert (course.FIGURES / name).is_file(), "python scripts/course.py outputs"
    for name in course.results_of(page):
        assert (tmp_path / name).stat().st_size > 0
        assert 0 < (course.RESULTS / name).stat().st_size < 1 << 20, "python scripts/course.py full"


def test_a_block_that_fails_says_which_page_and_line(tmp_path):
    page = tmp_path / "99-wrong.md"
    page.write_text("A page.\n\n```python\nx = 1\n```\n\n   ```python\n   x / 0\n   ```\n")
    with pytest.raises(course.CourseError, match=r"99-wrong.md, the block at line 8: ZeroDiv"):
        course.run_page(page)


def test_a_page_is_gone_through_block_by_block(tmp_path, monkeypatch, capsys):
    page = tmp_path / "97-slow.md"
    page.write_text(
        "```python\nx = 2 + y\n```\n\ntext\n\n   ```python\n   print('x is', x)\n   ```\n"
    )
    typed = io.StringIO("\ny = 0\n\nx = 5\nif x:\n    x += 1\n\n\nprint(10 * x)\n")
    monkeypatch.setattr("sys.stdin", typed)
    course.step_page(page)
    told = capsys.readouterr().out
    assert (
        "97-slow.md, line 2" in told
        and "    x = 2 + y" in told
        and "name 'y' is not defined" in told
    )
    assert told.index("answer:") < told.index("print('x is', x)")
    assert told.index("x is 6") < told.index("last block") < told.index("60")


def test_outputs_are_written_behind_their_blocks_and_replaced():
    page = "```python\nprint(1)\n```\n\ntext\n\n   ```python\n   x = 2\n   ```\n"
    once = course.with_outputs(page, ["1\n", ""])
    assert once.startswith("```python\nprint(1)\n```\n\n```output\n1\n```\n\ntext\n")
    assert course.with_outputs(once, ["1\n", ""]) == once
    assert course.with_outputs(once, ["", "2\n"]).endswith("   ```\n\n   ```output\n   2\n   ```\n")
    assert [block.output for block in course.blocks(once)] == ["1\n", ""]


def test_full_runs_take_the_numbers_behind_the_mark(tmp_path, monkeypatch):
    page = tmp_path / "98-long.md"
    page.write_text(
        "```python\nsteps = 2  # full: 300\nprint(steps)\n```\n\n[it](results/98.txt)\n\n"
        "```python\nopen('98.txt', 'w').close()\n```\n\n```python\nprint('behind')\n```\n"
    )
    monkeypatch.chdir(tmp_path)
    assert course.run_page(page) == ["2\n", "", "behind\n"]
    Path("98.txt").unlink()
    assert course.run_page(page, full=True) == ["300\n", ""]  # what it is run for is there


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sd_scratch.networks.unet", '"""The U-Net that predicts'),
        ("sd_scratch.networks.unet.UNet.forward", "    def forward("),
        ("sd_scratch.config.SD15", "SD15 = ModelConfig()"),
    ],
)
def test_code_is_found_by_its_name(name, line):
    path, number = course.find_code(name)
    assert (ROOT / path).read_text(encoding="utf-8").splitlines()[number - 1].startswith(line)


@pytest.mark.parametrize(
    "name", ["sd_scratch.networks.unet.UNet.backward", "torch.nn.Linear", "x.y"]
)
def test_code_that_is_not_there_is_named(name):
    with pytest.raises(course.CourseError, match=re.escape(name)):
        course.find_code(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_code_lead_to_a_line(page):
    text = page.read_text(encoding="utf-8")
    linked = course.link_code(text, lambda path, line: f"{path}#L{line}")
    assert "[code:" not in linked
    assert len(course.CODE.findall(text)) == linked.count(".py#L")


@pytest.mark.parametrize(
    "page", [*sorted(COURSE.glob("*.md")), ROOT / "docs" / "errata.md"], ids=lambda p: p.stem
)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in LINK.findall(text):
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


def rows_of_the_sources() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = [re.fullmatch(r"\| (.+?) \| (.+) \|", line) for line in text.splitlines()]
    return [(row[1], row[2]) for row in rows if row and "---" not in row[1]]


def test_every_place_of_the_sources_is_there():
    for what, here in rows_of_the_sources():
        if what.startswith("in the "):
            continue
        assert re.search(r"\]\(|`|this package|No counterpart", here), f"{what} has no place"
        for page, sections in re.findall(
            r"\]\((course/[\w-]+\.md)\), sections? ([\d]+(?: (?:to|and) \d+)?)", here
        ):
            text = (ROOT / "docs" / page).read_text(encoding="utf-8")
            first, last = (re.findall(r"\d+", sections) * 2)[:2]
            for section in {first, last}:
                assert re.search(rf"^## {section}\. ", text, re.MULTILINE), (
                    f"{what}: {page}, {section}"
                )
        for group, name in re.findall(r"`(map|teach) (\w+)`", here):
            assert name in (EXPERIMENTS if group == "map" else EXERCISES), f"{what}: {group} {name}"
        for path in re.findall(r"`(sd_scratch/[\w/.]+)`", here):
            assert (ROOT / path).is_file(), f"{what}: {path}"


def test_the_errata_have_every_block_that_is_named():
    text = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    printed = set(re.findall(r"^(\d+) ", "".join(b.output for b in course.blocks(text)), re.M))
    rows = [row.rsplit("|", 2)[1].strip() for row in text.splitlines() if row.startswith("| ")]
    named = re.findall(r"\b\d+\b", " ".join(row for row in rows if "]" not in row))
    for _, here in rows_of_the_sources():
        for blocks in re.findall(r"errata\.md\), blocks? (\d+(?: and \d+)?)", here):
            named += re.findall(r"\d+", blocks)
    assert named and set(named) == printed


NUMBERED = [
    *(f"figure 2.{n}" for n in range(1, 10)),
    *(f"figure 4.{n}" for n in range(1, 9)),
    *(f"table {n}" for n in ("2.1", "3.1", "3.2", "3.3")),
    *(f"equation 2.{n}" for n in range(1, 5)),
    *(f"equation {n}" for n in range(1, 15)),
    *(f"exercise {n} of episode {episode}" for episode in (84, 85) for n in (1, 2, 3)),
    *("algorithm 1 of the thesis", "algorithm 1: training", "algorithm 2: sampling", "ControlNet"),
]


@pytest.mark.parametrize("named", NUMBERED)
def test_what_the_sources_number_has_a_place_with_a_block(named):
    places = [
        here
        for what, here in rows_of_the_sources()
        if re.search(rf"{re.escape(named)}(?!\d|\.\d)", what)
    ]
    assert places, named
    for here in places:
        found = re.findall(r"\]\((course/[\w-]+\.md)\), sections? (\d+)", here)
        assert found or "No counterpart" in here, f"{named}: no section"
        sections = [section_of(ROOT / "docs" / page, number) for page, number in found]
        assert not found or any("```python" in text for text in sections), f"{named}: no block"


def section_of(page: Path, number: str) -> str:
    """The text of a page's section."""
    parts = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return next(part for part in parts if part.startswith(f"{number}. "))


@pytest.mark.parametrize("what, here", rows_of_the_sources())
def test_what_has_no_counterpart_says_why(what, here):
    if "o counterpart" in here:
        assert re.search(r"o counterpart[^:]*: \w", here), what
