"""DDIM backwards, against diffusers."""

import pytest
import torch
from diffusers import DDIMInverseScheduler

from sd_scratch.config import TINY
from sd_scratch.diffusion.samplers.ddim_inverse import ddim_inverse
from sd_scratch.diffusion.schedule import Schedule
from tests.denoisers import Recorder, lively


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
    asked = Recorder(network)
    ours = list(ddim_inverse(asked, x, schedule.ladder(20), torch.empty))
    assert asked.timesteps == theirs.timesteps.tolist()
    assert [step.t for step in ours] == [0.0, *asked.timesteps[:-1]]
    for t, step in zip(asked.timesteps, ours, strict=True):
        x = theirs.step(network(x, int(t)), int(t), x).prev_sample
        assert step.sigma == pytest.approx(schedule.sigma_at(step.t), rel=1e-6)
        assert (step.x_next - x).abs().max() < 1e-4
