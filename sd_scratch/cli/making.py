"""From arguments to pictures, previews and latents in files."""

import argparse
import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints.safetensors_writer import header_bytes
from sd_scratch.cli.adapters import each_line
from sd_scratch.cli.console import INTERRUPTED, WorkBar, stop_on_ctrl_c
from sd_scratch.cli.control import read_hints
from sd_scratch.cli.init_image import begin_with_init_image
from sd_scratch.cli.init_noise import read_init_noise
from sd_scratch.cli.load import load_model
from sd_scratch.cli.machine import place_among_processes
from sd_scratch.cli.options import refuse_flags
from sd_scratch.cli.output import Output
from sd_scratch.cli.preview import Previews
from sd_scratch.cli.request import read_prompts, read_request, sampler_options
from sd_scratch.dialects.stored_recipe import encode_picture
from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import UsageError, log
from sd_scratch.files import Spool, write_file
from sd_scratch.pictures.png import encode_png
from sd_scratch.pipeline.canvas import Canvas
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.run import Made, count_steps, count_work
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.stop import Stop


def generate(args: argparse.Namespace) -> int:
    """All of `sd-scratch generate`; returns the exit status."""
    started = time.perf_counter()
    texts = read_prompts(args)
    total = args.batch_count * max(len(texts), 1)
    output = Output(args.output, pictures=total, overwrite=args.overwrite)
    if args.json and output.to_stdout:
        raise UsageError("--json and -o - both want standard output - choose one")
    options = sampler_options(args)
    recipe = read_request(args)
    output.check()
    latents = Latents(args.save_latents, args.overwrite)
    hints = read_hints(args)
    previews = Previews(args)

    share = place_among_processes()
    model, recipe = load_model(args, recipe, options)
    check_share(args, recipe, share[1])
    kept: list[dict[str, object]] = []
    jobs = each_line(args, model, recipe, texts) or [(model, recipe)]
    begun = begin_with_init_image(args, model, recipe)
    noise = None if args.init_noise is None else read_init_noise(args.init_noise)[0]
    with (
        stop_on_ctrl_c() as stop,
        closing(latents),
        closing(make_all(jobs, args, begun, hints, stop, previews, noise, share)) as batches,
    ):
        for made in batches:
            pictures = made.to_pil()
            # The hash only now, because reading 4 GB takes seconds the first time.
            digest = None if args.no_metadata else model.components.hash
            for picture, one in zip(pictures, made.recipes, strict=True):
                one = one.over(model_hash=digest or None)
                path = save_picture(picture, one, output, metadata=not args.no_metadata)
                kept.append({"path": path, **one.known})
                if not args.json and not output.to_stdout:
                    print(path, flush=True)
            latents.add(made.latents.latent, one)
    seconds = round(time.perf_counter() - started, 3)
    log.debug(f"{len(kept)} pictures in {seconds} s, loading included")
    if args.json:
        print(json.dumps({"images": kept, "seconds": seconds}, indent=2))
    if stop.asked:
        log.warning(f"interrupted: {len(kept)} of {total} pictures are finished and kept")
    return INTERRUPTED if stop.asked else 0


def check_share(args: argparse.Namespace, recipe: Recipe, processes: int) -> None:
    """Refuse what several processes of one run cannot do."""
    if processes == 1:
        return
    if recipe.seed is None or (args.seed or 0) < 0:
        raise UsageError("several processes would each draw a seed of their own - give one with -s")
    why = "- several processes would write into one file - leave it out"
    refuse_flags(args, "--overwrite --save-latents", why)


def make_all(
    jobs: Sequence[tuple[StableDiffusion, Recipe]],
    args: argparse.Namespace,
    begun: ImageNoise | Canvas | None,
    hints: Sequence[Image.Image],
    stop: Stop,
    previews: Previews | None = None,
    init_noise: Tensor | None = None,
    share: tuple[int, int] = (0, 1),
) -> Generator[Made, None, None]:
    """The pictures of each recipe, a batch at a time, under a bar that counts their steps; of several processes
    (`share`: which, and how many) each makes its batches, counted through all recipes."""
    (rank, processes), batches = share, -(-args.batch_count // args.batch_size)
    work, steps = (sum(count(*job) for job in jobs) for count in (count_work, count_steps))
    pictures = args.batch_count / processes
    if previews is not None:
        previews.expect(max(count_steps(*job) for job in jobs))
    with closing(WorkBar(round(work * pictures), round(steps * pictures))) as bar:
        for number, (model, recipe) in enumerate(jobs):

            def on_step(step: Step, model: StableDiffusion = model) -> None:
                bar.update(step.x_t[:, 0].numel(), len(step.x_t))
                if previews is not None:
                    previews.on_step(step, model)

            yield from model.run(
                recipe,
                count=args.batch_count,
                batch_size=args.batch_size,
                init_image=begun,
                init_noise=init_noise,
                hints=hints,
                on_step=on_step,
                stop=stop,
                share=((rank - number * batches) % processes, processes),
            )
            if stop.asked:
                return


def save_picture(picture: Image.Image, recipe: Recipe, output: Output, metadata: bool) -> str:
    """Encode and write one picture; returns its path."""
    if is_plain(picture):
        log.warning(f"the picture of seed {recipe.seed} is of one colour: it shows nothing")
    data = encode_picture(picture, recipe) if metadata else encode_png(picture)
    return output.save(data, {**vars(recipe), "cfg": f"{recipe.guidance:g}"})


def is_plain(picture: Image.Image) -> bool:
    """Whether all pixels have one colour, but for rounding."""
    return bool(np.ptp(np.asarray(picture), axis=(0, 1)).max() < 3)


class Latents:
    """The finished latents of a run in one file, ``latents`` ``[B, 4, h, w]`` fp32, scaled as the U-Net
    sees them. The file is written after 1, 2, 4, 8 ... batches and at the end, because every time all of
    it is; until then they wait on the disk."""

    def __init__(self, target: str | None, overwrite: bool) -> None:
        self.output = None
        if target is not None:
            suffix = ".safetensors"
            self.output = Output(target, overwrite=overwrite, fields=(), suffix=suffix)
            self.output.check()
        self.path: Path | None = None
        self.spool: Spool | None = None
        self.batches = self.count = self.written = 0
        self.shape: tuple[int, ...] = ()
        self.recipe: Recipe | None = None

    def add(self, latent: Tensor, recipe: Recipe) -> None:
        if self.output is None:
            return
        if self.spool is None:
            self.spool = Spool(Path(self.output.template))
        self.spool.add(latent.float().cpu().contiguous().numpy().data.cast("B"))
        self.batches, self.count = self.batches + 1, self.count + len(latent)
        self.shape, self.recipe = tuple(latent.shape[1:]), recipe
        if self.batches.bit_count() == 1:
            self.close()

    def close(self) -> None:
        """Write what is not written yet."""
        if self.output is None or self.recipe is None or self.spool is None:
            return
        if self.written == self.count:
            return
        shapes = {"latents": (self.count, *self.shape)}
        header = header_bytes(shapes, torch.float32, {"sd_scratch": self.recipe.to_json()})
        data = chain([header], self.spool.pieces())
        if self.path is None:
            self.path = Path(self.output.save(data))
        else:
            write_file(self.path, data, overwrite=True)
        self.written = self.count
