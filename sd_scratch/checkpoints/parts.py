"""The parts of a model: one row for each network, from which finding, loading, saving, naming, listing and
checking follow. A new part is a row here and a network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sd_scratch.checkpoints import config_json, infer
from sd_scratch.checkpoints.infer import Shapes
from sd_scratch.config import ModelConfig, TinyAutoencoderConfig
from sd_scratch.errors import UsageError
from sd_scratch.json_file import Fields
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.taesd import TinyAutoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet


@dataclass(frozen=True)
class Part:
    """One kind of network.

    Attributes:
        name: in the names of tensors, in `ModelConfig` and in `Components`.
        title: in messages.
        folder: in a diffusers folder, and the key of its configuration in a single file's header.
        stem: of the names of its weight files.
        network: its class, made from its configuration.
        read: its configuration from ``config.json``; raises ScratchError.
        write: the inverse, from the whole model's configuration.
        infer: its configuration from the shapes in a single file; None for a part whose sizes shapes do not
            tell.
        reader: the other library and its class for the folder.
        prefix: what the keys of its folder's files have before the network's own names.
        dry_run: calls it on the ``meta`` device to name its tensors; None for a part of the run itself.
        needed: whether every model must have it.
    """

    name: str
    title: str
    folder: str
    stem: str
    network: Callable[[Any], nn.Module]
    read: Callable[[Fields], Any]
    write: Callable[[ModelConfig], dict[str, Any]]
    infer: Callable[[Shapes], Any] | None = None
    reader: tuple[str, str] | tuple[None, None] = (None, None)
    prefix: str = ""
    dry_run: Callable[[nn.Module, ModelConfig], object] | None = None
    needed: bool = True

    @property
    def stepwise(self) -> bool:
        """Whether it runs at every step, not once."""
        return bool(getattr(self.network, "stepwise", True))

    @property
    def branched(self) -> bool:
        """Whether it runs with the prompt and with its negative."""
        return bool(getattr(self.network, "branched", True))


# In the order of a run.
PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            name="text",
            title="text encoder",
            folder="text_encoder",
            stem="model",
            network=TextEncoder,
            read=config_json.text_encoder_config,
            write=lambda config: config_json.text_encoder_json(config.text),
            infer=infer.text_encoder,
            reader=("transformers", "CLIPTextModel"),
            prefix="text_model.",
        ),
        Part(
            name="unet",
            title="U-Net",
            folder="unet",
            stem="diffusion_pytorch_model",
            network=UNet,
            read=config_json.unet_config,
            write=lambda config: config_json.unet_json(config.unet, config.latent_size),
            infer=infer.unet,
            reader=("diffusers", "UNet2DConditionModel"),
        ),
        Part(
            name="vae",
            title="VAE",
            folder="vae",
            stem="diffusion_pytorch_model",
            network=Autoencoder,
            read=config_json.autoencoder_config,
            write=lambda config: config_json.autoencoder_json(config.vae, config.sample_size),
            infer=infer.autoencoder,
            reader=("diffusers", "AutoencoderKL"),
        ),
    )
}


def parts_of(config: ModelConfig) -> dict[str, Part]:
    """The parts that a model has."""
    parts = {name: part for name, part in PARTS.items() if name in config.networks}
    if isinstance(config.vae, TinyAutoencoderConfig):
        parts["vae"] = tiny(parts["vae"])
    return parts


def tiny(part: Part) -> Part:
    """The autoencoder's row for TAESD, which stands in for the autoencoder of a run and is not saved."""
    return replace(part, title="TAESD", network=TinyAutoencoder, write=_unwritten, infer=None)


def _unwritten(config: ModelConfig) -> dict[str, Any]:
    raise UsageError(
        f"{config.name} has a TAESD in its VAE's place, and is saved with its own VAE only - load it without"
    )
