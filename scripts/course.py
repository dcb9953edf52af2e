#!/usr/bin/env python3
"""The course in docs/course: runs its pages and remakes their figures.

.venv/bin/python scripts/course.py run 03            a page, its blocks from top to bottom
.venv/bin/python scripts/course.py figures           docs/course/figures/, made by the pages
.venv/bin/python scripts/course.py notebooks FOLDER  a notebook of each page, with outputs (extra: course)
.venv/bin/python scripts/course.py site FOLDER       a static site of all of docs/ (extra: course)
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
COURSE = DOCS / "course"
FIGURES = COURSE / "figures"
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"\(figures/([\w.-]+)\)")


def pages() -> list[Path]:
    """The chapters in their order."""
    return sorted(COURSE.glob("[0-9][0-9]-*.md"))


def run_page(page: Path) -> dict[str, object]:
    """Run a page's blocks in the current folder, in one namespace, which is returned.

    An error that a block raises names the page and its line."""
    text = page.read_text(encoding="utf-8")
    space: dict[str, object] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        line = text[: block.start(2)].count("\n")
        source = "\n" * line + textwrap.dedent(block.group(2))
        exec(compile(source, str(page), "exec"), space)
    return space


def figures_of(page: Path) -> list[str]:
    """The names of the figures that a page shows and its blocks write."""
    return FIGURE.findall(page.read_text(encoding="utf-8"))


def _run(number: str) -> None:
    chosen = [page for page in pages() if page.name.startswith(number)]
    if not chosen:
        sys.exit(f"error: there is no page {number} - {', '.join(p.stem for p in pages())}")
    run_page(chosen[0])


def _figures() -> None:
    FIGURES.mkdir(exist_ok=True)
    for page in pages():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run_page(page)
            for name in figures_of(page):
                shutil.copyfile(name, FIGURES / name)
                print(f"docs/course/figures/{name}")
            os.chdir(ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=("run", "figures"))
    parser.add_argument("what", nargs="?", help="a page's number")
    args = parser.parse_args()
    if args.task == "figures":
        _figures()
    elif args.what is None:
        parser.error("which page? - give its number")
    else:
        _run(args.what)


if __name__ == "__main__":
    main()
