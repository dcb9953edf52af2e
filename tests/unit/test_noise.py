import pytest
import torch

from sd_scratch.diffusion.noise import MAX_SEED, NoiseSource, random_seed
from sd_scratch.errors import ScratchError, UsageError

SHAPE = (4, 8, 8)


def test_image_i_of_a_batch_is_the_single_image_with_its_seed() -> None:
    batch = NoiseSource([7, 8, 9])
    alone = [NoiseSource([seed]) for seed in (7, 8, 9)]
    for _ in range(3):  # the start noise and the noise of two steps
        images = batch.draw(SHAPE)
        assert images.shape == (3, *SHAPE)
        assert torch.equal(images, torch.cat([source.draw(SHAPE) for source in alone]))


def test_successive_draws_differ_and_repeat_with_the_seed() -> None:
    source, again = NoiseSource([5]), NoiseSource([5])
    first, second = source.draw(SHAPE), source.draw(SHAPE)
    assert not torch.equal(first, second)
    assert torch.equal(first, again.draw(SHAPE)) and torch.equal(second, again.draw(SHAPE))


def test_it_is_torchs_own_stream_and_leaves_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    drawn = NoiseSource([42]).draw(SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    expected = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(42))
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_hold_the_same_float32_noise(dtype: torch.dtype) -> None:
    drawn = NoiseSource([3]).draw(SHAPE, dtype=dtype)
    assert drawn.dtype == dtype
    assert torch.equal(drawn, NoiseSource([3]).draw(SHAPE).to(dtype))


def test_it_is_gaussian_with_unit_variance() -> None:
    drawn = NoiseSource(range(8)).draw((4, 64, 64))
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.var()) == pytest.approx(1, abs=0.01)
    assert float((drawn.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)


def test_seeds_reach_from_0_to_2_to_the_64() -> None:
    noises = [NoiseSource([seed]).draw(SHAPE) for seed in (0, 1, 2**31, 2**32 - 1)]
    assert all(not torch.equal(a, b) for a in noises for b in noises if a is not b)
    # torch's generator on the CPU is seeded with the lower 32 bits, in every program that uses it.
    assert torch.equal(NoiseSource([MAX_SEED]).draw(SHAPE), noises[-1])


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, "7", True, None])
def test_other_seeds_are_bad_usage(seed: int) -> None:
    with pytest.raises(ScratchError, match="seed") as error:
        NoiseSource([0, seed])
    assert isinstance(error.value, UsageError)


def test_a_batch_needs_seeds() -> None:
    with pytest.raises(ScratchError):
        NoiseSource([])


def test_random_seeds_are_short_and_fresh() -> None:
    seeds = {random_seed() for _ in range(20)}
    assert len(seeds) > 1 and all(0 <= seed < 2**32 for seed in seeds)
