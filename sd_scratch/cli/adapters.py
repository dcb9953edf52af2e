"""``--lora``, ``--embedding`` and their kind: from flags, a prompt or a picture's recipe to a model with
adapters."""

import argparse
import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sd_scratch.checkpoints.adapters.apply import Adapter, AppliedLora
from sd_scratch.checkpoints.adapters.embedding import read_embeddings
from sd_scratch.checkpoints.adapters.few_steps import brought, few_steps
from sd_scratch.checkpoints.adapters.lora import read_lora
from sd_scratch.checkpoints.load import Components
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.cli.control import ask_for_controls, load_controls
from sd_scratch.cli.options import NO_ADAPTER, split_lora
from sd_scratch.config import ModelConfig
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import at_home
from sd_scratch.pipeline.adapters import EmbeddingUse, LoraUse, compare_hashes, take_tags
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

ENDINGS = (".safetensors", ".pt", ".bin", ".ckpt")
MAX_FILES = 100_000


def ask_for_loras(args: argparse.Namespace, prompts: list[str]) -> tuple[LoraUse, ...]:
    """The LoRAs of the flags. Raises UsageError where a file cannot be found, and for a tag in a prompt,
    which would be read as text."""
    for prompt in prompts:
        tagged = take_tags(prompt)[1]
        if tagged:
            raise UsageError(f"{tagged[0].tag} in the prompt - give the file here with --lora")
    uses = _flagged(args)
    _lora_paths(args, uses)
    return uses


def load_loras(
    args: argparse.Namespace, base: Components, uses: tuple[LoraUse, ...]
) -> tuple[list[AppliedLora], tuple[LoraUse, ...]]:
    """The LoRAs that are used, read for a model, and the uses with their hashes. Raises ScratchError."""
    loaded, known = [], []
    for path, use in zip(_lora_paths(args, uses), uses, strict=True):
        lora = read_lora(path, base)
        log.info(lora.summary)
        compare_hashes(f"a LoRA {use.name}", use.hash, lora.hash)
        loaded.append(AppliedLora(lora, use.scale, use.text_scale))
        known.append(use._replace(name=path.stem, hash=lora.hash))
    return loaded, tuple(known)


def ask_for_adapters(
    args: argparse.Namespace, recipe: Recipe, given: bool, prompts: list[str]
) -> Recipe:
    """The recipe with the adapters of flags, prompts and a picture; tags are out of its prompt.

    `given` says that the prompt was typed: its LoRA tags, and those of flags, replace what a picture's
    recipe asks for. `prompts` are more of them. Raises UsageError where a file cannot be found.
    """
    prompt, tagged = take_tags(recipe.prompt) if given else (recipe.prompt, ())
    if args.lora or tagged:
        recipe = recipe.over(prompt=prompt, loras=_flagged(args) + tagged)
    tagged += tuple(use for line in prompts for use in take_tags(line)[1])
    _lora_paths(args, (*(recipe.loras or ()), *tagged))
    recipe = ask_for_controls(args, recipe)
    embeddings = _embeddings(args, recipe, prompts)
    return recipe.over(embeddings=embeddings) if embeddings or recipe.embeddings else recipe


def add_adapters(
    args: argparse.Namespace, model: StableDiffusion, recipe: Recipe
) -> tuple[StableDiffusion, Recipe]:
    """The model with the recipe's adapters, and the recipe with their hashes. Raises ScratchError."""
    words = list(recipe.embeddings or ())
    applied, loras = load_loras(args, model.base, recipe.loras or ())
    adapters: list[Adapter] = [*applied]
    paths = _find("embedding", _embedding_files(args), [use.name for use in words])
    for i, path in enumerate(paths):
        found = read_embeddings(path, model.base, words[i].token or None)
        for embedding in found:
            log.info(embedding.summary)
        compare_hashes(f"an embedding {words[i].name}", words[i].hash, found[0].hash)
        words[i] = words[i]._replace(hash=found[0].hash)
        adapters += found
    controls, recipe = load_controls(args, model.base, recipe)
    adapters += controls
    if not adapters:
        return model, recipe
    recipe = recipe.over(loras=loras or None, embeddings=tuple(words) or None)
    return model.with_adapters(*adapters), recipe


def each_line(
    args: argparse.Namespace, model: StableDiffusion, recipe: Recipe, lines: list[str]
) -> list[tuple[StableDiffusion, Recipe]]:
    """For each line of a prompt file the model with the LoRAs that it names beside the recipe's, and its
    recipe. Every file is read once. Raises ScratchError."""
    known: dict[str, tuple[AppliedLora, LoraUse]] = {}
    jobs = []
    for line in lines:
        text, uses = take_tags(line)
        for use in uses:
            if use.name not in known:
                loaded, found = load_loras(args, model.base, (use,))
                known[use.name] = loaded[0], found[0]
                if loaded[0].lora.few_steps:
                    log.warning(
                        f"{use.name} is {loaded[0].lora.few_steps} - in a prompt file give flags"
                    )
        applied = [
            replace(known[use.name][0], scale=use.scale, text_scale=use.text_scale) for use in uses
        ]
        named = tuple(
            use._replace(name=known[use.name][1].name, hash=known[use.name][1].hash) for use in uses
        )
        its = model.with_adapters(*model.adapters, *applied) if uses else model
        loras = (*(recipe.loras or ()), *named)
        jobs.append((its, recipe.over(prompt=text, loras=loras or None)))
    return jobs


def with_few_steps(args: argparse.Namespace, recipe: Recipe, config: ModelConfig) -> ModelConfig:
    """The model's configuration as a LoRA of the recipe wants it that was distilled for few steps; a line
    says which. Only the headers of the files are read."""
    loras = recipe.loras or ()
    found = []
    for path, use in zip(_lora_paths(args, loras), loras, strict=True):
        metadata: Mapping[str, object] = {}
        with contextlib.suppress(ScratchError):  # a pickle; what is damaged is said when it is read
            metadata = read_header(path).metadata
        found.append((use.name, few_steps(use.name, metadata), use.scale))
    best = brought(found)
    if best is None:
        return config
    name, settings = best
    log.info(f"{name} is {settings} - where nothing else is said")
    return settings.over(config)


def _embeddings(
    args: argparse.Namespace, recipe: Recipe, more: list[str]
) -> tuple[EmbeddingUse, ...]:
    """Those of flags, those of the picture, and those of the folder that the prompts name."""
    if NO_ADAPTER in args.embedding:
        return ()
    files = _embedding_files(args)
    flagged = [split_embedding(text)[1] for text in args.embedding]
    uses = {use.name: use for use in [*(recipe.embeddings or ()), *flagged]}
    prompts = "\n".join([recipe.prompt, recipe.negative_prompt, *more])
    for name in files:
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompts, re.IGNORECASE):
            uses.setdefault(name, EmbeddingUse(name))
    asked = re.findall(r"\bembedding:([\w.-]*[\w-])", prompts)
    known = {name.casefold() for name in uses}
    _find("embedding", files, [*uses, *(name for name in asked if name.casefold() not in known)])
    return tuple(uses.values())


# Files ------------------------------------------------------------------------------------------


def _flagged(args: argparse.Namespace) -> tuple[LoraUse, ...]:
    return tuple(split_lora(text)[1] for text in args.lora if text != NO_ADAPTER)


def _lora_paths(args: argparse.Namespace, uses: Sequence[LoraUse]) -> list[Path]:
    named = [split_lora(text)[0] for text in args.lora if text != NO_ADAPTER]
    files = find_files("lora", named, args.lora_dir)
    return _find("lora", files, [use.name for use in uses])


def _embedding_files(args: argparse.Namespace) -> dict[str, list[Path]]:
    paths = [split_embedding(text)[0] for text in args.embedding if text != NO_ADAPTER]
    return find_files("embedding", paths, args.embedding_dir)


def find_files(kind: str, paths: list[Path], folder: Path | None) -> dict[str, list[Path]]:
    """Names to files: those that were named, before all in the folder and below it."""
    files: dict[str, list[Path]] = {}
    for path in paths:
        if path.is_dir():
            raise UsageError(f"--{kind} {path} - a folder - name the file in it")
        if not path.is_file():
            raise UsageError(f"--{kind} {path} - there is no such file")
        if files.setdefault(path.stem, [path]) != [path]:
            raise UsageError(f"--{kind}: two files are called {path.stem} - rename one")
    if folder is None:
        return files
    if not folder.is_dir():
        raise UsageError(f"--{kind}-dir {folder} - there is no such folder")
    named = set(files)
    for count, path in enumerate(sorted(folder.rglob("*"))):
        if count > MAX_FILES:
            raise UsageError(f"--{kind}-dir {folder} - holds more than {MAX_FILES:,} files")
        if path.suffix.lower() in ENDINGS and path.stem not in named:
            files.setdefault(path.stem, []).append(path)
    return files


def _find(kind: str, files: dict[str, list[Path]], names: list[str]) -> list[Path]:
    """The file of each name. It is looked up among the files that there are, and never becomes a path."""
    return [_one(kind, files, name) for name in names]


def _one(kind: str, files: dict[str, list[Path]], name: str) -> Path:
    found = files.get(name) or (_in_other_words(files, name) if kind == "lora" else [])
    if len(found) == 1:
        return found[0]
    if found:
        places = " and ".join(str(path) for path in found[:3])
        raise UsageError(
            f"{len(found)} files are called {name[:80]}: {places} - give --{kind} FILE"
        )
    near = difflib.get_close_matches(name, files, n=1)
    raise UsageError(
        f"no {kind} called {name[:80]!r} was found{f', did you mean {near[0]}?' if near else ''} - give"
        f" --{kind} FILE, or --{kind}-dir with the folder that it is in, or --{kind} none"
    )


def _in_other_words(files: dict[str, list[Path]], name: str) -> list[Path]:
    """The files that tags of other tools mean: by their ending or folder, or as kohya's training called them, which
    A1111 writes where a file was renamed."""
    every = sorted({path for paths in files.values() for path in paths})
    ways = {path: (f"/{path.as_posix()}", f"/{path.with_suffix('').as_posix()}") for path in every}
    if found := [p for p in every if any(way.endswith(f"/{name}") for way in ways[p])]:
        return found
    for path in every:
        with contextlib.suppress(ScratchError):  # a pickle, or a damaged one
            if read_header(path).metadata.get("ss_output_name") == name:
                found.append(path)
    return found


def split_embedding(text: str) -> tuple[Path, EmbeddingUse]:
    """``FILE[:TOKEN]``; a file of the whole name comes first."""
    head, colon, token = text.rpartition(":")
    if at_home(text).is_file() or not colon or not head:
        head, token = text, ""
    return at_home(head), EmbeddingUse(Path(head).stem, token)
