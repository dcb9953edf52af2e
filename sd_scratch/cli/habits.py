"""Flags that people type from habit, of A1111, ComfyUI, stable-diffusion.cpp, InvokeAI, diffusers and CompVis: those
that mean the same as one of ours are taken for it, of others a message says what is here."""

import difflib
import re
from collections.abc import Callable, Sequence

from sd_scratch.errors import UsageError

SAME = {
    "--W": "--width",
    "--H": "--height",
    **dict.fromkeys(("--cfg", "--scale", "--guidance"), "--cfg-scale"),
    **dict.fromkeys(
        ("--ddim-steps", "--num-inference-steps", "--sampling-steps", "--sample-steps"), "--steps"
    ),
    "--sampler-name": "--sampler",
    "--ddim-eta": "--eta",
    **dict.fromkeys(("--neg", "--negative", "--uncond"), "--negative-prompt"),
    **dict.fromkeys(
        ("--ckpt", "--checkpoint", "--model-path", "--pretrained-model-name-or-path"), "--model"
    ),
    "--from-file": "--prompt-file",
    **dict.fromkeys(("--denoise", "--denoising-strength"), "--strength"),
    "--lora-model-dir": "--lora-dir",
    **dict.fromkeys(("--embd-dir", "--embeddings-dir"), "--embedding-dir"),
    **dict.fromkeys(("--num-images", "--num-images-per-prompt", "--n-iter"), "--batch-count"),
    **dict.fromkeys(("--hires-fix", "--enable-hr"), "--hires"),
    "--seamless": "--tiling",
    "--type": "--dtype",
}

_HALF = "computing in half precision is --dtype float16 or bfloat16, and float32 the default"
_MEMORY = (
    "attention takes little memory by itself; for less there are --low-memory, --vae-tiling and --dtype"
    " bfloat16"
)
_BEGIN = "a picture to begin with is --init-image"
_CHECKER = "there is no safety checker"
_FILES = "every picture is a file of its own, named by -o"
_EDITS = "it is an edit of tensors, from Python: see docs/features.md"
_UNET = "a U-Net alone is -m FILE, with --vae and --text-encoder"
INSTEAD = {
    **dict.fromkeys(("--n-samples", "--n-rows", "-N"), "-b pictures, --batch-size at a time"),
    "--batch": "-b pictures, --batch-size at a time",
    **dict.fromkeys(("--image", "--input", "--input-image", "--mode", "-M"), _BEGIN),
    **dict.fromkeys(("--outdir", "--output-dir", "-O"), "-o 'FOLDER/{seed}-{index:04}.png'"),
    **dict.fromkeys(("--size", "--resolution", "--aspect"), "-W and -H, in pixels"),
    "--plms": "--sampler pndm",
    "--ddim": "--sampler ddim",
    **dict.fromkeys(("--dpm-solver", "--dpm"), "--sampler dpmpp_2m"),
    "--out": "-o",
    "--karras": "--schedule karras",
    "-A": "--sampler",
    "-C": "--cfg-scale",
    "-S": "-s",
    "-I": "-i",
    **dict.fromkeys(
        ("--fp16", "--half", "--bf16", "--fp32", "--precision", "--no-half", "--no-half-vae"), _HALF
    ),
    **dict.fromkeys(("--medvram", "--lowvram", "--xformers", "--flash-attn", "--fa"), _MEMORY),
    **dict.fromkeys(("--diffusion-fa", "--free-memory"), _MEMORY),
    **dict.fromkeys(("--vae-on-cpu", "--clip-on-cpu"), _MEMORY),
    **dict.fromkeys(("--cpu", "--use-cpu", "--gpu", "--cuda"), "--device cpu, cuda, cuda:1 or mps"),
    **dict.fromkeys(("--nsfw", "--no-safety", "--safety-checker"), _CHECKER),
    **dict.fromkeys(("--disable-safety-checker", "--no-nsfw-check"), _CHECKER),
    **dict.fromkeys(("--grid", "--skip-grid", "--skip-save"), _FILES),
    **dict.fromkeys(("--config", "--yaml"), "what a checkpoint is, is read from it; --prediction"),
    "--taesd": "--vae FILE, for decoding; previews need no network",
    "--diffusion-model": _UNET,
    "--styles": "a style's words belong into the prompt",
    "--upscale": "--hires with --hires-scale, or --extend",
    "--freeu": _EDITS,
    "--pag": "it is for generate and trace",
}
KINDS = {r"--.*(attention|xformers|offload|slicing).*": _MEMORY}


def ours(word: str) -> str:
    """A word of a command line with ``_`` in a flag's name taken for ``-``, and a name of others' for ours; what
    follows a ``=`` is left alone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return SAME.get(name, name) + equals + value


def refuse(words: Sequence[str], command: str, usage: Callable[[], str]) -> None:
    """Raise `UsageError` for the words that no argument of a command took; `usage` is what its --help says."""
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
    if not flags:
        raise UsageError(
            f"unrecognized arguments: {' '.join(words)} - put a text of several words into quotes, and see"
            f" sd-scratch {command} --help"
        )
    known = set(re.findall(r"--[a-z][a-z0-9-]*", usage()))
    said = [f"{flag} is not here{_hint(flag, known)}" for flag in dict.fromkeys(flags)]
    raise UsageError(f"{'; '.join(said[:5])} - see sd-scratch {command} --help")


def _hint(flag: str, known: set[str]) -> str:
    kind = next((text for pattern, text in KINDS.items() if re.fullmatch(pattern, flag)), "")
    if text := INSTEAD.get(flag, kind):
        return f": {text}"
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
    return f": did you mean {near[0]}?" if near else ""
