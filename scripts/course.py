#!/usr/bin/env python3
"""The course in docs/course: runs its pages, and makes what hangs on them.

.venv/bin/python scripts/course.py run 03            a page, its blocks from top to bottom
.venv/bin/python scripts/course.py step 03           a page block by block, with room to type in between
.venv/bin/python scripts/course.py outputs [03]      write into the pages what their blocks print, and make their figures
.venv/bin/python scripts/course.py full 13           a page's long training; stores what was learnt
.venv/bin/python scripts/course.py notebooks FOLDER  a notebook of each page (extra: course)
.venv/bin/python scripts/course.py site FOLDER       a site of all the documentation (extra: course)
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_pages import (
    FIGURES,
    RESULTS,
    ROOT,
    CourseError,
    figures_of,
    find_page,
    pages,
    results_of,
    run_page,
    step_page,
    with_outputs,
)


def chosen(number: str | None) -> list[Path]:
    """One page, or all of them."""
    return pages() if number is None else [find_page(number)]


def _one(number: str | None) -> Path:
    if number is None:
        raise CourseError("which page? - give its number")
    return find_page(number)


def _run(number: str | None) -> None:
    with _pictures():
        run_page(_one(number))


def _step(number: str | None) -> None:
    with _pictures():
        step_page(_one(number))


@contextmanager
def _pictures() -> Iterator[None]:
    """A folder of its own for what blocks save; says at the end where that lies."""
    folder = ROOT / "out" / "course"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    yield
    print(f"what the blocks saved lies in {folder.relative_to(ROOT)}/", file=sys.stderr)


def _outputs(number: str | None) -> None:
    for page in chosen(number):
        _in_a_folder(page)


def _full(number: str | None) -> None:
    page = _one(number)
    if not results_of(page):
        raise CourseError(f"{page.name} stores nothing: `run` runs it")
    _in_a_folder(page, full=True)


def _in_a_folder(page: Path, full: bool = False) -> None:
    """Run a page in a folder of its own, and bring home what it made there."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            printed = run_page(page, full)
            if full:
                _fetch(results_of(page), RESULTS)
            else:
                text = page.read_text(encoding="utf-8")
                page.write_text(with_outputs(text, printed), encoding="utf-8")
                _fetch(figures_of(page), FIGURES)
        finally:
            os.chdir(ROOT)


def _fetch(names: list[str], to: Path) -> None:
    to.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(name, to / name)
        print(to.relative_to(ROOT) / name, file=sys.stderr)


def _notebooks(folder: str | None) -> None:
    with _extra():
        from course_notebooks import build
    print(len(build(_folder(folder))), "notebooks")


def _site(folder: str | None) -> None:
    with _extra():
        from course_site import build
    print(len(build(_folder(folder))), "pages, from index.html on")


def _folder(given: str | None) -> Path:
    if given is None:
        raise CourseError("into which folder?")
    return Path(given).resolve()


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise CourseError(
            f"{error.name} is missing - .venv/bin/python -m pip install -c scripts/constraints.txt -e '.[course]'"
        ) from error


TASKS = {
    "run": _run,
    "step": _step,
    "outputs": _outputs,
    "full": _full,
    "notebooks": _notebooks,
    "site": _site,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("what", nargs="?", help="a page's number, or a folder")
    args = parser.parse_args()
    try:
        TASKS[args.task](args.what)
    except CourseError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
