"""Stable Diffusion 2.x: OpenCLIP's text encoder, linear projections, heads by width, v."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from diffusers.schedulers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sd_scratch.checkpoints import (
    Components,
    inspect,
    load_components,
    save_folder,
    save_single_file,
)
from sd_scratch.config import SD21, TINY, ModelConfig
from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.text.tokenizer import Tokenizer
from tests.checkpoints import assert_same_weights, edit_json, raw_tensors
from tests.lively import liven
from tests.parity.references import reference_text_encoder, reference_unet, reference_vae
from tests.tiny import tiny_components

TELLING = "model.diffusion_model.output_blocks.5.1.transformer_blocks.0.norm1.bias"

# Small but for the text vectors' width, by which the family is told, and with heads 64 wide.
TINY2 = ModelConfig(
    name="tiny2",
    text=replace(
        SD21.text, num_hidden_layers=2, intermediate_size=64, vocab_size=TINY.text.vocab_size
    ),
    vae=replace(TINY.vae, block_out_channels=(32, 32, 64), norm_num_groups=32),
    unet=replace(
        TINY.unet,
        block_out_channels=(64, 128, 128),
        num_attention_heads=(1, 2, 2),
        cross_attention_dim=1024,
        norm_num_groups=32,
        use_linear_projection=True,
        upcast_attention=True,
    ),
    schedule=replace(TINY.schedule, prediction_type="v_prediction"),
    sample_size=64,
    sampler="ddim",
)
# Not the sizes that single files are told by: a text encoder of 32 channels.
SMALL = replace(
    TINY2,
    text=replace(TINY.text, hidden_act="gelu"),
    unet=replace(TINY2.unet, cross_attention_dim=32),
)
PROMPT = "a photograph of an astronaut riding a horse!"


@pytest.fixture(scope="module")
def small() -> Components:
    components = tiny_components(SMALL)
    return replace(components, tokenizer=components.tokenizer.changed(padding="!"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the kind, every part of it saved by diffusers and transformers."""
    path = tmp_path_factory.mktemp("sd2")
    liven(reference_unet(SMALL.unet), 1).save_pretrained(path / "unet")
    liven(reference_vae(SMALL.vae), 2).save_pretrained(path / "vae")
    liven(reference_text_encoder(SMALL.text), 3).save_pretrained(path / "text_encoder")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(path / "scheduler")
    Tokenizer.clip().save(path / "tokenizer")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit_json(path / "tokenizer" / name, pad_token="!")
    return path


def test_a_folder_is_read_as_diffusers_reads_it(folder: Path) -> None:
    ours = load_components(folder)
    assert ours.config.unet == SMALL.unet
    assert ours.config.text == SMALL.text
    assert ours.config.schedule.prediction_type == "v_prediction"
    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    expected = theirs(PROMPT, padding="max_length", max_length=77).input_ids
    theirs_way = ours.tokenizer.changed(text_cleaning="transformers")
    assert theirs_way.encode(PROMPT).ids == tuple(expected)
    # The padding is a mark to transformers, wherever it stands; OpenCLIP was trained with the token.
    assert expected[9:12] == [0, 49407, 0]
    assert ours.tokenizer.encode(PROMPT).ids[9:12] == (256, 49407, 0)
    ids = torch.tensor([expected])
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    noise = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(2, 4, 12, 8, generator=noise), torch.tensor([999.0, 3.0])
    with torch.no_grad():
        context = text(ids).last_hidden_state
        assert (ours.text(ids) - context).abs().max() <= 1e-5
        both = torch.cat([context, context.flip(1)])
        expected_v = unet(x_t, t, both).sample
        assert expected_v.std() > 0.05
        assert (ours.unet(x_t, t, both) - expected_v).abs().max() <= 1e-5


def test_a_folder_of_ours_is_read_by_theirs(small: Components, tmp_path: Path) -> None:
    save_folder(small, tmp_path)
    again = load_components(tmp_path)
    assert again.config == small.config
    assert again.tokenizer.padding == "!"
    assert_same_weights(again, small)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert unet.config.attention_head_dim == [1, 2, 2]
    assert unet.config.use_linear_projection is True
    assert CLIPTokenizer.from_pretrained(tmp_path / "tokenizer").pad_token == "!"


def test_a_single_file_of_ours_is_open_clip_to_their_key_map(
    small: Components, tmp_path: Path
) -> None:
    """diffusers' own map, written by other people, finds in the file what was put there."""
    file = tmp_path / "model.safetensors"
    save_single_file(small, file)
    state = load_file(file)
    config = SimpleNamespace(config=SimpleNamespace(hidden_size=SMALL.text.hidden_size))
    found = convert_open_clip_checkpoint(config, state)
    found = {key.removeprefix("text_model."): tensor for key, tensor in found.items()}
    expected = small.text.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    again = load_components(file)
    assert again.config == small.config
    assert again.tokenizer.padding == "!"
    assert_same_weights(again, small)


def published(components: Components, path: Path, **changed: Tensor) -> Path:
    """A single file as other programs have it: without metadata, and with what 2.x's files hold beside."""
    tokenizer = components.tokenizer.changed(padding="!")
    save_single_file(replace(components, tokenizer=tokenizer), path, torch.float16)
    state = load_file(path)
    width = components.config.text.hidden_size
    state["cond_stage_model.model.text_projection"] = torch.zeros(width, width)
    state["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    return raw_tensors(path, state | changed)


def test_a_single_file_is_told_by_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    components = tiny_components(TINY2)
    file = published(components, tmp_path / "v2.safetensors", v_pred=torch.zeros(0))
    loaded = load_components(file)
    # 96 latent cells a side are what models of 2.x have that predict v.
    assert loaded.config == replace(TINY2, name="v2", sample_size=96 * TINY2.vae.downscale)
    assert_same_weights(loaded, components, 2e-3)
    assert loaded.tokenizer.encode("a horse").ids[-1] == loaded.tokenizer.pad_id == 0
    assert "2 ignored, such as cond_stage_model.model.logit_scale" in loaded.summary
    assert "unexpected" not in loaded.summary
    assert not caplog.messages


@pytest.mark.parametrize(("spread", "kind"), [(0.05, "epsilon"), (0.2, "v_prediction")])
def test_what_it_predicts_is_told_by_a_bias_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float, kind: str
) -> None:
    from sd_scratch.checkpoints import single_file

    monkeypatch.setattr(single_file, "TELLING", TELLING)  # of a U-Net with fewer levels
    state = {TELLING: spread * torch.tensor([-1.0, 1.0] * 32)}
    file = published(tiny_components(TINY2), tmp_path / "v2.safetensors", **state)
    layout = single_file.read_single_file(file)
    assert layout.config.schedule.prediction_type == kind
    assert f"taken for {kind} by its weights" in layout.warnings[0]


def test_pictures_are_made_and_clip_skip_counts_the_layers_that_are_used(small: Components) -> None:
    model = StableDiffusion(small)
    first, second = (model.prompt(PROMPT, clip_skip=skip).context for skip in (1, 2))
    assert not torch.equal(first, second)
    latent = model.generate(PROMPT, model.noise(7, 32, 32), negative="blurry", steps=2).latent
    assert latent.isfinite().all()


def test_attention_is_upcast_in_half_precision(small: Components) -> None:
    """Scores beyond what float16 holds are no trouble to a network that asks for more."""
    attention = small.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    q = torch.full((1, 4, 64), 200.0, dtype=torch.float16)
    v = torch.randn(1, 4, 64).half()
    halves = [attention.output.half()]
    try:
        assert attention.upcast
        explicit = attention.explicit = True
        assert attention.attend(q, q, v).isfinite().all()
        attention.upcast = False
        assert explicit and not attention.attend(q, q, v).isfinite().all()
    finally:
        attention.upcast, attention.explicit = True, False
        halves[0].float()


def test_a_model_for_inpainting_as_a_folder_and_as_a_single_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Told by nine channels; of 2.x these predict epsilon, and no line has to say so."""
    unet = replace(TINY2.unet, in_channels=9)
    schedule = replace(TINY2.schedule, prediction_type="epsilon")
    components = tiny_components(replace(TINY2, unet=unet, schedule=schedule, sampler="pndm"))
    components = replace(components, tokenizer=components.tokenizer.changed(padding="!"))
    save_folder(components, tmp_path / "folder", torch.float16)
    made = []
    for path in (tmp_path / "folder", published(components, tmp_path / "512-inpainting.ckpt")):
        loaded = load_components(path)
        assert inspect(path).family == "Stable Diffusion 2.x inpainting"
        assert loaded.config.schedule.prediction_type == "epsilon"
        assert_same_weights(loaded, components, 2e-3)
        picture, mask = Image.new("RGB", (32, 32), "red"), Image.new("L", (32, 32), 255)
        run = Recipe("a horse", seed=7, steps=2, width=32, height=32)
        (batch,) = StableDiffusion(loaded).run(run, init_image=picture, mask=mask)
        made.append(batch.latents.latent)
    assert torch.equal(*made) and made[0].isfinite().all()
    assert not caplog.messages


@pytest.mark.parametrize("single", [False, True])
def test_a_model_with_depth_is_named_and_refused(tmp_path: Path, single: bool) -> None:
    components = tiny_components(replace(TINY2, unet=replace(TINY2.unet, in_channels=5)))
    path = tmp_path / ("depth.ckpt" if single else "depth")
    if single:
        published(components, path)
    else:
        save_folder(components, path)
        parts = {"depth_estimator": ["transformers", "DPTForDepthEstimation"]}
        edit_json(path / "model_index.json", **parts)
    with pytest.raises(ScratchError, match=r"2\.x with depth.*5 input channels\) - only") as error:
        load_components(path)
    assert "\n" not in str(error.value)
