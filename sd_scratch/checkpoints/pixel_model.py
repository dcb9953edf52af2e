"""Folders of small pixel models: a denoiser with its schedule, or a classifier.

    config.json          everything but the numbers
    model.safetensors    the weights

The names in the file are the module's. BatchNorm's counters are left out: nothing reads them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd_scratch.checkpoints.build import C, N, check, check_memory, empty, fill, seeded, weights
from sd_scratch.checkpoints.config_json import MAX_WIDTH, numbers
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.checkpoints.safetensors_writer import write_tensors
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.config import (
    ClassifierConfig,
    ContextUNetConfig,
    PixelModelConfig,
    PixelUNetConfig,
    ScheduleConfig,
)
from sd_scratch.diffusion.prediction import PREDICTION_TYPES
from sd_scratch.diffusion.schedule import BETA_SCHEDULES, Schedule
from sd_scratch.diffusion.spacing import TIMESTEP_SPACINGS
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import at_home, write_file
from sd_scratch.json_file import Fields, read_json
from sd_scratch.limits import GUIDANCE, STEPS
from sd_scratch.networks.classifier import Classifier
from sd_scratch.networks.context_unet import ContextUNet
from sd_scratch.networks.pixel_unet import PixelUNet

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PICTURES = dict.fromkeys(("in_channels", "num_classes", "sample_size"))  # in every file
KINDS = ("pixel_unet", "context_unet", "classifier")

Denoiser = PixelUNet | ContextUNet


@dataclass(frozen=True)
class PixelComponents:
    """A pixel model, ready to run; `source` is its folder or name."""

    config: PixelModelConfig
    network: Denoiser
    source: str = ""


def build_denoiser(config: PixelModelConfig, seed: int = 0) -> Denoiser:
    """The network of a configuration with fresh weights."""
    return seeded(lambda: _denoiser(config.network), seed)


def _denoiser(config: PixelUNetConfig | ContextUNetConfig) -> Denoiser:
    return ContextUNet(config) if isinstance(config, ContextUNetConfig) else PixelUNet(config)


def build_classifier(config: ClassifierConfig, seed: int = 0) -> Classifier:
    return seeded(lambda: Classifier(config), seed)


# Writing ------------------------------------------------------------------------------------


def save_pixel_model(
    components: PixelComponents, folder: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write a model's folder, over an existing one. Raises `ScratchError` if it cannot."""
    config = components.config
    kind = "context_unet" if isinstance(config.network, ContextUNetConfig) else "pixel_unet"
    data: dict[str, Any] = {"kind": kind, "name": config.name}
    data |= {key: value for key, value in asdict(config).items() if key not in data}
    _save(components.network, data, folder, dtype)


def save_classifier(
    classifier: Classifier, folder: Path, dtype: torch.dtype = torch.float16
) -> None:
    """The same for a classifier."""
    data = {"kind": "classifier", "network": asdict(classifier.config)}
    _save(classifier, data, folder, dtype)


def _save(network: nn.Module, data: dict[str, Any], folder: Path, dtype: torch.dtype) -> None:
    write_tensors(folder / WEIGHTS_FILE, weights(network), dtype, {}, overwrite=True)
    write_file(folder / CONFIG_FILE, json.dumps(data, indent=2).encode() + b"\n", overwrite=True)


# Reading ------------------------------------------------------------------------------------


def load_pixel_model(source: str | Path) -> PixelComponents:
    """A model in fp32 on the CPU, from its folder or, when it is shipped, by its name.

    Raises `ScratchError` if there is none, or its files are damaged or of another kind.
    """
    folder = find_pixel_model(source)
    fields = _read_config(folder, "pixel_unet", "context_unet")
    config = pixel_model_config(fields, folder.name)
    return PixelComponents(config, _load(_denoiser, config.network, folder), str(source))


def load_classifier(source: str | Path) -> Classifier:
    """The same for a classifier."""
    folder = Path(source)
    network = _read_config(folder, "classifier").nested("network")
    config = ClassifierConfig(
        **numbers(network, **PICTURES, norm_num_groups=None),
        block_out_channels=network.integers("block_out_channels", 1, MAX_WIDTH, 8),
    )
    return _load(Classifier, config, folder)


def list_pixel_models() -> list[str]:
    """The names of the shipped ones that make pictures, sorted."""
    return _list_shipped("pixel_unet", "context_unet")


def list_classifiers() -> list[str]:
    """The names of the shipped classifiers, sorted."""
    return _list_shipped("classifier")


def _list_shipped(*kinds: str) -> list[str]:
    configs = sorted(weights_folder().glob(f"*/{CONFIG_FILE}"))
    return [path.parent.name for path in configs if read_json(path).get("kind") in kinds]


def find_pixel_model(source: str | Path) -> Path:
    """The folder of a shipped model by its name, or the folder itself."""
    folder, shipped = at_home(source), weights_folder() / str(source)
    if folder.name == str(source) and (shipped / CONFIG_FILE).is_file():
        return shipped
    if (folder / CONFIG_FILE).is_file():
        return folder
    raise UsageError(
        f"{source} - no model of pixels there ({CONFIG_FILE} is missing) - the shipped ones are"
        f" {', '.join(list_pixel_models())}; `sd-scratch train` makes another"
    )


def pixel_model_config(fields: Fields, name: str = "") -> PixelModelConfig:
    """The configuration in a `config.json`, every value checked."""
    kind = fields.choice("kind", KINDS)
    network = NETWORKS[kind](fields.nested("network"))
    schedule = _schedule(fields.nested("schedule"))
    try:
        Schedule(schedule)
    except ScratchError as error:  # what no model can have
        raise ScratchError(f"{fields.where} - {error}") from None
    names: Any = fields.data.get("class_names")
    known = isinstance(names, list) and all(isinstance(n, str) and n.isprintable() for n in names)
    if not known or not len(names) == len(set(names)) == network.num_classes:
        fields.fail("class_names", f"a list of {network.num_classes} different names")
    return PixelModelConfig(
        name=fields.text("name", r"[\w.-]{1,80}", name),
        network=network,
        schedule=schedule,
        class_names=tuple(names),
        low=fields.number("low", -1.0, 0.0),
        first_timestep=fields.integer("first_timestep", 0, schedule.num_train_timesteps - 1),
        clip_x0=fields.flag("clip_x0", True),
        sampler=fields.text("sampler", r"[a-z0-9_]{1,32}", "ddim"),
        variance=fields.choice("variance", ("fixed_small", "fixed_large"), "fixed_small"),
        steps=fields.integer("steps", *STEPS),
        guidance=fields.number("guidance", *GUIDANCE),
    )


def _pixel_unet(fields: Fields) -> PixelUNetConfig:
    widths = fields.integers("block_out_channels", 1, MAX_WIDTH, 8)
    attention = fields.data.get("attention")
    if not isinstance(attention, list) or [type(a) for a in attention] != [bool] * len(widths):
        fields.fail("attention", f"a list of {len(widths)} times true or false")
    config = PixelUNetConfig(
        **numbers(
            fields,
            **PICTURES,
            layers_per_block=None,
            attention_head_dim=None,
            norm_num_groups=None,
            dropout=None,
        ),
        block_out_channels=widths,
        attention=tuple(attention),
    )
    for key, divisor in (
        ("norm_num_groups", config.norm_num_groups),
        ("attention_head_dim", config.attention_head_dim),
    ):
        attending = [w for w, on in zip(widths, attention, strict=True) if on] + [widths[-1]]
        for width in widths if key == "norm_num_groups" else attending:
            if width % divisor:
                fields.fail(key, f"a divisor of the width {width}")
    return config


def _context_unet(fields: Fields) -> ContextUNetConfig:
    sizes = numbers(fields, **PICTURES, features=None, last_timestep=None)
    config = ContextUNetConfig(**sizes)
    if config.features % 8:
        fields.fail("features", "a multiple of 8")
    if config.sample_size % 4:
        fields.fail("sample_size", "a multiple of 4")
    return config


NETWORKS: Mapping[str, Callable[[Fields], PixelUNetConfig | ContextUNetConfig]] = {
    "pixel_unet": _pixel_unet,
    "context_unet": _context_unet,
}


def _schedule(fields: Fields) -> ScheduleConfig:
    steps = fields.integer("num_train_timesteps", 1, 100_000)
    return ScheduleConfig(
        num_train_timesteps=steps,
        beta_start=fields.number("beta_start", 0.0, 1.0),
        beta_end=fields.number("beta_end", 0.0, 1.0),
        beta_schedule=fields.choice("beta_schedule", tuple(BETA_SCHEDULES)),
        prediction_type=fields.choice("prediction_type", PREDICTION_TYPES),
        timestep_spacing=fields.choice("timestep_spacing", tuple(TIMESTEP_SPACINGS)),
        steps_offset=fields.integer("steps_offset", 0, steps - 1),
        set_alpha_to_one=fields.flag("set_alpha_to_one", False),
    )


def _read_config(folder: Path, *kinds: str) -> Fields:
    fields = Fields(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    found = fields.choice("kind", KINDS)
    if found not in kinds:
        raise ScratchError(f"{folder} - holds a {found} where {' or '.join(kinds)} is wanted")
    return fields


def _load(network: Callable[[C], N], config: C, folder: Path) -> N:
    """The network with the weights beside its configuration, in fp32 on the CPU.

    Raises `ScratchError` unless names, shapes and types agree, before memory is taken.
    """
    path, title = folder / WEIGHTS_FILE, folder.name
    tensors, made = read_header(path).tensors, empty(network, config)
    unexpected = check(made, title, tensors, path)
    if unexpected:
        raise ScratchError(
            f"{path} - {len(unexpected)} of its tensors, such as {unexpected[0]}, have no place in the"
            f" network of {CONFIG_FILE} beside it - the two are of different models"
        )
    check_memory(
        path, 4 * sum(t.numel for t in tensors.values()), torch.float32, torch.device("cpu")
    )
    fill(made, tensors, torch.float32, torch.device("cpu"))
    return made
