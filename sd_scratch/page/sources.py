"""The line of source that makes a tensor: where its class hands it to those who listen."""

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

from sd_scratch.pipeline import run_tensors
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import TensorInfo

PACKAGE = Path(__file__).resolve().parents[1]
OUTSIDE = {"guidance": run_tensors.Guidance, "sampler": run_tensors.Sampling}
"""What is tapped, but is no network."""


def source_of(model: StableDiffusion, info: TensorInfo) -> tuple[str, str] | None:
    """``("networks/unet.py:84", "x = self.tap(...)")``; None where no line names the tensor."""
    root, _, path = info.path.partition(".")
    if root in OUTSIDE:
        kind: Any = OUTSIDE[root]  # a class can be hashed, whatever nn.Module says of its instances
    elif root in model.networks:
        kind = type(model.networks[root].get_submodule(path))
    else:
        return None
    return _line(kind, info.leaf)


@cache
def _line(kind: Any, leaf: str) -> tuple[str, str] | None:
    # A leaf that ends in a number or a branch is written as an f-string: concat.{i}, pred_{branch}.
    stem = re.escape(re.sub(r"(?<=[._])[^._]+$", "", leaf))
    names = [rf'"{re.escape(leaf)}"', rf'f"{stem}{{\w+}}"']
    ways = [rf"\b{call}\({name}" for call in ("tap", "show", "show_rows") for name in names]
    for owner in reversed(kind.__mro__):  # a subclass has another way to the same tensor at most
        if not re.match(r"sd_scratch\.(networks|pipeline)\.", owner.__module__):
            continue
        lines, first = inspect.getsourcelines(owner)
        for way in ways:
            found = [i for i, line in enumerate(lines) if re.search(way, line)]
            if found:  # the last one is of the general case
                file = Path(inspect.getfile(owner)).resolve().relative_to(PACKAGE)
                return f"{file.as_posix()}:{first + found[-1]}", lines[found[-1]].strip()
    return None
