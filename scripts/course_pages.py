"""The course's pages as programs: their blocks, what these print, and the code that they point to.

A page is Markdown. Its ```python blocks run from top to bottom in one namespace; an ```output block behind one
has what it prints. A line `steps = 30  # full: 3000` is short where pages are read and tested, and long in the
run whose result is stored. `[code: sd_scratch.networks.unet.UNet.forward]` points to the line where that is.
"""

import ast
import contextlib
import importlib
import inspect
import io
import re
import textwrap
from code import InteractiveConsole
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
COURSE = DOCS / "course"
FIGURES = COURSE / "figures"
RESULTS = COURSE / "results"

BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<source>.*?)^ *```\n"
    r"(?:\n? *```output\n(?P<output>.*?)^ *```\n)?",
    re.MULTILINE | re.DOTALL,
)
FIGURE = re.compile(r"\(figures/([\w.-]+)\)")
RESULT = re.compile(r"\(results/([\w.-]+)\)")
FULL = re.compile(r"^(\s*\w+ = )\S+(  # full: )(\S+)$", re.MULTILINE)
CODE = re.compile(r"\[code: ([\w.]+)\]")
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


class CourseError(Exception):
    """A page is not as it should be; the message says which, where and what to do."""


@dataclass(frozen=True)
class Block:
    """One ```python block: its `source` without indentation, the `line` of the page on which it begins, what
    the page says that it prints, and the `span` of all of it in the page's text."""

    source: str
    line: int
    indent: str
    output: str
    span: tuple[int, int]


def pages() -> list[Path]:
    """The chapters in their order."""
    return sorted(COURSE.glob("[0-9][0-9]-*.md"))


def find_page(number: str) -> Path:
    chosen = [page for page in pages() if page.name.startswith(number)]
    if not chosen:
        raise CourseError(f"there is no page {number} - {', '.join(p.stem for p in pages())}")
    return chosen[0]


def blocks(text: str) -> list[Block]:
    """The blocks of a page's text, in their order."""
    return [
        Block(
            textwrap.dedent(found["source"]),
            text[: found.start("source")].count("\n") + 1,
            found["indent"],
            textwrap.dedent(found["output"] or ""),
            found.span(),
        )
        for found in BLOCK.finditer(text)
    ]


def run_page(page: Path, full: bool = False) -> list[str]:
    """Run a page's blocks in the current folder; what each of them printed, which is printed, too.

    An error names the page and the block's line. With `full`, the numbers behind `# full:` are taken, and the
    page ends as soon as the results that it stores are written."""
    space: dict[str, object] = {"__name__": page.stem}
    printed = []
    for block in blocks(page.read_text(encoding="utf-8")):
        source = FULL.sub(r"\1\3\2\3", block.source) if full else block.source
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            _execute(page, block.line, source, space)
        printed.append(tidy(heard.getvalue()))
        print(heard.getvalue(), end="", flush=True)
        if full and all(Path(name).exists() for name in results_of(page)):
            break
    return printed


def _execute(page: Path, line: int, source: str, space: dict[str, object]) -> None:
    try:
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), space)
    except Exception as error:
        where = f"{page.name}, the block at line {line}"
        raise CourseError(f"{where}: {type(error).__name__}: {error}") from error


def step_page(page: Path) -> None:
    """Show a page's blocks one after the other and run each when Enter is pressed. Before that, and once all
    have run, what is typed is Python with all that the blocks have made; the end of the input ends it."""
    space: dict[str, object] = {"__name__": page.stem}
    console = InteractiveConsole(space)
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # which makes the arrow keys work
    print("Enter runs the block shown. Anything else is Python, run at once. Ctrl-D ends.")
    for block in blocks(page.read_text(encoding="utf-8")):
        while _shown(page, block, console):
            try:
                _execute(page, block.line, block.source, space)
                break
            except CourseError as error:  # to be mended by what is typed, or left with Ctrl-D
                print(f"error: {error}")
        else:
            return
    print("\nThat was the last block.")
    while _typed(console):
        pass


def _shown(page: Path, block: Block, console: InteractiveConsole) -> bool:
    """Show a block, an answer not before Enter; whether it is to be run."""
    code = textwrap.indent(block.source, "    ")
    print(f"\n{page.name}, line {block.line}\n")
    print("An exercise's answer: Enter shows and runs it." if block.indent else code)
    wanted = _typed(console)
    if wanted and block.indent:
        print(code)
    return wanted


def _typed(console: InteractiveConsole) -> bool:
    """Run what is typed, up to an empty line; whether that came, and not the end of the input."""
    more = False
    while True:
        try:
            line = console.raw_input("... " if more else ">>> ")
        except EOFError:
            print()
            return False
        if not line and not more:
            return True
        more = console.push(line)


def tidy(text: str) -> str:
    """Without blanks at the ends of lines, and with one line's end at the end of all."""
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
    return lines + "\n" if lines else ""


def without_numbers(text: str) -> str:
    """What has to be the same on every machine: all but the numbers and how they are lined up."""
    return " ".join(NUMBER.sub("#", text).split())


def with_outputs(text: str, printed: list[str]) -> str:
    """A page's text with what its blocks printed behind them."""
    parts, last = [], 0
    for block, output in zip(blocks(text), printed, strict=True):
        start, end = block.span
        code = text[start:end]
        if block.output:
            code = code[: code.index("```output")].rstrip("\n ") + "\n"
        if output:
            code += textwrap.indent(f"\n```output\n{output}```\n", block.indent)
        parts += [text[last:start], code]
        last = end
    return "".join([*parts, text[last:]])


def figures_of(page: Path) -> list[str]:
    """The names of the figures that a page shows and its blocks write."""
    return FIGURE.findall(page.read_text(encoding="utf-8"))


def results_of(page: Path) -> list[str]:
    """The names of the stored results that a page links to, and writes in a full run."""
    return sorted(set(RESULT.findall(page.read_text(encoding="utf-8"))))


def find_code(name: str) -> tuple[Path, int]:
    """The file, from the project's root, and the line of a module, class, function, method or constant."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        path = Path(inspect.getfile(module)).resolve()
        line = _line_in(ast.parse(path.read_text(encoding="utf-8")), parts[length:])
        if line is None or not path.is_relative_to(ROOT):
            break
        return path.relative_to(ROOT), line
    raise CourseError(f"[code: {name}] points to nothing - name a module, class or function")


def _line_in(tree: ast.AST, names: list[str]) -> int | None:
    """The line on which the definition `names` begins, inside a module's tree; 1 for the module itself."""
    line = 1
    for name in names:
        found = next((node for node in _definitions(tree) if _name_of(node) == name), None)
        if found is None:
            return None
        tree, line = found, found.lineno
    return line


def _definitions(tree: ast.AST) -> Iterator[ast.stmt]:
    return (node for node in getattr(tree, "body", []) if _name_of(node))


def _name_of(node: ast.stmt) -> str | None:
    """What a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    target: ast.expr | None = None
    if isinstance(node, ast.Assign):
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    return target.id if isinstance(target, ast.Name) else None


def link_code(text: str, to: Callable[[Path, int], str]) -> str:
    """A text whose `[code: ...]` are links, to what `to` makes of file and line; blocks stay as they are."""

    def link(found: re.Match[str]) -> str:
        path, line = find_code(found[1])
        return f"[`{'.'.join(found[1].split('.')[-2:])}`]({to(path, line)})"

    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if number % 2 else CODE.sub(link, part) for number, part in enumerate(parts)
    )
