"""``--init-noise``: a run that begins with noise from a file, as ``invert`` writes it."""

from pathlib import Path

from torch import Tensor

from sd_scratch.checkpoints.adapters.tensor_file import read_tensor_file
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json

NAME = "noise"


def read_init_noise(path: Path) -> tuple[Tensor, Recipe]:
    """The noise ``[B, 4, h, w]`` fp32 and the recipe that it was made by. Raises ScratchError for a file that
    has none."""
    if not path.exists():
        raise UsageError(f"{path} - cannot be read: no such file")
    file = read_tensor_file(path)
    noise = file.tensors.get(NAME)
    text = file.metadata.get("sd_scratch")
    if noise is None or noise.ndim != 4 or not isinstance(text, str):
        raise ScratchError(
            f"{path} - holds no noise and recipe - sd-scratch invert writes such files"
        )
    noise = noise.float()
    if not noise.isfinite().all():
        raise ScratchError(f"{path} - the noise has values that are not numbers")
    recipe = recipe_from_json(text, str(path))
    return noise, recipe.over(init_noise=path.name)
