"""``--control-net`` and its kind: from flags over a picture's recipe to ControlNets and their hints."""

import argparse

from PIL import Image

from sd_scratch.checkpoints.adapters.control import LoadedControl, read_control
from sd_scratch.checkpoints.load import Components
from sd_scratch.cli.options import refuse_flags
from sd_scratch.errors import UsageError, log
from sd_scratch.pictures.hints import low_high
from sd_scratch.pictures.read import read_picture
from sd_scratch.pipeline.adapters import ControlUse, compare_hashes
from sd_scratch.pipeline.recipe import Recipe

OF_NETS = "--control-strength --control-start --control-end --control-guess --control-pool --canny"


def ask_for_controls(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """The recipe with the ControlNets of the flags; what these leave out is as a picture's recipe says.

    Raises UsageError for files that are not there, or not as many as are needed.
    """
    old = recipe.controls or ()
    nets, images = args.control_net, args.control_image
    if old and not nets:
        raise UsageError(
            f"the picture was steered by the ControlNet {old[0].name[:80]} - give it with --control-net,"
            " and its hint with --control-image"
        )
    if len(nets) != len(images):
        raise UsageError(
            f"{len(nets)} --control-net and {len(images)} --control-image - give one for each"
        )
    if not nets:
        refuse_flags(args, OF_NETS, "without a ControlNet - name it with --control-net")
    for path in [*nets, *images]:
        if not path.exists():
            raise UsageError(f"{path} - there is no such file")
    if args.canny is not None:
        low_high(args.canny)
    uses = []
    for i, path in enumerate(nets):
        use = old[i] if i < len(old) else ControlUse("")
        values = {
            name: given[min(i, len(given) - 1)]
            for name, given in (
                ("strength", args.control_strength),
                ("start", args.control_start),
                ("end", args.control_end),
            )
            if given
        }
        use = use._replace(name=path.stem, **values)
        if use.start > use.end:
            raise UsageError(
                f"control from {use.start:g} to {use.end:g} of the run - start is first"
            )
        uses.append(
            use._replace(
                guess=args.control_guess or use.guess,
                pool=args.control_pool or use.pool,
                canny=args.canny or use.canny,
            )
        )
    return recipe.over(controls=tuple(uses) if uses else None)


def load_controls(
    args: argparse.Namespace, base: Components, recipe: Recipe
) -> tuple[list[LoadedControl], Recipe]:
    """The recipe's ControlNets, and the recipe with their hashes. Raises ScratchError."""
    loaded, uses = [], []
    for path, use in zip(args.control_net, recipe.controls or (), strict=True):
        control = read_control(path, base, True if use.pool else None)
        log.info(control.summary)
        compare_hashes("a ControlNet", use.hash, control.hash, str(path))
        loaded.append(control)
        uses.append(use._replace(hash=control.hash))
    return loaded, recipe.over(controls=tuple(uses) if uses else None)


def read_hints(args: argparse.Namespace) -> list[Image.Image]:
    """The pictures that steer, in the order of the ControlNets."""
    return [read_picture(path) for path in args.control_image]
