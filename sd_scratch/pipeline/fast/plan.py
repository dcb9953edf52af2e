"""`FastRun`: what each call of a run computes, decided before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import UsageError, log
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.branches import COND, UNCOND, Scales
from sd_scratch.pipeline.fast import (
    Approximation,
    DeepCache,
    Delta,
    Fast,
    Interval,
    TGate,
    ToMe,
    read_fast,
    show_fast,
)
from sd_scratch.pipeline.fast.edits import KeepBelow, Listening, MergePlaces, Settled, finest_blocks
from sd_scratch.pipeline.fast.shallow import forecast, keep, shallow
from sd_scratch.pipeline.run_tensors import Guidance
from sd_scratch.pipeline.way import Way
from sd_scratch.tensors.taps import Member

FEW_CALLS = 20  # below it the pictures of the shipped model fall apart


@dataclass(frozen=True)
class Planned:
    """The work of one call of the U-Net: its branches; all levels, or only the last layers (`deep`);
    cross-attention, or its kept output (`settled`)."""

    branches: tuple[str, ...]
    deep: bool = True
    settled: bool = False
    guided: bool = True  # with the difference that was forecast, where the prompt's branch is alone


class FastRun:
    """One run's approximations: what each call computes, and what is kept between them.

    `scales` are its guidance, `sigmas` the noise levels of its calls. Without approximations it is the exact
    run.
    """

    def __init__(
        self, fast: Sequence[Approximation], unet: UNet, scales: Scales, sigmas: Sequence[float]
    ) -> None:
        self.fast = tuple(fast)
        chosen: dict[type, Any] = {type(each): each for each in fast}
        self.unet = unet
        self.interval: Interval | None = chosen.get(Interval)
        self.delta: Delta | None = chosen.get(Delta)
        self.cache: DeepCache | None = chosen.get(DeepCache)
        self.gate: TGate | None = chosen.get(TGate)
        self.tome: ToMe | None = chosen.get(ToMe)
        self.scales, self.whole = scales, scales.branches
        if set(self.whole) - {UNCOND, COND} and (self.interval or self.delta or self.gate):
            raise UsageError(
                "fast: interval, delta and tgate know two branches, and this run asks for"
                f" {', '.join(self.whole)} - use deepcache, tome"
            )
        self.plan = self._plan(sigmas) if fast else ()
        self.below: dict[str, dict[int, Tensor]] = {}  # what came up from below, by branch and call
        self._kept = Settled(unet)
        self.deltas: dict[int, Tensor] = {}  # what guidance added, by call
        count = unet.config.layers_per_block + 1
        layers = min(self.cache.layers, count) if self.cache else 0
        self.first = count - layers  # of the layers that a shallow call computes

    @property
    def facts(self) -> dict[str, str]:
        """The plan for a stored run."""
        return {"fast": show_fast(self.fast)} if self.fast else {}

    def _plan(self, sigmas: Sequence[float]) -> tuple[Planned, ...]:
        plan: list[Planned] = []
        whole = self.whole
        gate = len(sigmas) if self.gate is None else max(1, round(self.gate.gate * len(sigmas)))
        have: tuple[str, ...] = ()  # the branches of the last whole call
        last_deep = last_both = -len(sigmas)
        for number, sigma in enumerate(sigmas):
            settled = number >= gate
            inside = self.interval is None or self.interval.low < sigma <= self.interval.high
            guided = not settled and inside and len(whole) > 1
            deep = self.cache is None or number - last_deep >= self.cache.every
            deep = deep or (self.gate is not None and number in (gate - 1, gate))
            both = guided
            if guided and self.delta is not None:
                both = (number - last_both >= self.delta.every and deep) or last_both < 0
            branches = whole if both or len(whole) == 1 else (COND,)
            deep = deep or not set(branches) <= set(have)
            have, last_deep = (branches, number) if deep else (have, last_deep)
            last_both = number if both else last_both
            plan.append(Planned(branches, deep, settled, guided))
        return tuple(plan)

    def planned(self, call: int) -> Planned:
        return self.plan[call] if self.plan else Planned(self.whole)

    def guide(self, call: int, t: float, guidance: Guidance, predictions: Tensor) -> Tensor:
        """The guided prediction, with the forecast if only the prompt's branch was computed."""
        now = self.planned(call)
        if now.branches == self.whole:
            if self.delta is not None and len(now.branches) > 1:
                uncond, cond = predictions.chunk(2)
                keep(self.deltas, call, cond - uncond, self.delta.order)
            guided: Tensor = guidance(predictions, self.scales.at(t))
            return guided
        delta = forecast(self.deltas, call) if now.guided else None
        scales = self.scales if now.guided else self.scales._replace(guidance=1.0)
        alone: Tensor = guidance(predictions, scales, delta)
        return alone

    # What a call does -------------------------------------------------------------------------

    def members(self, call: int, hw: tuple[int, int]) -> list[Listening]:
        """The call's listeners, which keep and replace tensors."""
        if not self.plan:
            return []
        now, listening = self.planned(call), list[Listening]()
        if self.cache is not None and now.deep:
            order = self.cache.order
            listening.append(
                KeepBelow(self.unet, self.first, self.below, now.branches, call, order)
            )
        if self.gate is not None:
            after = self.plan[call + 1] if call + 1 < len(self.plan) else now
            if now.settled or after.settled:
                self._kept.given, self._kept.branches = now.settled, len(now.branches)
                listening.append(self._kept)
        if self.tome is not None and self.tome.ratio:
            listening.append(MergePlaces(self.unet, self.tome.ratio, hw))
        return listening

    def ask(
        self,
        call: int,
        x_t: Tensor,
        t: Tensor,
        context: Tensor,
        control: Sequence[Tensor],
        features: Sequence[Tensor] = (),
    ) -> Tensor:
        """The U-Net's prediction at a call, or that of its last layers from kept tensors."""
        now = self.planned(call)
        if now.deep:
            whole: Tensor = self.unet(x_t, t, context, control, features)
            return whole
        below = torch.cat([forecast(self.below[branch], call) for branch in now.branches])
        return shallow(self.unet, x_t, t, context, control, features, below, self.first)

    # What there is not ------------------------------------------------------------------------

    def tell(self, members: Sequence[Member]) -> None:
        """Warn of tensors that listeners will miss, and where; nothing for an exact run."""
        heard = dict.fromkeys(name for member in members for name in member.names)
        for line in self.missing(list(heard)) if self.plan else ():
            log.warning(line)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Lines for people: which of these tensors do not exist in which calls, by reason."""
        lines = []
        shallow_calls = [i for i, now in enumerate(self.plan) if not now.deep]
        alone = [i for i, now in enumerate(self.plan) if len(now.branches) < len(self.whole)]
        settled = [i for i, now in enumerate(self.plan) if now.settled]
        guidance = [n for n in names if n == "guidance.pred_uncond"]
        inside = [n for n in names if n.startswith("unet.")]
        for calls, gone, why in (
            (shallow_calls, [n for n in inside if not self._is_shallow(n)], "deepcache"),
            (settled, [n for n in inside if _matches(n, ATTENTION, "attn2")], "tgate"),
            (range(len(self.plan)) if self.tome else (), self._merged(inside), "tome"),
            (alone, guidance + [f"{n} ({UNCOND})" for n in inside], "the prompt's branch alone"),
        ):
            if calls and gone:
                verb = "are of merged places" if why == "tome" else "do not exist"
                lines.append(
                    f"{why}: {len(gone)} of the tensors, such as {gone[0]}, {verb} in {_show(list(calls))}"
                )
        return lines

    def _is_shallow(self, name: str) -> bool:
        last = len(self.unet.up_blocks) - 1
        numbers = range(self.first, self.unet.config.layers_per_block + 1)
        kinds = ("resnets", "attentions")
        globs = [f"unet.up_blocks.{last}.{kind}.{i}.*" for i in numbers for kind in kinds]
        globs += [f"unet.up_blocks.{last}.concat.{i}" for i in numbers]
        down = range(len(numbers) - 1)
        globs += [f"unet.down_blocks.0.{kind}.{i}.*" for i in down for kind in kinds]
        return (name.count(".") == 1 and name != "unet.h") or any(
            fnmatchcase(name, g) for g in globs
        )

    def _merged(self, names: Sequence[str]) -> list[str]:
        paths = finest_blocks(self.unet)
        return [
            n
            for n in names
            if n.startswith(tuple(f"{p}." for p in paths))
            and (n.endswith(".norm1") or _matches(n, ATTENTION, "attn1"))
        ]


def plan_run(
    fast: Fast, unet: UNet, scales: Scales, schedule: Schedule, way: Way, members: Sequence[Member]
) -> FastRun:
    """The approximations of a run; warns of tensors that listeners will miss."""
    chosen = read_fast(fast)
    sigmas = [schedule.sigma_at(t) for t in way.timesteps] if chosen else []
    run = FastRun(chosen, unet, scales, sigmas)
    if (run.delta or run.cache) and len(sigmas) < FEW_CALLS:
        log.warning(
            f"fast: {len(sigmas)} calls are too far apart for forecasts between them - take {FEW_CALLS} steps"
            " or more, or leave fast out"
        )
    run.tell(members)
    return run


ATTENTION = ("q", "k", "v", "scores", "probs", "z", "result")


def _matches(name: str, leaves: Sequence[str], module: str) -> bool:
    head, _, leaf = name.rpartition(".")
    return head.endswith(module) and leaf in leaves


def _show(calls: Sequence[int]) -> str:
    numbers = ", ".join(map(str, calls[:8])) + (", ..." if len(calls) > 8 else "")
    return f"call{'s' if len(calls) > 1 else ''} {numbers}"
