"""DDIM backwards, against diffusers."""

import torch
from diffusers import DDIMInverseScheduler

from sd_scratch.config import TINY
from sd_scratch.diffusion.samplers.ddim_inverse import ddim_inverse
from sd_scratch.diffusion.schedule import Schedule
from tests.denoisers import lively


def test_inversion_agrees_with_the_reference():
    schedule = Schedule(TINY.schedule)
    theirs = DDIMInverseScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
    )
    theirs.set_timesteps(20)
    network = lively(schedule)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = list(ddim_inverse(network, x, schedule, 20, torch.empty))
    for t, step in zip(theirs.timesteps.tolist(), ours, strict=True):
        x = theirs.step(network(x, t), t, x).prev_sample
        assert step.t == t
        assert (step.x_next - x).abs().max() < 1e-4
