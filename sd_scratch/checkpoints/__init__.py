"""Files to networks: checkpoints found, checked and loaded, in every layout that Stable Diffusion 1.x
comes in."""

from sd_scratch.checkpoints.load import Components, load_components
from sd_scratch.checkpoints.shipped import list_shipped

__all__ = ["Components", "list_shipped", "load_components"]
