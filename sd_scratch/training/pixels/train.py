"""Whole training runs on pixels, and the folders that come out of them.

out/ddpm/         states, journal, sheets of samples and a film of the denoiser's training
out/model/        the denoiser, in half precision, with its card
out/classifier/   the same for the classifier that judges pictures, and the classifier itself
"""

from pathlib import Path

import torch

from sd_scratch.checkpoints.pixel_model import build_denoiser
from sd_scratch.errors import UsageError
from sd_scratch.files import write_file
from sd_scratch.training.loop import OnStep, Outcome, train
from sd_scratch.training.pixels.card import write_model
from sd_scratch.training.pixels.ddpm import DdpmTask
from sd_scratch.training.pixels.images import DataSet
from sd_scratch.training.pixels.judge import JudgeTask
from sd_scratch.training.pixels.presets import JudgePreset, PixelPreset
from sd_scratch.training.settings import Budget
from sd_scratch.training.state import load_state
from sd_scratch.training.team import Team

DDPM, CLASSIFIER = "ddpm", "classifier"


def train_ddpm(
    preset: PixelPreset,
    data: DataSet,
    out: Path,
    budget: Budget,
    *,
    resume: bool = False,
    keep: int = 0,
    team: Team | None = None,
    dtype: torch.dtype | None = None,
    on_step: OnStep | None = None,
) -> Outcome:
    """Train a denoiser into `out`; the model is in ``out/model``.

    `dtype` is what `DdpmTask` computes in. Raises `ScratchError` for whatever
    `sd_scratch.training.loop.train` raises it for.
    """
    check_fits(preset, data)
    task = DdpmTask(preset, data, out / DDPM, team, dtype)
    outcome = train(
        task, preset.train, budget, out / DDPM, resume=resume, keep=keep, on_step=on_step
    )
    if task.team.leads:
        _copy_film(out, outcome.folder)
    return outcome


def train_classifier(
    preset: JudgePreset,
    name: str,
    data: DataSet,
    out: Path,
    budget: Budget,
    *,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Outcome:
    """Train the classifier for a data set into ``out/classifier``."""
    task = JudgeTask(preset, data, name)
    return train(task, preset.train, budget, out / CLASSIFIER, resume=resume, on_step=on_step)


def export_ddpm(preset: PixelPreset, out: Path, folder: Path, earlier: Path | None = None) -> None:
    """Write the newest state of a run, finished or not, as a model with its card, as `write_model`."""
    state = load_state(out / DDPM)
    if state is None:
        raise UsageError(f"{out / DDPM} - no state of a training there - train first")
    network = build_denoiser(preset.model)
    try:
        network.load_state_dict(state.ema)
    except RuntimeError:
        raise UsageError(
            f"{out / DDPM} - its state is of another network - name the preset and the timesteps that"
            " it was trained with"
        ) from None
    write_model(preset, network, folder, state.step, state.seconds, earlier)
    _copy_film(out, folder)


def _copy_film(out: Path, folder: Path) -> None:
    film = out / DDPM / "reverse.gif"
    if film.is_file():
        write_file(folder / film.name, film.read_bytes(), overwrite=True)


def check_fits(preset: PixelPreset, data: DataSet) -> None:
    """Raise `ScratchError` unless the network is one for such pictures."""
    network, pictures = preset.model.network, data.train
    wanted = (network.in_channels, network.sample_size, network.num_classes)
    if wanted != (pictures.channels, pictures.side, len(pictures.class_names)):
        raise UsageError(
            f"{pictures.source} - pictures of {pictures.side} pixels with {pictures.channels}"
            f" channels in {len(pictures.class_names)} classes, where the network is for"
            f" {network.sample_size} pixels, {network.in_channels} channels and"
            f" {network.num_classes} classes - another data set?"
        )
