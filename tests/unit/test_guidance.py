import math

import pytest
import torch

from sd_scratch.diffusion.guidance import guide
from sd_scratch.errors import ScratchError, UsageError

UNCOND, COND = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def test_zero_and_one_are_the_two_predictions_exactly() -> None:
    assert torch.equal(guide(UNCOND, COND, 0.0), UNCOND)
    assert torch.equal(guide(UNCOND, COND, 1.0), COND)


@pytest.mark.parametrize("scale", [-2.0, 0.5, 7.5, 1e9])
def test_other_scales_lie_on_the_line_through_them(scale: float) -> None:
    expected = (1 - scale) * UNCOND.double() + scale * COND.double()
    torch.testing.assert_close(
        guide(UNCOND, COND, scale).double(), expected, rtol=1e-5, atol=1e-6 * max(1, abs(scale))
    )


def test_more_guidance_goes_towards_the_text() -> None:
    uncond, cond = torch.zeros(1), torch.ones(1)
    assert float(guide(uncond, cond, 7.5)) == 7.5


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_is_bad_usage(scale: float) -> None:
    with pytest.raises(ScratchError) as error:
        guide(UNCOND, COND, scale)
    assert isinstance(error.value, UsageError)


def test_inputs_are_left_alone() -> None:
    uncond, cond = UNCOND.clone(), COND.clone()
    guide(uncond, cond, 7.5)
    assert torch.equal(uncond, UNCOND) and torch.equal(cond, COND)
