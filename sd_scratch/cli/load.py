"""A model for a command: everything cheap is checked before any weights are read."""

import argparse
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

import torch

from sd_scratch.checkpoints.layout import Layout
from sd_scratch.checkpoints.load import (
    Components,
    build_components,
    needs_low_memory,
    read_layout,
    weight_bytes,
    with_schedule,
)
from sd_scratch.checkpoints.memory import available_memory
from sd_scratch.checkpoints.source import called
from sd_scratch.cli.adapters import add_adapters, with_few_steps
from sd_scratch.cli.machine import choose_device, choose_dtype, set_threads
from sd_scratch.cli.request import DEFAULT_MODEL
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.limits import MAX_BATCH
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.adapters import compare_hashes
from sd_scratch.pipeline.checks import check_inputs
from sd_scratch.pipeline.complete import advise, complete
from sd_scratch.pipeline.conditioning import check_clip_skip
from sd_scratch.pipeline.estimate import check_run, run_bytes
from sd_scratch.pipeline.load import decode_in_strips
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.pipeline.stored_graphs import StoredGraphs
from sd_scratch.pipeline.tuning import tune
from sd_scratch.tensors.unofficial import freeze_compiled_weights


@dataclass(frozen=True)
class Found:
    """A model whose headers were read, and no weights; and where it is to be computed, and in what."""

    source: str
    layout: Layout
    device: torch.device
    dtype: torch.dtype


def find_model(args: argparse.Namespace, recipe: Recipe, source: str) -> Found:
    """The model that is meant, with the parts from elsewhere and the schedule that were asked for. Raises
    ScratchError."""
    device = choose_device(args.device)
    dtype = choose_dtype(recipe.dtype, device)
    set_threads(args.threads)
    layout = read_layout(
        source,
        revision=recipe.revision,
        offline=args.offline,
        vae=chosen_vae(args, recipe),
        text_encoder=chosen_text_encoder(args, recipe),
        ema=args.ema,
    )
    layout = with_schedule(layout, recipe.prediction, bool(recipe.zero_snr))
    return Found(source, layout, device, dtype)


def read_weights(args: argparse.Namespace, found: Found, recipe: Recipe, batch: int) -> Components:
    """The model ready to run, if pictures of the recipe's size fit into memory beside it, `batch` at a time.
    Raises ScratchError."""
    low_memory, place = args.low_memory, (found.dtype, found.device)
    if not args.force:
        low_memory = check_size(found.layout, recipe, batch, *place, low_memory)
    components = build_components(
        found.layout, found.source, *place, force=args.force, low_memory=low_memory
    )
    decode_in_strips(components, args.vae_tiling)
    log.info(components.summary)
    tune(components, args.tune or "quick", recipe.width, recipe.height)
    log.debug(f"on {found.device} with {torch.get_num_threads()} CPU threads")
    return components


COMPILERS = ("g++", "clang++", "cl")
ROOM = 0.8  # the estimate is of what is needed at least


def load_model(
    args: argparse.Namespace, recipe: Recipe, options: Mapping[str, str]
) -> tuple[StableDiffusion, Recipe]:
    """Load the model that `recipe` names, on the device and with the threads that `args` name.

    Returns the recipe, too, with everything filled in that only the model could say; `options` are
    the sampler's. Raises ScratchError.
    """
    found = find_model(args, recipe, recipe.model or DEFAULT_MODEL)
    config = found.layout.config
    wanted = with_few_steps(args, recipe, config)
    recipe = complete(recipe, wanted, options)
    advise(recipe, wanted)
    check_inputs(config, found.source, recipe.init_image is not None, recipe.mask is not None)
    check_clip_skip(config.text.num_hidden_layers, recipe.clip_skip or 1)
    batch = min(getattr(args, "batch_size", args.batch_count), args.batch_count)
    if not batch:
        batch = args.batch_size = largest_batch(args, found, recipe)
        log.info(f"{batch} pictures at a time fit into memory")
    components = read_weights(args, found, recipe, batch)
    model = StableDiffusion(components).with_text_cleaning(recipe.text_cleaning or "")
    model, recipe = add_adapters(args, model, recipe)
    if args.compile and (recipe.fast or recipe.pag):
        raise UsageError(
            f"--compile and {'--fast' if recipe.fast else '--pag'} - a compiled U-Net is computed as a whole - choose"
            " one"
        )
    if args.compile:
        compile_unet(model.unet)
    return model, _with_identity(args, recipe, found.layout, components)


def largest_batch(args: argparse.Namespace, found: Found, recipe: Recipe) -> int:
    """How many pictures at a time fit into `ROOM` of what memory the weights leave free, `MAX_BATCH` at most."""
    free, size = available_memory(found.device), largest_size(recipe)
    if free is None or size is None:
        return 1
    free -= weight_bytes(found.layout, found.dtype, args.low_memory)
    fits = (
        run_bytes(found.layout.config, *size, batch, found.dtype) < ROOM * free
        for batch in range(1, min(args.batch_count, MAX_BATCH) + 1)
    )
    return max(1, sum(takewhile(bool, fits)))


def largest_size(recipe: Recipe) -> tuple[int, int] | None:
    """Width and height of the recipe's last pass; None if the recipe leaves them open."""
    if recipe.width is None or recipe.height is None:
        return None
    scale = recipe.hires_scale or 1.0
    return int(recipe.width * scale), int(recipe.height * scale)


def check_size(
    layout: Layout,
    recipe: Recipe,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    low_memory: bool = False,
) -> bool:
    """Whether weights have to stay in half precision for pictures to fit into
    free memory beside them. Raises MemoryShortage where they cannot."""
    size = largest_size(recipe)
    if size is None:
        return low_memory
    if not low_memory:
        run = run_bytes(layout.config, *size, batch, dtype, branches=1, strips=True)
        low_memory = needs_low_memory(layout, dtype, device, run)
    weights = weight_bytes(layout, dtype, low_memory)
    check_run(layout.config, *size, batch, dtype, device, weights=weights, branches=1)
    return low_memory


def chosen_vae(args: argparse.Namespace, recipe: Recipe) -> str | None:
    """The VAE that was asked for, None for the model's own. A picture's recipe only names one."""
    if args.vae is not None:
        return None if args.vae == "none" else str(args.vae)
    if recipe.vae is not None:
        log.warning(
            f"the picture was made with the VAE {recipe.vae}, and the model's own is used: it will differ -"
            " name that VAE with --vae"
        )
    return None


def chosen_text_encoder(args: argparse.Namespace, recipe: Recipe) -> str | None:
    """The same of the text encoder; whether the picture wants the averaged U-Net is said too."""
    encoder: str | None = args.text_encoder
    if recipe.text_encoder is not None and encoder is None:
        log.warning(
            f"the picture was made with the text encoder {recipe.text_encoder}, and the model's own is used: it"
            " will differ - name that with --text-encoder"
        )
    if recipe.ema and not args.ema:
        log.warning("the picture was made with the averaged U-Net: it will differ - give --ema")
    return encoder


def compile_unet(unet: UNet) -> None:
    """Let the U-Net be compiled when it is first called with a new size: on a CPU into a graph that the next start
    finds again, elsewhere for this run, weights frozen in."""
    if unet.conv_in.weight.device.type != "cpu":
        freeze_compiled_weights()
        unet.compile()
        return
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), *COMPILERS) if name):
        raise ScratchError("--compile needs a C++ compiler - install g++, or set CXX to yours")
    unet.compiled_call = StoredGraphs(unet)


def _with_identity(
    args: argparse.Namespace, recipe: Recipe, layout: Layout, components: Components
) -> Recipe:
    """The recipe with the model's name and commit (no paths of this machine),
    and without the hash of another, of which a warning tells."""
    source = called(components.source, ending=False)
    # The hub's cache keeps every commit in a folder of that name.
    cached = layout.path.parent.name == "snapshots"
    if recipe.model_hash:  # or nothing is hashed: that takes seconds
        compare_hashes("a model", recipe.model_hash, components.hash, source)
    revision = layout.path.name if cached else None
    vae = args.vae if args.vae != "none" else None
    return replace(
        recipe,
        model=source,
        revision=revision,
        model_hash=None,
        vae=vae and called(vae),
        text_encoder=args.text_encoder and called(args.text_encoder),
        ema=args.ema or None,
    )
