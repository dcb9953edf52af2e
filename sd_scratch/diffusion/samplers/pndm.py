"""PNDM: DDIM's step along a noise that is extrapolated from earlier steps.

Liu et al. 2022 (arXiv:2202.09778). DDIM without fresh noise is a transfer from one noise level to
another along a given eps (equation 11; `transfer` below). A better eps makes a better step:

    linear multistep   Adams and Bashforth's weights on the last four eps (equation 12)
    Runge-Kutta        four model calls, two of them half way (equation 13)

A multistep method has no history at the start. The paper makes one with three Runge-Kutta steps (`prk=True`).
SD 1.x has the cheaper start of PLMS: one step of Heun's method, which calls the model twice, and then second
and third order until there are four predictions.
"""

import math
from collections import deque
from dataclasses import dataclass

from torch import Tensor

from sd_scratch.diffusion.prediction import interpret
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps, choice, weighted
from sd_scratch.diffusion.schedule import Ladder

ADAMS_BASHFORTH = (  # by the number of answers there are, newest first
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
RUNGE_KUTTA_STEPS = 3
MIXES = ("eps", "output")


def pndm(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, prk: bool = False, mix: str = "eps"
) -> Steps:
    """Deterministic: `draw` is never called. Ends at the ladder's `final_alpha_bar`.

    Model calls: steps + 1, or steps + 9 with `prk` (from 4 steps on); a single step takes one.
    `mix` matters for a network that predicts v or x0. "eps" converts every prediction to noise before it
    combines those of different timesteps, as the method says. "output" combines the raw predictions and
    converts the result, as diffusers does, which loses the order.
    Raises `UsageError` for another mix.
    """
    choice("mix", mix, MIXES)
    alpha_bars = (*ladder.alpha_bars, ladder.final_alpha_bar)
    answers = _Answers(model, ladder, in_eps=mix == "eps")
    history: deque[Tensor] = deque(maxlen=len(ADAMS_BASHFORTH))  # newest first
    for i, t in enumerate(ladder.timesteps):
        here, there = alpha_bars[i], alpha_bars[i + 1]
        raw = model(x_t, t)
        eps, x0 = interpret(raw, x_t, here, ladder.schedule.config.prediction_type)
        history.appendleft(eps if mix == "eps" else raw)

        can_look_ahead = i < len(ladder) - 1  # below the last timestep there is none to ask about
        if prk and can_look_ahead and i < RUNGE_KUTTA_STEPS:
            answer = answers.runge_kutta(x_t, history[0], i)
        elif not prk and can_look_ahead and i == 0:
            answer = answers.heun(x_t, history[0], i)
        else:
            answer = weighted(ADAMS_BASHFORTH[len(history) - 1], history)
        x_next = answers.move(x_t, answer, here, there)
        sent = yield Step(i, t, here, x_t, eps, x0, x_next)
        x_t = x_next if sent is None else sent


def transfer(x_t: Tensor, eps: Tensor, here: float, there: float) -> Tensor:
    """From alpha_bar = `here` to `there` along a constant eps: equation 11, DDIM's step."""
    from_eps = math.sqrt(1.0 - there) - math.sqrt(there * (1.0 - here) / here)
    return math.sqrt(there / here) * x_t + from_eps * eps


@dataclass(frozen=True)
class _Answers:
    """The network's predictions in the form in which they are combined: as eps, or raw."""

    model: Denoiser
    ladder: Ladder
    in_eps: bool

    def at(self, x_t: Tensor, t: float, alpha_bar: float) -> Tensor:
        raw = self.model(x_t, t)
        return self._eps(raw, x_t, alpha_bar) if self.in_eps else raw

    def move(self, x_t: Tensor, answer: Tensor, here: float, there: float) -> Tensor:
        eps = answer if self.in_eps else self._eps(answer, x_t, here)
        return transfer(x_t, eps, here, there)

    def heun(self, x_t: Tensor, first: Tensor, i: int) -> Tensor:
        """The mean of the predictions at both ends of the step from level i."""
        here, there = self.ladder.alpha_bars[i : i + 2]
        second = self.at(self.move(x_t, first, here, there), self.ladder.timesteps[i + 1], there)
        return (first + second) / 2

    def runge_kutta(self, x_t: Tensor, first: Tensor, i: int) -> Tensor:
        """Equation 13, with the timestep half way rounded down. For raw predictions the first move to it is
        rounded up, as in diffusers, so the sample is beside the level of the call."""
        t, t_next = self.ladder.timesteps[i : i + 2]
        here, there = self.ladder.alpha_bars[i : i + 2]
        t_mid = (t + t_next) // 2
        mid = self.ladder.schedule.alpha_bar_at(t_mid)
        over = mid if self.in_eps else self.ladder.schedule.alpha_bar_at(t - (t - t_next) // 2)
        second = self.at(self.move(x_t, first, here, over), t_mid, mid)
        third = self.at(self.move(x_t, second, here, mid), t_mid, mid)
        fourth = self.at(self.move(x_t, third, here, there), t_next, there)
        return (first + 2 * second + 2 * third + fourth) / 6

    def _eps(self, raw: Tensor, x_t: Tensor, alpha_bar: float) -> Tensor:
        return interpret(raw, x_t, alpha_bar, self.ladder.schedule.config.prediction_type).eps
