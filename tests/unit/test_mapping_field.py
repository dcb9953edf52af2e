"""The field in two dimensions against automatic differentiation, and samplers in it."""

import math

import pytest
import torch

from sd_scratch.config import SD15
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import UsageError
from sd_scratch.mapping.field import POINTS, field_report, make_blobs, read_points, run_sampler


@pytest.mark.parametrize("alpha_bar", [1.0, 0.6, 0.01])
def test_the_score_is_the_gradient_of_the_log_density(alpha_bar):
    blobs = make_blobs(POINTS, 0.3)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(blobs.log_density(x, alpha_bar).sum(), x)
    assert torch.allclose(blobs.score(x, alpha_bar), gradient)
    assert torch.allclose(blobs.eps(x, alpha_bar), -math.sqrt(1 - alpha_bar) * gradient)


def test_the_density_is_that_of_noised_points():
    blobs, alpha_bar = make_blobs(POINTS[:2], 0.1), 0.4
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 2, (200_000,), generator=generator)
    clean = blobs.centres[chosen] + 0.1 * torch.randn(200_000, 2, generator=generator)
    noise = torch.randn(200_000, 2, generator=generator)
    x = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise
    place, side = torch.tensor([[0.5, 0.4]]), 0.1
    share = ((x - place).abs() < side / 2).all(dim=1).double().mean()
    assert float(blobs.log_density(place, alpha_bar).exp()) == pytest.approx(
        float(share) / side**2, rel=0.1
    )


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"ddpm"}))
def test_every_sampler_finds_the_points(sampler):
    blobs = make_blobs(POINTS)
    steps = (
        200 if sampler == "dpmpp_3m_sde" else 50
    )  # extrapolating twice, with noise, wants small steps
    run = run_sampler(blobs, sampler, steps, paths=64)
    ends = (run[-1].x_next[:, None] - blobs.centres).norm(dim=-1).min(dim=1).values
    assert (ends < 4 * blobs.width).all()
    near = torch.cdist(run[-1].x_next, blobs.centres).argmin(dim=1)
    assert near.bincount(minlength=3).min() >= 10  # 21 are to be expected


def test_the_report_counts_what_it_shows():
    report = field_report(make_blobs(POINTS), ["ddim", "euler_a"], steps=6, paths=5)
    assert report.tensors["paths"]["ddim"].shape == (7, 5, 2)
    (ddim, ancestral) = report.tables["field"].rows
    assert ddim[0] == "ddim" and ancestral[4] > 2 * ddim[4]  # a walk is longer than a way
    assert set(Schedule(SD15.schedule).timesteps(6)) and report.facts["points"] == [
        pytest.approx(point) for point in POINTS
    ]


def test_points_are_checked():
    assert read_points(["0:1.5", "-1:2"]) == [(0.0, 1.5), (-1.0, 2.0)]
    for texts, says in (
        (["1"], "no point"),
        (["a:b"], "no point"),
        (["9:0"], "outside"),
        ([], "needs"),
    ):
        with pytest.raises(UsageError, match=says):
            make_blobs(read_points(texts))
    with pytest.raises(UsageError, match="outside"):
        make_blobs([(math.nan, 0.0)])
