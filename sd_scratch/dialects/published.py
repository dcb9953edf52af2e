"""Published numbers of real weights: nine of a picture, for a model, a sampler and given noise.

The numbers are facts from the tests of huggingface/diffusers at commit 58eb52c0803ea9af3abec60841c2a093bdf1f951
(Apache-2.0): tests/pipelines/stable_diffusion/test_stable_diffusion.py, class
TestStableDiffusionPipelineIntegration. They were made in fp32 on a GPU; the tolerances are theirs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sd_scratch.config import SD15
from sd_scratch.diffusion.prediction import noised
from sd_scratch.diffusion.samplers import Step
from sd_scratch.diffusion.schedule import Ladder
from sd_scratch.errors import UsageError
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

PROMPT, STEPS, GUIDANCE, SIDE = "a photograph of an astronaut riding a horse", 3, 7.5, 512

V1_1, V1_4 = "CompVis/stable-diffusion-v1-1", "CompVis/stable-diffusion-v1-4"
SHA256 = {  # of the single files, from public records that agree with each other
    "86cd1d3ccb": V1_1,
    "fe4efff1e1": V1_4,
}
"""The starts of the sums, as `Components.hash` has them."""


@dataclass(frozen=True)
class Published:
    """One picture of `STEPS` steps: the last channel of its lower right 3x3 pixels, in 0..1, row by row."""

    weights: str
    sampler: str
    spacing: str | tuple[float, ...]  # a spacing by name, or timesteps
    expected: tuple[float, ...]
    tolerance: float = 3e-3
    ends_at_first: bool = False  # the last step stops at the schedule's first noise level
    latents: tuple[tuple[float, ...], ...] = ()  # after each step that has some, as below


ROWS = (
    Published(
        V1_1,
        "pndm",
        "leading",
        (0.4363, 0.4355, 0.3667, 0.4066, 0.3970, 0.3866, 0.4394, 0.4356, 0.4059),
    ),
    Published(
        V1_4,
        "pndm",
        "leading",
        (0.5740, 0.4784, 0.3162, 0.6358, 0.5831, 0.5505, 0.5082, 0.5631, 0.5575),
        latents=(
            (-0.5693, -0.3018, -0.9746, 0.0518, -0.8770, 0.7559, -1.7402, 0.1022, 1.1582),
            (-0.1958, -0.2993, -1.0166, -0.5005, -0.4810, 0.6162, -0.9492, 0.6621, 1.4492),
        ),
    ),
    Published(
        V1_4,
        "ddim",
        "leading",
        (0.38019, 0.28647, 0.27321, 0.40377, 0.38290, 0.35446, 0.39218, 0.38165, 0.42239),
        tolerance=1e-4,
    ),
    Published(
        V1_4,
        "lms",
        "linspace",
        (0.10542, 0.09620, 0.07332, 0.09015, 0.09382, 0.07597, 0.08496, 0.07806, 0.06455),
    ),
    Published(
        V1_4,
        "dpmpp_2m",
        (999.0, 666.0, 333.0),
        (0.03503, 0.03494, 0.01087, 0.03128, 0.02552, 0.00803, 0.00742, 0.00372, 0.00000),
        ends_at_first=True,
    ),
)
LATENT_TOLERANCE = 5e-2  # those were made in fp16


@dataclass(frozen=True)
class Checked:
    """A published picture made here: the largest difference of a number, and the tolerance."""

    row: Published
    largest: float
    found: tuple[float, ...]
    latents: float = 0.0

    @property
    def right(self) -> bool:
        return self.largest <= self.row.tolerance and self.latents <= LATENT_TOLERANCE

    def __str__(self) -> str:
        line = (
            f"{self.row.weights}, {STEPS} steps of {self.row.sampler}: "
            f"{'right' if self.right else 'WRONG'}, off by {self.largest:.2g} where"
            f" {self.row.tolerance:g} is allowed"
        )
        if self.row.latents:
            line += f"; latents on the way by {self.latents:.2g} of {LATENT_TOLERANCE:g}"
        return line


def which(model: StableDiffusion) -> str:
    """Which of the published models this is, by its name on the hub or its file's hash.

    Raises UsageError for any other model, with its name or hash.
    """
    source, digest = model.components.source, model.components.hash
    known = source if source in (V1_1, V1_4) else SHA256.get(digest)
    ours, theirs = model.config, SD15
    if (ours.unet, ours.vae, ours.text) != (theirs.unet, theirs.vae, theirs.text):
        raise UsageError(
            f"{source} ({ours.name}) is no Stable Diffusion 1.x of full size - numbers were published for"
            f" {V1_1} and {V1_4} alone"
        )
    if known is None:
        raise UsageError(
            f"{source} has the hash {digest or 'of no file'}, which is neither that of {V1_1} nor of {V1_4}:"
            " numbers were published for these alone - say which of the two it is, if it is one"
        )
    return known


def check_published(model: StableDiffusion, weights: str) -> Iterator[Checked]:
    """Make every published picture of these weights, one after the other: 3 or 4 calls of the U-Net each."""
    prompt = model.prompt(PROMPT, syntax="plain")
    for row in ROWS:
        if row.weights == weights:
            yield check_row(model, row, prompt)


def check_row(model: StableDiffusion, row: Published, prompt: Prompt) -> Checked:
    steps = list(run(model, row, prompt))
    final = steps[-1].x_next
    if row.ends_at_first:
        end = float(model.schedule.alpha_bar[0])
        final = noised(steps[-1].x0, steps[-1].eps, end)
    image = start(model).with_latent(final, t=0).decode()
    found = ((image / 2 + 0.5).clamp(0, 1)[0, -1, -3:, -3:]).flatten().tolist()
    # The last column of the three lowest rows, of the last three channels.
    way = [step.x_next[0, -3:, -3:, -1].flatten().tolist() for step in steps[: len(row.latents)]]
    return Checked(
        row,
        _gap(found, row.expected),
        tuple(found),
        max((_gap(*pair) for pair in zip(way, row.latents, strict=True)), default=0.0),
    )


def run(model: StableDiffusion, row: Published, prompt: Prompt) -> Iterator[Step]:
    """The steps of one published picture."""
    schedule: str | Ladder
    if isinstance(row.spacing, str):
        schedule = row.spacing
    else:
        schedule = model.schedule.ladder_of_timesteps(row.spacing)
    return model.steps(
        prompt,
        start(model),
        negative="",
        sampler=row.sampler,
        steps=STEPS,
        schedule=schedule,
        guidance=GUIDANCE,
    )


def start(model: StableDiffusion) -> ImageNoise:
    """The start noise of all: numpy's, of seed 0."""
    noise = model.noise(0, SIDE, SIDE)
    numbers = np.random.RandomState(0).standard_normal(tuple(noise.latent.shape))
    return noise.with_latent(torch.from_numpy(numbers).to(noise.latent))


def _gap(a: "list[float] | tuple[float, ...]", b: "list[float] | tuple[float, ...]") -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))
