"""Makes .venv, or brings it up to date. Run by set_up.sh:

    python3 -I scripts/set_up.py LEVEL < STAMP

Standard library only: nothing is installed yet. Two starts at once wait for each other. However it
ends, no half-made .venv is taken for good: a stale stamp is removed first and the new one written
last, and a .venv whose set-up was cut short is made anew by the next start.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
LOG = VENV / "pip.log"

EXTRAS: dict[str, tuple[str, ...]] = {"program": ("page",), "tests": ("test",)}
INCLUDES = {"program": ("program",), "tests": ("program", "tests")}

# The program finds this checkout through a line in site-packages, as an editable install would do it,
# but with no build, and no copy of the version to go stale. It starts as a script in .venv/bin rather
# than by `python -m`, which would let files in the user's working directory stand in for modules.
PROGRAM = f"""#!{PYTHON}
import sys

from sd_scratch.cli import main

sys.exit(main())
"""


def main(level: str, stamp: bytes) -> None:
    with locked() as lock:
        if is_fresh(level, stamp):  # another start did it while this one waited
            return
        version = ".".join(map(str, sys.version_info[:3]))
        say(f"sd-scratch: setting up .venv with Python {version} (once, a few minutes)")
        whole = is_usable(lock)
        note(lock, "unfinished")
        if not whole:
            make()
        for name in EXTRAS:
            if not is_fresh(name, stamp):
                (VENV / f"{name}.stamp").unlink(missing_ok=True)
        install(requirements(level), lock)
        (site_packages() / "sd_scratch.pth").write_text(f"{ROOT}\n")
        script = VENV / "bin" / "sd-scratch"
        script.write_text(PROGRAM)
        script.chmod(0o755)
        note(lock, "")
        for name in INCLUDES[level]:
            (VENV / f"{name}.stamp").write_bytes(stamp)


def is_fresh(level: str, stamp: bytes) -> bool:
    file = VENV / f"{level}.stamp"
    return os.access(PYTHON, os.X_OK) and file.is_file() and file.read_bytes() == stamp


@contextmanager
def locked() -> Iterator[IO[str]]:
    """Hold .venv.lock, waiting for whoever holds it. Its text says whether a set-up was cut short."""
    with (ROOT / ".venv.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("sd-scratch: waiting for another start, which is setting up .venv")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def note(lock: IO[str], text: str) -> None:
    lock.truncate(0)
    lock.write(text)
    lock.flush()


def is_usable(lock: IO[str]) -> bool:
    """Whether .venv can be kept and filled up: its set-up ended, and its Python runs and has pip."""
    lock.seek(0)
    if lock.read() or not PYTHON.exists():
        return False
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 10))"
    return subprocess.run([PYTHON, "-I", "-c", probe], capture_output=True).returncode == 0


def make() -> None:
    # From the interpreter's real path: when that Python is removed or replaced by another version,
    # .venv/bin/python dangles, and the next start sees that without running it.
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    made = subprocess.run([base, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode:
        fail(f"{base} could not make {VENV} - {complaint(made.stdout + made.stderr)}")


def site_packages() -> Path:
    return next(VENV.glob("lib/python3*/site-packages"))


def requirements(level: str) -> list[str]:
    """What pyproject.toml wants for a level."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # pip brings a reader
        sys.path.append(str(site_packages()))
        from pip._vendor import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS[level]:
        wanted += project["optional-dependencies"][extra]
    return wanted


def install(wanted: list[str], lock: IO[str]) -> None:
    """Let pip install the pinned versions, from wherever the user's pip is set to look."""
    pip = [str(PYTHON), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    with LOG.open("w") as log:
        # pip holds the lock too: it may outlive this process when that is killed.
        done = subprocess.run(
            [*pip, "install", "-c", str(CONSTRAINTS), *wanted],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PIP_USER": "0"},
            pass_fds=[lock.fileno()],
        )
    if done.returncode:
        fail(
            f"{VENV} could not be filled - {complaint(LOG.read_text())} - check that pip reaches a"
            f" package index and try again; all that it said is in {LOG}"
        )


def complaint(text: str) -> str:
    """The line of a program's output that says most about why it failed."""
    lines = text.strip().splitlines() or ["no word of why"]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines[-1:])[0]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(line: str) -> NoReturn:
    say(f"error: {line}")
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.stdin.buffer.read())
    except OSError as error:
        fail(f"{VENV} could not be set up - {error}")
    except KeyboardInterrupt:
        sys.exit(130)
