"""A static site of the documentation: each page of docs/, the README and the models' cards, and the code that
they point to, with the course's pages in a row, its glossary's words marked, and a search that needs no server.

A link that leads nowhere breaks the build.
"""

import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from course_pages import COURSE, DOCS, ROOT, CourseError, link_code, pages
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

STATIC = ROOT / "scripts" / "course_site"
GLOSSARY = COURSE / "glossary.md"
TERM = re.compile(r"\| (.+?) \| (.+) \| (\d\d) \|")
IMG = re.compile(r'<img[^>]*? src="([^":]+)"')
PLAIN = re.compile(r"```.*?```|[#*`|>]|\[code: |\]\([^)]*\)|<[^>]*>", re.DOTALL)


def build(folder: Path) -> list[Path]:
    """Write the site; its pages. Raises `CourseError` for a link that leads nowhere."""
    site = Site(folder)
    for source in site.sources:
        site.write_page(source)
    for path in sorted(site.code):
        site.write_code(path)
    site.check_anchors()
    site.write_static()
    return site.written


def all_sources() -> list[Path]:
    """The Markdown files that become pages."""
    cards = sorted((ROOT / "weights").rglob("README.md"))
    return [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md")), *cards]


def glossary() -> dict[str, tuple[str, str]]:
    """Each term -> what it is, and the chapter that introduces it."""
    rows = map(TERM.fullmatch, GLOSSARY.read_text(encoding="utf-8").splitlines())
    return {row[1]: (row[2], row[3]) for row in rows if row}


def slug(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


class Site:
    """What has been written, and what has been promised by links."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = all_sources()
        self.course = [COURSE / "README.md", *pages(), GLOSSARY]
        self.written: list[Path] = []
        self.code: set[Path] = set()
        self.anchors: dict[Path, set[str]] = {}
        self.promised: list[tuple[Path, Path, str]] = []  # page, page that it links to, anchor
        self.index: list[dict[str, str]] = []
        self.markdown = MarkdownIt("commonmark", {"html": True}).enable("table")

    def place(self, source: Path) -> Path:
        """The file, in the site, of a source's page."""
        path = source.relative_to(ROOT)
        return self.folder / (path.with_suffix(".html") if path.suffix == ".md" else f"{path}.html")

    def write_page(self, source: Path) -> None:
        here = self.place(source)

        def to_code(path: Path, line: int) -> str:
            self.code.add(ROOT / path)
            return f"{os.path.relpath(self.place(ROOT / path), here.parent)}#L-{line}"

        text = link_code(source.read_text(encoding="utf-8"), to_code)
        tokens = self.markdown.parse(text)
        title = self._headings(source, tokens)
        for token in _inline(tokens):
            for child in token.children or []:
                self._link(source, child)
        for picture in IMG.findall(text):
            self._copy(source, (source.parent / picture).resolve(), picture)
        if source in pages():
            mark_terms(tokens, source.stem[:2], os.path.relpath(self.place(GLOSSARY), here.parent))
        body = self.markdown.renderer.render(_coloured(tokens), self.markdown.options, {})
        if source == GLOSSARY:
            body = re.sub(r"<tr>\n<td>(.+?)</td>", r'<tr id="\1">\n<td>\1</td>', body)
        self.index.append(
            {
                "title": title,
                "url": here.relative_to(self.folder).as_posix(),
                "text": " ".join(PLAIN.sub(" ", text).split()),
            }
        )
        self._write(here, title, body + self._row(source))

    def _headings(self, source: Path, tokens: list[Token]) -> str:
        """Give headings their anchors; the title is the first one's."""
        titles = []
        for opening, content in pairwise(tokens):
            if opening.type == "heading_open":
                plain = "".join(
                    t.content for t in content.children or [] if t.type in ("text", "code_inline")
                )
                titles.append(plain)
                opening.attrSet("id", slug(plain))
        self.anchors[source] = {slug(title) for title in titles}
        return titles[0] if titles else source.stem

    def _link(self, source: Path, token: Token) -> None:
        """Turn a link to a file of the project into one to its place in the site."""
        name = {"link_open": "href", "image": "src"}.get(token.type)
        if name is None:
            return
        target, _, anchor = str(token.attrGet(name)).partition("#")
        if "://" in target or ".html" in target:
            return
        path = (source.parent / target).resolve() if target else source
        path = path / "README.md" if (path / "README.md") in self.sources else path
        if path in self.sources:
            self.promised.append((source, path, anchor))
            to = self.place(path)
        elif path.suffix == ".py" and path.is_file() and path.is_relative_to(ROOT):
            self.code.add(path)
            to = self.place(path)
        else:
            to = self._copy(source, path, target or f"#{anchor}")
        relative = os.path.relpath(to, self.place(source).parent)
        token.attrSet(name, relative + (f"#{anchor}" if anchor else ""))

    def _copy(self, source: Path, path: Path, target: str) -> Path:
        """A file that is no page, brought to its place in the site."""
        if not path.is_file() or not path.is_relative_to(ROOT):
            where = source.relative_to(ROOT)
            raise CourseError(f"{where} links to {target}, which is not there")
        to = self.folder / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        return to

    def check_anchors(self) -> None:
        for source, path, anchor in self.promised:
            if anchor and anchor not in self.anchors[path]:
                raise CourseError(
                    f"{source.relative_to(ROOT)} links to {path.name}#{anchor}, a heading that is not there"
                )

    def write_code(self, path: Path) -> None:
        formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
        lexer = get_lexer_by_name("python")
        body: str = highlight(path.read_text(encoding="utf-8"), lexer, formatter)
        name = path.relative_to(ROOT).as_posix()
        self._write(self.place(path), name, f"<h1>{html.escape(name)}</h1>\n{body}")

    def _row(self, source: Path) -> str:
        """Links to the pages of the course before and behind."""
        if source not in self.course:
            return ""
        number = self.course.index(source)
        links = []
        for word, other in (("previous", number - 1), ("next", number + 1)):
            if 0 <= other < len(self.course):
                to = os.path.relpath(self.place(self.course[other]), self.place(source).parent)
                title = self.course[other].read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
                links.append(f'<a rel="{word[:4]}" href="{to}">{word}: {html.escape(title)}</a>')
        return f'<nav class="row">{" ".join(links)}</nav>'

    def _write(self, path: Path, title: str, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = os.path.relpath(self.folder, path.parent)
        page = (STATIC / "page.html").read_text(encoding="utf-8")
        chapters = "".join(
            f'<li><a href="{os.path.relpath(self.place(p), path.parent)}">{p.stem[:2]}</a></li>'
            for p in pages()
        )
        for name, value in {
            "title": html.escape(title),
            "root": root,
            "chapters": chapters,
            "body": body,
        }.items():
            page = page.replace(f"{{{{ {name} }}}}", value)
        path.write_text(page, encoding="utf-8")
        self.written.append(path)

    def write_static(self) -> None:
        """The style, the search with all pages' text, and the entrance."""
        style = (STATIC / "style.css").read_text(encoding="utf-8")
        style += HtmlFormatter().get_style_defs(".highlight")
        (self.folder / "style.css").write_text(style, encoding="utf-8")
        found = f"const PAGES = {json.dumps(self.index, ensure_ascii=False)};\n"
        found += (STATIC / "search.js").read_text(encoding="utf-8")
        (self.folder / "search.js").write_text(found, encoding="utf-8")
        search = '<h1>Search</h1><div id="found"></div><script src="search.js"></script>'
        self._write(self.folder / "search.html", "Search", search)
        entrance = (self.place(DOCS / "README.md")).relative_to(self.folder).as_posix()
        move = f'<meta http-equiv="refresh" content="0; url={entrance}">'
        (self.folder / "index.html").write_text(move, encoding="utf-8")


def _inline(tokens: list[Token]) -> Iterator[Token]:
    return (token for token in tokens if token.type == "inline")


def _coloured(tokens: list[Token]) -> list[Token]:
    """Blocks of code as coloured HTML; what a block prints keeps a class of its own."""
    for token in tokens:
        if token.type != "fence":
            continue
        language = token.info.split()[0] if token.info.split() else ""
        try:
            lexer = get_lexer_by_name(language)
        except ClassNotFound:
            lexer = get_lexer_by_name("text")
        formatter = HtmlFormatter(cssclass=f"highlight {'output' if language == 'output' else ''}")
        token.type, token.content = "html_block", highlight(token.content, lexer, formatter)
    return tokens


def mark_terms(tokens: list[Token], number: str, page: str) -> None:
    """Let the first use of each term of the glossary, in a chapter behind the one that introduces it, lead there."""
    terms = {term: told for term, told in glossary().items() if told[1] < number}
    for token in _inline(tokens):
        children, inside = [], False
        for child in token.children or []:
            inside = {"link_open": True, "link_close": False}.get(child.type, inside)
            children += [child] if child.type != "text" or inside else _marked(child, terms, page)
        token.children = children


def _marked(token: Token, terms: dict[str, tuple[str, str]], page: str) -> list[Token]:
    """A piece of text, its terms turned into links; terms that were found leave the table."""
    for term, (meaning, chapter) in list(terms.items()):
        found = re.search(rf"(?<![\w-]){re.escape(term)}(?![\w-])", token.content)
        if found is None:
            continue
        before, behind = Token("text", "", 0), Token("text", "", 0)
        before.content, behind.content = (
            token.content[: found.start()],
            token.content[found.end() :],
        )
        link = Token("html_inline", "", 0)
        link.content = (
            f'<a class="term" href="{page}#{html.escape(term)}" title="{html.escape(meaning)} '
            f'(chapter {chapter})">{html.escape(term)}</a>'
        )
        del terms[term]
        return [*_marked(before, terms, page), link, *_marked(behind, terms, page)]
    return [token]
