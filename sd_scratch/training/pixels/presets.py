"""Ways to learn a data set: `better` is what is shipped, `paper` is "Starting Great Adventure".

    paper      the paper's network with 128 features, its schedule, its optimiser
    paper-64   the same with 64 features, which a CPU can train in an afternoon
    better     a residual U-Net, cosine schedule, v-prediction, averaged weights
    large      the same, larger; for a GPU

The paper says of its network that it is a simplified DDPM, of its training 10 passes in batches of 256, 400
timesteps and betas from 1e-4 to 0.02 (of photographs 20 passes and 1,000 timesteps). It names no program:
that the network is the one of TeaPearce/Conditional_Diffusion_MNIST, whose settings these are, with its
learning rate and its guidance, is our inference.
"""

from dataclasses import dataclass, replace

from sd_scratch.config import (
    ClassifierConfig,
    ContextUNetConfig,
    PixelModelConfig,
    PixelUNetConfig,
    ScheduleConfig,
)
from sd_scratch.training.settings import TrainConfig

COSINE = ScheduleConfig(
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    steps_offset=0,
    set_alpha_to_one=True,
)
"""Leading spacing, because it never begins at the very last timestep. There nothing is left of the
picture, and a multistep sampler's mixture of eps cannot be divided by nothing."""

PAPER = ScheduleConfig(
    num_train_timesteps=401,
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    prediction_type="epsilon",
    steps_offset=1,
    set_alpha_to_one=True,
)
"""The original computes 401 betas and uses number 1 to 400. After them a share of sqrt(alpha_bar) = .13
of the picture is left, which sampling does not know: it begins with nothing but noise."""

BETTER_TRAINING = TrainConfig(batch=128, lr=1e-3, look_seconds=600.0)
HALF_FORGOTTEN = 100_000  # pictures after which the average has forgotten half of what it knew
PAPER_TRAINING = TrainConfig(
    batch=256,
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    warmup_steps=0,
    decay_share=1.0,
    final_lr_share=0.05,
    clip=1e9,
    ema_decay=0.0,
    look_seconds=900.0,
)


@dataclass(frozen=True)
class PixelPreset:
    """A data set, a model and how it is trained.

    `p_no_class` is the share of pictures that the model is not told the class of; `flip` whether half of
    the pictures are mirrored.
    """

    data: str
    model: PixelModelConfig
    train: TrainConfig
    p_no_class: float = 0.1
    flip: bool = False


def better(
    data: str, network: PixelUNetConfig, *, lr: float, batch: int = 128, flip: bool = False
) -> PixelPreset:
    """The residual U-Net, learnt with the cosine schedule, v and averaged weights."""
    model = PixelModelConfig(name=f"ddpm-{data}", network=network, schedule=COSINE)
    ema_decay = round(0.5 ** (batch / HALF_FORGOTTEN), 5)
    train = replace(BETTER_TRAINING, lr=lr, batch=batch, ema_decay=ema_decay)
    return PixelPreset(data, model, train, flip=flip)


def paper(data: str, features: int, side: int, channels: int) -> PixelPreset:
    """The paper's network for pictures of `side` pixels, with the original's quirks."""
    network = ContextUNetConfig(in_channels=channels, sample_size=side, features=features)
    model = PixelModelConfig(
        name=f"ddpm-{data}-paper",
        network=network,
        schedule=PAPER,
        low=0.0,
        first_timestep=1,
        clip_x0=False,
        sampler="ddpm",
        variance="fixed_large",
        steps=400,
        guidance=1.5,
    )
    return PixelPreset(data, model, PAPER_TRAINING)


MNIST_NET = PixelUNetConfig()
FASHION_NET = PixelUNetConfig(block_out_channels=(32, 64, 96))
CIFAR_NET = PixelUNetConfig(
    in_channels=3, sample_size=32, block_out_channels=(32, 64, 128), attention_head_dim=32
)
LARGE_NET = replace(
    CIFAR_NET,
    block_out_channels=(64, 128, 256),
    attention=(False, True, True),
    layers_per_block=2,
    dropout=0.1,
)


@dataclass(frozen=True)
class JudgePreset:
    """A classifier and how it is trained: `shift` pixels in every direction, `flip` half of them."""

    model: ClassifierConfig
    train: TrainConfig
    shift: int
    flip: bool


def judge(config: ClassifierConfig, *, shift: int, flip: bool) -> JudgePreset:
    training = TrainConfig(batch=128, lr=2e-3, ema_decay=0.995, look_seconds=120.0)
    return JudgePreset(config, training, shift, flip)


def with_timesteps(preset: PixelPreset, T: int) -> PixelPreset:
    """The preset with a schedule of `T` timesteps; one that samples with all of them still does."""
    model = preset.model
    network, schedule, steps = model.network, model.schedule, model.steps
    every = len(range(model.first_timestep, schedule.num_train_timesteps))
    if isinstance(network, ContextUNetConfig):
        network = replace(network, last_timestep=T)
    schedule = replace(schedule, num_train_timesteps=T + model.first_timestep)
    steps = T if steps == every else min(steps, T)
    return replace(preset, model=replace(model, network=network, schedule=schedule, steps=steps))


def for_classes(preset: PixelPreset, class_names: tuple[str, ...]) -> PixelPreset:
    """The preset for the classes that a data set turned out to have."""
    network = replace(preset.model.network, num_classes=len(class_names))
    return replace(preset, model=replace(preset.model, network=network, class_names=class_names))


def judge_for_classes(preset: JudgePreset, count: int) -> JudgePreset:
    return replace(preset, model=replace(preset.model, num_classes=count))
