"""The input of a sampler, and its output at every step."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sd_scratch.diffusion.prediction import Prediction, interpret, thresholded
from sd_scratch.diffusion.schedule import Ladder
from sd_scratch.errors import UsageError

Denoiser = Callable[[Tensor, float], Tensor]
"""``model(x_t, t)``: the network's raw prediction for a variance-preserving x_t at timestep t."""

Draw = Callable[[], Tensor]
"""Fresh unit-variance noise, shaped like the sample."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a sampler, from the noise level of `t` to the next lower one; inversion climbs to the
    next higher one.

    Samples are variance-preserving, as the network sees them, whatever space the sampler works in.
    `eps` and `x0` are the network's first prediction of the step, at (`x_t`, `t`), or in inversion at `x_t`
    and the next level; a multistep method moves along a mixture of several predictions. The last step's
    `x_next` is the clean latent, in inversion the noise.
    """

    index: int
    t: float
    alpha_bar: float
    x_t: Tensor
    eps: Tensor
    x0: Tensor
    x_next: Tensor
    step_noise: Tensor | None = None  # unit variance; None where the step adds no noise

    @property
    def sigma(self) -> float:
        """The noise of x_t relative to its signal, sqrt((1 - alpha_bar) / alpha_bar)."""
        return math.sqrt((1.0 - self.alpha_bar) / self.alpha_bar)


Steps = Generator[Step, Tensor | None, None]
"""A sampler at work. It goes on from the `Step.x_next` that it made, or from the sample that is sent
in its place."""


def walk(steps: Steps, change: Callable[[Step], Tensor]) -> Iterator[Step]:
    """The sampler's steps. Each continues from the sample that `change` returns: `Step.x_next`, or another."""
    step = next(steps, None)
    while step is not None:
        x_next = change(step)
        changed = x_next is not step.x_next
        yield replace(step, x_next=x_next) if changed else step
        try:
            step = steps.send(x_next if changed else None)
        except StopIteration:
            return


def predict(model: Denoiser, x_t: Tensor, t: float, alpha_bar: float, ladder: Ladder) -> Prediction:
    """Call the network once, and return its prediction as noise and clean image."""
    config = ladder.schedule.config
    eps, x0 = interpret(model(x_t, t), x_t, alpha_bar, config.prediction_type)
    if config.thresholding:
        x0 = thresholded(x0, config.dynamic_thresholding_ratio, config.sample_max_value)
    return Prediction(eps, x0)


def weighted(weights: Sequence[float], tensors: Iterable[Tensor]) -> Tensor:
    """The sum of the tensors, each times its weight."""
    terms = [weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def choice(option: str, value: object, known: Sequence[object]) -> None:
    """`UsageError` unless the option's value is one of the known ones."""
    if value not in known:
        raise UsageError(
            f"{option} {value!r} is unknown - choose from {', '.join(map(str, known))}"
        )


def fraction(option: str, value: float) -> None:
    """`UsageError` unless the option's value is from 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{option} {value} is out of range - give a number from 0 to 1")
