"""A run's ControlNets and T2I-Adapters: their hints, and their residuals at each call of the U-Net."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.networks.controlnet import ControlNet, after_others, weighted
from sd_scratch.networks.t2i_adapter import T2IAdapter
from sd_scratch.pictures.read import to_rgb
from sd_scratch.pipeline.branches import COND, PERTURBED
from sd_scratch.pipeline.checks import check_kind
from sd_scratch.pipeline.image_noise import ImageNoise

CONTROL = "control"
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, for networks that see grey alone


@dataclass(frozen=True)
class Control:
    """The hint and the settings of one ControlNet or T2I-Adapter.

    Attributes:
        hint: a picture as large as the run's, or RGB ``[1 or B, 3, H, W]`` in 0..1.
        strength: the factor of its residuals.
        start, end: the part of the run in which it acts, from 0 to 1.
        guess: whether only the prompt's branch is steered, coarse levels more than fine ones, for pictures
            from the hint without a prompt.
    """

    hint: Image.Image | Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        """Everything but the hint, as JSON."""
        return {name: value for name, value in vars(self).items() if name != "hint"}


def hint_tensor(hint: Image.Image | Tensor) -> Tensor:
    """A hint as ``[B, 3, H, W]`` fp32 in 0..1."""
    if isinstance(hint, Tensor):
        return hint.float()
    return torch.from_numpy(np.array(to_rgb(hint), dtype=np.float32) / 255).permute(2, 0, 1)[None]


class Steering:
    """The ControlNets of one run: checked once, then run at every call.

    `roots` are the model's networks; `calls` says how often the U-Net will be called. Raises UsageError
    for a hint too few or too many, of another size, or values out of range.
    """

    def __init__(
        self,
        roots: Mapping[str, Any],
        control: Control | Sequence[Control],
        noise: ImageNoise,
        calls: Callable[[], int],
    ) -> None:
        networks: list[ControlNet | T2IAdapter] = controls_of(roots)
        controls = list(control) if isinstance(control, Sequence) else [control]
        for one in controls:
            check_kind("control", one, Control, "a sd.Control for each ControlNet")
        self.controls = controls
        if len(networks) != len(controls):
            raise UsageError(
                f"the model has {len(networks)} ControlNets and {len(controls)} hints were given - give"
                " one for each"
            )
        self.calls = calls() if controls else 1
        self.rows: list[tuple[ControlNet | T2IAdapter, Control, Tensor]] = []
        self.features: dict[int, list[Tensor]] = {}
        for network, control in zip(networks, controls, strict=True):
            if control.guess and isinstance(network, T2IAdapter):
                raise UsageError("guess mode is for ControlNets, and a T2I-Adapter has none")
            hint = _checked(control, noise, network.config.conditioning_channels)
            weight = network.conv_in.weight
            self.rows.append((network, control, hint.to(weight.device, weight.dtype)))

    def residuals(
        self, x_t: Tensor, t: Tensor, context: Tensor, branches: Sequence[str], call: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The residuals for the U-Net's stack at a call, and for its levels on the way down: sums over the
        networks that act in it, or nothing. Inputs are the U-Net's, ``[branches * B, ...]``."""
        total: list[Tensor] = []
        features: list[Tensor] = []
        batch = len(x_t) // len(branches)
        prompted = sum(branch in (PERTURBED, COND) for branch in branches) or 1  # the last ones
        for number, (network, control, hint) in enumerate(self.rows):
            begins, ends = call / self.calls, (call + 1) / self.calls
            if not control.strength or begins < control.start or ends > control.end:
                continue
            if isinstance(network, T2IAdapter):
                own = (control.strength * feature for feature in self.features[number])
                own = (f.expand(batch, -1, -1, -1).repeat(len(branches), 1, 1, 1) for f in own)
                features = _sum(features, list(own))
                continue
            pool = network.config.global_pool
            alone = control.guess or pool  # those that pool were trained without the other branch
            first = len(x_t) - prompted * batch if alone else 0
            hints = hint.expand(batch, -1, -1, -1)
            hints = hints.repeat(prompted if alone else len(branches), 1, 1, 1)
            made = network(x_t[first:], t[first:], context[first:], hints)
            made = weighted(made, control.strength, control.guess, pool)
            made = after_others(made, first) if alone else made
            total = _sum(total, made)
        return total, features

    def look(self) -> None:
        """Run the T2I-Adapters on their hints, once for the whole run."""
        for number, (network, _, hint) in enumerate(self.rows):
            if isinstance(network, T2IAdapter):
                self.features[number] = network(hint)


def _sum(total: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(total, made, strict=True)] if total else made


def controls_of(roots: Mapping[str, Any]) -> list[Any]:
    """The ControlNets and T2I-Adapters among a model's networks, in their order."""
    return [network for name, network in roots.items() if name.startswith(CONTROL)]


def control_name(index: int) -> str:
    """The root name of the tensors of ControlNet number `index`: control, control2, ..."""
    return CONTROL if index == 0 else f"{CONTROL}{index + 1}"


def _checked(control: Control, noise: ImageNoise, channels: int) -> Tensor:
    hint = hint_tensor(control.hint)
    if channels == 1 and hint.ndim == 4 and hint.shape[1] == 3:
        weights = torch.tensor(LUMA, device=hint.device)[None, :, None, None]
        hint = (hint * weights).sum(1, keepdim=True).clamp(0, 1)
    height, width = noise.height, noise.width
    if hint.ndim != 4 or hint.shape[0] not in (1, len(noise)) or hint.shape[1] != channels:
        raise UsageError(
            f"a hint is {channels} x {height} x {width}, one for all pictures or one for each, not"
            f" {' x '.join(map(str, hint.shape))}"
        )
    if tuple(hint.shape[2:]) != (height, width):
        raise UsageError(
            f"the hint is {hint.shape[3]}x{hint.shape[2]} pixels and the picture {width}x{height} - resize"
            " the one or the other"
        )
    if not 0 <= hint.min() <= hint.max() <= 1:
        raise UsageError("a hint's values are from 0 (black) to 1 (white)")
    if not 0 <= control.start <= control.end <= 1:
        raise UsageError(
            f"control from {control.start:g} to {control.end:g} - both are from 0 to 1, in that order"
        )
    if not -100 <= control.strength <= 100:
        raise UsageError(f"control strength {control.strength:g} - a number from -100 to 100")
    return hint
