"""Arguments that several commands share, and the types that check values while they are parsed."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sd_scratch.errors import UsageError
from sd_scratch.files import at_home
from sd_scratch.limits import (
    CLIP_SKIP,
    DTYPES,
    GUIDANCE,
    LORA_SCALE,
    PREDICTION_TYPES,
    SEED,
    SIDE,
    TUNING,
    read_integer,
    read_number,
)
from sd_scratch.pipeline.adapters import LoraUse

CELL = 8  # pixels of a side that one cell of every known autoencoder's latent covers
NO_ADAPTER = "none"
LORAS = "add a LoRA, LoCon, LoHa, LoKr or DoRA"
Number = TypeVar("Number", int, float)


def integer(low: int, high: int) -> Callable[[str], int]:
    """A type for argparse: an integer from `low` to `high`."""
    return _within(read_integer, low, high, f"an integer from {low} to {high}")


def number(low: float, high: float) -> Callable[[str], float]:
    """A type for argparse: a finite number from `low` to `high`."""
    return _within(read_number, low, high, f"a number from {low:g} to {high:g}")


def _within(
    read: Callable[[str], Number | None], low: float, high: float, wanted: str
) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        value = read(text)
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {wanted}")
        return value

    return parse


def side(text: str) -> int:
    """A type for argparse: a picture's width or height in pixels."""
    value = integer(*SIDE)(text)
    if value % CELL:
        below = value - value % CELL
        raise argparse.ArgumentTypeError(
            f"{value} is not a multiple of {CELL}: use {below} or {below + CELL}"
        )
    return value


def seed(text: str) -> int:
    """A type for argparse: a seed, or -1 for a random one."""
    if text.strip() == "-1":
        return -1
    try:
        return integer(*SEED)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a seed: give -1 for a random one, or 0 to 2^64-1, from which -b counts up"
        ) from None


def dtype(text: str) -> str:
    """A type for argparse: one of `DTYPES`, which others call fp16, f16 or half."""
    short = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    short |= {"f32": "float32", "f16": "float16", "full": "float32", "half": "float16"}
    return short.get(text.casefold(), text)


def rng(text: str) -> str:
    """A type for argparse: one of `RNGS`, which A1111 and stable-diffusion.cpp write otherwise."""
    name = text.casefold()
    return "nv" if name in ("cuda", "gpu") else name


def refuse_flags(args: argparse.Namespace, flags: str, reason: str) -> None:
    """Raise `UsageError` for the first of `flags` that was given: what a person says is done, or
    refused."""
    for flag in flags.split():
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is not None and value is not False and value != []:
            raise UsageError(f"{flag} {reason}")


def add_message_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of every command; one that is not given leaves no attribute, so that the parser of an
    action below a command does not undo what stood before it."""
    group = parser.add_argument_group("messages")
    for short, name, text in (
        ("-q", "--quiet", "warnings and errors only"),
        ("-v", "--verbose", "say more"),
        (None, "--debug", "show tracebacks"),
    ):
        names = [short, name] if short else [name]
        group.add_argument(*names, action="store_true", default=argparse.SUPPRESS, help=text)


def a_name(text: str) -> str:
    """A type for argparse: what names a model, a file or a machine, which is not nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def a_path(text: str) -> Path:
    """A type for argparse: a path, which is not nothing, and in which ``~`` is the user's home."""
    return at_home(a_name(text))


def a_target(text: str) -> str:
    """A type for argparse: such a path as a text, which may be a template of names, or ``-``."""
    return str(at_home(a_name(text)))


def add_size_arguments(
    group: argparse._ActionsContainer, text: str = "pixels (default: the model's own)"
) -> None:
    group.add_argument("-W", "--width", type=side, metavar="N", help=text)
    group.add_argument("-H", "--height", type=side, metavar="N", help=text)


def add_model_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "-m",
        "--model",
        type=a_name,
        help="a shipped model, sd15, a folder, a .safetensors file or a hub id (default: scenes)",
    )


def add_parts_arguments(group: argparse._ActionsContainer) -> None:
    """Parts from elsewhere in the place of the model's own."""
    add = group.add_argument
    add(
        "--vae",
        type=a_name,
        metavar="FILE",
        help="another VAE: a file, TAESD's too, a folder or a whole model; none for the model's own",
    )
    add(
        "--text-encoder",
        type=a_name,
        metavar="MODEL",
        help="a model to take the text encoder from, or a CLIP's folder or hub id",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add_model_argument(group)
    add_source_arguments(group)
    add_parts_arguments(group)
    add = group.add_argument
    add("--ema", action="store_true", help="the averaged copy of the U-Net, which some files hold")
    add(
        "--vae-tiling",
        action="store_true",
        help="decode and encode pictures in strips: without seams, in half the memory",
    )
    add(
        "--prediction",
        choices=PREDICTION_TYPES,
        help="what the network predicts, where the checkpoint does not say or is wrong",
    )
    add("--zsnr", action="store_true", help="zero terminal SNR: the schedule ends in pure noise")
    add(
        "--tune",
        choices=TUNING,
        help="choose the CPU's fastest kernels by measuring: once, in two seconds (quick), all anew and"
        " thoroughly (full), by a fixed rule (off) (default: quick; models as small as scenes: off)",
    )
    add(
        "--low-memory",
        action="store_true",
        help="keep weights that the file has in half precision so, and compute each layer in --dtype: the same"
        " picture in less memory, and more time (done unasked where they would not fit)",
    )
    add_force_argument(group)


def add_force_argument(group: argparse._ActionsContainer) -> None:
    text = "load even if memory seems too small for it"
    group.add_argument("--force", action="store_true", help=text)


def add_guidance_argument(
    group: argparse._ActionsContainer, text: str, default: float | None = None
) -> None:
    group.add_argument(
        "--cfg-scale",
        "--guidance-scale",
        type=number(*GUIDANCE),
        metavar="SCALE",
        default=default,
        help=text,
    )


def add_clip_skip_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--clip-skip",
        type=integer(*CLIP_SKIP),
        metavar="N",
        help="leave out the last N-1 text layers (default 1)",
    )


def add_lora_argument(group: argparse._ActionsContainer, text: str) -> None:
    """A LoRA's file with its strengths, which `split_lora` reads."""
    group.add_argument(
        "--lora",
        type=a_name,
        action="append",
        default=[],
        metavar="FILE[:SCALE[:TEXT_SCALE]]",
        help=f"{text}; may be given several times",
    )


def split_lora(text: str) -> tuple[Path, LoraUse]:
    """``FILE[:SCALE[:TEXT_SCALE]]``; a colon may stand in the path too."""
    path = text
    scales: list[float] = []
    while len(scales) < 2:
        head, colon, tail = path.rpartition(":")
        scale = read_number(tail)
        if scale is None or not colon or not head:
            break
        path, scales = head, [scale, *scales]
    low, high = LORA_SCALE
    if any(not low <= scale <= high for scale in scales):
        raise UsageError(f"--lora {text} - a scale is a number from {low:g} to {high:g}")
    scale, text_scale = (scales * 2)[:2] if scales else (1.0, 1.0)
    return at_home(path), LoraUse(Path(path).stem, scale, text_scale)


def lora_files(args: argparse.Namespace) -> list[tuple[Path, LoraUse]]:
    """The files of ``--lora`` and how they are used. Raises UsageError for one that is not there."""
    for text in args.lora:
        if not split_lora(text)[0].is_file():
            raise UsageError(f"--lora {text} - there is no such file")
    return [split_lora(text) for text in args.lora]


def add_source_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--revision", type=a_name, help="branch, tag or commit of a hub id")
    parser.add_argument("--offline", action="store_true", help="use what is cached, no network")


def add_device_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", type=a_name, help="cpu, cuda, cuda:1, mps (default: the fastest there is)"
    )
    group.add_argument(
        "--dtype",
        type=dtype,
        choices=DTYPES,
        help="what the networks compute in (default: float32)",
    )
    group.add_argument(
        "-t",
        "--threads",
        type=integer(1, 4 * (os.cpu_count() or 1)),
        help="CPU threads (default: one per core)",
    )
    return group
