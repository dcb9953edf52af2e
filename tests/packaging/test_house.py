"""The plan of the house, held by reading the code without running it."""

import ast
import re
import sys
from collections.abc import Iterator
from itertools import groupby, permutations
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sd_scratch"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A file imports from its own floor or from one below.
FLOORS = {
    7: {"cli", "__main__"},
    6: {"mapping", "training", "teaching", "export", "page"},
    5: {"scenes", "dialects"},
    4: {"pipeline"},
    3: {"pictures"},
    2: {"checkpoints"},
    1: {"networks", "diffusion", "text"},
    0: {
        "tensors",
        "config",
        "errors",
        "limits",
        "files",
        "json_file",
        "stop",
        "version",
        "__init__",
    },
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
STRANGERS = {  # rooms of one floor that know nothing of each other
    *permutations(("networks", "diffusion", "text"), 2),
    *permutations(("scenes", "dialects"), 2),
    *permutations(("mapping", "training"), 2),
}

CORE = {"torch", "safetensors", "numpy", "pillow", "tqdm", "regex", "ftfy", "huggingface_hub"}
IMPORTED_AS = {"pillow": "PIL"}
# What only some users have, by folder: imported where it is used, never at the top of a file.
OPTIONAL = {
    "export": {"onnx", "onnxscript"},
    "page": {"starlette", "uvicorn", "websockets"},
    "cli/bench": {"diffusers", "transformers"},
    "cli/compare": {"diffusers", "transformers"},
}

MAX_LINES = 400


def project() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, as a dotted name, and whether at the file's top level."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import hides its floor"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = source(whole) is not None
                yield (whole if is_module else node.module or ""), id(node) in top


def source(module: str) -> Path | None:
    """The file of one of the package's modules; None if it is no module of the package."""
    path = ROOT.joinpath(*module.split("."))
    found = [f for f in (path.with_suffix(".py"), path / "__init__.py") if f in SOURCES]
    return found[0] if found else None


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports(file: Path) -> set[Path]:
    found = {source(name) for name, _ in imports(file) if name.split(".")[0] == "sd_scratch"}
    return {f for f in found if f is not None}


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_down_the_floors(file: Path) -> None:
    here = room(file)
    assert here in FLOOR, f"on which floor does {here} live? Add it to FLOORS"
    if here == "__init__":
        return  # the front door: it resolves the public names, from every floor, when they are used
    for other in own_imports(file):
        there = room(other)
        assert FLOOR[there] <= FLOOR[here], f"{here} is below {there}"
        assert (here, there) not in STRANGERS, f"{here} knows nothing of {there}"


def test_imports_make_no_cycle() -> None:
    edges = {file: own_imports(file) for file in SOURCES}
    edges[PACKAGE / "__init__.py"] = set()
    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        if file in done:
            return
        names = [str(f.relative_to(PACKAGE)) for f in (*path, file)]
        assert file not in path, " imports ".join(names)
        for other in edges[file] - {file}:
            visit(other, (*path, file))
        done.add(file)

    for file in SOURCES:
        visit(file, ())


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_only_core_dependencies_are_imported(file: Path) -> None:
    core = {IMPORTED_AS.get(name, name) for name in CORE} | {"sd_scratch"}
    optional = OPTIONAL.get(file.parent.relative_to(PACKAGE).as_posix(), set())
    for name, at_top in imports(file):
        library = name.split(".")[0]
        if library not in core | sys.stdlib_module_names:
            assert library in optional, f"{library} is no core dependency"
            assert not at_top, f"{library} is imported although it may be missing"


def test_core_dependencies_have_lower_bounds_and_no_upper_ones() -> None:
    wanted = [Requirement(line) for line in project()["dependencies"]]
    assert {r.name for r in wanted} == CORE
    assert {s.operator for r in wanted for s in r.specifier} == {">="}


def test_constraints_pin_all_that_is_wanted() -> None:
    lines = (ROOT / "scripts" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {}
    for name, group in groupby(pins, key=lambda pin: pin.name):
        here = [pin for pin in group if pin.marker is None or pin.marker.evaluate()]
        assert len(here) <= 1, f"{name} is pinned twice"
        versions.update({pin.name: next(iter(pin.specifier)) for pin in here})
    metadata = project()
    for line in metadata["dependencies"] + metadata["optional-dependencies"]["test"]:
        wanted = Requirement(line)
        pin = versions[wanted.name]
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{pin} is not within {wanted}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_code_keeps_the_house_rules(file: Path) -> None:
    """Rules that the linter has no name for."""
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES, "too long to be read at a sitting: split it"
    tree = ast.parse(text)
    forks = [call for node in ast.walk(tree) if forks_random_state(node) for call in ast.walk(node)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        where = f"line {node.lineno}"
        called = ast.unparse(node.func)
        if called in {"torch.manual_seed", "torch.seed", "random.seed", "np.random.seed"}:
            assert node in forks, f"{where}: global random state belongs to the user"
        if called == "torch.load":
            safe = [k for k in node.keywords if k.arg == "weights_only" and is_true(k.value)]
            assert safe, f"{where}: torch.load without weights_only=True runs a stranger's code"


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_private_name_of_a_library_is_used_but_in_the_one_place_for_them(file: Path) -> None:
    if file == PACKAGE / "tensors" / "unofficial.py":
        return
    private = re.compile(r"(^|\.)_(?!_)")
    found = [name for name, _ in imports(file) if private.search(name) and source(name) is None]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and re.match(r"(torch|F|nn|np)\.", ast.unparse(node)):
            found += [node.attr] if private.match(node.attr) else []
    assert not found, f"{found} may be gone tomorrow: is there a public way?"


def forks_random_state(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0])


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_no_file_names_a_place_on_someones_machine() -> None:
    place = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|workspace|mnt|srv)/\w")
    texts = {".py", ".md", ".sh", ".toml", ".txt", ".json", ".ipynb", ""}
    folders = ("sd_scratch", "scripts", "docs", "tests", "weights", ".ci")
    files = [f for folder in folders for f in (ROOT / folder).rglob("*") if f.is_file()]
    for file in [*files, ROOT / "README.md", ROOT / "pyproject.toml"]:
        if file.suffix in texts and "__pycache__" not in file.parts:
            found = place.search(file.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{file.relative_to(ROOT)}: {found and found.group()}"
