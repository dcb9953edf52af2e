"""`denoise`: the one loop, for latents and pixels."""

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from sd_scratch.diffusion.noise import NoiseSource
from sd_scratch.diffusion.samplers import Denoiser, Step, walk
from sd_scratch.errors import NotFinite
from sd_scratch.pipeline.run_tensors import Sampling, Watch
from sd_scratch.pipeline.way import Change, Way


def denoise(
    predict: Denoiser,
    x: Tensor,
    way: Way,
    noise: NoiseSource,
    sampling: Sampling,
    watch: Watch,
    change: Change | None = None,
    blame: Callable[[str], NotFinite] = NotFinite,
) -> Generator[Step, None, Tensor]:
    """From noise to picture, one `Step` at a time: call the network, take the sampler's step, repeat. Returns
    the last sample.

    The caller owns everything else: progress, previews, and when to stop.

    Args:
        predict: the network's prediction at ``(x_t, t)``, guidance included.
        x: the sample ``[B, C, h, w]`` at the top level of the way's ladder.
        noise: the source of fresh noise for stochastic samplers.
        sampling, watch: show the run's tensors to listeners.
        change: returns the sample from which the run continues after each step.
        blame: turns "the sample ... is" into the error that names the source of its NaN or infinity.

    Raises:
        UsageError: an option that the sampler does not have.
        NotFinite: a sample with values that are no longer finite.
    """
    x = sampling.noise(x)

    def draw() -> Tensor:
        with watch.draw():
            return sampling.step_noise(noise.draw(x.shape[1:], x.device, torch.float32))

    def finish(step: Step) -> Tensor:
        with watch.step(step):
            return sampling.step(step, None if change is None else change(step))

    for step in walk(way.run(predict, x, draw), finish):
        if not step.x_next.isfinite().all():
            raise blame(f"the sample of step {step.index + 1} of {len(way.ladder)} is")
        yield step
    return step.x_next
