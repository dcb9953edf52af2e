"""Files to networks and back: find, check, load and save checkpoints, in every layout of Stable Diffusion
1.x.

Names are resolved at first use: finding a model must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sd_scratch.checkpoints.hub import download as download
    from sd_scratch.checkpoints.hub import list_cached as list_cached
    from sd_scratch.checkpoints.load import Components as Components
    from sd_scratch.checkpoints.load import load_components as load_components
    from sd_scratch.checkpoints.report import Report as Report
    from sd_scratch.checkpoints.report import inspect as inspect
    from sd_scratch.checkpoints.save import save_folder as save_folder
    from sd_scratch.checkpoints.save import save_single_file as save_single_file
    from sd_scratch.checkpoints.shipped import list_shipped as list_shipped

_HOMES = {
    "Components": "load",
    "Report": "report",
    "download": "hub",
    "inspect": "report",
    "list_cached": "hub",
    "list_shipped": "shipped",
    "load_components": "load",
    "save_folder": "save",
    "save_single_file": "save",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
