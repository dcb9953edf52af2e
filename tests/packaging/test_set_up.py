"""The set-up that scripts/sd-scratch and scripts/test share, on a checkout whose program is a stub and
whose one dependency is an empty wheel: with a real virtual environment and a real pip, but no network.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PYPROJECT = '[project]\ndependencies = ["stub>=1"]\noptional-dependencies = { page = ["stub"], test = ["stub"] }\n'
PROGRAM = """
import sys, os, stub
def main():
    print(os.getcwd(), sys.argv[1:])
    return 3
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path)


@pytest.fixture(scope="module")
def used_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose first start is over, for tests that leave it working."""
    root = make_checkout(tmp_path_factory.mktemp("used"))
    start(root).communicate()
    return root


def make_checkout(parent: Path) -> Path:
    root = parent / "check out"  # with a space, as some people have it
    (root / "sd_scratch").mkdir(parents=True)
    (root / "sd_scratch" / "cli.py").write_text(PROGRAM)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "scripts").mkdir()
    for name in ("sd-scratch", "set_up.sh", "set_up.py"):
        shutil.copy(SCRIPTS / name, root / "scripts")
    (root / "scripts" / "constraints.txt").write_text("stub==1.0\n")
    with zipfile.ZipFile(root / "stub-1.0-py3-none-any.whl", "w") as wheel:
        info = "stub-1.0.dist-info"
        wheel.writestr("stub.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: stub\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"stub.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return root


def start(
    root: Path, *arguments: str, path: str | None = None, index: Path | None = None
) -> "subprocess.Popen[str]":
    python = str(Path(sys.executable).parent)
    env = os.environ | {
        "PATH": path or python + os.pathsep + os.environ["PATH"],
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (index or root).as_uri(),
    }
    return subprocess.Popen(
        [root / "scripts" / "sd-scratch", *arguments],
        cwd=root.parent,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_first_starts_at_once_share_one_set_up(checkout: Path) -> None:
    (checkout.parent / "stub.py").write_text("raise SystemExit('a file of the user was imported')")
    both = [start(checkout, "generate", "a b"), start(checkout)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [3, 3], said
    assert [out for out, _ in said] == [
        f"{checkout.parent} ['generate', 'a b']\n",
        f"{checkout.parent} []\n",
    ]
    lines = sorted(line for _, err in said for line in err.splitlines())
    assert [line[:20] for line in lines] == ["sd-scratch: setting ", "sd-scratch: waiting "]


def test_the_next_start_says_and_installs_nothing(used_checkout: Path) -> None:
    link = used_checkout.parent / "linked"
    link.symlink_to(used_checkout / "scripts" / "sd-scratch")
    done = subprocess.run([link, "x"], cwd="/", capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("/ ['x']\n", "", 3)


def test_a_set_up_that_was_cut_short_is_made_anew(checkout: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    failed = start(checkout, index=nothing)
    out, err = failed.communicate()
    assert (out, failed.returncode) == ("", 1)
    assert "stub" in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")

    left = checkout / ".venv" / "half-made"
    left.touch()
    again = start(checkout, "x")
    again.communicate()
    assert again.returncode == 3
    assert not left.exists()


def test_a_stale_environment_is_brought_up_to_date(used_checkout: Path) -> None:
    kept = used_checkout / ".venv" / "kept"
    kept.touch()
    with (used_checkout / "scripts" / "constraints.txt").open("a") as constraints:
        constraints.write("other==1\n")
    out, err = start(used_checkout, "x").communicate()
    assert "setting up" in err and "['x']" in out
    assert kept.exists()

    (used_checkout / ".venv" / "bin" / "python").unlink()  # as when its Python is uninstalled
    out, err = start(used_checkout, "x").communicate()
    assert "setting up" in err and "['x']" in out


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ('case "$*" in --version) echo Python 3.9.1 ;; *) exit 1 ;; esac', "Python 3.9.1"),
        ('case "$*" in *ensurepip*) exit 1 ;; esac', "python3-venv"),
        (None, "missing"),
    ],
)
def test_a_python_that_will_not_do_is_named(
    checkout: Path, tmp_path: Path, python: str | None, words: str
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cat", "cmp", "dirname", "readlink"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    if python:
        (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (folder / "python3").chmod(0o755)
    process = start(checkout, path=str(folder))
    out, err = process.communicate()
    assert (out, process.returncode) == ("", 1)
    assert err.startswith("error: ") and words in err and err.count("\n") == 1
