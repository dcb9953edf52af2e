"""``sd-scratch generate``: text to pictures."""

import argparse
import json
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.cli.adapters import add_adapter_arguments, each_line
from sd_scratch.cli.console import WorkBar
from sd_scratch.cli.init_image import add_init_image_arguments
from sd_scratch.cli.options import (
    add_clip_skip_argument,
    add_device_arguments,
    add_guidance_argument,
    add_model_arguments,
    integer,
    number,
    seed,
    side,
)
from sd_scratch.cli.preview import Previews, add_preview_arguments
from sd_scratch.errors import UsageError
from sd_scratch.limits import HIRES_SCALE, RNGS, SEED, STEPS, TILINGS, UPSCALER_NAMES
from sd_scratch.text.cleaning import STYLES
from sd_scratch.text.syntax import SYNTAXES

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sd_scratch.cli.output import Output
    from sd_scratch.diffusion.samplers import Step
    from sd_scratch.files import Spool
    from sd_scratch.pipeline.canvas import Canvas
    from sd_scratch.pipeline.image_noise import ImageNoise
    from sd_scratch.pipeline.recipe import Recipe
    from sd_scratch.pipeline.run import Made
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion
    from sd_scratch.stop import Stop

INTERRUPTED = 130
MAX_PICTURES, MAX_BATCH = 100_000, 256

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_picture_arguments(parser)
    parser.add_argument(
        "--init-noise",
        type=Path,
        metavar="FILE",
        help="begin with the noise in a file of sd-scratch invert, by its recipe; other flags change it",
    )
    _add_output_arguments(parser)
    add_preview_arguments(parser)
    add_model_arguments(parser)
    add_device_arguments(parser)
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Net first; pays over many steps"
    )


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """What a picture shows, and how it is made."""
    picture = parser.add_argument_group("picture")
    picture.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to show")
    picture.add_argument("-p", "--prompt", dest="prompt_option", metavar="PROMPT", help="the same")
    add_prompt_arguments(picture)
    picture.add_argument(
        "-n", "--negative-prompt", metavar="PROMPT", help="what to steer away from"
    )
    picture.add_argument(
        "-s", "--seed", type=seed, help="of the first picture; -1 draws one (default)"
    )
    picture.add_argument(
        "--subseed",
        type=seed,
        help="of a variation: another seed, that the noise is turned towards",
    )
    picture.add_argument(
        "--subseed-strength",
        type=number(0, 1),
        help="how far, 0 to 1: picture i then has the same seed, and subseed + i",
    )
    picture.add_argument("-W", "--width", type=side, help="pixels (default: the model's own)")
    picture.add_argument("-H", "--height", type=side, help="pixels (default: the model's own)")
    picture.add_argument(
        "--tiling",
        nargs="?",
        const="xy",
        choices=[axes for axes in TILINGS if axes],
        help="opposite edges fit, so that copies of the picture can be laid side by side: left and right (x), "
        "top and bottom (y), or both",
    )
    picture.add_argument(
        "--from-image", type=Path, metavar="PNG", help="repeat a picture; other flags change it"
    )

    add_init_image_arguments(parser)
    add_hires_arguments(parser)
    add_adapter_arguments(parser)
    way = parser.add_argument_group("sampling (default: the model's own)")
    way.add_argument("--steps", type=integer(*STEPS), help="1 to 1000")
    add_guidance_argument(way, "classifier-free guidance: 1 for none, usually 4 to 12")
    way.add_argument(
        "--guidance-rescale",
        type=number(0, 1),
        metavar="SHARE",
        help="take back guidance's contrast: 0 not at all (default), 1 wholly; 0.7 is usual for "
        "models with zero terminal SNR",
    )
    way.add_argument(
        "--fast",
        nargs="?",
        const="best",
        metavar="NAME[,NAME]",
        help="leave out work, so that the picture is another one: interval, delta, deepcache, tgate, tome, "
        "each with options such as deepcache:every=5; alone the combination that measured best; none "
        "for none",
    )
    way.add_argument(
        "--sampler",
        "--sampling-method",
        metavar="NAME",
        help="such as pndm, ddim or euler_a; sd-scratch doctor lists them",
    )
    way.add_argument(
        "--schedule",
        "--scheduler",
        metavar="NAME",
        help="of noise levels: karras, trailing, ...; sd-scratch doctor lists them",
    )
    way.add_argument("--eta", type=number(0, 1), help="fresh noise of ddim and euler_a, 0 to 1")
    way.add_argument(
        "--sampler-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the sampler, such as order=2",
    )
    add_clip_skip_argument(way)
    way.add_argument(
        "--like",
        choices=("a1111", "comfy", "diffusers"),
        help="make it as that tool does: sets --rng, --syntax, --emphasis, --text-cleaning and "
        "--strength-steps, each of which may still be given",
    )
    way.add_argument(
        "--rng",
        choices=RNGS,
        help="source of noise: PyTorch's on a processor (default), or as NVIDIA's cards draw it",
    )
    way.add_argument(
        "--ensd",
        type=integer(*SEED),
        metavar="N",
        help="added to the seed for all noise but the first (A1111's eta noise seed delta)",
    )
    way.add_argument(
        "--text-cleaning",
        choices=STYLES,
        help="of the prompt: as CLIP was trained (default), or as diffusers does it",
    )


def add_hires_arguments(parser: argparse.ArgumentParser) -> None:
    """A second pass at a larger size."""
    hires = parser.add_argument_group("a second pass, larger")
    hires.add_argument(
        "--hires",
        action="store_true",
        help="enlarge the finished picture, and make it anew in part",
    )
    hires.add_argument(
        "--hires-scale", type=number(*HIRES_SCALE), help="how much larger (default 2)"
    )
    hires.add_argument(
        "--hires-upscaler",
        choices=UPSCALER_NAMES,
        metavar="NAME",
        help="how it is enlarged: latent (default) or lanczos; and "
        + ", ".join(name for name in UPSCALER_NAMES if name not in ("latent", "lanczos")),
    )
    hires.add_argument(
        "--hires-strength", type=number(0, 1), help="how much is made anew (default 0.7)"
    )
    hires.add_argument(
        "--hires-steps", type=integer(*STEPS), help="of the second pass (default: as the first)"
    )


def add_prompt_arguments(group: argparse._ActionsContainer) -> None:
    """How a prompt is read."""
    group.add_argument(
        "--syntax",
        choices=SYNTAXES,
        help="of the prompt: (weights:1.3), BREAK and [from:to:when] as in A1111 (default), round "
        "brackets as in ComfyUI, or plain text",
    )
    group.add_argument(
        "--emphasis",
        choices=("a1111", "comfy", "none"),
        help="how weights act: as in A1111 (default), as in ComfyUI, or as factors and nothing more",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--prompt-file", type=Path, metavar="FILE", help="one prompt a line, pictures of each"
    )
    output.add_argument(
        "-b", "--batch-count", type=integer(1, MAX_PICTURES), default=1, help="how many pictures"
    )
    output.add_argument(
        "--batch-size", type=integer(1, MAX_BATCH), default=1, help="how many at a time"
    )
    output.add_argument(
        "-o",
        "--output",
        help="a file, - for standard output, or a template of {seed} {index} {prompt} {model} "
        "{sampler} {steps} {cfg} {width} {height} (default: out/{seed}-{index:04}.png)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace files that exist")
    output.add_argument("--save-latents", metavar="FILE.safetensors")
    output.add_argument(
        "--no-metadata", action="store_true", help="store no prompt and settings in the pictures"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object, not paths")


def run(args: argparse.Namespace) -> int:
    # What only a run needs: PyTorch, above all.
    from sd_scratch.cli.control import read_hints
    from sd_scratch.cli.init_image import begin_with_init_image
    from sd_scratch.cli.init_noise import read_init_noise
    from sd_scratch.cli.interrupt import stop_on_ctrl_c
    from sd_scratch.cli.load import load_model
    from sd_scratch.cli.machine import place_among_processes
    from sd_scratch.cli.output import Output
    from sd_scratch.cli.request import read_prompts, read_request, sampler_options

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


def check_share(args: argparse.Namespace, recipe: "Recipe", processes: int) -> None:
    """Refuse what several processes of one run cannot do."""
    if processes == 1:
        return
    if recipe.seed is None or (args.seed or 0) < 0:
        raise UsageError("several processes would each draw a seed of their own - give one with -s")
    for flag, given in (("--overwrite", args.overwrite), ("--save-latents", args.save_latents)):
        if given:
            raise UsageError(f"{flag} - several processes would write into one file - leave it out")


def make_all(
    jobs: "Sequence[tuple[StableDiffusion, Recipe]]",
    args: argparse.Namespace,
    begun: "ImageNoise | Canvas | None",
    hints: "Sequence[Image.Image]",
    stop: "Stop",
    previews: "Previews | None" = None,
    init_noise: "Tensor | None" = None,
    share: tuple[int, int] = (0, 1),
) -> "Generator[Made, None, None]":
    """The pictures of each recipe, a batch at a time, under a bar that counts their steps; of several processes
    (`share`: which, and how many) each makes its batches, counted through all recipes."""
    from sd_scratch.pipeline.run import count_steps, count_work

    (rank, processes), batches = share, -(-args.batch_count // args.batch_size)
    work, steps = (sum(count(*job) for job in jobs) for count in (count_work, count_steps))
    pictures = args.batch_count / processes
    if previews is not None:
        previews.expect(max(count_steps(*job) for job in jobs))
    with closing(WorkBar(round(work * pictures), round(steps * pictures))) as bar:
        for number, (model, recipe) in enumerate(jobs):

            def on_step(step: "Step", model: "StableDiffusion" = model) -> None:
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


def save_picture(picture: "Image.Image", recipe: "Recipe", output: "Output", metadata: bool) -> str:
    """Encode and write one picture; returns its path."""
    from sd_scratch.pictures.png import encode_png
    from sd_scratch.pipeline.stored_recipe import encode_picture

    if is_plain(picture):
        log.warning(f"the picture of seed {recipe.seed} is of one colour: it shows nothing")
    values = {
        "seed": recipe.seed,
        "prompt": recipe.prompt,
        "model": recipe.model,
        "sampler": recipe.sampler,
        "steps": recipe.steps,
        "cfg": f"{recipe.guidance:g}",
        "width": recipe.width,
        "height": recipe.height,
    }
    data = encode_picture(picture, recipe) if metadata else encode_png(picture)
    return output.save(data, values)


def is_plain(picture: "Image.Image") -> bool:
    """Whether all pixels have one colour, but for rounding."""
    import numpy as np

    return bool(np.ptp(np.asarray(picture), axis=(0, 1)).max() < 3)


class Latents:
    """The finished latents of a run in one file, ``latents`` ``[B, 4, h, w]`` fp32, scaled as the U-Net
    sees them. The file is written after 1, 2, 4, 8 ... batches and at the end, because every time all of
    it is; until then they wait on the disk."""

    def __init__(self, target: str | None, overwrite: bool) -> None:
        from sd_scratch.cli.output import Output

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

    def add(self, latent: "Tensor", recipe: "Recipe") -> None:
        from sd_scratch.files import Spool

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
        import torch

        from sd_scratch.checkpoints.safetensors_writer import header_bytes
        from sd_scratch.files import write_file

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
