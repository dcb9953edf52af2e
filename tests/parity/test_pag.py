"""Perturbed attention guidance, as diffusers' pipeline for it does it; its branch, its tensors, and its recipe."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import sd_scratch as sd
from sd_scratch.checkpoints import Components, save_folder
from sd_scratch.checkpoints.adapters.control import LoadedControl
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.dialects.differences import differences
from sd_scratch.diffusion.guidance import faded
from sd_scratch.errors import UsageError
from sd_scratch.pipeline.control import Control
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from tests.parity.test_controlnet import lively_controlnet
from tests.tiny import tiny_components, tiny_model

MIDDLE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
RUN: dict[str, Any] = {"sampler": "ddim", "steps": 3, "pag": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pag") / "model"
    save_folder(tiny_components(), path)
    return path


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_model()


@pytest.mark.parametrize(
    ("guidance", "layers", "adaptive", "rescale"),
    [
        (7.5, "mid", 0.0, 0.0),
        (1.0, "mid", 0.0, 0.0),
        (5.0, "mid,up_blocks.1,down_blocks.0", 0.0, 0.5),
        (5.0, "mid", 0.004, 0.0),
    ],
    ids=["guided", "alone", "layers and rescale", "adaptive"],
)
def test_like_diffusers(
    folder: Path, guidance: float, layers: str, adaptive: float, rescale: float
) -> None:
    theirs = diffusers.StableDiffusionPAGPipeline.from_pretrained(
        folder, safety_checker=None, pag_applied_layers=layers.split(",")
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    ours = sd.load(str(folder))
    noise, prompt, negative = ours.noise(5), ours.prompt("a cat"), ours.prompt("a dog")
    settings: dict[str, Any] = {"guidance": guidance, "guidance_rescale": rescale, **RUN}
    image = ours.generate(
        prompt,
        noise,
        negative=negative,
        pag_layers=layers,
        pag_adaptive_scale=adaptive,
        **settings,
    )
    latent = theirs(
        prompt_embeds=prompt.context,
        negative_prompt_embeds=negative.context,
        latents=noise.latent.clone(),
        num_inference_steps=3,
        guidance_scale=guidance,
        guidance_rescale=rescale,
        pag_scale=3.0,
        pag_adaptive_scale=adaptive,
        output_type="latent",
    ).images
    bound = 1e-5 * float(latent.abs().max())
    assert float((image.latent - latent).abs().max()) <= bound
    plain = ours.generate(prompt, noise, negative=negative, **{**settings, "pag": 0.0})
    assert float((image.latent - plain.latent).abs().max()) > 100 * bound


def test_the_scale_fades_to_nothing_and_not_beyond() -> None:
    assert faded(3.0, 0.0, 1) == 3.0
    assert faded(3.0, 0.004, 900) == pytest.approx(2.6)
    assert faded(3.0, 0.004, 100) == 0.0


def test_the_branch_is_the_prompts_with_an_identity_for_attention(model: StableDiffusion) -> None:
    prompt, noise = model.prompt("a cat"), model.noise([1, 2])
    settings: dict[str, Any] = {**RUN, "steps": 1, "guidance": 1.0}
    with model.record("unet.pred", f"{MIDDLE}.[vz]", "guidance.*") as trace:
        made = model.generate(prompt, noise, **settings)
    assert torch.equal(made.latent, model.generate(prompt, noise, **settings).latent)
    assert trace["unet.pred"].branches == ("perturbed", "cond")
    places = trace[f"{MIDDLE}.z@0:perturbed"].tensor.shape[-2]
    with (
        model.record("unet.pred") as edited,
        model.edit(f"{MIDDLE}.probs", sd.edits.set_to(torch.eye(places))),
    ):
        model.generate(prompt, noise, **{**settings, "pag": 0.0})
    perturbed = trace["unet.pred@0:perturbed"].tensor
    assert torch.allclose(edited["unet.pred@0:cond"].tensor, perturbed, atol=1e-5)
    for branch, same in (("perturbed", True), ("cond", False)):
        z, v = (trace[f"{MIDDLE}.{leaf}@0:{branch}"].tensor for leaf in "zv")
        assert torch.equal(z, v) == same
    cond = trace["unet.pred@0:cond"].tensor
    assert torch.equal(trace["guidance.pred_perturbed@0"].tensor, perturbed)
    assert torch.equal(trace["guidance.pred@0"].tensor, cond + 3.0 * (cond - perturbed))
    assert "guidance.delta" not in trace.names


def test_all_three_branches_are_seen_edited_and_replayed(
    model: StableDiffusion, tmp_path: Path
) -> None:
    noise = model.noise(3)
    settings: dict[str, Any] = {**RUN, "guidance": 4.0, "pag_layers": "mid,up_blocks.1"}
    with (
        model.record("guidance.*", "unet.pred") as trace,
        model.edit("unet.pred", sd.edits.scale(0.5), branch="perturbed"),
    ):
        made = model.generate("a cat", noise, **settings)
    assert trace["unet.pred"].branches == ("uncond", "perturbed", "cond")
    part = {n: trace[f"guidance.pred_{n}@2"].tensor for n in trace["unet.pred"].branches}
    expected = part["uncond"] + 4.0 * (part["cond"] - part["uncond"])
    expected = expected + 3.0 * (part["cond"] - part["perturbed"])
    assert torch.equal(trace["guidance.pred@2"].tensor, expected)
    assert not torch.equal(made.latent, model.generate("a cat", noise, **settings).latent)
    trace.save(tmp_path / "trace")
    assert torch.equal(model.replay(tmp_path / "trace").latent, made.latent)


def test_beside_the_approximations(model: StableDiffusion) -> None:
    noise, settings = model.noise(1), {**RUN, "guidance": 4.0}
    whole = model.generate("a cat", noise, **settings)
    once = model.generate("a cat", noise, fast="deepcache:every=1,tome:ratio=0", **settings)
    assert torch.allclose(once.latent, whole.latent, atol=1e-4)
    kept = model.generate("a cat", noise, fast="deepcache:every=3", **settings)
    assert not torch.allclose(kept.latent, whole.latent, atol=1e-4)
    for fast in ("interval", "delta", "tgate", "best"):
        with pytest.raises(UsageError, match="this run asks for uncond, perturbed, cond"):
            model.generate("a cat", noise, fast=fast, **settings)


def test_a_controlnet_that_guesses_steers_both_branches_of_the_prompt(
    model: StableDiffusion,
) -> None:
    steered = model.with_adapters(LoadedControl("net", lively_controlnet(), "", ""))
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    seen = {}
    for guess in (False, True):
        with steered.record("unet.pred") as trace:
            control = Control(hint, guess=guess)
            steered.generate("a cat", steered.noise(1), control=control, guidance=4.0, **RUN)
        seen[guess] = trace
    alone = {}
    with steered.record("unet.pred") as trace:
        control = Control(hint, guess=True)
        steered.generate("a cat", steered.noise(1), control=control, guidance=1.0, **RUN)
    for branch in ("perturbed", "cond"):
        alone[branch] = trace[f"unet.pred@0:{branch}"].tensor
        assert torch.allclose(seen[True][f"unet.pred@0:{branch}"].tensor, alone[branch], atol=1e-5)
    ours, theirs = (seen[guess]["unet.pred@0:uncond"].tensor for guess in (True, False))
    assert not torch.allclose(ours, theirs, atol=1e-3)


def test_a_layer_that_is_not_there(model: StableDiffusion) -> None:
    for layers in ("up_blocks.7", "mid,", "text"):
        with pytest.raises(UsageError, match=r"pag layers: .* mid_block, up_blocks"):
            model.generate("a cat", model.noise(1), pag_layers=layers, **RUN)


def test_a_recipe_keeps_it(model: StableDiffusion, caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe("a cat", seed=3, steps=2, pag=3.0, pag_adaptive_scale=0.001)
    (made,) = model.run(recipe)
    whole = made.recipes[0]
    assert whole.pag_layers == "mid_block"
    direct = model.generate(
        "a cat", model.noise(3), steps=2, pag=3.0, pag_adaptive_scale=0.001, negative=""
    )
    assert torch.equal(made.latents.latent, direct.latent)
    assert recipe_from_json(whole.to_json(), "x") == whole
    two = whole.over(pag_layers="mid,up_blocks.1")
    for each in (whole, two):
        read, unread = recipe_from_parameters(each.to_parameters(), "x")
        said = (read.pag, read.pag_layers, read.pag_adaptive_scale)
        assert said == (3.0, each.pag_layers, 0.001) and not unread
    assert [d.name for d in differences(whole, two.over(pag=2.0))] == ["pag", "pag_layers"]
    assert "PAG" not in Recipe("a", steps=2, pag=0.0, pag_layers="mid").to_parameters()
    list(model.run(Recipe("a cat", steps=1, pag_layers="mid")))
    assert "pag layers has no effect without perturbed attention guidance" in caplog.text
    with pytest.raises(UsageError, match=r"pag scale -1 is not in 0..100"):
        next(model.run(Recipe("a cat", pag=-1)))


@pytest.mark.parametrize(
    ("text", "pag", "left"),
    [
        ("PerturbedAttentionGuidance_enabled: True, PerturbedAttentionGuidance_scale: 2.5", 2.5, 0),
        ("PAG Active: True, PAG Scale: 3, PAG Start Step: 0, PAG End Step: 150", 3.0, 0),
        ("PAG Active: True, PAG Scale: 3, PAG Start Step: 4, PAG End Step: 150", 3.0, 1),
    ],
    ids=["Forge", "A1111's extension", "some steps of it"],
)
def test_what_other_tools_write(text: str, pag: float, left: int) -> None:
    line = f"a cat\nSteps: 20, Sampler: DDIM, CFG scale: 4, Seed: 1, Size: 512x512, {text}"
    recipe, unread = recipe_from_parameters(line, "x")
    assert (recipe.pag, len(unread)) == (pag, left)


def test_the_tensor_is_listed_where_there_may_be_one() -> None:
    parts: Components = tiny_components()
    assert "guidance.pred_perturbed" in {
        i.name for i in StableDiffusion(parts).tensors("guidance.*")
    }


def test_three_branches_are_counted_in_memory(
    model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    def count(*sizes: Any, branches: int, **more: Any) -> None:
        counted.append(branches)

    monkeypatch.setattr("sd_scratch.pipeline.text_to_image.check_run", count)
    noise = model.noise(1)
    for guidance, pag in ((4.0, 0.0), (4.0, 1.0), (1.0, 1.0), (0.0, 1.0)):
        next(model.steps("a", noise, steps=1, guidance=guidance, pag=pag))
    assert counted[1:] == [2, 3, 2, 3]
