"""The autoencoder in a run: computed again in fp32 if half precision overflows, and in strips if memory does
not suffice."""

from copy import deepcopy

import torch
from torch import Tensor

from sd_scratch.checkpoints.adapters.apply import sharing_copy
from sd_scratch.checkpoints.memory import available_memory
from sd_scratch.errors import log, memory_told, told
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.taesd import TinyAutoencoder
from sd_scratch.pipeline.blame import explain
from sd_scratch.pipeline.estimate import decoder_values

AnyAutoencoder = Autoencoder | TinyAutoencoder


@memory_told()
@torch.no_grad()
def encode(autoencoder: AnyAutoencoder, image: Tensor) -> Tensor:
    """Pictures ``[B, 3, H, W]`` in -1..1 to raw latents ``[B, 4, H/8, W/8]``, the mean of the posterior.
    Raises NotFinite, and MemoryShortage."""
    return _finite(autoencoder, image, "encode")


@memory_told()
@torch.no_grad()
def decode(autoencoder: AnyAutoencoder, latent: Tensor) -> Tensor:
    """Latents as the U-Net sees them to pictures ``[B, 3, H, W]`` fp32, about -1..1 and not clamped. Raises
    NotFinite, and MemoryShortage."""
    return _finite(autoencoder, autoencoder.from_latent(latent), "decode").float()


def _finite(vae: AnyAutoencoder, x: Tensor, verb: str) -> Tensor:
    """The autoencoder's output for x, again in fp32 if it is not finite."""
    weight = next(vae.parameters())
    x = x.to(weight.device, weight.dtype)
    made = _whole_or_in_strips(vae, x, verb)
    if made.isfinite().all():
        return made
    # A copy, because other threads and models may be using this one.
    vae, x = deepcopy(sharing_copy(vae)).float(), x.float()
    if weight.dtype != torch.float32:
        made = _whole_or_in_strips(vae, x, verb)
        if made.isfinite().all():
            return made
    network = vae.decoder if verb == "decode" else vae.encoder
    assert network is not None
    if verb == "decode" and isinstance(vae, Autoencoder):
        x = vae.post_quant_conv(x)
    raise explain(f"the {verb}d picture is", {"vae": vae}, f"vae.{verb}r", network, x)


def _whole_or_in_strips(vae: AnyAutoencoder, x: Tensor, verb: str) -> Tensor:
    """In strips, with a warning, if memory does not suffice for the whole or runs out."""
    decodes = verb == "decode"
    if isinstance(vae, TinyAutoencoder):
        return vae.decode(x) if decodes else vae.encode(x).mean
    height, width = (side * vae.config.downscale if decodes else side for side in x.shape[2:])
    needed = len(x) * decoder_values(vae.config, height, width) * x.element_size()
    free = available_memory(x.device)
    if vae.in_strips or free is None or needed <= free:
        try:
            return vae.decode(x) if decodes else vae.encode(x).mean
        except (MemoryError, RuntimeError) as error:
            if vae.in_strips or told(error) is error:
                raise
    log.warning(f"there is too little memory to {verb} the picture whole: it is {verb}d in strips")
    return vae.decode(x, strips=True) if decodes else vae.encode(x, strips=True).mean
