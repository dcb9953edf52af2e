"""CLIP's image transformer, and the whole CLIP: comparable vectors of pictures and texts.

Radford et al. 2021 (arXiv:2103.00020), section 2.3 and figure 3; the vision transformer is that of
Dosovitskiy et al. 2021 (arXiv:2010.11929) with one more LayerNorm in front. ViT-B/32 cuts 224x224
pixels into 7x7 patches, which with the class token make 50 places of 768 channels, in 12 layers.
Attributes have transformers' names, including a misspelt one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import ClipConfig, ImageEncoderConfig, TextEncoderConfig
from sd_scratch.networks.layers import Linear
from sd_scratch.networks.text_encoder import EncoderLayer, TextEncoder, at_end
from sd_scratch.tensors import Tapped


class PatchEmbeddings(Tapped):
    """Pictures to a row of places: the class token, then the patches, row by row."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        places = (config.image_size // patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(places, width)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.tap("patch_embedding", self.patch_embedding(pictures))
        patches = patches.flatten(2).transpose(1, 2)  # [B, patches, C]
        start = self.class_embedding.expand(len(pictures), 1, -1)
        x = self.tap("place_embedding", torch.cat([start, patches], dim=1))
        position = self.position_embedding.weight.expand_as(x)
        return x + self.tap("position_embedding", position)


class ImageLayers(nn.Module):
    """The text encoder's layers without the causal mask."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        same = TextEncoderConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            layer = EncoderLayer(same)
            layer.self_attn.causal = False
            self.layers.append(layer)


class ImageEncoder(Tapped):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = ImageLayers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pictures: Tensor) -> Tensor:
        """``[B, 3, S, S]``, normalised as CLIP was trained, to one vector each, ``[B, hidden_size]``."""
        pictures = self.tap("pictures", pictures)
        x = self.tap("pre_layrnorm", self.pre_layrnorm(self.embeddings(pictures)))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.tap("pooled", self.post_layernorm(x[:, 0]))


class Clip(Tapped):
    """Both encoders, and the projections into the space where pictures and texts meet."""

    stepwise = branched = False

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextEncoder(config.text)
        self.vision_model = ImageEncoder(config.image)
        self.text_projection = Linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = Linear(config.image.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def image_vectors(self, pictures: Tensor) -> Tensor:
        """Normalised pictures ``[B, 3, S, S]`` to unit vectors ``[B, projection_dim]``."""
        projected = self.visual_projection(self.vision_model(pictures))
        return self.tap("image_vector", F.normalize(projected, dim=-1))

    def text_vectors(self, token_ids: Tensor) -> Tensor:
        """Token ids ``[B, N]`` to unit vectors ``[B, projection_dim]``."""
        projected = self.text_projection(self.pooled_text(token_ids))
        return self.tap("text_vector", F.normalize(projected, dim=-1))

    def pooled_text(self, token_ids: Tensor) -> Tensor:
        """Token ids ``[B, N]`` to the text encoder's output at the first end token: ``[B, C]``."""
        return at_end(self.text_model(token_ids), token_ids)

    def scores(self, image_vectors: Tensor, text_vectors: Tensor) -> Tensor:
        """Cosines times the learned scale (100 for OpenAI's models): ``[images, texts]``."""
        return self.logit_scale.exp() * image_vectors @ text_vectors.T
