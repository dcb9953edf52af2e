"""A whole model's configuration, from its parts' and its scheduler's, and the defaults of a run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sd_scratch.checkpoints.config_json import latent_size, name_family
from sd_scratch.checkpoints.family import OF_1, OF_2, ONLY, SD2_CONTEXT
from sd_scratch.checkpoints.parts import PARTS, parts_of
from sd_scratch.checkpoints.scheduler_json import Scheduler, schedule_config, schedule_json
from sd_scratch.config import ModelConfig, ScheduleConfig, TextEncoderConfig
from sd_scratch.diffusion.spacing import OWN, find_spacing
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields
from sd_scratch.limits import GUIDANCE, STEPS


def model_config(
    name: str, parts: Mapping[str, Fields], scheduler: Fields | None, settings: Fields
) -> ModelConfig:
    """A whole model's configuration from the parts of a folder.

    `parts` are the networks' configurations by the parts' names. `settings` are the defaults of a run
    (`settings_json`); absent ones come from the scheduler, and without one from Stable Diffusion 1.x. Raises
    ScratchError if a part cannot be read, or if the parts do not fit each other.
    """
    name_family(parts["unet"])
    configs = {part: PARTS[part].read(fields) for part, fields in parts.items()}
    config = ModelConfig.of(with_placeholders(configs))
    _check_fit(config, parts["unet"])
    said = Scheduler(ScheduleConfig(), "pndm", {}, None)
    if scheduler is not None:
        said = schedule_config(scheduler)
    own_sampler = settings.text("sampler", r"[a-z0-9_]{1,32}", said.sampler)
    lacks = () if "sampler" in settings.data else said.lacks
    return replace(
        config,
        name=settings.text("name", r"[\w.-]{1,80}", name),
        schedule=said.schedule,
        sample_size=latent_size(parts["unet"]) * config.vae.downscale,
        sampler=own_sampler,
        sampler_options=said.options if own_sampler == said.sampler else {},
        spacing=_spacing(settings, said.spacing if own_sampler == said.sampler else None),
        sampler_lacks=lacks,
        steps=settings.integer("steps", *STEPS, 50),
        guidance=settings.number("guidance", *GUIDANCE, 7.5),
    )


def with_placeholders(configs: dict[str, Any]) -> dict[str, Any]:
    """The configurations, with one for a missing text encoder that fits the U-Net; another model's will
    replace it."""
    if "text" in configs or "unet" not in configs:
        return configs
    width = configs["unet"].cross_attention_dim
    heads = 8 if width % 8 == 0 else 1
    text = TextEncoderConfig(hidden_size=width, num_attention_heads=heads)
    return {**configs, "text": text}


def model_json(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """The networks' configurations as their folders hold them, by the names of these."""
    return {part.folder: part.write(config) for part in parts_of(config).values()}


def scheduler_json(config: ModelConfig) -> dict[str, Any]:
    """What `schedule_config` reads back."""
    said = Scheduler(config.schedule, config.sampler, dict(config.sampler_options), config.spacing)
    return schedule_json(said)


def settings_json(config: ModelConfig) -> dict[str, Any]:
    """The defaults of a run, as `model_config` reads them back."""
    return {
        "name": config.name,
        "sampler": config.sampler,
        "spacing": config.spacing or OWN,
        "steps": config.steps,
        "guidance": config.guidance,
    }


def _spacing(settings: Fields, said: str | None) -> str | None:
    """The spacing in `settings`; where there is none, the one that the scheduler `said`."""
    written = settings.text("spacing", r"[a-z_+]{1,64}", said or OWN)
    return None if written == OWN else str(find_spacing(written))


def _check_fit(config: ModelConfig, unet: Fields) -> None:
    """Raise unless the U-Net takes the text encoder's vectors and the autoencoder's latents."""
    width, channels = config.text.hidden_size, config.vae.latent_channels
    if config.unet.cross_attention_dim != width:
        unet.fail("cross_attention_dim", f"{width}, the text encoder's hidden_size")
    if config.unet.out_channels != channels:
        unet.fail("out_channels", f"{channels}, the VAE's latent_channels")
    inputs = config.unet.in_channels
    if inputs not in (channels, 2 * channels, 2 * channels + 1):
        named = (OF_2 if config.unet.cross_attention_dim == SD2_CONTEXT else OF_1).get(inputs)
        if named:
            raise ScratchError(f"{unet.where} - this is {named} - {ONLY}")
        unet.fail(
            "in_channels",
            "the VAE's latent_channels, twice that for InstructPix2Pix, or one more for inpainting",
        )
