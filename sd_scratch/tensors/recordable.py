"""`Recordable`: what a model offers whose tensors have names."""

from collections.abc import Sequence

import torch

from sd_scratch.tensors.edit import EditFunction, Editor
from sd_scratch.tensors.record import Recorder
from sd_scratch.tensors.reductions import AnyReduction, OverSteps
from sd_scratch.tensors.taps import Steps, Taps


class Recordable:
    """A model with `taps` in its networks."""

    taps: Taps

    def record(
        self,
        *globs: str,
        steps: Steps = None,
        branch: str | None = None,
        reduce: AnyReduction | OverSteps | Sequence[AnyReduction | OverSteps] = (),
        to: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        budget: str | int = "4GB",
        when: str = "after",
        stop_after: str | None = None,
        gradients: bool = False,
    ) -> Recorder:
        """``with model.record("unet.*.attn2.probs") as trace``: record the tensors that the globs match.
        What the settings mean, and what is refused, is said at `sd_scratch.tensors.Recorder`."""
        return Recorder(
            self.taps,
            *globs,
            steps=steps,
            branch=branch,
            reduce=reduce,
            to=to,
            dtype=dtype,
            budget=budget,
            when=when,
            stop_after=stop_after,
            gradients=gradients,
        )

    def edit(
        self,
        globs: str | Sequence[str],
        function: EditFunction,
        *,
        steps: Steps = None,
        branch: str | None = None,
    ) -> Editor:
        """``with model.edit("unet.h", sd.edits.scale(1.1))``: put other tensors in the place of named ones,
        at these steps and in this branch, or everywhere. See `sd_scratch.tensors.Editor`."""
        return Editor(self.taps, globs, function, steps=steps, branch=branch)
