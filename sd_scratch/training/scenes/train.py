"""The four stages of the `scenes` model, and the folders that come out of them.

out/vae/     states, journal and pictures of the autoencoder's training
out/unet/    the same for the U-Net and the text encoder, and the latents that they are trained on
out/model/   the model in diffusers' folder layout, in half precision
out/scenes-clip/, out/scenes-classifier/   what the stages clip and classifier make
"""

from dataclasses import replace
from pathlib import Path

import torch

from sd_scratch.checkpoints import Components
from sd_scratch.config import SCENES, ModelConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.scenes.captions import corpus
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.text.vocabulary import number_tokens
from sd_scratch.training.bpe import train_merges
from sd_scratch.training.loop import OnStep, Outcome, train
from sd_scratch.training.scenes.judge import JUDGE_TRAINING, SceneJudgeTask
from sd_scratch.training.scenes.latents import cached_latents
from sd_scratch.training.scenes.pair import PAIR_TRAINING, PairTask
from sd_scratch.training.scenes.unet import (
    DATA_SEED,
    UNET_TRAINING,
    TextAndUNet,
    UNetTask,
    save_scenes,
)
from sd_scratch.training.scenes.vae import VAE_TRAINING, VaeTask, measure_scale
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.state import load_state
from sd_scratch.training.task import Task
from sd_scratch.training.team import Team

STAGES = {
    "vae": VAE_TRAINING,
    "unet": UNET_TRAINING,
    "clip": PAIR_TRAINING,
    "classifier": JUDGE_TRAINING,
}
SCENE_COUNT = 64_000  # what the U-Net sees, again and again
CAPTIONS_PER_SCENE = 4
CORPUS_SIZE = 20_000


def train_scenes(
    stage: str,
    out: Path,
    budget: Budget,
    *,
    resume: bool = False,
    config: ModelConfig = SCENES,
    settings: TrainConfig | None = None,
    scene_count: int = SCENE_COUNT,
    init: Components | None = None,
    decoder_only: bool = False,
    crowded: bool = False,
    keep: int = 0,
    on_step: OnStep | None = None,
    team: Team | None = None,
) -> Outcome:
    """Train one stage into `out`, beginning with the weights of `init` or from nothing.

    `crowded` trains on scenes with more objects (`crowded_scene`), `decoder_only` leaves the
    autoencoder's encoder as it is in `init`.

    Raises `ScratchError` for an unknown stage, for the U-Net's before the autoencoder's, and for
    whatever `sd_scratch.training.loop.train` raises it for.
    """
    if stage not in STAGES:
        raise UsageError(f"no stage {stage!r} - there is {' and '.join(STAGES)}")
    if init is not None and stage not in ("vae", "unet"):
        raise UsageError(
            f"the stage {stage} begins from nothing - leave the model to begin with away"
        )
    if crowded and stage not in ("vae", "unet"):
        raise UsageError(f"the stage {stage} draws its scenes itself - crowded is for vae and unet")
    if decoder_only and (stage != "vae" or init is None):
        raise UsageError(
            "decoder-only is for the stage vae that begins with a model - name it (init)"
        )
    team = team or Team()
    train_config = settings or STAGES[stage]
    if stage == "vae" and init is not None and settings is None:
        # Half the learning rate for an autoencoder that is good already: the full one throws it back.
        train_config = replace(train_config, lr=train_config.lr / 2)
    task: Task
    if stage == "vae":
        chosen = {"decoder_only": decoder_only, "crowded": crowded}
        task = VaeTask(config, train_config, out / stage, team, init, **chosen)
    elif stage == "unet":
        task = _unet_task(out, config, train_config, scene_count, team, init, crowded)
    elif stage == "clip":
        with team.leader_first():
            task = PairTask(train_config, _tokenizer(out, config, None), team)
    else:
        task = SceneJudgeTask(train_config, team)
    return train(task, train_config, budget, out / stage, resume=resume, keep=keep, on_step=on_step)


def export_scenes(out: Path, folder: Path, config: ModelConfig = SCENES) -> None:
    """Write the newest states of a run, finished or not, as a model folder."""
    vae, config = trained_autoencoder(out, config)
    state = load_state(out / "unet")
    if state is None:
        raise ScratchError(f"{out / 'unet'} - no state of a U-Net - train the stage unet first")
    networks = TextAndUNet(config)
    networks.load_state_dict(state.ema)
    tokenizer = _tokenizer(out, config, None)
    save_scenes(Components(config, networks.text, vae, networks.unet, tokenizer), folder)


def trained_autoencoder(out: Path, config: ModelConfig) -> tuple[Autoencoder, ModelConfig]:
    """The averaged autoencoder of the newest state, and the configuration with the scale that it
    was measured to need."""
    state = load_state(out / "vae")
    if state is None:
        raise UsageError(f"{out / 'vae'} - no state of an autoencoder - train the stage vae first")
    vae = Autoencoder(config.vae).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae.load_state_dict(state.ema)
    vae.eval().requires_grad_(False)
    scale = round(measure_scale(vae, config.sample_size), 4)
    config = replace(config, vae=replace(config.vae, scaling_factor=scale))
    vae.config = config.vae
    return vae, config


def make_tokenizer(config: ModelConfig) -> Tokenizer:
    """The vocabulary of the captions: the same every time."""
    merges = train_merges(corpus(0, CORPUS_SIZE), config.text.vocab_size)
    return Tokenizer(number_tokens(merges), merges, config.text.max_position_embeddings)


def _tokenizer(out: Path, config: ModelConfig, init: Components | None) -> Tokenizer:
    """The vocabulary that a run began with: the one it kept, or that of `init`, or one made of its
    captions."""
    folder, length = out / "tokenizer", config.text.max_position_embeddings
    if folder.is_dir():
        return Tokenizer.from_folder(folder, length)
    tokenizer = init.tokenizer if init is not None else make_tokenizer(config)
    tokenizer.save(folder)
    return tokenizer


def _unet_task(
    out: Path,
    config: ModelConfig,
    train_config: TrainConfig,
    count: int,
    team: Team,
    init: Components | None,
    crowded: bool,
) -> UNetTask:
    vae, config = trained_autoencoder(out, config)
    with team.leader_first():
        tokenizer = _tokenizer(out, config, init)
        scenes = (config.sample_size, DATA_SEED, count, CAPTIONS_PER_SCENE, crowded)
        latents = cached_latents(out / "unet", vae, tokenizer, *scenes)
    return UNetTask(
        config, train_config, out / "unet", vae, tokenizer, latents, team, init, crowded=crowded
    )
