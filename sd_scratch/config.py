"""Hyper-parameters: one frozen dataclass per network and one for the schedule, and the presets.

Field names are the keys of diffusers' and transformers' ``config.json`` files, so that a folder's
configuration reads without renaming. One exception is `UNetConfig.num_attention_heads`: diffusers
stores the number of heads under the misleading key ``attention_head_dim``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class TextEncoderConfig:
    """CLIP's text transformer (Radford et al. 2021, arXiv:2103.00020, section 2.4)."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class ImageEncoderConfig:
    """CLIP's vision transformer (Radford et al. 2021, section 2.4); ViT-B/32."""

    image_size: int = 224
    patch_size: int = 32
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class ClipConfig:
    """CLIP whole: both encoders, and the width of the space where they meet."""

    text: TextEncoderConfig = field(
        default_factory=lambda: TextEncoderConfig(
            hidden_size=512, intermediate_size=2048, num_attention_heads=8
        )
    )
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    projection_dim: int = 512


@dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G)."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def downscale(self) -> int:
        """Pixels per latent cell along one side: 8 for SD 1.x."""
        return 1 << (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TinyAutoencoderConfig(AutoencoderConfig):
    """A small autoencoder on the latents of a large one; see `sd_scratch.networks.taesd`.

    `encodes` is whether it has an encoder: some files hold the decoder alone.
    """

    block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    layers_per_block: int = 3
    scaling_factor: float = 1.0
    encodes: bool = True


@dataclass(frozen=True)
class UNetConfig:
    """The text-conditioned U-Net (Rombach et al. 2022, arXiv:2112.10752, section 3.3)."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    cross_attention: tuple[bool, ...] = (True, True, True, False)  # per level, finest first
    layers_per_block: int = 2
    num_attention_heads: int | tuple[int, ...] = 8  # or one number for each level
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    use_linear_projection: bool = False  # around the transformers, in place of 1x1 convolutions
    upcast_attention: bool = False  # attention in full precision, whatever the rest is in

    def heads(self, level: int) -> int:
        """How many heads the attention of a level has, the finest being 0."""
        heads = self.num_attention_heads
        return heads if isinstance(heads, int) else heads[level]


@dataclass(frozen=True)
class ControlNetConfig:
    """A ControlNet (Zhang et al. 2023, arXiv:2302.05543) for a U-Net of that configuration."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    conditioning_channels: int = 3  # of the hint
    conditioning_widths: tuple[int, ...] = (16, 32, 96, 256)
    global_pool: bool = False


@dataclass(frozen=True)
class T2IAdapterConfig:
    """A full T2I-Adapter (Mou et al. 2023, arXiv:2302.08453), for a U-Net of these widths."""

    conditioning_channels: int = 3  # of the hint
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cell: int = 8  # pixels along a side of what becomes channels


@dataclass(frozen=True)
class ScheduleConfig:
    """How noise was added in training, and how a sampler walks back (the scheduler's config.json)."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    rescale_betas_zero_snr: bool = False
    trained_betas: tuple[float, ...] = ()  # in the place of a schedule's, one for each timestep
    thresholding: bool = False  # see `sd_scratch.diffusion.prediction.thresholded`
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is fixed about a text-to-image model before its weights are read."""

    name: str = "sd15"
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sample_size: int = 512  # pixels along one side of the pictures that it was trained on
    sampler: str = "pndm"
    # The sampler's own options.
    sampler_options: Mapping[str, bool | int | float | str] = field(
        default_factory=dict, hash=False
    )
    spacing: str | None = None  # that sampler's, where it is not the schedule's timestep_spacing
    # What the checkpoint says of its own sampler and cannot be had, a line each: `sampler` only stands in for it.
    sampler_lacks: tuple[str, ...] = ()
    steps: int = 50
    guidance: float = 7.5
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of further parts, by name

    def steps_with(self, sampler: str, fast: bool = False) -> int:
        """How many steps a run takes that names none. What `steps` says was chosen for the model's own
        sampler and whole calls; another sampler, and forecasts between calls, may need more, so that
        these take 25 at least."""
        return self.steps if sampler == self.sampler and not fast else max(self.steps, 25)

    @property
    def latent_size(self) -> int:
        """The same in latent cells."""
        return self.sample_size // self.vae.downscale

    @property
    def networks(self) -> dict[str, Any]:
        """The configuration of every network, by the name of its part."""
        return {"text": self.text, "unet": self.unet, "vae": self.vae, **self.others}

    @classmethod
    def of(cls, networks: Mapping[str, Any]) -> "ModelConfig":
        """From the configurations of its networks, by the names of their parts."""
        own = {f.name for f in fields(cls)} & networks.keys()
        others = {name: config for name, config in networks.items() if name not in own}
        return cls(**{name: networks[name] for name in own}, others=others)


SD15 = ModelConfig()
SD15_INPAINTING = ModelConfig(name="sd15-inpainting", unet=UNetConfig(in_channels=9))
SD21 = ModelConfig(
    name="sd21",
    # OpenCLIP's ViT-H/14 without its last layer, which Stable Diffusion 2.x does not use.
    text=TextEncoderConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
    ),
    unet=UNetConfig(
        num_attention_heads=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
        upcast_attention=True,
    ),
    schedule=ScheduleConfig(prediction_type="v_prediction"),
    sample_size=768,
    sampler="ddim",
)

TINY = ModelConfig(
    name="tiny",
    text=TextEncoderConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
    ),
    vae=AutoencoderConfig(block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8),
    unet=UNetConfig(
        block_out_channels=(32, 64, 64),
        cross_attention=(True, True, False),
        layers_per_block=1,
        num_attention_heads=4,
        cross_attention_dim=32,
        norm_num_groups=8,
    ),
    sample_size=64,
)
"""Small enough for a test, large enough (three levels) to have every kind of block of SD 1.x."""

SCENES = ModelConfig(
    name="scenes",
    text=TextEncoderConfig(
        vocab_size=768,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=32,
    ),
    vae=AutoencoderConfig(
        block_out_channels=(32, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=0.4052,  # measured on the shipped autoencoder; a training measures its own
    ),
    unet=UNetConfig(
        block_out_channels=(64, 128, 192),
        cross_attention=(True, True, False),
        layers_per_block=1,
        num_attention_heads=4,
        cross_attention_dim=128,
        norm_num_groups=16,
    ),
    schedule=ScheduleConfig(prediction_type="v_prediction"),
    sample_size=64,
    sampler="ddim",
    steps=8,
    guidance=3.0,
)

SCENES_CLIP = ClipConfig(
    text=SCENES.text,
    image=ImageEncoderConfig(
        image_size=64,
        patch_size=8,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
    ),
    projection_dim=128,
)
"""The pair that scores pictures of scenes: 1.8 M parameters."""

PRESETS = {config.name: config for config in (SD15, SD15_INPAINTING, SD21, TINY, SCENES)}


@dataclass(frozen=True)
class PixelUNetConfig:
    """A small U-Net on pixels, told a class (Ho et al. 2020, appendix B; Nichol and Dhariwal 2021)."""

    in_channels: int = 1
    num_classes: int = 10
    sample_size: int = 28
    block_out_channels: tuple[int, ...] = (24, 48, 96)
    attention: tuple[bool, ...] = (False, False, True)  # per level, finest first
    layers_per_block: int = 1
    attention_head_dim: int = 24
    norm_num_groups: int = 8
    dropout: float = 0.0


@dataclass(frozen=True)
class ContextUNetConfig:
    """The network of "Starting Great Adventure"; see `sd_scratch.networks.context_unet`."""

    in_channels: int = 1
    num_classes: int = 10
    sample_size: int = 28
    features: int = 128
    last_timestep: int = 400


@dataclass(frozen=True)
class PixelModelConfig:
    """Everything that is fixed about a model of pixels before its weights are read.

    `low` is the value of a black pixel, where white is 1; `first_timestep` the lowest that is drawn
    in training; `clip_x0` whether what the network takes for the clean picture is cut to what a
    picture can be; `variance` is DDPM's.
    """

    name: str
    network: PixelUNetConfig | ContextUNetConfig
    schedule: ScheduleConfig
    class_names: tuple[str, ...] = tuple("0123456789")
    low: float = -1.0
    first_timestep: int = 0
    clip_x0: bool = True
    sampler: str = "ddim"
    variance: str = "fixed_small"
    steps: int = 50
    guidance: float = 2.0


@dataclass(frozen=True)
class ClassifierConfig:
    """A small convolutional classifier, which judges the pictures that are made."""

    in_channels: int = 1
    num_classes: int = 10
    sample_size: int = 28
    block_out_channels: tuple[int, ...] = (16, 32, 64)
    norm_num_groups: int = 8
