"""The command line: ``sd-scratch COMMAND``.

A command is a module with `add_arguments(parser)`, which imports nothing heavy, and `run(args)`, which
may, and returns an exit status. PyTorch takes longer to import than all of ``--help`` may take.
"""

import argparse
import contextlib
import difflib
import gc
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import sd_scratch
from sd_scratch.cli import habits
from sd_scratch.cli.console import INTERRUPTED, Escaping, console, report_error
from sd_scratch.cli.options import add_message_arguments
from sd_scratch.errors import UsageError
from sd_scratch.stop import endings

BROKEN_PIPE = 141  # 128 + the signal's number, as shells say it


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    computes: bool = True  # with PyTorch

    @property
    def module(self) -> str:
        return f"sd_scratch.cli.{self.name}"


COMMANDS = (
    Command("generate", "make pictures from a prompt"),
    Command("page", "a page in the browser: type, look inside, change and move"),
    Command("map", "experiments: what in the prompt makes what in the picture"),
    Command("explain", "say which settings and conventions separate two pictures", computes=False),
    Command("invert", "find the noise that a picture is made from"),
    Command("trace", "make pictures and store what happened inside on the way"),
    Command("tensors", "list the tensors of a model by name, without running it"),
    Command("data", "fetch the data sets that the small models learn from", computes=False),
    Command("train", "train a model from scratch, on a CPU if need be"),
    Command("sample", "a sheet of pictures from a trained model"),
    Command("teach", "the exercises that people learn diffusion with: a table and a figure"),
    Command("weights", "list, download, inspect, convert and compare models"),
    Command("export", "write a model as ONNX graphs, for a browser and other runtimes"),
    Command("bench", "measure speed and memory, beside diffusers where it is installed"),
    Command("doctor", "show versions, devices, memory, caches and models"),
)
EXAMPLES = {  # at the end of a command's help
    "generate": """
  sd-scratch generate "a large red star" --seed 7 -o star.png
  sd-scratch generate "a lighthouse in a storm" -m sd15 -n "people" --sampler "DPM++ 2M Karras" --steps 25 -b 4
  sd-scratch generate "a lighthouse at night" -m sd15 -i day.png --strength 0.6
  sd-scratch generate "a red door" -m sd15 -i house.png --mask door.png
  sd-scratch generate --from-image theirs.png -m model.safetensors
  sd-scratch generate "a lighthouse, <lora:storm:0.7>" -m model.safetensors --lora-dir loras --like a1111
  sd-scratch generate --prompt-file prompts.txt -o "out/{prompt}-{seed}.png"
""",
    "map": """
  sd-scratch map heat "a red star and a blue ring" -w star -w ring -o out/heat
  sd-scratch map adjust "a red star" -w red --lambdas -1,0,1 -o out/adjust
""",
    "train": """
  sd-scratch train mnist --max-minutes 10 --out runs/mnist
  sd-scratch train mnist --max-minutes 20 --out runs/mnist --resume
  sd-scratch train mnist --export out/digits --out runs/mnist
  sd-scratch train mnist --evaluate out/digits
""",
    "weights": """
  sd-scratch weights inspect model.safetensors
  sd-scratch weights convert model.ckpt model.safetensors --lora style.safetensors:0.7
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (failed), 2 (bad usage) or 130 (interrupted)."""
    arguments = [habits.ours(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in arguments
    try:
        with _protected_streams(), _terminated_cleanly():
            args, rest = _parser(arguments).parse_known_args(arguments)  # type: ignore[no-untyped-call]
            if rest:
                habits.refuse(rest, args.command, args.usage)
            with console(quiet="quiet" in args, verbose="verbose" in args or debug):
                if args.computes:
                    _import_torch()
                code: int = importlib.import_module(args.module).run(args)
                sys.stdout.flush()
                return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except SystemExit as stop:  # from argparse after --help, or from a signal
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        return report_error(error, debug)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and no guessing from abbreviations."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, **options})  # type: ignore[arg-type]

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """A list that begins with a minus belongs to the flag before it: ``--lambdas -1,0`` is taken for
        ``--lambdas=-1,0``."""
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            flag = words[-1] if words else ""
            if re.match(r"-\.?\d[^ ]*[,:]", word) and re.fullmatch(r"--[\w-]+", flag):
                words[-1] = f"{flag}={word}"
            else:
                words.append(word)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} - see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Choices with the nearest name first (argparse has no public hook for this)."""
        choices = [str(choice) for choice in action.choices or ()]
        if action.choices is None or value in action.choices:
            return
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise argparse.ArgumentError(
            action, f"unknown '{value}' - {hint}there is {', '.join(choices)}"
        )


def _parser(arguments: Sequence[str]) -> Parser:
    """The parser, with the arguments of those commands only that may be meant."""
    first = 'the first picture: sd-scratch generate "a large red star"; each command has --help'
    about = "Stable Diffusion 1.x from scratch."
    parser = Parser(prog="sd-scratch", description=about, epilog=first)
    parser.add_argument(
        "--version", action="version", version=f"sd-scratch {sd_scratch.__version__}"
    )
    commands = parser.add_subparsers(
        metavar="COMMAND", title="commands", required=True, parser_class=Parser
    )
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help)
        if command.name in EXAMPLES:
            sub.epilog = f"examples:{EXAMPLES[command.name]}"
            sub.formatter_class = argparse.RawDescriptionHelpFormatter
        if command.name in arguments:
            sub.set_defaults(module=command.module, computes=command.computes)
            sub.set_defaults(command=command.name, usage=sub.format_help)
            importlib.import_module(command.module).add_arguments(sub)
            add_message_arguments(sub)
    return parser


def _import_torch() -> None:
    """PyTorch's objects stay: looking for garbage among them, now and later, takes a tenth of a picture's time."""
    if "torch" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torch")
    finally:
        if enabled:
            gc.enable()
    gc.freeze()


@contextlib.contextmanager
def _protected_streams() -> Iterator[None]:
    """Streams that are there, and show what the terminal's encoding lacks, and what a terminal would
    obey, as escapes. A stream that was closed swallows what is written."""
    before = sys.stdout, sys.stderr
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is None:  # and its number must not become that of a file
            handle = os.open(os.devnull, os.O_WRONLY)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
    sys.stdout, sys.stderr = (
        open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
        if stream is None
        else stream
        for stream in before
    )
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = Escaping(sys.stdout)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _discard_output() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere instead of failing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """A termination or a hang-up unwinds the program like an exception, so that temporary files are
    removed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    before = {name: signal.signal(name, stop) for name in endings()}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
