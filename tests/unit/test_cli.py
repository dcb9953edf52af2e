"""The frame of the command line: parsing, errors, exit codes, streams."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sd_scratch.cli import COMMANDS, EXAMPLES, _parser, doctor, habits, main
from sd_scratch.errors import ScratchError, UsageError

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    def run(args: object) -> int:
        raise error

    monkeypatch.setattr(doctor, "run", run)
    return main(["doctor", *options])


def test_help_and_usage_errors_do_not_import_torch() -> None:
    done = python(
        "import sys\n"
        "from sd_scratch.cli import COMMANDS, main\n"
        "codes = [main(['--help']), main(['--version'])]\n"
        "codes += [main([command.name, '--help']) for command in COMMANDS]\n"
        "assert not any(codes), codes\n"
        "for line in ('', 'genrate', 'generate --steps 0', 'generate x --seed abc', 'doctor x'):\n"
        "    assert main(line.split()) == 2, line\n"
        "heavy = {'torch', 'numpy', 'PIL', 'huggingface_hub'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"sd-scratch {command}" in capsys.readouterr().out


def test_examples_in_the_help_are_understood() -> None:
    lines = [line for text in EXAMPLES.values() for line in text.strip().splitlines()]
    assert len(lines) >= 12
    for line in lines:
        name, *words = shlex.split(line)
        assert name == "sd-scratch"
        args, rest = _parser(words).parse_known_args(words)
        assert args.command == words[0] and not rest, line


def test_a_mistyped_command_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genrate", "a"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "did you mean 'generate'?" in error
    assert error.count("\n") == 1


def test_abbreviated_flags_are_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a", "--se", "1"]) == 2
    assert "--se" in capsys.readouterr().err


def test_underscores_stand_for_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a", "--batch_count=0"]) == 2
    assert "argument -b/--batch-count: '0' is not an integer" in capsys.readouterr().err


def test_flags_of_other_tools_hide_none_of_ours() -> None:
    ours, todo = set[str](), [_parser([command.name for command in COMMANDS])]
    while todo:
        parser = todo.pop()
        for action in parser._actions:
            ours.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                todo += action.choices.values()
    assert not ours & set(habits.SAME)
    assert set(habits.SAME.values()) <= ours
    named = {flag for text in habits.INSTEAD.values() for flag in re.findall(r"--[a-z-]+", text)}
    assert named <= ours


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--medvram"], "--medvram is not here: attention takes little memory by itself"),
        (["--enable_xformers_memory_efficient_attention"], "attention takes little memory"),
        (["--n_samples", "2"], "--n-samples is not here: -b pictures, --batch-size at a time"),
        (["-A", "ddim"], "-A is not here: --sampler - see sd-scratch generate --help"),
        (["--clipskip=2"], "--clipskip is not here: did you mean --clip-skip?"),
        (["--nsfw", "--plms"], "there is no safety checker; --plms is not here: --sampler pndm"),
        (["--colour"], "error: --colour is not here - see sd-scratch generate --help"),
        (["star"], "unrecognized arguments: star - put a text of several words into quotes"),
    ],
)
def test_flags_that_are_not_here_are_said_with_what_is(capsys, words: list[str], said: str) -> None:
    assert main(["generate", "a red", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--W=0"], "argument -W/--width"),
        (["--ddim_steps", "0"], "argument --steps"),
        (["--cfg", "x"], "argument --cfg-scale"),
        (["--type=q8_0"], "argument --dtype: unknown 'q8_0'"),
        (["--type=f16", "--n_iter=0"], "argument -b/--batch-count"),
        (["--rng=cuda", "--H=0"], "argument -H/--height"),
    ],
)
def test_flags_of_other_tools_that_mean_the_same(capsys, words: list[str], said: str) -> None:
    assert main(["generate", "a", *words]) == 2
    assert said in capsys.readouterr().err


def test_an_error_is_one_line_and_its_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_raising(UsageError("a\nb"), monkeypatch) == 2
    assert capsys.readouterr().err == "error: a b\n"
    assert run_raising(ScratchError("a"), monkeypatch) == 1


def test_an_unexpected_error_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_raising(ValueError("odd\nthing"), monkeypatch) == 1
    assert capsys.readouterr().err == (
        "error: ValueError: odd thing (run again with --debug for the traceback)\n"
    )


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_raising(ScratchError("a"), monkeypatch, "--debug") == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.endswith("error: a\n")


def test_running_out_of_memory_has_advice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to ...")):
        assert run_raising(error, monkeypatch) == 1
        assert "--batch-size" in capsys.readouterr().err


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_raising(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_termination_unwinds_like_an_exception(name: str, status: int) -> None:
    done = python(
        "import os, signal\n"
        f"signal.signal(signal.{name}, signal.SIG_DFL)\n"  # the tests may run under nohup
        "from sd_scratch.cli import doctor, main\n"
        "def run(args):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "    finally:\n"
        "        print('tidied up')\n"
        "doctor.run = run\n"
        "raise SystemExit(main(['doctor']))"
    )
    assert done.returncode == status
    assert done.stdout.split() == [b"tidied", b"up"]
    assert done.stderr == b""


def test_a_closed_pipe_is_silent() -> None:
    code = (
        "from sd_scratch.cli import doctor, main\n"
        "doctor.run = lambda args: print('x' * 100_000) or 0\n"
        "raise SystemExit(main(['doctor']))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    done = python(
        "from sd_scratch.cli import main\nmain(['generate', 'x', '--seed', '漢'])",
        PYTHONIOENCODING="cp1252",
    )
    assert done.returncode == 0
    assert b"'\\u6f22' is not a seed" in done.stderr


def test_quiet_and_verbose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    log = logging.getLogger("sd_scratch.test")

    def run(args: object) -> int:
        log.debug("detail")
        log.info("note")
        log.warning("careful")
        return 0

    monkeypatch.setattr(doctor, "run", run)
    for options, lines in (
        (["-q"], ["warning: careful"]),
        ([], ["note", "warning: careful"]),
        (["-v"], ["detail", "note", "warning: careful"]),
    ):
        assert main(["doctor", *options]) == 0
        assert capsys.readouterr().err.splitlines() == lines


def test_flags_for_messages_stand_before_or_after_an_action(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line in (
        ["weights", "--debug", "inspect", "nothing"],
        ["weights", "inspect", "nothing", "--debug"],
    ):
        assert main(line) == 2
        assert "Traceback" in capsys.readouterr().err


def test_python_m_runs_the_same(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sd_scratch", "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("sd-scratch ")
