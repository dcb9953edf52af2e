"""DDIM inversion: the noise from which a given picture is made."""

from typing import Any

from sd_scratch.diffusion.samplers import Sampler
from sd_scratch.diffusion.samplers.ddim_inverse import ddim_inverse
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

INVERSE = Sampler(
    "ddim_inverse", ddim_inverse, "", "DDIM backwards, from a picture to its noise", climbs=True
)


def invert(
    model: StableDiffusion,
    prompt: Prompt | str,
    picture: ImageNoise,
    *,
    guidance: float = 1.0,
    **settings: Any,
) -> ImageNoise:
    """The noise from which DDIM, with the same prompt, steps and guidance, makes about this picture.

    `picture` comes from ``model.encode`` or ``model.generate``. Settings are those of
    `TextToImage.steps`. Nearer with more steps, and nearest at guidance 1.
    """
    noise = model.generate(prompt, picture, sampler=INVERSE, guidance=guidance, **settings)
    return noise.with_latent(noise.latent, t=model.config.schedule.num_train_timesteps - 1)
