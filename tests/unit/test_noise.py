from math import log, pi, sin

import pytest
import torch

from sd_scratch.diffusion.noise import MAX_SEED, Drawing, NoiseSource, random_seed, slerp
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


def test_numbers_of_nvidias_cards() -> None:
    """The vector that A1111 publishes with its own: seed 0, three rows of four."""
    published = torch.tensor(
        [
            [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
            [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
            [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
        ]
    )
    source = NoiseSource([0], Drawing("nv"))
    assert (source.draw((3, 4))[0] - published).abs().max() < 5e-7
    assert not torch.allclose(source.draw((3, 4))[0], published)  # the next draw is another one


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al. 2011 in whole numbers of Python's."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (b >> 32) ^ counter[1] ^ key[0],
            b % 2**32,
            (a >> 32) ^ counter[3] ^ key[1],
            a % 2**32,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def test_philox_against_the_authors_own_vectors() -> None:
    """Known answers of Random123, philox4x32 with 10 rounds, for the reference of the next test."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([2**32 - 1] * 4, [2**32 - 1] * 2) == [
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    ]


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, MAX_SEED])
def test_every_number_of_a_draw(seed: int) -> None:
    source = NoiseSource([seed], Drawing("nv"))
    for draw in range(3):
        numbers = source.draw((2, 3))[0].flatten()
        for i, number in enumerate(numbers.tolist()):
            x, y, _, _ = philox([draw, 0, i, 0], [seed % 2**32, seed >> 32])
            u, v = (x + 0.5) / 2**32, (y + 0.5) / 2**32
            assert number == pytest.approx((-2 * log(u)) ** 0.5 * sin(2 * pi * v), abs=2e-6)


def test_cards_numbers_are_gaussian_and_each_image_has_its_own() -> None:
    noise = NoiseSource(range(8), Drawing("nv")).draw((4, 64, 64))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert torch.equal(noise[3:4], NoiseSource([3], Drawing("nv")).draw((4, 64, 64)))


@pytest.mark.parametrize("source", ["cpu", "nv"])
def test_later_noise_of_another_seed(source: str) -> None:
    plain, later = NoiseSource([5], Drawing(source)), NoiseSource([5], Drawing(source, delta=31337))
    assert torch.equal(plain.draw(SHAPE), later.draw(SHAPE))
    assert torch.equal(later.draw(SHAPE), NoiseSource([5 + 31337], Drawing(source)).draw(SHAPE))


def test_a_variation_is_on_the_arc_between_two_noises() -> None:
    shape = (4, 16, 16)
    seed, other = NoiseSource([5]).draw(shape)[0], NoiseSource([9]).draw(shape)[0]
    for strength, expected in ((0.0, seed), (1.0, other)):
        drawn = NoiseSource([5], Drawing(subseed=9, strength=strength)).draw(shape)[0]
        assert torch.allclose(drawn, expected, atol=1e-6)
    half = NoiseSource([4, 5], Drawing(subseed=8, strength=0.5)).draw(shape)[1]
    # In the plane of the two, at half of the angle between them, by columns.
    cosine = torch.nn.functional.cosine_similarity(seed, other, dim=1)
    sums = (seed + other) / (2 * ((1 + cosine) / 2).sqrt())[:, None]
    assert torch.allclose(half, sums, atol=1e-5)
    assert torch.allclose(slerp(seed, seed, 0.3), seed)


def test_drawings_that_are_none() -> None:
    for wrong in ({"source": "gpu"}, {"strength": 1.5}, {"subseed": -1}):
        with pytest.raises(UsageError):
            Drawing(**wrong)
