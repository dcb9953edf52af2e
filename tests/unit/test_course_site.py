"""The course's notebooks and its site: every block is there, and every link leads somewhere."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import course_pages as course  # noqa: E402

pytest.importorskip("markdown_it")
pytest.importorskip("pygments")
nbformat = pytest.importorskip("nbformat")
import course_notebooks  # noqa: E402
import course_site  # noqa: E402


class Links(HTMLParser):
    """The targets and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.targets |= {named[key] for key in ("href", "src") if named.get(key)}
        self.anchors |= {named[key] for key in ("id", "name") if named.get(key)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return folder, course_site.build(folder)


def links_of(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


def test_every_link_of_the_site_leads_somewhere(site):
    folder, pages = site
    read = {page: links_of(page) for page in pages}
    assert len(pages) > 50
    for page, links in read.items():
        for target in links.targets:
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.is_file(), f"{page.name}: {target}"
            assert folder in path.parents
            if anchor and path in read:
                assert anchor in read[path].anchors, f"{page.name}: {target}"


def test_chapters_have_neighbours_terms_and_code_and_can_be_searched(site):
    folder, _ = site
    page = (folder / "docs/course/07-guidance.html").read_text(encoding="utf-8")
    assert 'rel="prev" href="06-text-takes-hold.html"' in page
    assert 'rel="next" href="08-samplers-compared.html"' in page
    assert re.search(r'class="term" href="glossary.html#latent" title="the small array', page)
    assert re.search(r"sd_scratch/diffusion/guidance.py.html#L-\d+", page)
    assert 'class="highlight output"' in page
    search = (folder / "search.js").read_text(encoding="utf-8")
    for chapter in course.pages():
        assert f"docs/course/{chapter.stem}.html" in search


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x](nothing.md)", "links to nothing.md, which is not there"),
        ("![x](figures/nothing.png)", "links to figures/nothing.png"),
        ("[x](../../../../etc/hosts)", "which is not there"),
    ],
)
def test_a_link_to_nothing_breaks_the_build(tmp_path, text, message):
    site = course_site.Site(tmp_path)
    (link,) = site.markdown.parse(text)[1].children[:1]
    with pytest.raises(course.CourseError, match=re.escape(message)):
        site._link(course.COURSE / "README.md", link)


def test_a_heading_that_is_not_there_breaks_the_build(tmp_path):
    site = course_site.Site(tmp_path)
    (link,) = site.markdown.parse("[x](#no-such-heading)")[1].children[:1]
    site._link(course_site.GLOSSARY, link)
    site.anchors = {source: set() for source in site.sources}
    with pytest.raises(course.CourseError, match="#no-such-heading"):
        site.check_anchors()


def test_notebooks_hold_every_block_with_what_it_prints(tmp_path):
    paths = course_notebooks.build(tmp_path)
    assert [path.stem for path in paths] == [page.stem for page in course.pages()]
    for path, page in zip(paths, course.pages(), strict=True):
        book = nbformat.read(path, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        told = course.blocks(page.read_text(encoding="utf-8"))
        assert [cell.source for cell in code] == [block.source.rstrip("\n") for block in told]
        for cell, block in zip(code, told, strict=True):
            assert "".join(output.text for output in cell.outputs) == block.output
        text = "".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
        assert "<details>" not in text and "[code:" not in text and "(figures/" not in text
        hidden = [cell for cell in code if cell.metadata.get("tags") == ["answer"]]
        assert len(hidden) == len([block for block in told if block.indent])
        for cell in book.cells:
            for target in re.findall(r"\]\((?!http|attachment:)([^)#\s]+)", cell.source):
                assert cell.cell_type == "code" or (path.parent / target).exists(), target


def test_a_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    book = course_notebooks.notebook(course.find_page("00"), tmp_path)
    space: dict[str, object] = {}
    for cell in book.cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
    printed = course.without_numbers(capsys.readouterr().out)
    told = "\n".join(o.text for cell in book.cells for o in cell.get("outputs", []))
    assert printed == course.without_numbers(told)
