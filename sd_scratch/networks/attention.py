"""Multi-head attention, fused or explicit, with every tensor named.

Vaswani et al. 2017 (arXiv:1706.03762), equation 1. Token sequences are ``[B, N, C]``; heads are an axis,
``[B, heads, N, C // heads]``. Attributes have diffusers' names.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.networks.layers import Linear, in_type
from sd_scratch.tensors import Probe, Rows, Tapped


def attention_scores(q: Tensor, k: Tensor, causal: bool = False, first: int = 0) -> Tensor:
    """q k^T / sqrt(d): ``[B, heads, N, d]`` and ``[B, heads, M, d]`` -> ``[B, heads, N, M]``.

    In causal attention no row looks at a later one. `first` is the number of q's first row, if q is only a
    part of the rows.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        row = torch.arange(first, first + q.shape[-2], device=q.device)
        future = torch.arange(k.shape[-2], device=q.device) > row[:, None]
        scores = scores.masked_fill(future, -math.inf)
    return scores


SLICE = 1 << 28  # scores that are held at once, 1 GiB in fp32
FUSED = (
    "cpu",
    "cuda",
)  # where PyTorch's kernel never holds all scores, for every width of head here


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, ``[B, heads, N, d]``, explicit: as many rows of q at a time as `SLICE`
    allows."""
    rows = max(1, SLICE // (q.shape[0] * q.shape[1] * k.shape[2]))
    parts = [
        attention_scores(part, k, causal, i * rows).softmax(dim=-1) @ v
        for i, part in enumerate(torch.split(q, rows, dim=2))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor | None:
    """The same by PyTorch's kernel, which never holds all scores; None for tensors with a forward-mode derivative,
    for which it has no rule."""
    try:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    except NotImplementedError:  # asking beforehand would cost time at every call
        return None


def needs_slices(q: Tensor, k: Tensor) -> bool:
    """Whether the device's fused kernel would hold more scores than `SLICE`."""
    return q.device.type not in FUSED and q[..., 0].numel() * k.shape[2] > SLICE


class MultiHead(Tapped):
    """Multi-head attention, between its input projections and its output projection.

    The fused kernel runs, which never stores its probabilities: for recordings they are computed beside it.
    The explicit form, equal up to rounding, runs instead if `explicit` is set, if scores or probabilities are
    edited, and in forward-mode differentiation.
    """

    explicit = False
    causal = False
    upcast = False  # scores and probabilities in fp32, whatever the projections are in
    heads: int

    @property
    def output(self) -> nn.Linear:
        """The output projection."""
        raise NotImplementedError

    def split_heads(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        return x.view(B, N, self.heads, C // self.heads).transpose(1, 2)  # [B, heads, N, d]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[B, N, C]`` queries, ``[B, M, C]`` keys and values -> ``[B, N, C]``."""
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)
        probe = self.probe  # once: another thread may take it away
        if probe is not None:
            return self._attend_tapped(probe, q, k, v)
        dtype = v.dtype
        q, k, v = self._precise(q, k, v)
        spelled_out = self.explicit or needs_slices(q, k)
        z = None if spelled_out else fused_attention(q, k, v, self.causal)
        if z is None:
            z = attention(q, k, v, self.causal)
        out: Tensor = self.output(z.to(dtype).transpose(1, 2).flatten(2))  # [B, N, C]
        return out

    def _precise(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.float() for tensor in tensors) if self.upcast else tensors

    def _attend_tapped(self, probe: Probe, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`attend` while a listener is active. One check here, not one at every tensor, keeps attention cheap
        without listeners."""
        q, k, v = probe.tap("q", q), probe.tap("k", k), probe.tap("v", v)
        dtype = v.dtype
        q, k, v = self._precise(q, k, v)
        spelled_out = self.explicit or probe.needs("scores", "probs")
        z = None if spelled_out else fused_attention(q, k, v, self.causal)
        if z is None:
            scores = probe.tap("scores", attention_scores(q, k, self.causal))
            probs = probe.tap("probs", scores.softmax(dim=-1))
            z = probs @ v
        else:
            self._show_scores(probe, q, k)
        z = probe.tap("z", z.to(dtype))
        if probe.needs("result"):
            out = probe.tap("result", self._by_head(z)).sum(dim=1) + self.output.bias
        else:
            out = self.output(z.transpose(1, 2).flatten(2))
            self._show_result(probe, z)
        return probe.tap("out", out)

    def _show_scores(self, probe: Probe, q: Tensor, k: Tensor) -> None:
        def scores(batch: slice, rows: slice) -> Tensor:
            return attention_scores(q[batch, :, rows], k[batch], self.causal, rows.start)

        def probs(batch: slice, rows: slice) -> Tensor:
            return scores(batch, rows).softmax(dim=-1)

        shape = (q.shape[0], q.shape[2], self.heads * k.shape[2])
        probe.show_rows("scores", Rows(scores, *shape))
        probe.show_rows("probs", Rows(probs, *shape))

    def _show_result(self, probe: Probe, z: Tensor) -> None:
        def result(batch: slice, rows: slice) -> Tensor:
            return self._by_head(z[batch, :, rows])

        shape = (z.shape[0], z.shape[2], self.heads * self.output.out_features)
        probe.show_rows("result", Rows(result, *shape))

    def _by_head(self, z: Tensor) -> Tensor:
        """What each head adds to the output, ``[B, heads, N, C]``; its sum lacks the bias."""
        weight = in_type(self.output.weight, z.dtype)
        weight = weight.view(self.output.out_features, self.heads, -1)  # [C, heads, d]
        return torch.einsum("bhnd,chd->bhnc", z, weight)


class Attention(MultiHead):
    """Multi-head attention of x to itself, or to a context."""

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int | None = None,
        bias: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = Linear(channels, channels, bias=bias)
        self.to_k = Linear(context_dim or channels, channels, bias=bias)
        self.to_v = Linear(context_dim or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    @property
    def output(self) -> nn.Linear:
        return cast(nn.Linear, self.to_out[0])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        given = None if self.probe is None else self.probe.given("out")
        if given is not None:
            return self.tap("out", given)
        context = x if context is None else context
        return self.attend(self.to_q(x), self.to_k(context), self.to_v(context))
