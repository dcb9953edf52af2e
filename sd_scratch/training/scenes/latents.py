"""Scenes as the U-Net's training reads them: posteriors of the trained autoencoder, and token ids.

Encoding a scene costs more than a step of the U-Net, so it is done once. The cache names its
autoencoder, and is made anew for another one.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sd_scratch.errors import log
from sd_scratch.files import write_file
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.scenes.captions import caption
from sd_scratch.scenes.graph import crowded_scene, sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.text.tokenizer import Tokenizer

FILE = "latents.safetensors"
BATCH = 64


@dataclass(frozen=True)
class Latents:
    """Posteriors over raw latents, `mean` and `std` fp16 ``[N, 4, h, w]``, and `variants` captions of
    each scene as token ids, int16 ``[N, V, length]``."""

    mean: Tensor
    std: Tensor
    token_ids: Tensor

    def __len__(self) -> int:
        return self.mean.shape[0]


def cached_latents(
    folder: Path,
    vae: Autoencoder,
    tokenizer: Tokenizer,
    side: int,
    seed: int,
    count: int,
    variants: int,
    crowded: bool = False,
) -> Latents:
    """Read the latents of scenes 0 to `count` - 1 from `folder`, or make and keep them."""
    path = folder / FILE
    key = f"{_fingerprint(vae, tokenizer)}-{side}-{seed}-{count}-{variants}{'-crowded' * crowded}"
    if (kept := _read(path, key)) is not None:
        return kept
    log.info("encoding %d scenes: once for each autoencoder", count)
    latents = make_latents(vae, tokenizer, side, seed, count, variants, crowded)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, save(vars(latents), metadata={"key": key}), overwrite=True)
    return latents


def _read(path: Path, key: str) -> Latents | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return Latents(*(file.get_tensor(name) for name in ("mean", "std", "token_ids")))
    except (OSError, SafetensorError):
        pass
    return None


@torch.no_grad()
def make_latents(
    vae: Autoencoder,
    tokenizer: Tokenizer,
    side: int,
    seed: int,
    count: int,
    variants: int,
    crowded: bool = False,
) -> Latents:
    """Draw, encode and caption scenes 0 to `count` - 1; `crowded` as in `VaeTask`."""
    draw = crowded_scene if crowded else sample_scene
    means, stds, ids = [], [], []
    for first in range(0, count, BATCH):
        numbers = range(first, min(count, first + BATCH))
        scenes = [draw(seed, i) for i in numbers]
        images = render(scenes, side).images.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images)
        means.append(posterior.mean.half().contiguous())
        stds.append(posterior.std.half().contiguous())
        for i, scene in zip(numbers, scenes, strict=True):
            texts = [caption(scene, seed, i, variant).text for variant in range(variants)]
            ids.append([tokenizer.encode(text).ids for text in texts])
    return Latents(torch.cat(means), torch.cat(stds), torch.tensor(ids, dtype=torch.int16))


def _fingerprint(vae: Autoencoder, tokenizer: Tokenizer) -> str:
    """Of what the latents hang on: the decoder is not among it."""
    digest = hashlib.sha256(repr(tokenizer.merges).encode())
    for part in (vae.encoder, vae.quant_conv):
        for tensor in part.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
