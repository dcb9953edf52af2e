"""`Asking`: a run's calls of the U-Net."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sd_scratch.errors import NotFinite
from sd_scratch.pipeline.blame import explain
from sd_scratch.pipeline.canvas import Canvas, network_inputs
from sd_scratch.pipeline.control import Steering
from sd_scratch.pipeline.fast.plan import FastRun
from sd_scratch.pipeline.perturbed import Perturbing
from sd_scratch.pipeline.run_tensors import Guidance, Watch
from sd_scratch.tensors import Taps


@dataclass
class Asking:
    """The U-Net's guided prediction at ``(x_t, t)``; all branches in one call, the prompt's the last.

    Attributes:
        contexts: the text's vectors at each step, for all branches; set at the start of the run.
    """

    networks: Mapping[str, Any]
    taps: Taps
    guidance: Guidance
    quick: FastRun
    watch: Watch
    steering: Steering
    canvas: Canvas | None
    contexts: Sequence[Tensor] = field(default=(), init=False)
    _first: tuple[int, Tensor, float] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        scales, unet = self.quick.scales, self.networks["unet"]
        self._perturbing: list[Perturbing] = []
        if scales.perturbed is not None:
            self._perturbing = [Perturbing(unet, scales.layers, len(scales.branches))]

    def begin(self, contexts: Sequence[Tensor]) -> None:
        """Take the text's vectors, and run the networks that read their hint once a run."""
        self.contexts = contexts
        self.steering.look()

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        if self._first is None or self._first[0] != self.watch.steps:
            self._first = self.watch.steps, x_t, t
        call, hw = self.watch.calls, (x_t.shape[2], x_t.shape[3])
        branches = self.quick.planned(call).branches
        x_t, timestep, seen = self._inputs(x_t, t, branches)
        # Where the prompt's branch is asked alone, it is the last.
        context = self.contexts[self.watch.steps][-len(x_t) :]
        members = *self.quick.members(call, hw), *self._perturbing
        with self.taps.joined(*members), self.watch.call(t, branches):
            steered = self.steering.residuals(x_t, timestep, context, branches, call)
            answer = self.quick.ask(call, seen, timestep, context, *steered).float()
            return self.quick.guide(call, t, self.guidance, answer)

    def blame(self, what: str) -> NotFinite:
        """The error that names the source of NaN or infinity, from the step's first call."""
        assert self._first is not None
        step, x_t, t = self._first
        _, timestep, seen = self._inputs(x_t, t, self.quick.scales.branches)
        unet = self.networks["unet"]
        return explain(what, self.networks, "unet", unet, seen, timestep, self.contexts[step])

    def _inputs(
        self, x_t: Tensor, t: float, branches: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.networks["unet"].conv_in.weight.dtype
        return network_inputs(x_t.to(dtype), t, branches, self.canvas)
