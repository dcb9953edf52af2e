"""Approximations: each against its definition, what a run with them says, and that nothing else changes."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sd_scratch.cli import main
from sd_scratch.config import TINY
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.errors import UsageError
from sd_scratch.networks.attention import Attention
from sd_scratch.pipeline.branches import Scales
from sd_scratch.pipeline.fast import (
    BEST,
    DeepCache,
    Delta,
    Interval,
    ToMe,
    read_fast,
    show_fast,
)
from sd_scratch.pipeline.fast.merge import Match
from sd_scratch.pipeline.fast.plan import FastRun
from sd_scratch.pipeline.fast.shallow import forecast
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.tensors.edits import scale
from tests.tiny import tiny_model

PROMPT = "a cat on a mat"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def exact(model):
    return made(model)


def made(model, fast="", **settings):
    settings = {"steps": 6, "sampler": "ddim", **settings}
    return model.generate(PROMPT, model.noise([1, 2], 48, 32), fast=fast, **settings).latent


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("tome", (ToMe(),)),
        ("tome, interval:low=1:high=inf", (Interval(1.0, math.inf), ToMe())),
        ("deepcache:every=5:order=0,delta", (Delta(), DeepCache(5, 1, 0))),
        ("best", BEST),
    ],
)
def test_names(text, found):
    assert read_fast(text) == found
    assert read_fast(show_fast(found)) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("turbo", "'turbo' is unknown - choose from interval"),
        ("tome,tome", "given twice"),
        ("tome:share=1", "has no option 'share' - it has ratio"),
        ("tome:ratio=0.9", "a number from 0 to 0.75"),
        ("deepcache:every=x", "a number from 1 to 1000"),
        ("deepcache:every=nan", "a number from 1"),
        ("tgate:gate", "a number from 0 to 1"),
    ],
)
def test_names_that_are_none(text, reason):
    with pytest.raises(UsageError, match=reason):
        read_fast(text)


# Definitions ------------------------------------------------------------------------------------


def test_guidance_in_an_interval(model):
    """Each call is the exact one at the guidance scale of its noise level."""
    sigmas = [model.schedule.sigma_at(t) for t in model.way("ddim", 6).timesteps]
    low, high = sigmas[4] + 1e-6, sigmas[1] + 1e-6
    steps = model.steps(PROMPT, model.noise(1), sampler="ddim", steps=6, fast=[Interval(low, high)])
    for number, step in enumerate(steps):
        guidance = 7.5 if number in (1, 2, 3) else 1.0
        here = model.noise(1).with_latent(step.x_t, t=step.t)
        exact = next(iter(model.steps(PROMPT, here, sampler="ddim", steps=6, guidance=guidance)))
        assert torch.allclose(step.eps, exact.eps, atol=1e-5), number


def test_whole_calls_alone_are_exact(model, exact):
    for fast in ("deepcache:every=1", "delta:every=1", "tome:ratio=0", "tgate:gate=1"):
        assert torch.equal(made(model, fast), exact), fast


@pytest.mark.parametrize("layers", [1, 2])
def test_last_layers_on_what_a_whole_call_left_are_that_call(model, layers):
    """With the same inputs a shallow call gives what the whole one gave: nothing is left out but what is kept."""
    run = FastRun([DeepCache(9, layers, 0)], model.unet, Scales(7.5), [9.0, 8.0])
    x, t, context = torch.randn(2, 4, 6, 5), torch.tensor([500.0, 500.0]), torch.randn(2, 77, 32)
    results = []
    for call in range(2):
        branches = run.planned(call).branches
        with (
            model.taps.joined(*run.members(call, (6, 5))),
            model.taps.calling(call, 500, 1, branches),
        ):
            results.append(run.ask(call, x, t, context, ()))
    assert [planned.deep for planned in run.plan] == [True, False]
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_a_forecast_is_exact_for_polynomials():
    x = torch.randn(3)
    known = {call: 2.0 + call * x - 0.5 * call**2 for call in (1, 3, 6)}
    assert torch.allclose(forecast(known, 8), 2.0 + 8 * x - 32.0, atol=1e-4)
    assert torch.equal(forecast({4: x}, 9), x)


def test_kept_guidance_is_the_difference_forecast(model):
    with model.record("guidance.*") as trace:
        made(model, "delta:every=3")
    assert [a.call for a in trace.values if a.name == "guidance.pred_uncond"] == [0, 3]
    delta = {i: trace[f"guidance.delta@{i}"].tensor for i in range(6)}
    assert torch.equal(delta[2], delta[0])
    assert torch.allclose(delta[5], delta[3] + (delta[3] - delta[0]) * 2 / 3, atol=1e-4)
    cond = trace["guidance.pred_cond@5"].tensor
    assert torch.allclose(trace["guidance.pred@5"].tensor, cond + 6.5 * delta[5], atol=1e-4)


def test_settled_attention_is_the_mean_and_is_not_computed(model, monkeypatch):
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.out"
    with model.record(name) as trace:
        made(model, "tgate:gate=0.5")
    both = trace[f"{name}@2:cond"].tensor, trace[f"{name}@2:uncond"].tensor
    for call in (3, 4, 5):
        assert torch.allclose(trace[f"{name}@{call}:cond"].tensor, sum(both) / 2, atol=1e-6)
        assert not any(a.call == call and a.branch == "uncond" for a in trace.values)
    attended = []
    attend = Attention.attend

    def counted(self, q, k, v):
        attended.append(k.shape[1] == 77)
        return attend(self, q, k, v)

    monkeypatch.setattr(Attention, "attend", counted)
    made(model, "tgate:gate=0.5", guidance=1.0)
    assert sum(attended) == sum(not each for each in attended) / 2  # three of six calls


def test_merged_places_are_the_mean_of_the_most_alike():
    torch.manual_seed(0)
    x = torch.randn(2, 5 * 4, 8)
    x[0, 1] = 3 * x[0, 0]  # beside the place that stays, and in its direction
    match = Match(x, (5, 4), 0.05)  # one place of twenty
    merged = match.merge(x)
    assert merged.shape == (2, 19, 8)
    parted = match.part(merged)
    assert torch.allclose(parted[0, :2], (2 * x[0, 0]).expand(2, 8), atol=1e-6)
    assert torch.equal(parted[0, 2:], x[0, 2:])
    whole = Match(x, (5, 4), 0.0)
    assert torch.equal(whole.part(whole.merge(x)), x)
    most = Match(x, (5, 4), 0.75)
    assert most.merge(x).shape[1] == 6 == 3 * 2  # the upper left of every 2x2


def test_places_that_are_equal_lose_nothing(model):
    """A map of 2x2 blocks of equal places: merged and parted it is itself."""
    x = torch.randn(1, 3, 2, 8).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(1, 24, 8)
    match = Match(x, (6, 4), 0.75)
    assert torch.allclose(match.part(match.merge(x)), x, atol=1e-6)


# Runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", ["interval", "delta", "deepcache", "tgate", "tome", "best"])
def test_every_approximation_changes_the_picture(model, exact, fast):
    quick = made(model, fast)
    assert not torch.equal(exact, quick)
    assert torch.equal(exact, made(model))  # and nothing is left over
    assert not model.taps.members


def test_all_of_them_at_once_and_a_control_of_none(model):
    every = "interval,delta:every=2,deepcache:every=2:layers=2,tgate:gate=0.7,tome"
    assert made(model, every, steps=9).isfinite().all()
    for guidance in (0.0, 1.0):
        assert made(model, every, guidance=guidance).isfinite().all()


def test_a_model_of_one_level_less_text(model):
    config = replace(TINY, unet=replace(TINY.unet, cross_attention=(False, True, True)))
    other = tiny_model(config)
    assert torch.equal(made(other, "tome"), made(other))  # no attention at the finest level
    assert made(other, "deepcache,tgate").isfinite().all()


def test_what_is_not_there_is_said(model, caplog):
    with caplog.at_level(logging.WARNING), model.record("unet.h", "unet.pred") as trace:
        made(model, "deepcache:every=3")
    assert caplog.messages == [
        "fast: 6 calls are too far apart for forecasts between them - take 20 steps or more, or leave fast out",
        "deepcache: 1 of the tensors, such as unet.h, do not exist in calls 1, 2, 4, 5",
    ]
    assert [a.call for a in trace.values if a.name == "unet.h"] == [0, 0, 3, 3]
    assert len(trace["unet.pred"].calls) == 6
    caplog.clear()
    with caplog.at_level(logging.WARNING), model.edit("unet.*.attn2.probs", scale(1.0)):
        made(model, "tgate:gate=0.5,tome")
    assert (
        "tgate: 7 of the tensors" in caplog.text and "do not exist in calls 3, 4, 5" in caplog.text
    )
    assert "the prompt's branch alone" in caplog.text
    with caplog.at_level(logging.WARNING), model.record("unet.down_blocks.0.*.attn1.q"):
        made(model, "tome")
    assert (
        "tome: 1 of the tensors" in caplog.text
        and "are of merged places in calls 0, 1" in caplog.text
    )


def test_many_calls_are_near_enough(model, caplog):
    with caplog.at_level(logging.WARNING):
        made(model, "best", steps=20)
        made(model, "tome", steps=2)
    assert not caplog.messages


def test_names_that_are_said_to_be_missing_are(model, caplog):
    """Of every named tensor in every call: it is heard, or it is said that it does not exist."""
    fast = "delta:every=2,deepcache:every=2:layers=2,tgate:gate=0.7"
    names = [n for n in model.taps.tensors("unet.*") if ".scores" not in n]
    with model.record(*names, to="cpu") as trace:
        made(model, fast, steps=5)
    run = FastRun(read_fast(fast), model.unet, Scales(7.5), [9.0, 8.0, 7.0, 6.0, 5.0])
    for call, planned in enumerate(run.plan):
        for name in names:
            here = {a.branch for a in trace.values if a.name == name and a.call == call}
            gone = not planned.deep and not run._is_shallow(name)
            gone |= (
                planned.settled
                and run.missing([name]) != []
                and ".attn2." in name
                and (name.rpartition(".")[2] in ("q", "k", "v", "probs", "z", "result"))
            )
            assert here == (set() if gone else set(planned.branches)), (name, call)


def test_a_fast_trace_replays(model, tmp_path):
    with model.record("unet.pred") as trace:
        latent = made(model, "best")
    assert trace.facts["fast"] == show_fast(BEST)
    assert torch.equal(model.replay(trace.save(tmp_path / "t")).latent, latent)


def test_a_recipe_says_so(model, tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe("a cat", steps=4, seed=3, fast="best")
    (batch,) = model.run(recipe)
    assert batch.recipes[0].fast == show_fast(BEST)
    assert recipe_from_json(batch.recipes[0].to_json(), "x").fast == show_fast(BEST)
    assert "Fast: interval + delta + deepcache" in batch.recipes[0].to_parameters()
    words = ["-m", str(tiny_folder), "--steps=4", "-W=32", "-H=32", "--seed=1", "--device=cpu"]
    assert main(["generate", "a cat", "--fast", *words, "-o", "a.png"]) == 0
    assert read_recipe(Path("a.png"))[0].fast == show_fast(BEST)
    assert main(["generate", "--from-image=a.png", *words[:2], "-o", "b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert main(["generate", "--from-image=a.png", "--fast=none", *words[:2], "-o", "c.png"]) == 0
    assert read_recipe(Path("c.png"))[0].fast is None
    assert main(["generate", "a cat", "--fast=turbo", *words]) == 2
    assert main(["generate", "a cat", "--fast=tome", "--compile", *words]) == 2
