import math

import pytest
import torch
from torch import Tensor

from sd_scratch.diffusion import prediction
from sd_scratch.diffusion.prediction import PREDICTION_TYPES, interpret, target

ALPHA_BARS = [0.99915, 0.5, 0.00466]


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x0, eps


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
def test_definitions(alpha_bar: float) -> None:
    x0, eps = pair()
    a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    torch.testing.assert_close(prediction.noised(x0, eps, alpha_bar), a * x0 + s * eps)
    torch.testing.assert_close(prediction.velocity(x0, eps, alpha_bar), a * eps - s * x0)


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
def test_any_one_with_x_t_gives_the_other_two(alpha_bar: float) -> None:
    x0, eps = pair()
    x_t, v = prediction.noised(x0, eps, alpha_bar), prediction.velocity(x0, eps, alpha_bar)
    torch.testing.assert_close(prediction.x0_from_eps(eps, x_t, alpha_bar), x0)
    torch.testing.assert_close(prediction.eps_from_x0(x0, x_t, alpha_bar), eps)
    torch.testing.assert_close(prediction.x0_from_v(v, x_t, alpha_bar), x0)
    torch.testing.assert_close(prediction.eps_from_v(v, x_t, alpha_bar), eps)


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_perfect_answer_is_read_as_what_it_was_made_of(kind: str, alpha_bar: float) -> None:
    x0, eps = pair()
    answer = target(x0, eps, alpha_bar, kind)
    read = interpret(answer, prediction.noised(x0, eps, alpha_bar), alpha_bar, kind)
    torch.testing.assert_close(read.eps, eps)
    torch.testing.assert_close(read.x0, x0)


def test_the_three_targets_differ() -> None:
    x0, eps = pair()
    epsilon, v, sample = (target(x0, eps, 0.3, kind) for kind in PREDICTION_TYPES)
    assert epsilon is eps and sample is x0
    assert not torch.allclose(v, eps, atol=0.1) and not torch.allclose(v, x0, atol=0.1)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_one_alpha_bar_for_each_image_of_the_batch(kind: str) -> None:
    x0, eps = pair(torch.float32)
    alpha_bar = torch.tensor(ALPHA_BARS)
    answer, x_t = target(x0, eps, alpha_bar, kind), prediction.noised(x0, eps, alpha_bar)
    read = interpret(answer, x_t, alpha_bar, kind)
    for i, value in enumerate(alpha_bar.tolist()):
        torch.testing.assert_close(answer[i], target(x0[i], eps[i], value, kind))
        alone = interpret(answer[i], x_t[i], value, kind)
        torch.testing.assert_close(read.eps[i], alone.eps, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(read.x0[i], alone.x0, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(dtype: torch.dtype) -> None:
    x0, eps = pair(dtype)
    for alpha_bar in (0.3, torch.tensor([0.3, 0.4, 0.5])):
        assert prediction.noised(x0, eps, alpha_bar).dtype == dtype
        assert prediction.x0_from_eps(eps, x0, alpha_bar).dtype == dtype
