"""What a person asks ``generate`` for: flags over a picture's own recipe over the model's defaults."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import shorten

from sd_scratch.checkpoints.shipped import list_shipped
from sd_scratch.cli.adapters import ask_for_adapters
from sd_scratch.cli.init_image import ask_for_init_image
from sd_scratch.cli.init_noise import read_init_noise
from sd_scratch.dialects.conventions import speak
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.diffusion.sampler_names import (
    a1111_sampler,
    a1111_schedule,
    comfy_sampler,
    comfy_schedule,
    find_sampler,
    find_schedule,
    split_solver,
)
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import read_file
from sd_scratch.pipeline.adapters import take_tags
from sd_scratch.pipeline.complete import check_recipe, drawn, with_seed
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.text.chunks import check_prompt
from sd_scratch.text.syntax import SYNTAXES

DEFAULT_MODEL = "scenes"
# Flags that say what the setting of a recipe of the same name says.
SAME = (
    *("negative_prompt", "syntax", "emphasis", "clip_skip", "text_cleaning"),
    *("rng", "ensd", "subseed_strength", "width", "height", "tiling"),
    *("steps", "sampler", "schedule", "strength_steps", "hires_strength", "hires_steps"),
    *("guidance_rescale", "pag", "pag_layers", "pag_adaptive_scale"),
    *("model", "prediction", "dtype", "fast"),
)
SAID = ("seed", "steps", "sampler")  # without which no picture comes again
SPREAD = {"a1111": a1111_schedule, "comfy": comfy_schedule}  # their names of schedules
NAMED = {"a1111": a1111_sampler, "comfy": comfy_sampler}  # and of samplers, with their options
HIRES = 2.0  # scale of a second pass
LONGEST_LIST = 1000  # characters of a list of settings
FILE_LIMIT = 1 << 20  # bytes of --prompt-file


def read_request(args: argparse.Namespace) -> Recipe:
    """The recipe that was asked for, as far as it can be known before a model is: what only the model
    can say stays None. Nothing is loaded.

    Raises ScratchError for bad usage.
    """
    if args.prompt is not None and args.prompt_option is not None:
        raise UsageError("the prompt was given twice: in its place and with -p")
    given = args.prompt if args.prompt is not None else args.prompt_option
    if given == "-":
        given = sys.stdin.read(FILE_LIMIT).strip()
    begun = args.prompt_file, args.from_image, args.init_noise
    if given is None and begun == (None, None, None):
        raise UsageError('no prompt: sd-scratch generate "a red circle"')

    recipe = _begun(args)
    if args.sampler is not None:
        base, options = split_solver(args.sampler)
        name, named = find_sampler(base)
        if args.like in NAMED:
            name, options = NAMED[args.like](args.sampler)
        args.sampler = name
        if None not in (named, args.schedule) and find_schedule(args.schedule) != named:
            raise UsageError(
                f"the sampler's name says {named} and --schedule {args.schedule} - leave out one"
            )
        args.schedule = args.schedule or named
        if options or args.sampler != recipe.sampler:
            # Without those of another sampler.
            recipe = replace(recipe, sampler_options=dict(options))
    if given is not None:
        recipe = replace(recipe, syntax=None)  # a new text is read in the usual way
    if args.like is not None:
        recipe = speak(recipe, args.like)
    recipe = recipe.over(
        **{name: getattr(args, name) for name in SAME},
        prompt=given,
        subseed=None if args.subseed is None else drawn(args.subseed, "subseed"),
        seed=None if args.seed is None else drawn(args.seed),
        guidance=args.cfg_scale,
        hires_scale=args.hires_scale or (HIRES if args.hires and not recipe.hires_scale else None),
        hires_method=args.hires_upscaler,
        zero_snr=args.zsnr or None,
    )
    if args.like in SPREAD and args.schedule == recipe.schedule:
        if recipe.sampler is None and args.schedule is not None:
            raise UsageError(f"which sampler's --schedule of {args.like}? - name it with --sampler")
        asked = () if args.schedule is None else (args.schedule,)
        spread = SPREAD[args.like](recipe.sampler or "", *asked)
        if spread == "":
            log.warning(
                f"{args.like} has no schedule {args.schedule} for {recipe.sampler}: it is ours"
            )
        recipe = recipe.over(schedule=spread or None)
    recipe = ask_for_adapters(args, recipe, given is not None, read_prompts(args))
    if args.fast == "none":
        recipe = replace(recipe, fast=None)
    if args.model is not None or args.revision is not None:
        recipe = replace(recipe, revision=args.revision)
    recipe = check_recipe(ask_for_init_image(args, recipe))
    recipe = with_seed(recipe, args.batch_count)
    if recipe.model is not None:
        return recipe
    log.info(
        f"model: {DEFAULT_MODEL}, small and shipped; "
        'for Stable Diffusion 1.5 (4 GB): sd-scratch generate -m sd15 "..."'
    )
    return recipe.over(model=DEFAULT_MODEL)


def _begun(args: argparse.Namespace) -> Recipe:
    """The recipe that flags go over: a picture's, that of a noise in a file, or none."""
    init_noise: Path | None = args.init_noise
    if args.from_image is None and init_noise is None:
        return Recipe(prompt="")
    if init_noise is None:
        recipe = _recipe_in(args.from_image, args.model)
        if args.sampler is None and recipe.sampler not in (None, *SAMPLERS):
            raise UsageError(
                f"{args.from_image} was made by the sampler {str(recipe.sampler)[:40]}, which is not here - give"
                " another one with --sampler: it will differ"
            )
        if silent := [
            name for name in SAID if None is getattr(recipe, name) is getattr(args, name)
        ]:
            log.warning(f"{args.from_image} does not say its {', '.join(silent)}: it will differ")
        if recipe.init_noise is not None:
            raise UsageError(
                f"{args.from_image} began with the noise of {recipe.init_noise} - a picture cannot choose a"
                " file - name it with --init-noise alone, and give the prompt"
            )
        return recipe
    if args.from_image is not None or args.init_image is not None:
        raise UsageError(
            "--init-noise is a start of its own - leave out --from-image and --init-image"
        )
    recipe = read_init_noise(init_noise)[1]
    return _of_known_model(recipe, init_noise, args.model)


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The lines of ``--prompt-file``, without those that are empty; none without it.

    Raises UsageError for a file that cannot be read, and for a line that is no prompt.
    """
    path: Path | None = args.prompt_file
    if path is None:
        return []
    if args.prompt is not None or args.prompt_option is not None:
        raise UsageError("the prompt was given twice: in its place and with --prompt-file")
    try:
        text = read_file(path, FILE_LIMIT).decode("utf-8-sig")
    except ScratchError as error:
        raise UsageError(f"--prompt-file {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--prompt-file {path} - not UTF-8 text") from None
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            check_prompt(line, args.syntax or SYNTAXES[0])
            take_tags(line)
        except UsageError as error:
            raise UsageError(f"{path}, line {number} - {error}") from None
        if line.strip():
            prompts.append(line.strip())
    if not prompts:
        raise UsageError(f"--prompt-file {path} - holds no prompt: it has one a line")
    return prompts


def sampler_options(args: argparse.Namespace) -> dict[str, str]:
    """``--eta``, and every ``--sampler-option NAME=VALUE``."""
    options = {} if args.eta is None else {"eta": str(args.eta)}
    for pair in args.sampler_option:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--sampler-option {pair} - write NAME=VALUE, such as order=2")
        options[name.replace("-", "_")] = value
    return options


def _recipe_in(path: Path, model: str | None) -> Recipe:
    """The recipe in a picture. Of models it may choose those with names of their own: shipped ones and
    ``sd15``. A hub id would be an unrequested download, and a path an unrequested file."""
    if not path.exists():
        raise UsageError(f"{path} - cannot be read: no such file")
    recipe, left = read_recipe(path)
    if left:
        names = shorten(", ".join(left), LONGEST_LIST, placeholder=", ...")
        log.warning(f"settings in {path} that are not repeated: {names}")
    return _of_known_model(recipe, path, model)


def _of_known_model(recipe: Recipe, path: Path, model: str | None) -> Recipe:
    if model is None and recipe.model not in (*list_shipped(), "sd15"):
        name = recipe.model or "an unnamed model"
        weights = f" (hash {recipe.model_hash})" if recipe.model_hash else ""
        raise UsageError(
            f"{path} was made by {name[:100]}{weights} - a picture cannot choose a file or a download -"
            " name the model with -m"
        )
    return replace(recipe, revision=None)
