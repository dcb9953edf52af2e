"""Bad wishes at the command line: exit status and message of each, before a model is loaded."""

import os
from pathlib import Path

import pytest

from sd_scratch.checkpoints import hashes
from sd_scratch.cli import main

GENERATE = ["generate", "a", "--steps", "1"]
TRACE = ["trace", "a", "--steps", "1", "--tensors", "unet.h"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    Path("file").touch()
    for name in ("old.png", "old.gif", "old.safetensors"):
        Path(name).write_bytes(b"old")
    Path("link.png").symlink_to("old.png")
    Path("full").mkdir()
    Path("full/thesis.doc").touch()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*GENERATE, "-o", "pipe.png"], "a device or a pipe"),
        ([*GENERATE, "-o", "link.png", "--overwrite"], "symbolic link"),
        ([*GENERATE, "-o", "old.png"], "old.png exists"),
        ([*GENERATE, "-o", "a.png", "--save-latents", "a.png"], "end the name with .safetensors"),
        ([*GENERATE, "--save-latents", "old.safetensors"], "exists"),
        ([*GENERATE, "-m", ""], "the name is empty"),
        ([*GENERATE, "-m", "~no-such-user/x"], "no such user"),
        (["generate", "--from-image", "pipe.png"], "a device or a pipe"),
        (["sample", "mnist", "-o", "old.png"], "exists"),
        (["sample", "mnist", "-o", "link.png", "--overwrite"], "symbolic link"),
        (["sample", "mnist", "-o", "pipe.png", "--overwrite"], "a device or a pipe"),
        (["sample", "mnist", "--film", "old.gif"], "exists"),
        (["sample", "mnist", "--film", "a.png"], "end the name with .gif"),
        ([*TRACE, "-o", "full"], "is there already"),
        ([*TRACE, "-o", "full", "--overwrite"], "holds thesis.doc"),
        ([*TRACE, "-o", "."], "is there already"),
        ([*TRACE, "-o", "file/x"], "a file, not a folder"),
        ([*TRACE, "-o", "new", "--calls", "5:1"], "FROM must be before TO"),
        (["map", "heat", "a star", "-o", "full"], "holds other files"),
        (["train", "mnist", "-o", "run", "--export", "full"], "or give --overwrite"),
    ],
)
def test_bad_wishes_are_one_line_and_touch_nothing(words: list[str], message: str, capsys) -> None:
    assert main(words) in (1, 2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert Path("old.png").read_bytes() == b"old" and os.listdir("full") == ["thesis.doc"]


def test_a_cache_that_cannot_be_had_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert len(hashes.cached_sha256([Path("old.png")])) == 64
