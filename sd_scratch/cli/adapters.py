"""``--lora`` and its kind: from flags, a prompt's tags or a picture's recipe to a model with adapters."""

import argparse
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.errors import UsageError
from sd_scratch.limits import LORA_SCALE
from sd_scratch.pipeline.loras import LoraUse, take_tags

if TYPE_CHECKING:
    from sd_scratch.pipeline.recipe import Recipe
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

log = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".pt", ".bin", ".ckpt")
MAX_FILES = 100_000


def add_adapter_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adapters")
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE[:TEXT_SCALE]]",
        help="add a LoRA, LoCon, LoHa, LoKr or DoRA; may be given several times; none for none",
    )
    group.add_argument(
        "--lora-dir",
        type=Path,
        metavar="FOLDER",
        help="where the files of <lora:name:scale> in the prompt are",
    )


def ask_for_loras(args: argparse.Namespace, recipe: "Recipe", given: bool) -> "Recipe":
    """The recipe without tags in its prompt, and with the LoRAs of flags and tags in their place.

    `given` says that the prompt was typed. What was typed replaces what a picture's recipe asks for.
    Raises UsageError where a file cannot be found.
    """
    prompt, tagged = take_tags(recipe.prompt) if given else (recipe.prompt, ())
    flagged = tuple(_split(text)[1] for text in args.lora if text != "none")
    if args.lora or tagged:
        recipe = recipe.over(prompt=prompt, loras=flagged + tagged)
    find_files(args, recipe.loras or ())
    return recipe


def add_loras(
    args: argparse.Namespace, model: "StableDiffusion", recipe: "Recipe"
) -> "tuple[StableDiffusion, Recipe]":
    """The model with the recipe's LoRAs, and the recipe with their hashes. Raises ScratchError."""
    uses = []
    for use, path in zip(recipe.loras or (), find_files(args, recipe.loras or ()), strict=True):
        model = model.with_lora(path, use.scale, use.text_scale)
        lora = model.adapters[-1].lora
        log.info(lora.summary)
        if use.hash and use.hash != lora.hash:
            log.warning(
                f"the picture was made with a LoRA {use.name} of hash {use.hash}, and {path} has"
                f" {lora.hash}: it will differ"
            )
        uses.append(use._replace(hash=lora.hash))
    return model, recipe.over(loras=tuple(uses) if uses else None)


def find_files(args: argparse.Namespace, loras: tuple[LoraUse, ...]) -> list[Path]:
    """The file of each LoRA: of the files that were named, the one with its name, and no other."""
    if not loras:
        return []
    files: dict[str, Path] = {}
    for path in [_split(text)[0] for text in args.lora if text != "none"]:
        if files.setdefault(path.stem, path) != path:
            raise UsageError(f"--lora: two files are called {path.stem} - rename one")
        if not path.is_file():
            raise UsageError(f"--lora {path} - there is no such file")
    for path in _files_in(args.lora_dir):
        files.setdefault(path.stem, path)
    for use in loras:
        if use.name not in files:
            where = f"in {args.lora_dir}" if args.lora_dir else "- name its folder with --lora-dir"
            raise UsageError(
                f"no LoRA called {use.name[:80]!r} {where} - or give --lora FILE, or --lora none"
            )
    return [files[use.name] for use in loras]


def _files_in(folder: Path | None) -> Iterator[Path]:
    """All files in a folder and below that may be adapters. A name is looked up among them, and never
    becomes a path."""
    if folder is None:
        return
    if not folder.is_dir():
        raise UsageError(f"--lora-dir {folder} - there is no such folder")
    for count, path in enumerate(sorted(folder.rglob("*"))):
        if count > MAX_FILES:
            raise UsageError(f"--lora-dir {folder} - holds more than {MAX_FILES:,} files")
        if path.suffix in ENDINGS:
            yield path


def _split(text: str) -> tuple[Path, LoraUse]:
    """``FILE[:SCALE[:TEXT_SCALE]]``; a colon may stand in the path too."""
    path = text
    scales: list[float] = []
    while len(scales) < 2:
        head, colon, tail = path.rpartition(":")
        try:
            scale = float(tail)
        except ValueError:
            break
        if not colon or not head:
            break
        path, scales = head, [scale, *scales]
    low, high = LORA_SCALE
    if any(math.isnan(scale) or not low <= scale <= high for scale in scales):
        raise UsageError(f"--lora {text} - a scale is a number from {low:g} to {high:g}")
    scale, text_scale = (scales * 2)[:2] if scales else (1.0, 1.0)
    return Path(path).expanduser(), LoraUse(Path(path).stem, scale, text_scale)
