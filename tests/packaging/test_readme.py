"""What README.md tells people to type works, and what it points to is there.

Blocks marked ``run`` are run; those marked ``check`` want a download, and only their commands and flags
are looked up. The rest is for reading.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import sd_scratch.cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HAS_MODEL = (ROOT / "weights" / "scenes" / "model_index.json").is_file()
needs_model = pytest.mark.skipif(not HAS_MODEL, reason="no model is shipped yet")


def blocks(language: str, mark: str) -> list[str]:
    return re.findall(rf"^```{language} {mark}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(mark: str) -> list[list[str]]:
    """The arguments of every sd-scratch command in blocks of that mark."""
    lines = "\n".join(blocks("sh", mark)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(line[0] == "scripts/sd-scratch" for line in words if line)
    return [line[1:] for line in words if line]


def run(arguments: list[str], cwd: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@needs_model
@pytest.mark.parametrize("arguments", commands("run"), ids=" ".join)
def test_a_command_runs(arguments: list[str], tmp_path: Path) -> None:
    run(["-m", "sd_scratch", *arguments], tmp_path)
    for flag, target in pairwise(arguments):
        assert flag != "-o" or (tmp_path / target).is_file()


@needs_model
@pytest.mark.parametrize("code", blocks("python", "run"))
def test_an_example_in_python_runs(code: str, tmp_path: Path) -> None:
    run(["-c", code], tmp_path)


@pytest.mark.parametrize("arguments", commands("run") + commands("check"), ids=" ".join)
def test_a_command_and_its_flags_exist(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments[:2] if arguments[0] == "weights" else arguments[:1]
    assert sd_scratch.cli.main([*command, "--help"]) == 0
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", capsys.readouterr().out))
    assert {word for word in arguments if word.startswith("-")} <= known


def test_all_kinds_of_blocks_are_found() -> None:
    assert commands("run") and commands("check") and blocks("python", "run")


@needs_model
def test_pictures_and_pages_are_there() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README) + re.findall(r'src="([^"]+)"', README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_the_table_lists_every_command() -> None:
    listed = re.findall(r"^\| `([a-z]+)", README, re.MULTILINE)
    assert sorted(listed) == sorted(command.name for command in sd_scratch.cli.COMMANDS)


def test_the_map_shows_every_room() -> None:
    (text,) = blocks("text", "map")
    top, rooms = set(), set()
    for line in text.splitlines():
        (rooms if line.startswith(" ") else top).add(line.split()[0].rstrip("/"))
    there = {path.name for path in (ROOT / "sd_scratch").iterdir() if path.name[0].isalpha()}
    assert rooms == there - {"py.typed"}
    assert not [name for name in top if not (ROOT / name).exists()]
