"""The class-conditional U-Net of the paper "Starting Great Adventure", unchanged.

Its plan and its attributes' names are those of a public program that has all that the paper describes,
TeaPearce/Conditional_Diffusion_MNIST, so that its weights fit. For 28x28 pixels and F features:

    init_conv    28   F     residual block
    down1        14   F     two convolutions, max-pooling
    down2         7   2F    two convolutions, max-pooling
    to_vec        1   2F    average over all positions, GELU
    up0           7   2F    transposed convolution from the one position to all
    up1          14   F     (class 1 * h + time 1) beside down2; transposed convolution, four more
    up2          28   F     (class 2 * h + time 2) beside down1; transposed convolution, four more
    out          28   1     beside init_conv's output; two convolutions

Its peculiarities are kept on purpose:

- The class enters as *minus* its one-hot vector, and "no class" as the zero vector: the original multiplies
  with -(1 - mask). Weights trained with plus do not fit.
- The timestep enters as the bare number t / T through two small networks, and only on the way up: the
  way down does not know how noisy its input is.
- In the middle all positions are averaged into one vector. The layout reaches the way up only through the
  skips, which is enough for digits and the main reason why it fails on photographs. The size of the picture
  is built in.
- BatchNorm in the residual blocks mixes statistics over pictures of all noise levels; in `eval` mode
  its running averages are used.
- Pixels are 0..1, not -1..1 (`sd_scratch.config.PixelModelConfig.low`).
"""

import torch
from torch import Tensor, nn

from sd_scratch.config import ContextUNetConfig
from sd_scratch.tensors import Tapped

GROUPS = 8
ROOT_TWO = 1.414  # the original's figure for the square root, which keeps the variance of a sum


class ConvBlock(Tapped):
    """Two 3x3 convolutions with BatchNorm and GELU; `residual` adds their input, or their first output if the
    number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.same = in_channels == out_channels
        self.conv1 = _convolution(in_channels, out_channels)
        self.conv2 = _convolution(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        first = self.tap("conv1", self.conv1(x))
        second = self.tap("conv2", self.conv2(first))
        if not self.residual:
            return second
        return self.tap("out", ((x if self.same else first) + second) / ROOT_TWO)


class Down(Tapped):
    """Two convolutions, then the largest of every four values."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(ConvBlock(in_channels, out_channels), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.tap("out", self.model(x))


class Up(Tapped):
    """With the skip concatenated: a transposed convolution to twice the side, four convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 2, 2),
            ConvBlock(out_channels, out_channels),
            ConvBlock(out_channels, out_channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.tap("out", self.model(torch.cat([x, skip], dim=1)))


class Embedding(Tapped):
    """Two linear layers: a number or a one-hot vector to one value per channel."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.model = nn.Sequential(
            nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.tap("out", self.model(x.view(-1, self.in_dim)))[:, :, None, None]


class ContextUNet(Tapped):
    """x_t, timestep and class to the noise in x_t. Class number `num_classes` means no class."""

    def __init__(self, config: ContextUNetConfig) -> None:
        super().__init__()
        self.config = config
        wide, features = 2 * config.features, config.features
        coarse = config.sample_size // 4  # the side after two halvings
        self.init_conv = ConvBlock(config.in_channels, features, residual=True)
        self.down1 = Down(features, features)
        self.down2 = Down(features, wide)
        self.to_vec = nn.Sequential(nn.AvgPool2d(coarse), nn.GELU())
        self.timeembed1 = Embedding(1, wide)
        self.timeembed2 = Embedding(1, features)
        self.contextembed1 = Embedding(config.num_classes, wide)
        self.contextembed2 = Embedding(config.num_classes, features)
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(wide, wide, coarse, coarse), nn.GroupNorm(GROUPS, wide), nn.ReLU()
        )
        self.up1 = Up(2 * wide, features)
        self.up2 = Up(wide, features)
        self.out = nn.Sequential(
            nn.Conv2d(wide, features, 3, padding=1),
            nn.GroupNorm(GROUPS, features),
            nn.ReLU(),
            nn.Conv2d(features, config.in_channels, 3, padding=1),
        )

    def forward(self, x_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """``x_t`` [B, in_channels, S, S], ``t`` [B] (0..last_timestep), ``classes`` [B] int64
        (0..num_classes) -> eps, shaped like ``x_t``."""
        x_t, t = self.tap("x", x_t), self.tap("t", t)
        time = (t / self.config.last_timestep).to(x_t.dtype)
        context = self.tap("context", context_vector(classes, self.config.num_classes).to(x_t))

        x = self.init_conv(x_t)
        down1 = self.down1(x)
        down2 = self.down2(down1)
        h = self.tap("h", self.to_vec(down2))

        h = self.tap("up0", self.up0(h))
        h = self.up1(self.contextembed1(context) * h + self.timeembed1(time), down2)
        h = self.up2(self.contextembed2(context) * h + self.timeembed2(time), down1)
        return self.tap("pred", self.out(torch.cat([h, x], dim=1)))


def context_vector(classes: Tensor, num_classes: int) -> Tensor:
    """Minus the one-hot vector of each class, and zeros for no class: ``[B]`` -> ``[B, num_classes]``."""
    return -(classes[:, None] == torch.arange(num_classes, device=classes.device)).float()


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.GELU()
    )
