"""``sd-scratch tensors``: every tensor of a model by name."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd_scratch.cli.options import (
    a_name,
    add_size_arguments,
    add_source_arguments,
    dtype,
    refuse_flags,
)
from sd_scratch.errors import log
from sd_scratch.limits import DTYPES

if TYPE_CHECKING:
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion
    from sd_scratch.tensors import TensorInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "globs", nargs="*", metavar="GLOB", help="such as 'unet.*.attn2.probs' (default: all)"
    )
    parser.add_argument(
        "-m", "--model", type=a_name, help="a name, a folder, a file or a hub id (default: scenes)"
    )
    add_source_arguments(parser)
    add_size_arguments(parser, "of the picture (default: the model's own)")
    parser.add_argument(
        "--dtype", type=dtype, choices=DTYPES, default=DTYPES[0], help="of the networks"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--markdown", action="store_true", help="print a page that says what each tensor is"
    )
    form.add_argument("--svg", action="store_true", help="print a drawing of the architecture")


def run(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.parts import PARTS
    from sd_scratch.tensors.listing import page, table

    clip = clip_infos(args.model, args.dtype, args.globs)
    if clip is not None:
        refuse_flags(
            args, "--width --height", "is given, but CLIP's pictures have a size of their own"
        )
        infos = clip
    else:
        model = without_weights(args.model, args.dtype, args.revision, args.offline)
        infos = model.tensors(*args.globs, width=args.width, height=args.height)
    if args.json:
        print(json.dumps([describe(info) for info in infos], indent=2))
    elif args.svg:
        from sd_scratch.teaching.overview import overview

        print(overview(infos), end="")
    elif args.markdown:
        titles = {name: f"The {part.title}" for name, part in PARTS.items()} | {"clip": "CLIP"}
        print(page(infos, titles), end="")
    else:
        print(table(infos), end="")
        total = sum(info.bytes for info in infos if clip is not None or info.stepwise)
        each = "picture and text" if clip is not None else "step, branch and picture"
        log.info(f"{len(infos)} tensors, {total / 1e6:,.1f} MB a {each}")
    return 0


def clip_infos(source: str | None, dtype: str, globs: Sequence[str]) -> "list[TensorInfo] | None":
    """The tensors of a pair of encoders, which is no model of pictures; None for what is no such pair."""
    import torch

    from sd_scratch.checkpoints.clip import clip_taps, clip_without_weights

    network = clip_without_weights(source, getattr(torch, dtype)) if source else None
    return None if network is None else list(clip_taps(network).tensors(*globs).values())


def without_weights(
    source: str | None, dtype: str, revision: str | None = None, offline: bool = False
) -> "StableDiffusion":
    """The model as far as its configuration goes: shapes and names, and no numbers."""
    import torch

    from sd_scratch.checkpoints.load import empty_components, read_layout
    from sd_scratch.cli.request import DEFAULT_MODEL
    from sd_scratch.config import PRESETS
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

    source = source or DEFAULT_MODEL
    known = PRESETS.get(source)
    config = known or read_layout(source, revision=revision, offline=offline).config
    return StableDiffusion(empty_components(config, getattr(torch, dtype), source))


def describe(info: "TensorInfo") -> dict[str, object]:
    return {
        "name": info.name,
        "axes": info.axes,
        "shape": info.shape,
        "dtype": str(info.dtype).removeprefix("torch."),
        "bytes": info.bytes,
        "each_step": info.stepwise,
        "each_branch": info.branched,
        "editable": info.editable,
    }
