"""The card of a trained model: what it has learnt from, how, for how long, and how to use it."""

import shlex
from pathlib import Path

from torch import nn

from sd_scratch.checkpoints.pixel_model import PixelComponents, build_denoiser, save_pixel_model
from sd_scratch.config import ContextUNetConfig
from sd_scratch.errors import log
from sd_scratch.files import read_file, write_file
from sd_scratch.training.pixels.datasets import DATA_SETS
from sd_scratch.training.pixels.presets import PixelPreset

OWN_PART = "## Figures\n"
"""From here on a card is written by people, and stays when the model is written again."""
LIMIT, KEPT = 1 << 20, "surrogateescape"  # bytes; what is no UTF-8 comes out as it went in


def write_model(
    preset: PixelPreset,
    model: nn.Module,
    folder: Path,
    step: int,
    seconds: float,
    earlier: Path | None = None,
) -> None:
    """Write a denoiser, after so many steps and seconds of training, with its card ``README.md``; the
    part that people have added to the one in `earlier`, or `folder`, stays."""
    network = build_denoiser(preset.model)
    network.load_state_dict(model.state_dict())  # on the CPU, whatever it was trained on
    save_pixel_model(PixelComponents(preset.model, network), folder)
    path = (earlier or folder) / "README.md"
    figures = "Not measured yet.\n"
    if path.is_file():
        _, found, own = read_file(path, LIMIT).decode("utf-8", KEPT).partition(OWN_PART)
        figures = own.lstrip("\n") if found else figures
    parameters = sum(value.numel() for value in network.state_dict().values())
    text = f"{_head(preset, parameters, step, seconds)}\n{OWN_PART}\n{figures}"
    write_file(folder / path.name, text.encode("utf-8", KEPT), overwrite=True)
    log.info("model written to %s", folder)


def _head(preset: PixelPreset, parameters: int, step: int, seconds: float) -> str:
    model, train = preset.model, preset.train
    schedule = model.schedule
    pictures = step * train.batch
    network = "ContextUNet" if isinstance(model.network, ContextUNetConfig) else "PixelUNet"
    averaged = f"averaged weights (decay {train.ema_decay})" if train.ema_decay else "raw weights"
    name = model.class_names[0]
    return f"""# {model.name}

A diffusion model that makes pictures of {model.network.sample_size} x {model.network.sample_size}
pixels of a class: {", ".join(model.class_names[:20])}.

In this folder, on the command line and in Python:

    sd-scratch sample {preset.data} --model . {_word("--class", name)} -b 16 -o samples.png

    import sd_scratch as sd
    pictures = sd.load_pixels(".").generate(classes=[0], seeds=[0])  # of {name}

## Data

{DATA_SETS[preset.data].about}

## Recipe

- {network}, {parameters / 1e6:.2f} M parameters: `{model.network}`
- {schedule.num_train_timesteps} timesteps, {schedule.beta_schedule}, {schedule.prediction_type};
  pixels from {model.low:g} to 1
- {step:,} steps of {train.batch} pictures ({pictures:,} in all) in {seconds / 60:.0f} minutes;
  AdamW, learning rate {train.lr:g}, {averaged}; no class in {preset.p_no_class:.0%} of them
"""


def _word(flag: str, value: str) -> str:
    """A flag and its value as a shell reads them, whatever the value is."""
    return (
        f"{flag}={shlex.quote(value)}" if value.startswith("-") else f"{flag} {shlex.quote(value)}"
    )
