"""Stable Diffusion 1.x from scratch: every network, sampler and tensor in plain sight.

The public names are resolved when they are first used, so that ``sd-scratch --help`` and the checks
of a command line need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sd_scratch.errors import ScratchError as ScratchError
    from sd_scratch.image_noise import ImageNoise as ImageNoise
    from sd_scratch.pipeline import StableDiffusion as StableDiffusion
    from sd_scratch.pipeline import load as load
    from sd_scratch.prompt import Prompt as Prompt

__version__ = "0.1.0"

_HOMES = {
    "ImageNoise": "sd_scratch.image_noise",
    "Prompt": "sd_scratch.prompt",
    "ScratchError": "sd_scratch.errors",
    "StableDiffusion": "sd_scratch.pipeline",
    "load": "sd_scratch.pipeline",
}

__all__ = ["ImageNoise", "Prompt", "ScratchError", "StableDiffusion", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
