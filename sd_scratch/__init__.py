"""Stable Diffusion 1.x from scratch: every network, sampler and tensor in plain sight.

The public names are resolved when they are first used, so that ``sd-scratch --help`` and the checks
of a command line need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sd_scratch.version import __version__

if TYPE_CHECKING:
    from sd_scratch.diffusion.noise import Drawing as Drawing
    from sd_scratch.errors import ScratchError
    from sd_scratch.pipeline.control import Control as Control
    from sd_scratch.pipeline.image_noise import ImageNoise as ImageNoise
    from sd_scratch.pipeline.load import load as load
    from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion as PixelDiffusion
    from sd_scratch.pipeline.pixel_diffusion import load_pixels as load_pixels
    from sd_scratch.pipeline.prompt import Prompt as Prompt
    from sd_scratch.pipeline.recipe import Recipe as Recipe
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion as StableDiffusion
    from sd_scratch.tensors import Trace as Trace
    from sd_scratch.tensors import edits as edits
    from sd_scratch.tensors import reductions as reductions

_HOMES = {
    "Control": "sd_scratch.pipeline.control",
    "Drawing": "sd_scratch.diffusion.noise",
    "ImageNoise": "sd_scratch.pipeline.image_noise",
    "PixelDiffusion": "sd_scratch.pipeline.pixel_diffusion",
    "Prompt": "sd_scratch.pipeline.prompt",
    "Recipe": "sd_scratch.pipeline.recipe",
    "ScratchError": "sd_scratch.errors",
    "StableDiffusion": "sd_scratch.pipeline.stable_diffusion",
    "Trace": "sd_scratch.tensors",
    "edits": "sd_scratch.tensors",
    "load": "sd_scratch.pipeline.load",
    "load_pixels": "sd_scratch.pipeline.pixel_diffusion",
    "reductions": "sd_scratch.tensors",
}
__all__ = ["__version__", *_HOMES]


# Names that stood here before edits and reductions had namespaces: scripts that say `sd.scale` go on.
_EDITS = ("ablate", "add", "lerp", "patch", "reweight", "scale", "scale_word")
_MOVED = dict.fromkeys(
    (*_EDITS, "set_to", "shift", "swap"), "sd_scratch.tensors.edits"
) | dict.fromkeys(("area", "heads", "mean_over_calls", "words"), "sd_scratch.tensors.reductions")


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or _MOVED.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
