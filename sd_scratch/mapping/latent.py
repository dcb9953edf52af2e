"""What stands in a latent, and how a picture comes out of noise: the run itself, looked at."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sd_scratch.mapping.drawing import (
    INK,
    PAPER,
    Cell,
    enlarged,
    font,
    named_ramp,
    picture,
    sheet,
    signed_map,
)
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report, Table
from sd_scratch.pictures.gif import encode_gif
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.prompt import Prompt

SHOWN = 8  # steps in the figure of a film
FRAME, LAST_FRAME = 120, 2000  # milliseconds
FILM_SIDE = 256


def latent_report(rendering: Rendering, prompt: Prompt) -> Report:
    """A picture, the channels of its latent, and the picture with each channel set to zero."""
    for step in rendering.steps([prompt]):
        latent = step.x_next
    count = latent.shape[1]
    without = latent.expand(count, -1, -1, -1).clone()
    without[range(count), range(count)] = 0.0
    whole, *others = to_bytes(rendering.decode(torch.cat([latent, without])))
    channels = latent[0].float().cpu()
    top = float(channels.abs().max())
    changes = [(other.int() - whole.int()).abs().float().mean() for other in others]
    rows = [
        [Cell(picture(whole), "the picture")],
        [
            Cell(signed_map(channel, top, rendering.size), f"channel {i}")
            for i, channel in enumerate(channels)
        ],
        [
            Cell(picture(other), f"changes by {float(change):.1f} of 255")
            for other, change in zip(others, changes, strict=True)
        ],
    ]
    ramp = signed_map(torch.linspace(-1, 1, 256)[None], 1.0, (256, 1))
    h, w = channels.shape[-2:]
    figure = sheet(
        "The channels of a latent",
        rows,
        notes=[
            f"Prompt: {prompt.text}",
            f"Second row: {count} channels of {w} x {h} numbers are all that the decoder gets: red is "
            "above zero, blue below, on one scale. Third row: the picture decoded with that channel set "
            "to zero, which shows what it carried.",
        ],
        row_labels=["", "channels", "without it"],
        foot=named_ramp(ramp, top, "", low=-top),
    )
    table = [
        (i, *(float(f(c)) for f in (torch.mean, torch.std, torch.min, torch.max)), float(change))
        for i, (c, change) in enumerate(zip(channels, changes, strict=True))
    ]
    header = ("channel", "mean", "standard deviation", "smallest", "largest", "change without it")
    return Report(
        {"latent": figure},
        tables={"latent": Table(header, table)},
        tensors={"latent": {"latent": channels}},
    )


def film_report(rendering: Rendering, prompt: Prompt) -> Report:
    """Every step of a run, decoded: x_t, the sample, and x0, the picture that the network sees in it."""
    steps = list(rendering.steps([prompt]))
    decoded = [to_bytes(rendering.decode(torch.cat([step.x_t, step.x0]))) for step in steps]
    (last,) = to_bytes(rendering.decode(steps[-1].x_next))
    few = [steps[i * (len(steps) - 1) // max(SHOWN - 1, 1)].index for i in range(SHOWN)]
    few = list(dict.fromkeys(few))
    labels = [f"step {i + 1}, t {steps[i].t:.0f}" for i in few]
    rows = [
        [Cell(picture(decoded[i][row]), label) for i, label in zip(few, labels, strict=True)]
        for row in (0, 1)
    ]
    rows[0].append(Cell(picture(last), "the picture"))
    figure = sheet(
        "From noise to the picture",
        rows,
        notes=[
            f"Prompt: {prompt.text}",
            "Above: x_t, what the network is shown at a step. Below: x0, the clean picture that it takes "
            "this for, x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar). The first x0 are an "
            "average of all pictures that might come out.",
        ],
        row_labels=["x_t", "x0"],
    )
    frames = [
        _frame(x_t, x0, f"step {step.index + 1} of {len(steps)}", f"t {step.t:.0f}")
        for step, (x_t, x0) in zip(steps, decoded, strict=True)
    ]
    frames.append(_frame(last, last, "the picture", ""))
    table = [
        (
            step.index,
            step.t,
            step.sigma,
            float(step.x_t.std()),
            float(step.x0.std()),
            float((x0.int() - last.int()).abs().float().mean()),
        )
        for step, (_, x0) in zip(steps, decoded, strict=True)
    ]
    header = (
        "step",
        "t",
        "sigma",
        "deviation of x_t",
        "deviation of x0",
        "x0 to the picture, of 255",
    )
    raw = {"x_t": torch.cat([s.x_t for s in steps]), "x0": torch.cat([s.x0 for s in steps])}
    return Report(
        {"film": figure},
        films={"film": encode_gif(frames, FRAME, last=LAST_FRAME)},
        tables={"film": Table(header, table)},
        tensors={"film": raw},
    )


def guidance_report(
    rendering: Rendering, prompt: Prompt, scales: Sequence[float], seeds: Sequence[int]
) -> Report:
    """Pictures of one prompt at several scales of classifier-free guidance, a row for each seed."""
    strips: dict[float, Tensor] = {}
    table = []
    for scale in scales:
        colours = rendering.with_settings(guidance=scale).colours([prompt] * len(seeds), seeds)
        strips[scale] = to_bytes(colours)
        for seed, one in zip(seeds, colours, strict=True):
            outside = float(((one < 0) | (one > 1)).float().mean())
            table.append((scale, seed, outside, float(one.clamp(0, 1).std())))
    rows = [
        [Cell(picture(strips[scale][i]), f"scale {scale:g}") for scale in scales]
        for i in range(len(seeds))
    ]
    figure = sheet(
        "Guidance",
        rows,
        notes=[
            f"Prompt: {prompt.text}",
            "eps = eps_uncond + scale (eps_cond - eps_uncond): 0 does not listen to the prompt, 1 is what "
            "the network was trained for, more goes beyond it: the prompt is obeyed more, at the price of "
            "shapes and colours that no picture of the training had.",
        ],
        row_labels=[f"seed {seed}" for seed in seeds],
    )
    return Report(
        {"guidance": figure},
        tables={"guidance": Table(("scale", "seed", "colours outside 0..1", "contrast"), table)},
        tensors={"guidance": {f"{scale:g}": strip for scale, strip in strips.items()}},
        facts={"scales": list(scales), "seeds": list(seeds)},
    )


def _frame(left: Tensor, right: Tensor, first: str, second: str) -> Image.Image:
    """x_t and x0 side by side, with a line below."""
    images = [enlarged(picture(pixels), FILM_SIDE) for pixels in (left, right)]
    width, height = images[0].size
    page = Image.new("RGB", (2 * width + 8, height + 24), PAPER)
    page.paste(images[0], (0, 0))
    page.paste(images[1], (width + 8, 0))
    draw = ImageDraw.Draw(page)
    draw.text((4, height + 5), f"x_t   {first}", INK, font(13))
    draw.text((width + 12, height + 5), f"x0   {second}", INK, font(13))
    return page
