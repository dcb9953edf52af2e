"""`load`: a text-to-image model by its name."""

from pathlib import Path

import torch

from sd_scratch.checkpoints import Components, load_components
from sd_scratch.checkpoints.pixel_model import list_pixel_models
from sd_scratch.errors import UsageError, memory_told
from sd_scratch.limits import TUNING
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.pipeline.device import find_device, find_dtype
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.pipeline.tuning import tune as choose_kernels


@memory_told()
def load(
    source: str | Path = "scenes",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    offline: bool = False,
    force: bool = False,
    low_memory: bool | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    ema: bool = False,
    prediction: str | None = None,
    zero_snr: bool = False,
    tune: str = TUNING[0],
    vae_tiling: bool = False,
) -> StableDiffusion:
    """Load a model: a shipped one by name, a folder, a ``.safetensors`` file, or a hub id.

    `device` is ``"auto"`` for the fastest there is, or ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``;
    `dtype` ``"float32"``, ``"float16"`` or ``"bfloat16"``, also ``"fp32"``, ``"fp16"``, ``"bf16"``; `tune`
    how the CPU's kernels are chosen, "quick", "full" or "off", see `sd_scratch.pipeline.tuning.tune`. With
    `vae_tiling` pictures are decoded and encoded in strips, in less memory. For the rest see
    `sd_scratch.checkpoints.load_components`. Raises ScratchError for every fault of these.
    """
    if str(source) in list_pixel_models():
        raise UsageError(f"{source} is a model of pixels - load it with sd.load_pixels('{source}')")
    chosen, number = find_device(device), find_dtype(dtype)
    components = load_components(
        source,
        revision=revision,
        dtype=number,
        device=chosen,
        offline=offline,
        force=force,
        low_memory=low_memory,
        vae=vae,
        text_encoder=text_encoder,
        ema=ema,
        prediction=prediction,
        zero_snr=zero_snr,
    )
    choose_kernels(components, tune)
    decode_in_strips(components, vae_tiling)
    return StableDiffusion(components)


def decode_in_strips(components: Components, strips: bool) -> None:
    """Whether the model's autoencoder decodes and encodes in strips; TAESD needs little memory as it is."""
    if isinstance(components.vae, Autoencoder):
        components.vae.in_strips = strips
