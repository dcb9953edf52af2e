"""Where samples differ from diffusers' by more than 1e-4, on a schedule whose first sigma is in the thousands: in
float64 the two are equal, so that rounding is all that separates them."""

import sys
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from sd_scratch.checkpoints.scheduler_json import schedule_config
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.json_file import Fields
from tests.tiny import tiny_model

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO = SD | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
COSINE = SD | {"beta_schedule": "squaredcos_cap_v2"}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
NOISE = [
    torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    for i in range(40)
]


class Wide:
    """A library whose float32 is float64."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, "float64" if name == "float32" else name)


@pytest.fixture(scope="module")
def networks() -> dict[torch.dtype, Callable[[Tensor, float], Tensor]]:
    """The U-Net of the tiny model at guidance 7.5, which makes rounding 7.5 times as large."""
    made = {}
    for dtype in (torch.float32, torch.float64):
        model = tiny_model()
        texts = torch.cat([model.prompt(text).context for text in ("", "a cat")]).to(dtype)
        unet = model.unet.to(dtype)

        @torch.no_grad()
        def predict(
            x: Tensor, t: float, unet: Any = unet, texts: Tensor = texts, dtype: Any = dtype
        ) -> Tensor:
            both = unet(torch.cat([x, x]).to(dtype), torch.full((2,), t, dtype=dtype), texts)
            uncond, cond = both.chunk(2)
            return uncond + 7.5 * (cond - uncond)

        made[dtype] = predict
    return made


def theirs(
    name: str, config: dict[str, Any], steps: int, schedule: Schedule, predict: Any, wide: bool
) -> Tensor:
    kind: Any = getattr(diffusers, f"{name}Scheduler")
    scheduler, module = kind.from_config(config), sys.modules[kind.__module__]
    draws = iter(NOISE[1:])
    dtype = torch.float64 if wide else torch.float32
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", lambda *a, **k: next(draws).to(dtype))
        if wide:
            patch.setattr(module, "torch", Wide(torch))
            patch.setattr(module, "np", Wide(np))
            scheduler.alphas_cumprod = schedule.alpha_bar.double()
        scheduler.set_timesteps(steps)
        x = NOISE[0].to(dtype) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            answer = predict(scheduler.scale_model_input(x, t), float(t))
            x = scheduler.step(answer, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "config", "steps"),
    [
        ("EulerDiscrete", ZERO | TRAILING, 7),
        ("EulerDiscrete", ZERO | LINSPACE, 7),
        ("EulerAncestralDiscrete", ZERO | TRAILING, 7),
        ("KDPM2AncestralDiscrete", COSINE | TRAILING, 16),
        ("KDPM2AncestralDiscrete", COSINE | LINSPACE, 25),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_rounding_is_all_that_separates(
    networks: Any, name: str, config: dict[str, Any], steps: int
) -> None:
    said = schedule_config(Fields({"_class_name": f"{name}Scheduler", **config}, "file", []))
    schedule, sampler = Schedule(said.schedule), get_sampler(said.sampler)
    ladder = sampler.ladder(schedule, steps, said.spacing)
    off = {}
    for dtype, predict in networks.items():
        draws = iter(NOISE[1:])
        x = NOISE[0].to(dtype) * ladder.noise_scale
        *_, last = sampler.run(
            predict, x, ladder, lambda dtype=dtype, d=draws: next(d).to(dtype), **said.options
        )
        expected = theirs(name, config, steps, schedule, predict, dtype == torch.float64)
        off[dtype] = float((last.x_next - expected).abs().max() / expected.abs().max())
    print(f"{name}: float32 {off[torch.float32]:.1e}, float64 {off[torch.float64]:.1e}")
    assert off[torch.float64] <= 1e-8 < 1e-6 < off[torch.float32]
