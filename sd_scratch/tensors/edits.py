"""Ready-made edits: plain data, so a run with them can be stored and repeated.

Each is a function for `Editor`: ``with model.edit("unet.h", sd.edits.scale(1.2)): ...``. Edits of a word look
it up in the prompt of each picture, and act on the branch "cond" by default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.tensors.edit import At
from sd_scratch.tensors.names import OLD_NAMES
from sd_scratch.tensors.trace import Address, Trace, values_of
from sd_scratch.tensors.words import WordKey

__all__ = ["ablate", "add", "freeu", "lerp", "patch", "reweight"]
__all__ += ["scale", "scale_word", "set_to", "shift", "swap"]

SPREAD = ("query", "height", "position", "key", "token")  # the axis that a mean is taken over


@dataclass(frozen=True, eq=False)
class ReadyEdit:
    """An edit that is data: its fields are numbers, texts, tensors, and lists of them. One of words acts on
    the branch "cond" by default."""

    default_branch: ClassVar[str | None] = None

    def __call__(self, x: Tensor, at: At) -> Tensor | None:
        raise NotImplementedError

    def to_plain(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """As JSON; tensors go into `tensors` and are named."""
        values = {f.name: _plain(getattr(self, f.name), tensors) for f in fields(self)}
        return {"edit": type(self).__name__, **values}


@dataclass(frozen=True, eq=False)
class Scale(ReadyEdit):
    """Times `factor`."""

    factor: float

    def __call__(self, x: Tensor, at: At) -> Tensor:
        return x * self.factor


@dataclass(frozen=True, eq=False)
class Add(ReadyEdit):
    """Add a number, or a tensor that fits: ``[B, ...]``, or any part of it that broadcasts."""

    value: float | Tensor
    scale: float = 1.0

    def __call__(self, x: Tensor, at: At) -> Tensor:
        return x + self.scale * _like(self.value, x)


@dataclass(frozen=True, eq=False)
class Set(ReadyEdit):
    """Replace it by a number, or a tensor that broadcasts."""

    value: float | Tensor

    def __call__(self, x: Tensor, at: At) -> Tensor:
        return _like(self.value, x).expand_as(x)


@dataclass(frozen=True, eq=False)
class Lerp(ReadyEdit):
    """Move towards a tensor that broadcasts: 0 stays, 1 arrives."""

    towards: Tensor
    amount: float

    def __call__(self, x: Tensor, at: At) -> Tensor:
        return x.lerp(_like(self.towards, x).expand_as(x), self.amount)


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablate(ReadyEdit):
    """Ablate some heads, channels or words, or all of a tensor.

    ``by="zero"``, ``by="mean"`` (over all places of the same picture), or ``by="resample"``: the values of
    the batch's next picture.
    """

    heads: Sequence[int] | None = None
    channels: Sequence[int] | None = None
    words: Sequence[WordKey] | None = None
    by: str = "zero"

    def __post_init__(self) -> None:
        if self.by not in ("zero", "mean", "resample"):
            raise UsageError(f"ablate by='{self.by}' - say zero, mean or resample")
        if self.words:
            object.__setattr__(self, "default_branch", "cond")

    def __call__(self, x: Tensor, at: At) -> Tensor:
        place = torch.ones_like(x, dtype=torch.bool)
        if self.heads is not None:
            place = place & _along(x, at, "head", self.heads)
        if self.channels is not None:
            place = place & _along(
                x, at, "channel" if "channel" in at.axes else "dim", self.channels
            )
        if self.words is not None:
            at_words = [_word_mask(x, at, word) for word in self.words]
            place = place & torch.stack(at_words).any(0)
        return torch.where(place, self._instead(x, at), x)

    def _instead(self, x: Tensor, at: At) -> Tensor:
        if self.by == "zero":
            return torch.zeros_like(x)
        if self.by == "mean":
            axis = at.axis(*SPREAD)
            return x.mean(dim=(axis, axis + 1) if at.axes[axis] == "height" else axis, keepdim=True)
        if x.shape[0] < 2:
            raise UsageError(
                f"ablating {at.name} by resampling needs another picture in the batch - make two, or"
                " patch it from a trace"
            )
        return x.roll(1, dims=0)


@dataclass(frozen=True, eq=False)
class Patch(ReadyEdit):
    """Put a recorded tensor where it was recorded: same name, call and branch. The rest stays."""

    values: Mapping[str, Tensor]

    def __call__(self, x: Tensor, at: At) -> Tensor | None:
        value = _recorded(self.values, at)
        return None if value is None else _like(value, x)


@dataclass(frozen=True, eq=False)
class Shift(ReadyEdit):
    """Add the tensor recorded under the same name, call and branch, times `scale`."""

    values: Mapping[str, Tensor]
    scale: float = 1.0

    def __call__(self, x: Tensor, at: At) -> Tensor | None:
        value = _recorded(self.values, at)
        return None if value is None else x + self.scale * _like(value, x)


@dataclass(frozen=True, eq=False)
class FreeU(ReadyEdit):
    """FreeU (Si et al. 2023, arXiv:2309.11497); for ``unet.up_blocks.0.concat.*`` and ``unet.up_blocks.1.concat.*``,
    for SD 1.x with (1.5, 0.9) and (1.6, 0.2).

    In the input of a residual block on the way up, half of the first `width` channels, which come from below,
    are multiplied by `backbone`, and the lowest frequencies of the others, the skip, by `skip`. Version 1 is
    diffusers'. In version 2, the authors' later one, `backbone` acts fully where the mean over the channels
    from below is largest, and not at all where it is smallest.
    """

    backbone: float
    skip: float
    width: int = 1280
    version: int = 1

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise UsageError(f"FreeU version {self.version!r} - say 1 or 2")

    def __call__(self, x: Tensor, at: At) -> Tensor:
        channels = x.shape[at.axis("channel")]
        if not 0 < self.width < channels:
            raise UsageError(f"{at.name} has {channels} channels, and not {self.width} from below")
        below, left = x[:, : self.width], x[:, self.width :]
        half = self.width // 2
        times: float | Tensor = self.backbone
        if self.version == 2:
            mean = below.float().mean(1, keepdim=True)
            low, high = (edge((2, 3), keepdim=True) for edge in (mean.amin, mean.amax))
            share = (mean - low) / (high - low).clamp_min(1e-12)
            times = (1 + (self.backbone - 1) * share).to(x.dtype)
        waves = torch.fft.fft2(left.float())  # frequencies 0, 1, ..., -1
        keep = torch.ones(waves.shape[-2:], device=x.device)
        for row in (0, -1):
            keep[row, [0, -1]] = self.skip
        filtered = torch.fft.ifft2(waves * keep).real.to(x.dtype)
        return torch.cat([below[:, :half] * times, below[:, half:], filtered], dim=1)


@dataclass(frozen=True, eq=False)
class ScaleWord(ReadyEdit):
    """A word's vectors times `factor`, away from zero, or from the empty prompt's vectors there."""

    default_branch = "cond"
    word: WordKey
    factor: float
    origin: str = "zero"

    def __post_init__(self) -> None:
        if self.origin not in ("zero", "empty"):
            raise UsageError(f"unknown origin '{self.origin}' - use zero or empty")

    def __call__(self, x: Tensor, at: At) -> Tensor:
        base: Tensor | float = 0.0
        if self.origin == "empty":
            base = _like(torch.cat([prompt.empty for prompt in at.prompts]), x)
        return torch.where(_word_mask(x, at, self.word), base + (x - base) * self.factor, x)


@dataclass(frozen=True, eq=False)
class Reweight(ReadyEdit):
    """Attention to each word times a factor (Hertz et al. 2022, arXiv:2208.01626, equation 6).

    With `renormalise` attention sums to 1 again.
    """

    default_branch = "cond"
    factors: tuple[tuple[WordKey, float], ...]
    renormalise: bool = False

    def __call__(self, x: Tensor, at: At) -> Tensor:
        for word, factor in self.factors:
            x = torch.where(_word_mask(x, at, word), x * factor, x)
        return x / x.sum(dim=at.axis("token"), keepdim=True) if self.renormalise else x


@dataclass(frozen=True, eq=False)
class Swap(ReadyEdit):
    """Exchange two words; for ``text.context`` and for what attends to tokens. Of words with unequal
    numbers of tokens, the longer is thinned out and the shorter stretched."""

    default_branch = "cond"
    first: WordKey
    second: WordKey

    def __call__(self, x: Tensor, at: At) -> Tensor:
        axis = at.axis("token")
        rows = []
        pairs = zip(at.positions(self.first), at.positions(self.second), strict=True)
        for row, (first, second) in zip(x, pairs, strict=True):
            order = list(range(row.shape[axis - 1]))
            for here, there in ((first, second), (second, first)):
                for i, position in enumerate(here):
                    order[position] = there[i * len(there) // len(here)]
            rows.append(row.index_select(axis - 1, torch.tensor(order, device=x.device)))
        return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class Follow(ReadyEdit):
    """Pictures of a batch follow the first one.

    Without a matrix they take its tensor. With one, ``[B - 1, M, M]``, they take its tokens' values, mapped
    by the matrix to theirs, and keep `own` ``[B - 1, M]`` of their own.
    """

    default_branch = "cond"
    matrix: Tensor | None = None
    own: Tensor | None = None

    def __call__(self, x: Tensor, at: At) -> Tensor:
        first, rest = x[:1], x[1:]
        if self.matrix is None or self.own is None:
            return first.expand_as(x)
        if len(rest) != len(self.matrix):
            raise ScratchError(
                f"{len(self.matrix)} pictures were to follow the first, and the batch has {len(rest)} more"
            )
        axis = at.axis("token")
        shape = [len(rest), *[1] * (x.dim() - 3)]
        matrix, own = _like(self.matrix, x), _like(self.own, x)
        taken = first.movedim(axis, -1) @ matrix.view(*shape, *matrix.shape[-2:])
        kept = rest.movedim(axis, -1) * own.view(*shape, 1, -1)
        return torch.cat([first, (taken + kept).movedim(-1, axis)])


ablate, add, freeu, lerp, scale, set_to, swap = Ablate, Add, FreeU, Lerp, Scale, Set, Swap


def patch(trace: Trace) -> Patch:
    """Another run's tensor at the same name, call and branch."""
    return Patch({_address(address): value for address, value in values_of(trace).items()})


def shift(towards: Trace, away: Trace | None = None, scale: float = 1.0) -> Shift:
    """Add another run's tensor minus a third one's: a direction between two runs."""
    difference = {
        _address(address): value if away is None else value - away.values[address]
        for address, value in values_of(towards).items()
        if away is None or address in values_of(away)
    }
    return Shift(difference, scale)


def scale_word(
    word: str, factor: float, *, nth: int | None = None, origin: str = "zero"
) -> ScaleWord:
    """A word's vectors times `factor`; for ``text.context``."""
    return ScaleWord(word if nth is None else (word, nth), factor, origin)


def reweight(factors: Mapping[WordKey, float], *, renormalise: bool = False) -> Reweight:
    """Attention to each word times its factor; for ``unet.*.attn2.probs``."""
    if not isinstance(factors, Mapping):
        raise UsageError(
            f"factors: give a factor for each word, such as {{'red': 0.5}}, not {factors!r}"
        )
    return Reweight(tuple(factors.items()), renormalise)


# Storing --------------------------------------------------------------------------------------


def edit_from_plain(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ReadyEdit:
    """The inverse of `ReadyEdit.to_plain`. Raises ScratchError for anything else."""
    kinds = {kind.__name__: kind for kind in ReadyEdit.__subclasses__()}
    try:
        kind = kinds[plain["edit"]]
        values = {f.name: _unplain(plain[f.name], tensors) for f in fields(kind) if f.name in plain}
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise ScratchError(f"a stored edit is damaged or of another version: {error}") from None


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"edit.{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"each": {key: _plain(each, tensors) for key, each in value.items()}}
    if isinstance(value, tuple | list):
        return [_plain(each, tensors) for each in value]
    return value


def _unplain(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {
            _address(Address.parse(key)): _unplain(each, tensors)
            for key, each in value["each"].items()
        }
    if isinstance(value, list):
        return tuple(_unplain(each, tensors) for each in value)
    return value


def _address(address: Address) -> str:
    """As a text, with today's name of the tensor."""
    return str(address._replace(name=OLD_NAMES.get(address.name, address.name)))


# Values and masks ----------------------------------------------------------------------------------------


def _recorded(values: Mapping[str, Tensor], at: At) -> Tensor | None:
    """The tensor that was recorded at the edit's place."""
    for branch in (at.branch, ""):
        for call in (at.call, None):  # None: a mean over the calls, or a tensor that has none
            value = values.get(str(Address(at.name, call, branch)))
            if value is not None:
                return value
    return None


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _along(x: Tensor, at: At, name: str, places: Sequence[int]) -> Tensor:
    """True at some places of an axis, in a shape that broadcasts to x."""
    axis = at.axis(name)
    size = x.shape[axis]
    if not all(-size <= place < size for place in places):
        raise ScratchError(f"{at.name} has {size} places along '{name}', not all of {list(places)}")
    mask = torch.zeros(size, dtype=torch.bool, device=x.device)
    mask[list(places)] = True
    return mask.view([-1 if i == axis else 1 for i in range(x.dim())])


def _word_mask(x: Tensor, at: At, word: WordKey) -> Tensor:
    """True at a word's tokens, which may stand elsewhere in each row of the batch."""
    axis = at.axis("token")
    rows = at.positions(word)
    if len(rows) != x.shape[0]:
        raise ScratchError(f"the words of {at.name} are not known outside of a run with prompts")
    mask = torch.zeros(x.shape[0], x.shape[axis], dtype=torch.bool, device=x.device)
    for row, positions in enumerate(rows):
        mask[row, positions] = True
    return mask.view([size if i in (0, axis) else 1 for i, size in enumerate(x.shape)])
