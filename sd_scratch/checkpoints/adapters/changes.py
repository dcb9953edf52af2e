"""What an adapter does to one module: tensors by slot to what is added to its weight and its bias.

    LoRA     up down                        Hu et al. 2021 (arXiv:2106.09685), section 4.1
    LoCon    the same on convolutions, with a small convolution `mid` between where there is one
    LoHa     (w1_a w1_b) * (w2_a w2_b)      Hyeon-Woo et al. 2021 (arXiv:2108.06098), section 2.2
    LoKr     w1 (x) w2                      Yeh et al. 2023 (arXiv:2309.14859), section 3.3
    DoRA     m (W + dW) / |W + dW| - W      Liu et al. 2024 (arXiv:2402.09353), equation 5
    diff     a difference, whole

The first three are scaled by alpha / rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Slots = dict[str, Tensor]
Factor = Callable[[int], float]  # rank -> alpha / rank


@dataclass(frozen=True)
class Change:
    """The change of one module, ``unet.conv_in``, at scale 1.

    `slots` are the file's tensors; `alpha` None stands for the rank; `root_rank` divides by the root of
    the rank in its place (Kalajdzievski 2023, arXiv:2312.03732).
    """

    module: str
    slots: Mapping[str, Tensor]
    alpha: float | None = None
    root_rank: bool = False

    def of_weight(self, weight: Tensor) -> Tensor | None:
        """What is added to `weight` [out, in, ...], in its dtype; None where nothing is.

        Raises KeyError for a slot that is missing, ValueError or RuntimeError for shapes that do not fit
        together, and for slots that belong to nothing.
        """
        slots = {k: v.to(weight) for k, v in self.slots.items() if k != "diff_b"}
        magnitude = slots.pop("dora_scale", None)
        parts = [f(slots, self._factor) for kind, f in FORMULAS if any(k in slots for k in kind)]
        if "set_weight" in slots:
            parts.append(slots.pop("set_weight") - weight)
        if slots or (magnitude is not None and not parts):
            raise ValueError("it belongs to no kind of change")
        if not parts:
            return None
        change = torch.stack([_shaped(part, weight) for part in parts]).sum(dim=0)
        return change if magnitude is None else _decomposed(weight, change, magnitude)

    def of_bias(self, bias: Tensor) -> Tensor | None:
        """What is added to `bias` [out]; ValueError where it has another shape."""
        if "diff_b" not in self.slots:
            return None
        return _shaped(self.slots["diff_b"].to(bias), bias)

    def _factor(self, rank: int) -> float:
        alpha = rank if self.alpha is None else self.alpha
        return alpha / (rank**0.5 if self.root_rank else rank)


def low_rank(slots: Slots, factor: Factor) -> Tensor:
    down, up, mid = slots.pop("down"), slots.pop("up"), slots.pop("mid", None)
    scale = factor(down.shape[0])
    if mid is None:
        product = up.flatten(1) @ down.flatten(1)
        return scale * product.reshape(up.shape[0], *down.shape[1:])
    return scale * torch.einsum("or,rshw,si->oihw", up.flatten(1), mid, down.flatten(1))


def hadamard(slots: Slots, factor: Factor) -> Tensor:
    scale = factor(slots["hada_w1_b"].shape[0])
    first, second = (
        _product(slots.pop(f"hada_{w}_a"), slots.pop(f"hada_{w}_b"), slots.pop(f"hada_{t}", None))
        for w, t in (("w1", "t1"), ("w2", "t2"))
    )
    return scale * first * second


def kronecker(slots: Slots, factor: Factor) -> Tensor:
    scale = 1.0  # of two whole matrices, which have no rank
    factors = []
    for w, t in (("lokr_w1", "lokr_t1"), ("lokr_w2", "lokr_t2")):
        if w in slots:
            factors.append(slots.pop(w))
            continue
        scale = factor(slots[f"{w}_b"].shape[0])
        product = _product(slots.pop(f"{w}_a"), slots.pop(f"{w}_b"), slots.pop(t, None))
        factors.append(product.contiguous())  # `kron` takes no other
    first, second = factors
    return scale * torch.kron(first.reshape(*first.shape, *(1,) * (second.ndim - 2)), second)


def difference(slots: Slots, factor: Factor) -> Tensor:
    return slots.pop("diff")


FORMULAS: tuple[tuple[tuple[str, ...], Callable[[Slots, Factor], Tensor]], ...] = (
    (("down", "up"), low_rank),
    (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), hadamard),
    (("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"), kronecker),
    (("diff",), difference),
)


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """a b, or with the core [r, s, h, w] of a Tucker decomposition a [r, out] and b [s, in]."""
    if core is None:
        return a @ b
    return torch.einsum("rshw,si,ro->oihw", core, b, a)


def _shaped(change: Tensor, target: Tensor) -> Tensor:
    """The change in the weight's own shape: a 1x1 convolution may be stored as a matrix and the other
    way round, and a matrix [out, in h w] is a convolution's rows."""
    same = _without_ones(change.shape) == _without_ones(target.shape)
    rows = change.ndim == 2 and change.shape[0] == target.shape[0]
    if not same and not (rows and change.numel() == target.numel()):
        raise ValueError(f"it changes {_by(change.shape)} and the model has {_by(target.shape)}")
    return change.reshape(target.shape)


def _decomposed(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA's change. The norm is taken over each output, or over each input where the magnitudes lie
    along that axis ([1, in]): both are in use."""
    changed = weight + change
    along = 1 if magnitude.ndim > 1 and magnitude.shape[0] == 1 != weight.shape[0] else 0
    others = [axis for axis in range(weight.ndim) if axis != along]
    norm = changed.square().sum(dim=others, keepdim=True).sqrt()
    tiny = torch.finfo(weight.dtype).tiny
    return changed * (magnitude.reshape(norm.shape) / norm.clamp_min(tiny)) - weight


def _without_ones(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2] if tuple(shape[2:]) == (1, 1) else shape)


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape))
