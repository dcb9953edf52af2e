"""The tensors of a whole run: steps, branches, words, sizes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.tensors import At, Trace
from sd_scratch.tensors.edits import scale, scale_word
from sd_scratch.tensors.reductions import heads, mean_over_calls, words
from tests.tiny import tiny_model

GOLDEN = Path(__file__).with_name("tensor_names.txt")
CROSS = "unet.*.attn2.probs"
DEEP = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.probs"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_the_names_are_these_and_no_others(model):
    """A name is a promise: recordings on disk and other people's code use it. Where it has to
    change, `tensor_names.txt` shows it to whoever reads the commit."""
    lines = [f"{info.name}  {' '.join(info.axes)}" for info in model.tensors()]
    assert lines == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_listing_scales_with_the_picture(model):
    small, large = (model.tensors("unet.h", width=w, height=32)[0] for w in (32, 96))
    assert (small.hw, large.hw) == ((2, 2), (2, 6))
    assert large.bytes == 3 * small.bytes == 64 * 2 * 6 * 4


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler_a"])
def test_recording_everything_changes_no_bit_of_the_picture(model, sampler):
    prompt, noise = model.prompt("a cat"), model.noise([1, 2], width=32, height=48)
    settings = {"sampler": sampler, "steps": 3}
    plain = model.generate(prompt, noise, **settings)
    pixels = plain.decode()
    with model.record("*") as trace:
        recorded = model.generate(prompt, noise, **settings)
        assert torch.equal(recorded.decode(), pixels)
    assert torch.equal(recorded.latent, plain.latent)
    others = ("vae.", "sampler.step_n", "guidance.pred_perturbed")
    named = {i.name for i in model.tensors() if not i.name.startswith(others)}
    assert named <= set(trace.names)
    assert torch.equal(trace["vae.image"].tensor, pixels)


def test_steps_are_calls_of_the_unet_and_never_collide(model):
    """PNDM asks twice about its second timestep; a trace by timestep would lose an answer."""
    with model.record("unet.pred", "sampler.x_t", branch="cond") as trace:
        seen = list(model.steps(model.prompt("a cat"), model.noise(1), sampler="pndm", steps=4))
    eps, x_t = trace["unet.pred"], trace["sampler.x_t"]
    assert eps.calls == (0, 1, 2, 3, 4)
    assert eps.t == (751.0, 501.0, 501.0, 251.0, 1.0)
    assert not torch.equal(eps.tensor[1], eps.tensor[2])
    assert x_t.calls == (0, 2, 3, 4)  # the sampler's own steps, at their first calls
    assert torch.equal(x_t.tensor, torch.stack([step.x_t for step in seen]))
    assert [*map(round, x_t.t)] == [751, 501, 251, 1]


def test_sampler_and_guidance_tensors_are_what_they_say(model):
    noise = model.noise([3, 4])
    with model.record("guidance.*", "sampler.*", "unet.x", "unet.pred", "unet.t") as trace:
        steps = list(
            model.steps(model.prompt("a cat"), noise, sampler="ddpm", steps=3, guidance=5.0)
        )
    tensor = {name: trace[name].tensor for name in trace.names}
    uncond, cond = tensor["unet.pred"].unbind(1)
    assert torch.equal(tensor["guidance.pred_uncond"], uncond)
    assert torch.equal(tensor["guidance.pred_cond"], cond)
    assert torch.equal(tensor["guidance.delta"], cond - uncond)
    assert torch.equal(tensor["guidance.pred"], uncond + 5.0 * (cond - uncond))
    assert torch.equal(tensor["unet.x"][:, 0], tensor["sampler.x_t"])
    assert torch.equal(tensor["sampler.noise"], noise.latent)
    for key in ("x_t", "x0", "x_next"):
        assert torch.equal(tensor[f"sampler.{key}"], torch.stack([getattr(s, key) for s in steps]))
    for key in ("t", "sigma", "alpha_bar"):
        expected = torch.tensor([[getattr(s, key)] * 2 for s in steps])
        assert torch.allclose(tensor[f"sampler.{key}"], expected)
    noises = [s.step_noise for s in steps if s.step_noise is not None]
    assert torch.equal(tensor["sampler.step_noise"], torch.stack(noises))
    assert torch.equal(tensor["unet.t"][:, 0], tensor["sampler.t"])


def test_without_guidance_there_is_one_branch_and_all_its_heads(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    with model.record(DEEP) as both:
        model.generate(prompt, noise, steps=1, guidance=5.0)
    with model.record(DEEP) as alone:
        model.generate(prompt, noise, steps=1, guidance=1.0)
    assert both[DEEP].branches == ("uncond", "cond")
    assert alone[DEEP].branches == ("cond",)
    assert alone[DEEP].tensor.shape == (1, 1, 1, 4, 16, 77)
    assert torch.allclose(alone[DEEP].tensor[:, 0], both[DEEP].tensor[:, 1], atol=1e-5)
    with (
        pytest.raises(ScratchError, match="no branch 'uncond', only cond"),
        model.record(DEEP, branch="uncond"),
    ):
        model.generate(prompt, noise, steps=1, guidance=1.0)


def test_rows_of_a_batch_stay_apart(model):
    prompts = [model.prompt(text) for text in ("a cat", "a dog and a cat", "two red cats")]
    noise = model.noise([1, 2, 3])
    with (
        pytest.raises(ScratchError, match="no word 'dog' in the prompt 'a cat'"),
        model.record(CROSS, branch="cond", reduce=words("dog")),
    ):
        model.generate(prompts, noise, steps=1)
    with model.record(DEEP, branch="cond") as whole:
        model.generate(prompts, noise, sampler="ddim", steps=1)
    for i, (prompt, text) in enumerate(zip(prompts, ("cat", "cat", "cats"), strict=True)):
        with model.record(DEEP, branch="cond", reduce=words(text)) as alone:
            model.generate(prompt, model.noise(i + 1), sampler="ddim", steps=1)
        (position,) = prompt.word(text).positions
        row = whole[DEEP].tensor[0, i, :, :, position]
        assert torch.allclose(alone[DEEP].tensor[0, 0, :, :, 0], row, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "word", "positions"),
    [
        ("the cat, asleep", "cat", [2]),
        ("The CAT sat", "cat", [2]),
        ("a catamaran and a cat", "cat", [7]),
        ("a birdhouse and a bird", "bird", [6]),
        ("a cat and a cat", ("cat", 2), [5]),
    ],
)
def test_words_are_spans_of_the_prompt_and_not_strings_of_tokens(model, text, word, positions):
    prompt, noise = model.prompt(text), model.noise(1)
    found = prompt.word(word) if isinstance(word, str) else prompt.word(*word)
    with model.record(DEEP, branch="cond") as whole:
        model.generate(prompt, noise, sampler="ddim", steps=1)
    with model.record(DEEP, branch="cond", reduce=[heads(), words(word)]) as reduced:
        model.generate(prompt, noise, sampler="ddim", steps=1)
    expected = whole[DEEP].tensor.mean(2)[..., positions].sum(-1)
    assert list(found.positions) == positions
    assert torch.allclose(reduced[DEEP].tensor[..., 0], expected, atol=1e-6)
    assert reduced[DEEP].axes == ("call", "batch", "query", "word")


def test_maps_of_a_picture_that_is_not_square(model):
    with model.record(CROSS, branch="cond", reduce=[heads(), words("cat")]) as trace:
        model.generate("a cat", model.noise(1, width=96, height=64), steps=1)
    sizes = {trace[name].maps().shape[-3:-1] for name in trace.names}
    assert sizes == {(16, 24), (8, 12), (4, 6)}


def test_an_unknown_word_and_words_of_no_branch_are_refused_before_the_first_call(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    for options, message in (
        ({"reduce": words("horse"), "branch": "cond"}, "no word 'horse' .* its words are: a, cat"),
        ({"reduce": words("cat")}, "record one branch, 'cond'"),
        ({"budget": "1kB"}, "takes .* more than the budget of 1 kB"),
    ):
        with pytest.raises(ScratchError, match=message), model.record(CROSS, **options) as trace:
            model.generate(prompt, noise, steps=1)
        assert not trace.values


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"calls": slice(0, None, 2), "reduce": lambda x: x[..., :1]},
        {"branch": "cond", "reduce": [heads(), words("cat")], "dtype": torch.float16},
        {"branch": "cond", "reduce": [heads(), mean_over_calls()]},
    ],
)
def test_the_estimate_is_what_a_recording_takes(model, options):
    def run(budget: int) -> Trace:
        with model.record("unet.*.attn2.probs", **options, budget=budget) as trace:
            model.generate("a cat", model.noise([1, 2], width=48), sampler="pndm", steps=4)
        return trace

    size = run(10**9).bytes
    run(size)
    with pytest.raises(ScratchError, match="more than the budget"):
        run(size - 1)


def test_means_of_tensors_that_are_made_in_several_places_of_a_step(model):
    globs = ("unet.h", "guidance.pred", "sampler.x_t")
    with model.record(*globs, reduce=mean_over_calls()) as mean, model.record(*globs) as each:
        model.generate("a cat", model.noise(1), sampler="pndm", steps=4)
    for name in globs:
        assert torch.allclose(mean[name].tensor, each[name].tensor.mean(0), atol=1e-5), name


def test_the_estimate_follows_functions_that_bring_tensors_of_their_own(model):
    basis = torch.randn(77, 3)
    with model.record(CROSS, branch="cond", reduce=lambda x: x @ basis, budget=10**9) as trace:
        model.generate("a cat", model.noise(1), steps=1)
    with model.record(CROSS, branch="cond", reduce=lambda x: x @ basis, budget=trace.bytes):
        model.generate("a cat", model.noise(1), steps=1)
    with (
        pytest.raises(ScratchError, match="budget"),  # what cannot be foreseen counts as whole
        model.record(CROSS, reduce=lambda x: torch.tensor(x.tolist()), budget=trace.bytes),
    ):
        model.generate("a cat", model.noise(1), steps=1)


def test_a_run_given_up_late_does_not_end_the_next_one(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    first = model.steps(prompt, noise, steps=3)
    next(first)
    with model.edit("text.context", scale_word("cat", 2.0)):
        second = model.steps(prompt, noise, sampler="ddim", steps=3)
        next(second)
        first.close()
        with model.edit("unet.context", scale_word("cat", 0.5)):  # needs the run's prompts
            assert len(list(second)) == 2


def test_stopping_early_skips_the_rest_of_the_run(model):
    calls = []
    with model.record("unet.h", "unet.t", stop_after="unet.h@1") as trace:
        for step in model.steps(model.prompt("a cat"), model.noise(1), sampler="ddim", steps=5):
            calls.append(step.index)
    assert calls == [0]
    assert trace["unet.h"].calls == (0, 1)
    with model.record("text.*", stop_after="text.context") as trace:
        model.generate("a cat", model.noise(1))
    assert trace["text.context"].tensor.shape == (2, 1, 77, 32)


def test_a_prompt_alone_can_be_recorded(model):
    with model.record("text.encoder.layers.*.self_attn.probs", "text.context") as trace:
        prompt = model.prompt("a cat on a mat")
    assert torch.equal(trace["text.context"].tensor, prompt.context[None])
    probs = trace["text.encoder.layers.2.self_attn.probs"].tensor
    assert probs.shape == (1, 1, 4, 77, 77)
    assert torch.allclose(probs.sum(-1), torch.ones(1, 1, 4, 77))
    assert probs.triu(1).eq(0).all()


def test_gradients_through_a_whole_run(model):
    """Of the picture's latent by what was recorded on the way, and by the noise."""
    prompt, noise = model.prompt("a cat"), model.noise(1)
    plain = model.generate(prompt, noise, sampler="ddim", steps=2).latent
    assert not plain.requires_grad
    leaf = noise.latent.clone().requires_grad_()
    with model.record("unet.h", DEEP, gradients=True, branch="cond") as trace:
        latent = model.generate(prompt, noise.with_latent(leaf), sampler="ddim", steps=2).latent
    assert (latent - plain).abs().max() < 1e-3
    latent.square().sum().backward()
    gradient = trace.gradient("unet.h")
    assert gradient.calls == (0, 1) and gradient.tensor.shape == trace["unet.h"].tensor.shape
    assert trace.gradient(f"{DEEP}@0:cond").tensor.abs().max() > 0

    amount = 1e-2  # the gradient foretells what a small step along it does
    direction = gradient.tensor[0] / gradient.tensor[0].norm()
    with model.edit("unet.h", lambda x, at: x + amount * direction, calls=0, branch="cond"):
        moved = model.generate(prompt, noise, sampler="ddim", steps=2).latent
    change = (moved.square().sum() - plain.square().sum()) / amount
    assert float(change) == pytest.approx(float(gradient.tensor[0].norm()), rel=0.1)


# Edits ----------------------------------------------------------------------------------------


def test_scaling_a_word_in_a_run_is_scaling_it_in_the_prompt(model):
    prompt, noise = model.prompt("a cat and a dog"), model.noise([1, 2])
    for origin in ("zero", "empty"):
        by_hand = model.generate(prompt.scale("cat", 1.4, origin=origin), noise, steps=2)
        with model.edit("text.context", scale_word("cat", 1.4, origin=origin)):
            edited = model.generate(prompt, noise, steps=2)
        assert torch.equal(edited.latent, by_hand.latent)
    assert not torch.equal(edited.latent, model.generate(prompt, noise, steps=2).latent)


def test_edits_of_the_text_encoder_reach_a_prompt_that_was_made_before(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    plain = model.generate(prompt, noise, steps=1).latent
    with model.edit("text.encoder.layers.1.mlp.out", scale(1.0)):
        same = model.generate(prompt, noise, steps=1).latent
    assert (same - plain).abs().max() < 1e-4
    with model.edit("text.encoder.layers.1.mlp.out", scale(0.0)):
        other = model.generate(prompt, noise, steps=1).latent
        assert torch.equal(model.prompt("a cat").context, prompt.context)  # edits act in runs
        with pytest.raises(ScratchError, match="set by hand"):
            model.generate(prompt.scale("cat", 2.0), noise, steps=1)
    assert (other - plain).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "lms", "dpmpp_2m"])
def test_an_edited_sample_is_where_the_sampler_goes_on(model, sampler):
    prompt, noise = model.prompt("a cat"), model.noise(1)

    def settle(x: Tensor, at: At) -> Tensor:
        return 0.5 * x

    with model.edit("sampler.x_next", settle, calls=2), model.record("sampler.x_*") as trace:
        steps = list(model.steps(prompt, noise, sampler=sampler, steps=4))
    x_t, x_next = trace["sampler.x_t"], trace["sampler.x_next"]
    at = x_next.calls.index(2)
    assert torch.allclose(x_t.tensor[at + 1], x_next.tensor[at], atol=1e-6)
    assert torch.equal(steps[at].x_next, x_next.tensor[at])
    plain = list(model.steps(prompt, noise, sampler=sampler, steps=4))
    assert torch.allclose(x_next.tensor[at], 0.5 * plain[at].x_next, atol=1e-6)


def test_guidance_and_noise_can_be_edited(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    settings = {"sampler": "ddim", "steps": 2}
    with model.edit("guidance.delta", scale(2.0)):
        doubled = model.generate(prompt, noise, guidance=3.0, **settings).latent
    expected = model.generate(prompt, noise, guidance=6.0, **settings).latent
    assert (doubled - expected).abs().max() < 1e-3
    with model.edit("sampler.noise", lambda x, at: model.noise(2).latent):
        other = model.generate(prompt, noise, **settings).latent
    assert torch.equal(other, model.generate(prompt, model.noise(2), **settings).latent)
    with pytest.raises(ScratchError, match=r"sampler\.t can only be seen"):
        model.edit("sampler.*", scale(2.0))


def test_at_tells_where_a_run_is(model):
    seen: list[At] = []
    prompt = model.prompt("a cat")
    with model.edit("unet.h", lambda x, at: seen.append(at)):
        model.generate(prompt, model.noise([1, 2], width=96), sampler="ddim", steps=2)
    assert [(at.call, at.branch) for at in seen] == [
        (step, branch) for step in range(2) for branch in ("uncond", "cond")
    ]
    at = seen[-1]
    assert (at.t, at.hw, at.prompts) == (1.0, (4, 6), (prompt, prompt))
    assert at.sigma == pytest.approx(model.schedule.sigma_at(1))
    assert at.positions("cat") == [[2], [2]]


def test_a_run_that_is_given_up_leaves_nothing_behind(model):
    with model.record("unet.h"):
        for _ in model.steps(model.prompt("a cat"), model.noise(1), steps=4):
            break
    plain = model.generate("a cat", model.noise(1), steps=2).latent
    with model.record("unet.h", calls=-1) as trace:
        assert torch.equal(model.generate("a cat", model.noise(1), steps=2).latent, plain)
    assert trace["unet.h"].calls == (2,)


def test_noise_image_and_velocity_are_one_prediction():
    """eps, x0 and v of a step say the same, whichever of them the network predicts."""
    model = tiny_model()
    names = ("sampler.eps", "sampler.x0", "sampler.velocity", "sampler.x_t", "sampler.alpha_bar")
    with model.record(*names) as trace:
        model.generate(model.prompt("a red circle"), model.noise(1), sampler="ddim", steps=3)
    eps, x0, v, x_t = (trace[name].tensor for name in names[:4])
    alpha_bar = trace[names[4]].tensor.view(3, 1, 1, 1, 1)
    assert torch.allclose(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps, x_t, atol=1e-5)
    assert torch.allclose(alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * v, x0, atol=1e-5)
