"""A notebook of each page of the course: its text, its blocks, what they print, and its figures in place."""

import base64
import os
import re
import textwrap
from pathlib import Path

import nbformat
from course_pages import COURSE, FIGURES, ROOT, Block, blocks, link_code, pages
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

LINK = re.compile(r"(?<!\!)\]\((?!http|attachment:)([^)#\s]+)(#[\w-]*)?\)")
FIGURE = re.compile(r"!\[([^\]]*)\]\(figures/([\w.-]+)\)")
DETAILS = re.compile(r"^ *<details><summary>(.*?)</summary>\n|^ *</details>\n?", re.MULTILINE)
HIDDEN = {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "tags": ["answer"]}


def build(folder: Path) -> list[Path]:
    """Write the notebooks; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for page in pages():
        paths.append(folder / f"{page.stem}.ipynb")
        nbformat.write(notebook(page, folder), paths[-1])
    return paths


def notebook(page: Path, folder: Path) -> nbformat.NotebookNode:
    """A page as a notebook that will lie in `folder`."""
    text = page.read_text(encoding="utf-8")
    cells, last, hidden = [], 0, False
    for block in blocks(text):
        start, end = block.span
        more, hidden = _text_cells(text[last:start], hidden, folder)
        cells += [*more, _code_cell(block, hidden)]
        last = end
    more, _ = _text_cells(text[last:], hidden, folder)
    book: nbformat.NotebookNode = new_notebook(cells=cells + more)
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    for number, cell in enumerate(book.cells):  # ids that are the same in every build
        cell["id"] = f"{page.stem[:2]}-{number}"
    nbformat.validate(book)
    return book


def _code_cell(block: Block, hidden: bool) -> nbformat.NotebookNode:
    printed = [new_output("stream", name="stdout", text=block.output)] if block.output else []
    metadata = HIDDEN if hidden else {}
    cell: nbformat.NotebookNode = new_code_cell(
        block.source.rstrip("\n"), outputs=printed, metadata=metadata
    )
    return cell


def _text_cells(text: str, hidden: bool, folder: Path) -> tuple[list[nbformat.NotebookNode], bool]:
    """The cells of the text between two blocks, and whether what follows is a hidden answer."""
    cells, last = [], 0
    for mark in [*DETAILS.finditer(text), None]:
        part = text[last : mark.start() if mark else len(text)]
        if part.strip():
            cells.append(_text_cell(part, hidden, folder))
        if mark:
            last, hidden = mark.end(), mark[1] is not None
    return cells, hidden


def _text_cell(part: str, hidden: bool, folder: Path) -> nbformat.NotebookNode:
    part = textwrap.dedent(part).strip("\n") if hidden else part.strip("\n")
    part = link_code(part, lambda path, line: os.path.relpath(ROOT / path, folder))
    cell: nbformat.NotebookNode = new_markdown_cell(metadata=HIDDEN if hidden else {})
    pictures = {}
    for _, name in FIGURE.findall(part):
        data = base64.b64encode((FIGURES / name).read_bytes()).decode()
        pictures[name] = {"image/svg+xml" if name.endswith(".svg") else "image/png": data}
    if pictures:
        cell["attachments"] = pictures
    part = FIGURE.sub(r"![\1](attachment:\2)", part)
    cell["source"] = LINK.sub(lambda found: f"]({_target(found[1], folder)}{found[2] or ''})", part)
    return cell


def _target(target: str, folder: Path) -> str:
    """Where a page's link leads from a notebook: to another notebook, or to the file itself."""
    path = (COURSE / target).resolve()
    if path in pages():
        return f"{path.stem}.ipynb"
    return target if (folder / target).exists() else os.path.relpath(path, folder)
