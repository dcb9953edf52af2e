"""The names of all tensors, with axes and shapes, from a forward pass that computes nothing."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from math import prod

import torch
from torch import Tensor, nn

from sd_scratch.errors import UsageError
from sd_scratch.tensors.tapped import Probe, Rows, Tapped
from sd_scratch.tensors.unofficial import uncompiled

# What tensors were called once. A network's answer was called eps whatever it was of: the tensor is the same.
OLD_NAMES = {
    "unet.eps": "unet.pred",
    "guidance.eps_uncond": "guidance.pred_uncond",
    "guidance.eps_cond": "guidance.pred_cond",
    "guidance.eps": "guidance.pred",
}

PICTURE = ("batch", "channel", "height", "width")


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before anything runs.

    Attributes:
        name: its module's path plus `leaf`.
        axes: what each axis is, the batch first.
        shape: for one picture and one branch.
        hw: height and width of its feature map, also if the positions are in one row; None for text and time.
        editable: false for tensors that are only shown, because nothing is computed from them.
        stepwise: whether it exists at every step of a run, not once.
        branched: whether it exists with the prompt and with its negative.
    """

    name: str
    leaf: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    hw: tuple[int, int] | None = None
    editable: bool = True
    stepwise: bool = True
    branched: bool = True

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    @property
    def path(self) -> str:
        """The module that the tensor belongs to."""
        return self.name[: -len(self.leaf) - 1]

    @property
    def bytes(self) -> int:
        """Bytes of one picture, one branch and one step."""
        return prod(self.shape) * self.dtype.itemsize


def axes_of(path: str, leaf: str, dims: int) -> tuple[str, ...]:
    """The axes of tensor `leaf` of the module at `path`; one name for one meaning.

    ``token`` is a place in the prompt, ``position`` one in a feature map. Attention goes from each ``query``
    to every ``key``; keys of the prompt are called ``token``.
    """
    text = path.startswith(("text", "clip.text_model"))
    key = "token" if text or path.endswith("attn2") else "key"
    attention = {
        "q": ("batch", "head", "query", "dim"),
        "k": ("batch", "head", key, "dim"),
        "v": ("batch", "head", key, "dim"),
        "scores": ("batch", "head", "query", key),
        "probs": ("batch", "head", "query", key),
        "z": ("batch", "head", "query", "dim"),
        "result": ("batch", "head", "query", "channel"),
    }
    if leaf in attention and path != "vae":  # whose z is a latent
        return attention[leaf]
    if leaf == "token_ids":
        return ("batch", "token")
    if leaf == "context" and dims == 3:
        return ("batch", "token", "channel")
    sequence = ("batch", "token" if text else "position", "channel")
    return {1: ("batch",), 2: ("batch", "channel"), 3: sequence, 4: PICTURE}.get(dims, ())


class Surveyor(Probe):
    """Lists every tensor that its module shows."""

    def __init__(self, path: str, root: nn.Module, found: dict[str, TensorInfo]) -> None:
        super().__init__(())
        self.path = path
        self.found = found
        tapped = root if isinstance(root, Tapped) else Tapped()
        self.often = (tapped.stepwise, tapped.branched)

    def tap(self, leaf: str, x: Tensor, editable: bool = True) -> Tensor:
        name, axes = f"{self.path}.{leaf}", axes_of(self.path, leaf, x.dim())
        self.found[name] = TensorInfo(
            name, leaf, axes, tuple(x.shape), x.dtype, self._hw(x, axes), editable, *self.often
        )
        return x

    def show(self, leaf: str, make: Callable[[], Tensor]) -> None:
        self.tap(leaf, make(), editable=False)

    def show_rows(self, leaf: str, rows: Rows) -> None:
        self.tap(leaf, rows.make(slice(None), slice(0, rows.rows)))

    def _hw(self, x: Tensor, axes: tuple[str, ...]) -> tuple[int, int] | None:
        if axes == PICTURE:
            return x.shape[2], x.shape[3]
        # A row of positions comes from the feature map that entered the module around it.
        path = self.path if "query" in axes or "position" in axes else ""
        while path:
            if f"{path}.in" in self.found:
                return self.found[f"{path}.in"].hw
            path = path.rpartition(".")[0]
        return None


def survey(
    roots: Mapping[str, nn.Module], forward: Callable[[Mapping[str, nn.Module]], None]
) -> dict[str, TensorInfo]:
    """All tensors of `forward`, in the order in which they are made.

    `forward` gets copies of the networks on the ``meta`` device, and calls them with inputs there. Nothing is
    computed, and no memory is taken.
    """
    found: dict[str, TensorInfo] = {}
    copies = {root: meta_copy(network) for root, network in roots.items()}
    for root, network in copies.items():
        for path, module in network.named_modules():
            if isinstance(module, Tapped):
                module.probe = Surveyor(f"{root}.{path}".rstrip("."), network, found)
    with torch.no_grad():
        forward(copies)
    return found


def meta_copy(network: nn.Module) -> nn.Module:
    """The network's structure with parameters and buffers on the ``meta`` device, and no probes."""
    network = uncompiled(network)
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in network.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in network.buffers()}
    memo |= {id(m.probe): None for m in network.modules() if isinstance(m, Tapped)}
    return copy.deepcopy(network, memo)


def match(globs: Iterable[str], table: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors that at least one glob matches, in the list's order. ``*`` crosses dots.

    Raises ScratchError for a glob without a match, with the nearest names.
    """
    globs = tuple(globs)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in table):
            near = ", ".join(nearest(glob, table))
            raise UsageError(f"no tensor is named '{glob}' - the nearest are {near}")
    return {
        name: info for name, info in table.items() if any(fnmatchcase(name, glob) for glob in globs)
    }


def renamed_globs(globs: Iterable[str]) -> list[str]:
    """Globs of an older recording or edit, with old names replaced by today's."""
    found: list[str] = []
    for glob in globs:
        now = [new for old, new in OLD_NAMES.items() if "eps" in glob and fnmatchcase(old, glob)]
        found += now or [glob]
    return list(dict.fromkeys(found))


def nearest(glob: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The names most like a glob, with their numbers left open."""
    patterns = dict.fromkeys(re.sub(r"\.\d+", ".*", name) for name in names)
    wanted = [part for part in glob.split(".") if part.strip("*0123456789")]

    def likeness(pattern: str) -> float:
        parts = pattern.split(".")
        best = [max(SequenceMatcher(None, a, b).ratio() for b in parts) for a in wanted]
        return sum(best) - 0.01 * len(parts)

    return sorted(patterns, key=likeness, reverse=True)[:count]
