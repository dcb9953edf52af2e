"""Files to networks and back: checkpoints found, checked, loaded and saved, in every layout that Stable
Diffusion 1.x comes in."""

from sd_scratch.checkpoints.load import Components, load_components
from sd_scratch.checkpoints.report import Report, inspect
from sd_scratch.checkpoints.save import save_folder, save_single_file
from sd_scratch.checkpoints.shipped import list_shipped

__all__ = [
    "Components",
    "Report",
    "inspect",
    "list_shipped",
    "load_components",
    "save_folder",
    "save_single_file",
]
