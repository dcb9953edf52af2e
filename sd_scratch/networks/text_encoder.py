"""CLIP's text transformer: token ids to one vector per token.

Radford et al. 2021 (arXiv:2103.00020), section 2.4; 12 layers, 12 heads and 768 channels for SD 1.x.
Padding is the end token and is not masked: the U-Net was trained to look at it. SD 2.x has OpenCLIP's
ViT-H/14 (Cherti et al. 2022, arXiv:2212.07143): 24 layers, of which the last is skipped, 16 heads and 1024
channels, the exact GELU, and token 0 as padding.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import TextEncoderConfig
from sd_scratch.networks.attention import MultiHead
from sd_scratch.networks.layers import Linear, in_type
from sd_scratch.tensors import Tapped


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the approximation that OpenAI trained CLIP with."""
    return x * torch.sigmoid(1.702 * x)


PADDING = 0  # of OpenCLIP; CLIP pads with the end token

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Embeddings(Tapped):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = self.position_embedding.weight
        token = in_type(self.token_embedding(token_ids), positions.dtype)
        token = self.tap("token_embedding", token)
        position = positions[: token.shape[1]].expand_as(token)
        return token + self.tap("position_embedding", position)


class CausalSelfAttention(MultiHead):
    """Each token attends to itself and to earlier ones."""

    causal = True

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    @property
    def output(self) -> nn.Linear:
        return self.out_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x))


class MLP(Tapped):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        pre = self.tap("pre", self.fc1(x))
        act = self.tap("act", self.activation(pre))
        return self.tap("out", self.fc2(act))


class EncoderLayer(Tapped):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CausalSelfAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tap("resid_in", x)
        h = self.tap("layer_norm1", self.layer_norm1(x))
        x = self.tap("resid_mid", x + self.self_attn(h))
        h = self.tap("layer_norm2", self.layer_norm2(x))
        return self.tap("resid_out", x + self.mlp(h))


class Encoder(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.num_hidden_layers)])


class TextEncoder(Tapped):
    stepwise = False

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, token_ids: Tensor, clip_skip: int | Sequence[int] = 1) -> Tensor:
        """``[B, N]`` token ids -> context ``[B, N, hidden_size]``.

        `clip_skip` counts layers from the end as A1111 does: 1 uses all of them, 2 skips the last. The final
        LayerNorm is always applied. Each row can have its own `clip_skip`.
        """
        skips = {clip_skip} if isinstance(clip_skip, int) else set(clip_skip)
        depth = self.config.num_hidden_layers + 1 - min(skips)
        ends: Tensor | None = None  # how many layers each row goes through, where they differ
        if len(skips) > 1:
            layers = torch.tensor(clip_skip, device=token_ids.device).reshape(-1, 1, 1)
            ends = self.config.num_hidden_layers + 1 - layers
        token_ids = self.tap("token_ids", token_ids)
        x = self.embeddings(token_ids)
        for i, layer in enumerate(self.encoder.layers[:depth]):
            x = layer(x) if ends is None else torch.where(i < ends, layer(x), x)
        x = self.tap("final_layer_norm", self.final_layer_norm(x))
        self.show("pooled", lambda: at_end(x, token_ids))
        return x


def at_end(x: Tensor, token_ids: Tensor) -> Tensor:
    """The vectors at the first end token, CLIP's summary of the text: ``[B, C]``. The last id of a row that
    is not OpenCLIP's padding is the end token's. (Added tokens may have larger ids, so it is not the
    largest.)"""
    padding = (token_ids == PADDING).flip(1).int().cumprod(dim=1).sum(dim=1, keepdim=True)
    end = token_ids.gather(1, (token_ids.shape[1] - 1 - padding).clamp(min=0))
    first = (token_ids == end).int().argmax(dim=1)  # the first of several
    return x[torch.arange(len(x), device=x.device), first]
