"""Attention holds no more scores than it may: in the fused kernel, or spelled out in slices."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sd_scratch.networks import attention
from sd_scratch.networks.attention import Attention

MATH = 0  # what PyTorch calls the form that holds all scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "width", "rows", "keys", "causal"),
    [
        (8, 40, 4096, 4096, False),  # the U-Net's finest level, and its words
        (8, 40, 4096, 77, False),
        (8, 160, 64, 64, False),
        (5, 64, 9216, 9216, False),  # 2.x at 768 pixels
        (1, 512, 16384, 16384, False),  # the autoencoder at 1024 pixels
        (12, 64, 77, 77, True),  # the text encoders
        (16, 64, 77, 77, True),
    ],
)
def test_the_cpu_has_a_fused_kernel_for_every_shape(heads, width, rows, keys, causal, dtype):
    q, k, v = (
        torch.empty(1, n, heads, width, dtype=dtype).transpose(1, 2) for n in (rows, keys, keys)
    )
    assert torch._fused_sdp_choice(q, k, v, is_causal=causal) != MATH


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("limit", [1, 200, 10**9])
def test_slices_make_the_whole(monkeypatch: pytest.MonkeyPatch, limit: int, causal: bool) -> None:
    monkeypatch.setattr(attention, "SLICE", limit)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 9, 8, generator=draw) for _ in range(3))
    found = attention.attention(q, k, v, causal)
    assert torch.allclose(found, scaled_dot_product_attention(q, k, v, is_causal=causal), atol=1e-6)


def test_a_device_whose_kernel_holds_all_scores_takes_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = Attention(32, 4)
    x = torch.randn(1, 20, 32)
    fused = layer(x)
    monkeypatch.setattr(attention, "FUSED", ())
    assert torch.equal(layer(x), fused)  # few scores
    monkeypatch.setattr(attention, "SLICE", 100)
    sliced = layer(x)
    assert torch.allclose(sliced, fused, atol=1e-5)
    assert not torch.equal(sliced, fused)
