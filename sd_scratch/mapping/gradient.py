"""Gradient maps: how fast the picture changes as a word's vectors grow.

The derivative of the whole picture, through every step of the sampler and the decoder, along the
direction d that a word's vectors c point in (away from the origin):

    forward    (f(c + lambda c) - f(c)) / |lambda c|                as in the source, error ~ lambda
    central    (f(c + lambda c) - f(c - lambda c)) / |2 lambda c|   error ~ lambda^2
    exact      J d, by forward-mode differentiation (Baydin et al. 2018, arXiv:1502.05767, section 3.1)

The exact one costs two to three times as much as a picture in arithmetic, since every tensor carries
its derivative along, and needs no lambda.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.mapping.adjustment import adjusted
from sd_scratch.mapping.maps import Map, require_full_precision
from sd_scratch.mapping.maps_report import maps_report
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report
from sd_scratch.mapping.words import name_of
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.encoding import Word

LAMBDA = 0.01
METHODS = ("central", "forward", "exact")
UNITS = "colour (0 to 1) per unit length of the word's vectors"


def gradient_maps(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    *,
    method: str = "central",
    amount: float = LAMBDA,
    origin: str = "zero",
) -> tuple[Tensor, list[Map]]:
    """The length of each pixel's derivative (its norm over the colours), for each word.

    Returns the original picture's colours ``[3, H, W]``, 0..1 and not clamped, and the maps. Raises
    ScratchError as `word_derivatives` does.
    """
    original, derivatives = word_derivatives(
        rendering, prompt, words, method=method, amount=amount, origin=origin
    )
    name = "exact derivative" if method == "exact" else f"{method} difference, lambda {amount:g}"
    maps = [
        Map(
            derivative.norm(dim=0),
            rendering.size,
            name_of(prompt, word),
            f"{name} from {origin}",
            UNITS,
        )
        for word, derivative in zip(words, derivatives, strict=True)
    ]
    return original, maps


def gradient_report(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    *,
    method: str = "central",
    amount: float = LAMBDA,
    origin: str = "zero",
) -> Report:
    """`gradient_maps` as figures, a table and raw maps."""
    colours, maps = gradient_maps(
        rendering, prompt, words, method=method, amount=amount, origin=origin
    )
    notes = [
        f"Prompt: {prompt.text}",
        f"Grey: the derivative of the picture along each word's vectors ({maps[0].method}), its "
        "length over the three colours. Colours: one a word, the more opaque the larger the "
        "derivative; all on one scale.",
    ]
    title = "How fast each word changes the picture"
    report = maps_report("gradient", title, to_bytes(colours), maps, notes)
    more = {} if method == "exact" else {"lambda": amount}
    report.facts.update({"method": method, **more, "origin": origin})
    return report


def count_pictures(words: int, method: str) -> int:
    """How many pictures `gradient_maps` makes; one with its derivative counts as one."""
    return {"central": 1 + 2 * words, "forward": 1 + words, "exact": words}[method]


def word_derivatives(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    *,
    method: str = "central",
    amount: float = LAMBDA,
    origin: str = "zero",
) -> tuple[Tensor, Tensor]:
    """The picture's derivative along each word's direction, with its sign.

    Returns the original's colours ``[3, H, W]`` and the derivatives ``[words, 3, H, W]``, in `UNITS`.

    Raises:
        ScratchError: an unknown method; a difference in half precision (bad usage); vectors that are
            at the origin already, and point nowhere; a picture that the prompt has no part in.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method '{method}' - use {', '.join(METHODS)}")
    lengths = torch.stack([_away(prompt, word, origin).norm().cpu() for word in words])
    if not (lengths > 0).all():
        raise ScratchError("a word's vectors stand at the origin - there is no direction to go in")
    if method == "exact":
        originals, tangents = exact_derivatives(
            rendering, [prompt] * len(words), words, origin=origin
        )
        return originals[0], tangents

    require_full_precision(rendering.model.dtype)
    if amount == 0:
        raise UsageError("a difference needs a lambda other than 0")
    upper = [adjusted(prompt, word, [amount], origin)[0] for word in words]
    lower = [adjusted(prompt, word, [-amount], origin)[0] for word in words]
    steps = (amount * lengths)[:, None, None, None]
    original, *rest = rendering.colours(
        [prompt, *upper, *lower] if method == "central" else [prompt, *upper]
    )
    above = torch.stack(rest[: len(words)])
    if method == "central":
        return original, (above - torch.stack(rest[len(words) :])) / (2 * steps)
    return original, (above - original) / steps


def exact_derivatives(
    rendering: Rendering,
    prompts: Sequence[Prompt],
    words: Sequence[Word],
    seeds: Sequence[int] | None = None,
    *,
    origin: str = "zero",
) -> tuple[Tensor, Tensor]:
    """Each prompt's picture, and its exact derivative along one word's direction: ``[n, 3, H, W]`` both.

    Each row of a batch carries the derivative along its own direction. Raises ScratchError as
    `directional_derivative` does.
    """
    parts = [
        _exact(
            rendering, prompts[part], words[part], None if seeds is None else seeds[part], origin
        )
        for part in rendering.batches(len(prompts))
    ]
    return (
        torch.cat([part["picture"] for part in parts]),
        torch.cat([part["derivative"] for part in parts]),
    )


def _exact(
    rendering: Rendering,
    prompts: Sequence[Prompt],
    words: Sequence[Word],
    seeds: Sequence[int] | None,
    origin: str,
) -> dict[str, Tensor]:
    """One batch of them."""
    away = [_away(prompt, word, origin) for prompt, word in zip(prompts, words, strict=True)]
    directions = torch.cat([each / each.norm() for each in away])

    def colours(contexts: Tensor) -> Tensor:
        rows = zip(prompts, contexts, strict=True)
        return rendering.afresh().colours([p.with_context(row[None]) for p, row in rows], seeds)

    def make() -> dict[str, Tensor]:
        contexts = torch.cat([prompt.context for prompt in prompts])
        picture, derivative = directional_derivative(colours, contexts, directions)
        return {"picture": picture, "derivative": derivative}

    places = [word.positions for word in words]
    return rendering.once(f"derivative from {origin} {places}", prompts, seeds, make)


def directional_derivative(
    function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """f(x), and its derivative along `direction` (shaped like x), in one pass.

    Raises ScratchError where f(x) carries no derivative: f does not depend on x, or runs in inference
    mode, which forgets derivatives without a word.
    """
    with forward_ad.dual_level(), _SpelledOut():
        dual = forward_ad.make_dual(x, direction)  # type: ignore[no-untyped-call]
        value, tangent = forward_ad.unpack_dual(function(dual))  # type: ignore[no-untyped-call]
        if tangent is None:
            raise ScratchError(
                "no derivative arrived at the picture - it does not depend on the prompt (guidance 0), "
                "or was made in inference mode"
            )
        return value.clone(), tangent.clone()


class _SpelledOut(TorchFunctionMode):
    """Group normalisation as a formula: PyTorch's own rule for its derivative refuses tensors whose
    channels lie last in memory, as those that fast convolutions make."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (group_norm if func is F.group_norm else func)(*args, **(kwargs or {}))


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Wu & He 2018 (arXiv:1803.08494), equation 1, as `torch.nn.functional.group_norm`."""
    rows = x.reshape(x.shape[0], groups, -1)
    variance, mean = torch.var_mean(rows, dim=-1, correction=0, keepdim=True)
    y = ((rows - mean) * (variance + eps).rsqrt()).reshape(x.shape)
    channels = (1, -1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.view(channels)
    return y if bias is None else y + bias.view(channels)


def _away(prompt: Prompt, word: Word, origin: str) -> Tensor:
    """From the origin to the word's vectors, zero at all other tokens: ``[1, tokens, channels]``."""
    return prompt.context - adjusted(prompt, word, [-1.0], origin)[0].context
