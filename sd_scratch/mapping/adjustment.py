"""Adjusting a word: its vectors, after the text encoder and before the U-Net, times 1 + lambda."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.mapping.drawing import Cell, picture, sheet
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report, Table, numbered
from sd_scratch.mapping.words import name_of
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.encoding import Word

LAMBDAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def adjusted(
    prompt: Prompt, word: Word, lambdas: Sequence[float], origin: str = "zero"
) -> list[Prompt]:
    """The prompt with one word's vectors scaled by 1 + lambda, for each lambda.

    At lambda = -1 the word is at `origin`: ``"zero"``, as in the source, or ``"empty"`` for what the
    empty prompt has in its place. Raises ScratchError (bad usage) without any lambda.
    """
    if not lambdas:
        raise UsageError("the list of lambdas is empty - give some, such as -1,0,1")
    return [prompt.scale(word, 1.0 + amount, origin=origin) for amount in lambdas]


def adjust(
    rendering: Rendering,
    prompt: Prompt,
    word: Word,
    lambdas: Sequence[float] = LAMBDAS,
    *,
    origin: str = "zero",
) -> Tensor:
    """A picture for each lambda, all from the same noise: ``[lambdas, 3, H, W]`` uint8."""
    return rendering.pixels(adjusted(prompt, word, lambdas, origin))


def adjustment_report(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    samplers: Sequence[str],
    lambdas: Sequence[float] = LAMBDAS,
    *,
    origin: str = "zero",
) -> Report:
    """A strip of pictures for each word, a row for each sampler, and how long each sampler took."""
    report = Report()
    names = [name_of(prompt, word) for word in words]
    seconds = dict.fromkeys(samplers, 0.0)
    for key, name, word in zip(numbered(names), names, words, strict=True):
        strips, took = {}, {}
        for sampler in samplers:
            other = rendering.with_settings(sampler=sampler)
            colours, took[sampler] = other.timed(adjusted(prompt, word, lambdas, origin))
            strips[sampler] = to_bytes(colours)
            seconds[sampler] += took[sampler]
        figure = _strips(rendering, prompt, name, strips, took, lambdas, origin)
        report.figures[key] = figure
        report.tensors[key] = strips
    count = len(words) * len(lambdas)
    rows = [(name, count, each, each / count) for name, each in seconds.items()]
    header = ("sampler", "pictures", "seconds", "seconds a picture")
    report.tables["samplers"] = Table(header, rows)
    report.facts.update({"words": names, "lambdas": list(lambdas), "origin": origin})
    return report


def _strips(
    rendering: Rendering,
    prompt: Prompt,
    name: str,
    strips: dict[str, Tensor],
    seconds: dict[str, float],
    lambdas: Sequence[float],
    origin: str,
) -> Image.Image:
    rows = [
        [
            Cell(picture(pixels), f"lambda {amount:g}")
            for amount, pixels in zip(lambdas, strip, strict=True)
        ]
        for strip in strips.values()
    ]
    several = len(strips) > 1
    labels = [f"{sampler}, {seconds[sampler] / len(lambdas):.3g} s" for sampler in strips]
    where = "zero" if origin == "zero" else "the empty prompt's vectors"
    notes = [
        f"Prompt: {prompt.text}",
        f"All pictures start from the same noise (seed {rendering.noise.seeds[0]}); only the vectors of "
        f"“{name}” change, scaled from {where}. Lambda 0 is the prompt as it is; -1 takes the word's own "
        "vectors away, but the words behind it have heard of it.",
    ]
    if several:
        notes.append("Beside each sampler: how long a picture took, decoding included.")
    title = f"“{name}” times 1 + lambda"
    return sheet(title, rows, row_labels=labels if several else (), notes=notes)
