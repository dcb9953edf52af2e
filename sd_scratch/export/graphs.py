"""The three networks of a picture as functions of tensors alone, as a graph's exporter wants them.

Named tensors that were asked for are returned beside the result, and what may be changed comes in as a
tensor: the taps that recordings and edits use, with other listeners.
"""

import threading
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from sd_scratch.checkpoints.adapters.apply import sharing_copy
from sd_scratch.networks.attention import Attention
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.kernels import Cells, choose_cells
from sd_scratch.networks.layers import prefer_convolutions
from sd_scratch.networks.taesd import TinyAutoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.tensors import Probe, Rows, Tapped, TensorInfo
from sd_scratch.tensors.tapped import Ears, Listener

Network = TypeVar("Network", bound=nn.Module)

PROBS = "probs"


class Keep:
    """Keeps a tensor that the forward pass makes, or could."""

    on_path = False

    def __init__(self) -> None:
        self.heard: dict[str, Tensor] = {}

    def hear(self, name: str, x: Tensor) -> Tensor:
        self.heard[name] = x
        return x

    def hear_rows(self, name: str, rows: Rows) -> None:
        self.heard[name] = rows.make(slice(None), slice(0, rows.rows))


class Weigh:
    """Multiplies a cross-attention's probabilities by one factor for each head and word."""

    on_path = True

    def __init__(self) -> None:
        self.factors: dict[str, Tensor] = {}  # name -> [B, heads, 1, tokens]

    def hear(self, name: str, x: Tensor) -> Tensor:
        return x * self.factors[name]

    def hear_rows(self, name: str, rows: Rows) -> None:
        raise AssertionError("who is on the path hears the tensor itself")


class TextGraph(nn.Module):
    """Token ids ``[B, N]`` to what the U-Net reads, ``[B, N, C]``."""

    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        self.text = _plain(text)

    def forward(self, token_ids: Tensor) -> Tensor:
        context: Tensor = self.text(token_ids)
        return context


class UNetGraph(nn.Module):
    """One call of the U-Net for both branches, with and without the prompt.

    Attributes:
        heads: of each cross-attention layer, in the order of the factors' second axis.
    """

    def __init__(self, unet: UNet, tensors: Sequence[TensorInfo]) -> None:
        super().__init__()
        self.unet = _plain(unet)
        self.keep, self.weigh = Keep(), Weigh()
        self.names = [info.name for info in tensors]
        modules = {n: m for n, m in self.unet.named_modules() if n.endswith("attn2")}
        self.heads = {n: m.heads for n, m in modules.items() if isinstance(m, Attention)}
        listeners: dict[str, dict[str, list[tuple[str, Listener]]]] = {}
        for layer in self.heads:
            listeners.setdefault(layer, {})[PROBS] = [(layer, self.weigh)]
        for info in tensors:
            path = info.path.removeprefix("unet").removeprefix(".")
            listeners.setdefault(path, {}).setdefault(info.leaf, []).append((info.name, self.keep))
        for path, heard in listeners.items():
            module = self.unet.get_submodule(path)
            assert isinstance(module, Tapped)
            module.probe = Probe((Ears(self, threading.get_ident(), heard),))

    def forward(
        self, x_t: Tensor, t: Tensor, context: Tensor, factors: Tensor
    ) -> tuple[Tensor, ...]:
        """``x_t`` [B, C, h, w], ``t`` [B], ``context`` [B, N, D] and ``factors`` [B, layers, heads, N] of
        the probabilities of cross-attention -> the prediction, then the tensors that were asked for."""
        for i, (layer, heads) in enumerate(self.heads.items()):
            self.weigh.factors[layer] = factors[:, i, :heads, None]
        predicted: Tensor = self.unet(x_t, t, context)
        return predicted, *(self.keep.heard[name] for name in self.names)


class DecoderGraph(nn.Module):
    """Latents ``[B, 4, h, w]``, scaled as the U-Net sees them, to pictures ``[B, 3, H, W]`` in 0..1."""

    def __init__(self, vae: Autoencoder | TinyAutoencoder) -> None:
        super().__init__()
        self.vae = _plain(vae)

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(self.vae.from_latent(latent))
        return (image * 0.5 + 0.5).clamp(0, 1)


def _plain(network: Network) -> Network:
    """The same weights in modules of their own, with layers as what they are."""
    copy = sharing_copy(network)
    prefer_convolutions(copy, False)
    choose_cells(copy, Cells(product=0, tiles=0))
    return copy
