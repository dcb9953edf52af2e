"""Arguments of the commands that make pictures. Imports nothing heavy."""

import argparse
import re

from sd_scratch.cli.options import (
    LORAS,
    a_name,
    a_path,
    add_clip_skip_argument,
    add_guidance_argument,
    add_lora_argument,
    add_size_arguments,
    integer,
    number,
    rng,
    seed,
)
from sd_scratch.limits import (
    GUIDANCE,
    HIRES_SCALE,
    LORA_SCALE,
    PAG,
    RNGS,
    SEED,
    SIDE,
    STEPS,
    STRENGTH_STEPS,
    TILINGS,
    UPSCALER_NAMES,
)
from sd_scratch.pipeline.mask_use import BLENDS, CONTENTS, FEATHER, IMAGE_GUIDANCE, PADDING
from sd_scratch.text.cleaning import STYLES
from sd_scratch.text.syntax import SYNTAXES

EDGES = "100:200"


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """What a picture shows, and how it is made."""
    picture = parser.add_argument_group("picture")
    add = picture.add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="what to show; - reads it from standard input")
    add("-p", "--prompt", dest="prompt_option", metavar="PROMPT", help="the same")
    add_prompt_arguments(picture)
    add("-n", "--negative-prompt", metavar="PROMPT", help="what to steer away from")
    add("-s", "--seed", type=seed, help="the first picture's; -1 draws one (default)")
    add("--subseed", type=seed, help="a variation: the noise is turned towards this other seed")
    add(
        "--subseed-strength",
        type=number(0, 1),
        help="how far it is turned, 0 to 1; picture i then has the same seed, and subseed + i",
    )
    add_size_arguments(picture)
    add(
        "--tiling",
        nargs="?",
        const="xy",
        choices=[axes for axes in TILINGS if axes],
        help="opposite edges fit, so that copies of the picture can be laid side by side: left and right (x), "
        "top and bottom (y), or both",
    )
    add("--from-image", type=a_path, metavar="PNG", help="repeat a picture; other flags change it")

    add_init_image_arguments(parser)
    add_hires_arguments(parser)
    add_adapter_arguments(parser)
    _add_sampling_arguments(parser)


def _add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    way = parser.add_argument_group("sampling (default: the model's own)")
    add = way.add_argument
    add("--steps", type=integer(*STEPS), metavar="N", help="how many, 1 to 1000")
    add_guidance_argument(way, "classifier-free guidance: 1 for none, usually 4 to 12")
    add(
        "--guidance-rescale",
        type=number(0, 1),
        metavar="SHARE",
        help="take back guidance's contrast: 0 not at all (default), 1 wholly; 0.7 is usual for "
        "models with zero terminal SNR",
    )
    add(
        "--pag",
        type=number(*PAG),
        metavar="SCALE",
        help="perturbed attention guidance, beside --cfg-scale or at --cfg-scale 1: 0 for none (default), usually 3",
    )
    add(
        "--pag-layers",
        metavar="PART[,PART]",
        help="the U-Net's parts whose self-attention is perturbed for it, such as mid_block (default), up_blocks.1",
    )
    add(
        "--pag-adaptive-scale",
        type=number(0, 1),
        metavar="LOSS",
        help="what --pag loses with every timestep from noise to picture (default 0)",
    )
    add(
        "--fast",
        type=a_name,
        nargs="?",
        const="best",
        metavar="NAME[,NAME]",
        help="leave out work, so that the picture is another one: interval, delta, deepcache, tgate, tome, "
        "each with options such as deepcache:every=5; alone the combination that measured best; none "
        "for none",
    )
    add(
        "--sampler",
        "--sampling-method",
        metavar="NAME",
        help="such as ddim, euler_a or 'DPM++ 2M Karras'; sd-scratch doctor lists them",
    )
    add(
        "--schedule",
        "--scheduler",
        metavar="NAME",
        help="how noise levels are spread: karras, trailing, ...; sd-scratch doctor lists them",
    )
    add("--eta", type=number(0, 1), metavar="X", help="fresh noise of ddim and euler_a, 0 to 1")
    add(
        "--sampler-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the sampler, such as order=2",
    )
    add_clip_skip_argument(way)
    add(
        "--like",
        choices=("a1111", "comfy", "diffusers"),
        help="make the picture as that tool does: sets --rng, --syntax, --emphasis, --text-cleaning and "
        "--strength-steps, each of which may still be given; --sampler and --schedule are its names",
    )
    add(
        "--rng",
        type=rng,
        choices=RNGS,
        help="source of noise: PyTorch's on a processor (default), or as NVIDIA's cards draw it",
    )
    add(
        "--ensd",
        type=integer(*SEED),
        metavar="N",
        help="added to the seed for all noise but the first (A1111's eta noise seed delta)",
    )
    add(
        "--text-cleaning",
        choices=STYLES,
        help="how a prompt is cleaned: as CLIP was trained (default), or as diffusers does it",
    )


def add_hires_arguments(parser: argparse.ArgumentParser) -> None:
    """A second pass at a larger size."""
    add = parser.add_argument_group("a second pass, larger").add_argument
    add(
        "--hires",
        action="store_true",
        help="enlarge the finished picture, and make it anew in part",
    )
    add("--hires-scale", type=number(*HIRES_SCALE), metavar="X", help="how much larger (default 2)")
    add(
        "--hires-upscaler",
        type=lambda name: re.sub("[^a-z]+", "-", name.casefold()).strip("-"),  # A1111's names, too
        choices=UPSCALER_NAMES,
        metavar="NAME",
        help="how it is enlarged: latent (default) or lanczos; and "
        + ", ".join(name for name in UPSCALER_NAMES if name not in ("latent", "lanczos")),
    )
    strength = "how much is made anew (default 0.7)"
    add("--hires-strength", type=number(0, 1), metavar="X", help=strength)
    steps = "its steps (default: as many as the first pass)"
    add("--hires-steps", type=integer(*STEPS), metavar="N", help=steps)


def add_prompt_arguments(group: argparse._ActionsContainer) -> None:
    """How a prompt is read."""
    add = group.add_argument
    add(
        "--syntax",
        choices=SYNTAXES,
        help="what a prompt may hold: (weights:1.3), BREAK and [from:to:when] as in A1111 (default), round "
        "brackets as in ComfyUI, or plain text alone",
    )
    add(
        "--emphasis",
        choices=("a1111", "comfy", "none"),
        help="how weights act: as in A1111 (default), as in ComfyUI, or as factors and nothing more",
    )


def add_init_image_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("from a picture").add_argument
    add(
        "-i",
        "--init-image",
        "--init-img",
        type=a_path,
        metavar="FILE",
        help="a picture to begin with: PNG, JPEG or WebP, over white where it is transparent",
    )
    add(
        "--strength",
        type=number(0, 1),
        help="how much of it is made anew: the share of the steps that are taken (default 0.75; 1 with a mask,"
        " with margins, and for models that are told of the picture)",
    )
    add(
        "--strength-steps",
        choices=STRENGTH_STEPS,
        metavar="TOOL",
        help="which tool's way to count the steps at a strength: diffusers (default), a1111 or comfy",
    )
    add(
        "--mask",
        type=a_path,
        metavar="FILE",
        help="paint where it is white, from half grey on; all other pixels are kept as they are",
    )
    add("--mask-alpha", action="store_true", help="paint where the picture is transparent")
    add(
        "--extend",
        metavar="SIDE=PIXELS,...",
        help="paint beyond the picture's edges: left=128,right=128,top=64,bottom=64",
    )
    add(
        "--mask-blur",
        type=integer(0, SIDE[1]),
        metavar="PIXELS",
        help=f"how far around the mask the new picture fades into the old one (default {FEATHER})",
    )
    add(
        "--only-masked",
        nargs="?",
        const=PADDING,
        type=integer(0, SIDE[1]),
        metavar="PIXELS",
        help="enlarge the mask and so many pixels around it (32 where none are said) to -W and -H, the model's own"
        " size by default, and paint there alone",
    )
    add(
        "--masked-content",
        choices=CONTENTS,
        help="what is there at first: what was (default), the colours around it (default for margins), or noise",
    )
    add(
        "--blend",
        choices=BLENDS,
        help="which tool's way to keep the rest (default: diffusers; none for models that are told of the mask)",
    )
    add(
        "--image-cfg-scale",
        type=number(*GUIDANCE),
        metavar="SCALE",
        help=f"how strongly the picture steers an InstructPix2Pix model (default {IMAGE_GUIDANCE})",
    )


def add_adapter_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("adapters").add_argument
    for name, pattern, text, where in (
        ("lora", "FILE[:SCALE[:TEXT_SCALE]]", LORAS, "<lora:name:scale> in the prompt"),
        ("embedding", "FILE[:TOKEN]", "add a textual inversion's word", "names in the prompt"),
    ):
        add(
            f"--{name}",
            type=a_name,
            action="append",
            default=[],
            metavar=pattern,
            help=f"{text}; may be given several times; none for none",
        )
        add(f"--{name}-dir", type=a_path, metavar="FOLDER", help=f"where the files of {where} are")
    add_control_arguments(parser)


def add_lora_arguments(parser: argparse.ArgumentParser) -> None:
    """LoRAs alone, for commands that have no other adapters."""
    add_lora_argument(parser, LORAS)
    parser.set_defaults(lora_dir=None)


def add_control_arguments(parser: argparse.ArgumentParser) -> None:
    title = "control (each may be given several times, in one order)"
    add = parser.add_argument_group(title).add_argument

    def several(*names: str, **options: object) -> None:
        add(*names, action="append", default=[], **options)  # type: ignore[arg-type]

    several(
        "--control-net",
        "--controlnet",
        type=a_path,
        metavar="FILE",
        help="steer by a ControlNet or T2I-Adapter",
    )
    several(
        "--control-image", type=a_path, metavar="PICTURE", help="its hint: edges, a pose, depth"
    )
    several(
        "--control-strength",
        type=number(*LORA_SCALE),
        metavar="X",
        help="how strongly (default: 1)",
    )
    several(
        "--control-start",
        type=number(0, 1),
        metavar="X",
        help="from which part of the run on (default: 0)",
    )
    several("--control-end", type=number(0, 1), metavar="X", help="up to which part (default: 1)")
    add(
        "--control-guess", action="store_true", help="steer the prompt's branch alone, coarse first"
    )
    add("--control-pool", action="store_true", help="the network is of the kind shuffle")
    add(
        "--canny",
        nargs="?",
        const=EDGES,
        metavar="LOW:HIGH",
        help=f"the hints are the pictures' edges (default: {EDGES})",
    )


def add_preview_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("previews").add_argument
    add(
        "--preview",
        type=integer(*STEPS),
        metavar="N",
        help="show every N steps what the picture will be, from the latent by a linear map",
    )
    add(
        "--preview-file",
        type=a_path,
        metavar="PNG",
        help="a file to put previews into, each in the place of the one before",
    )
    add(
        "--preview-terminal",
        choices=("auto", "kitty", "iterm2", "sixel"),
        help="how the terminal shows pictures (default where no file is named: auto, which finds kitty's "
        "protocol and iTerm2's)",
    )
