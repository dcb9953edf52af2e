"""What measures a map: known answers, ties, refusals, and independent reckonings."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.mapping.metrics import (
    average_precision,
    best_iou,
    bootstrap_interval,
    deletion_area,
    insertion_area,
    iou_at_mean,
    iou_of_maximum,
    mass_in_mask,
    pointing_chance,
    pointing_game,
    spearman,
)

AGAINST_MASK = [
    pointing_game,
    mass_in_mask,
    iou_of_maximum,
    iou_at_mean,
    best_iou,
    average_precision,
]
Metric = Callable[[Tensor, Tensor], float]


@pytest.fixture
def mask() -> Tensor:
    """A rectangle of 12 of 80 places, off the centre."""
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[1:4, 2:6] = True
    return mask


def noise(seed: int, *, levels: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.rand(8, 10, generator=generator)
    return torch.randint(levels, (8, 10), generator=generator).float()


@pytest.mark.parametrize("metric", AGAINST_MASK)
def test_the_mask_itself_is_a_perfect_map(metric: Metric, mask: Tensor) -> None:
    assert metric(3.0 * mask.float(), mask) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("metric", [pointing_game, mass_in_mask, iou_of_maximum, iou_at_mean])
def test_all_but_the_mask_gets_nothing(metric: Metric, mask: Tensor) -> None:
    assert metric((~mask).float(), mask) == 0.0


@pytest.mark.parametrize("metric", [best_iou, average_precision])
def test_the_lowest_threshold_chooses_everything(metric: Metric, mask: Tensor) -> None:
    assert metric((~mask).float(), mask) == pytest.approx(12 / 80)


@pytest.mark.parametrize("metric", [m for m in AGAINST_MASK if m is not iou_at_mean])
def test_a_uniform_map_gets_what_chance_gets(metric: Metric, mask: Tensor) -> None:
    assert metric(torch.full((8, 10), 0.1), mask) == pytest.approx(12 / 80)
    assert pointing_chance(mask) == 12 / 80


def test_a_near_miss_counts_within_the_tolerance(mask: Tensor) -> None:
    values = torch.zeros(8, 10)
    values[5, 7] = 1.0  # two rows below and two columns beside the corner (3, 5)
    assert pointing_game(values, mask, tolerance=2.8) == 0.0
    assert pointing_game(values, mask, tolerance=2.9) == 1.0


def test_chance_grows_with_the_tolerance(mask: Tensor) -> None:
    assert pointing_chance(mask, tolerance=1.0) == (12 + 2 * 4 + 2 * 3) / 80
    uniform = torch.ones(8, 10)
    assert pointing_game(uniform, mask, 1.0) == pointing_chance(mask, 1.0)


def test_of_tied_maxima_the_share_that_hits(mask: Tensor) -> None:
    values = torch.zeros(8, 10)
    values[2, 3] = values[7, 9] = values[7, 0] = values[0, 9] = 1.0
    assert pointing_game(values, mask) == 0.25


def test_negative_values_have_no_mass(mask: Tensor) -> None:
    values = torch.full((8, 10), -5.0)
    values[2, 3], values[7, 9] = 3.0, 1.0
    assert mass_in_mask(values, mask) == 0.75


def test_the_threshold_is_a_share_of_the_largest(mask: Tensor) -> None:
    values = torch.where(mask, 1.0, 0.3)
    assert iou_of_maximum(values, mask, share=0.4) == 1.0
    assert iou_of_maximum(values, mask, share=0.2) == pytest.approx(12 / 80)


@pytest.mark.parametrize("levels", [None, 4])
def test_best_iou_is_that_of_the_best_threshold(levels: int | None, mask: Tensor) -> None:
    values = noise(1, levels=levels)
    every = [
        float(((values >= v) & mask).sum() / ((values >= v) | mask).sum()) for v in values.flatten()
    ]
    assert best_iou(values, mask) == pytest.approx(max(every))


@pytest.mark.parametrize("levels", [None, 4])
def test_average_precision_is_the_mean_over_the_masks_pixels(
    levels: int | None, mask: Tensor
) -> None:
    # Each pixel of the mask adds the precision at its own value.
    values = noise(2, levels=levels)
    precisions = [mask[values >= v].double().mean() for v in values[mask]]
    assert average_precision(values, mask) == pytest.approx(float(torch.stack(precisions).mean()))


@pytest.mark.parametrize("levels", [None, 3])
def test_spearman_is_scipys(levels: int | None) -> None:
    stats = pytest.importorskip("scipy.stats")
    first = noise(3, levels=levels)
    second = noise(4, levels=levels) + 0.5 * first
    expected = stats.spearmanr(first.flatten().numpy(), second.flatten().numpy()).statistic
    assert spearman(first, second) == pytest.approx(float(expected), abs=1e-12)
    assert abs(expected) > 0.1


def test_spearman_sees_only_the_order() -> None:
    values = noise(5)
    assert spearman(values, values.double().exp()) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)


def test_deletion_and_insertion_of_a_sum(mask: Tensor) -> None:
    """The score is the share of the mask that is kept: areas follow from triangles."""

    def kept(places: Tensor) -> float:
        return float(places[mask].double().mean())

    perfect, inverted = mask.float(), (~mask).float()
    share = 12 / 80
    assert deletion_area(perfect, kept) == pytest.approx(share / 2)
    assert insertion_area(perfect, kept) == pytest.approx(1 - share / 2)
    assert deletion_area(inverted, kept) == pytest.approx(1 - share / 2)
    assert insertion_area(inverted, kept) == pytest.approx(share / 2)
    assert deletion_area(torch.ones(8, 10), kept) == pytest.approx(0.5)
    some = noise(6)
    assert deletion_area(some, kept) + insertion_area(some, kept) == pytest.approx(1.0)


@pytest.mark.parametrize("steps", [1, 7, 80, 200])
def test_places_go_from_none_to_all(steps: int) -> None:
    seen: list[int] = []

    def count(places: Tensor) -> float:
        seen.append(int(places.sum()))
        return 1.0

    assert insertion_area(noise(7), count, steps) == pytest.approx(1.0)
    assert (seen[0], seen[-1]) == (0, 80)
    assert seen == sorted(set(seen))
    assert len(seen) == min(steps, 80) + 1


def test_the_bootstrap_interval_is_near_the_normal_one() -> None:
    samples = torch.randn(400, generator=torch.Generator().manual_seed(8)) + 2.0
    interval = bootstrap_interval(samples)
    half = 1.96 * float(samples.std()) / 20
    assert interval.mean == pytest.approx(float(samples.mean()))
    assert interval.low == pytest.approx(interval.mean - half, abs=0.1 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.1 * half)


def test_the_bootstrap_draws_from_its_own_generator() -> None:
    samples = noise(9).flatten()
    before = torch.get_rng_state()
    first = bootstrap_interval(samples, resamples=50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == bootstrap_interval(samples, resamples=50, seed=1)
    assert first != bootstrap_interval(samples, resamples=50, seed=2)


@pytest.mark.parametrize("metric", AGAINST_MASK)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(metric: Metric, bad: float, mask: Tensor) -> None:
    values = noise(10)
    values[0, 0] = bad
    with pytest.raises(ScratchError, match="NaN"):
        metric(values, mask)
    with pytest.raises(ScratchError, match="NaN"):
        spearman(noise(11), values)
    with pytest.raises(ScratchError, match="NaN"):
        deletion_area(values, lambda places: 0.0)
    with pytest.raises(ScratchError, match="NaN"):
        insertion_area(noise(11), lambda places: bad)
    with pytest.raises(ScratchError, match="NaN"):
        bootstrap_interval(values.flatten())


@pytest.mark.parametrize("metric", AGAINST_MASK)
def test_masks_that_do_not_fit_are_refused(metric: Metric, mask: Tensor) -> None:
    with pytest.raises(ScratchError, match="differ"):
        metric(noise(12).T, mask)
    with pytest.raises(ScratchError, match="empty"):
        metric(noise(12), torch.zeros_like(mask))
    with pytest.raises(ScratchError, match="of bool"):
        metric(noise(12), mask.float())
    with pytest.raises(ScratchError, match=r"a map is \[h, w\]"):
        metric(noise(12)[None], mask)


def test_what_is_undefined_is_refused(mask: Tensor) -> None:
    constant = torch.full((8, 10), 0.1)
    for undefined in (
        lambda: iou_at_mean(constant, mask),
        lambda: spearman(noise(13), constant),
        lambda: spearman(constant, noise(13)),
    ):
        with pytest.raises(ScratchError, match="constant"):
            undefined()
    for metric in (mass_in_mask, iou_of_maximum):
        with pytest.raises(ScratchError, match="no positive value"):
            metric(-constant, mask)


def test_settings_out_of_range_are_bad_usage(mask: Tensor) -> None:
    values = noise(14)
    for wrong in (
        lambda: pointing_game(values, mask, tolerance=-1.0),
        lambda: iou_of_maximum(values, mask, share=0.0),
        lambda: deletion_area(values, lambda places: 0.0, steps=0),
        lambda: bootstrap_interval(values),
        lambda: bootstrap_interval(values[0, :1]),
        lambda: bootstrap_interval(values[0], confidence=1.0),
        lambda: spearman(values, values.T),
    ):
        with pytest.raises(ScratchError) as error:
            wrong()
        assert isinstance(error.value, UsageError)


def test_no_argument_is_changed(mask: Tensor) -> None:
    values, kept = noise(15) - 0.5, mask.clone()
    before = values.clone()
    for metric in AGAINST_MASK:
        metric(values, mask)
    spearman(values, noise(16))
    deletion_area(values, lambda places: 0.0)
    assert torch.equal(values, before)
    assert torch.equal(mask, kept)
