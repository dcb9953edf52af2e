"""Checkpoints between this package and diffusers and transformers, in both directions."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sd_scratch.checkpoints import (
    Components,
    load_components,
    save_folder,
    save_single_file,
)
from sd_scratch.config import TINY
from tests.lively import liven
from tests.parity.references import reference_text_encoder, reference_unet, reference_vae
from tests.tiny import tiny_components

TOLERANCE = 1e-5
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lively weights, every part of it saved by diffusers and transformers."""
    folder = tmp_path_factory.mktemp("theirs")
    liven(reference_unet(TINY.unet), 1).save_pretrained(folder / "unet")
    liven(reference_vae(TINY.vae), 2).save_pretrained(folder / "vae")
    liven(reference_text_encoder(TINY.text), 3).save_pretrained(folder / "text_encoder")
    PNDMScheduler(**SCHEDULE, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def components() -> Components:
    return tiny_components()


@torch.no_grad()
def outputs(text: nn.Module, vae: nn.Module, unet: nn.Module) -> dict[str, Tensor]:
    """What the networks of either side make of the same inputs."""
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(0, TINY.text.vocab_size, (2, 77), generator=noise)
    x_t = torch.randn(2, TINY.unet.in_channels, 12, 8, generator=noise)
    picture = torch.randn(1, 3, 32, 48, generator=noise).clamp(-1, 1)
    t = torch.tensor([999.0, 3.0])
    context = text(ids)
    context = context if isinstance(context, Tensor) else context.last_hidden_state
    eps, posterior, image = unet(x_t, t, context), vae.encode(picture), vae.decode(x_t)
    return {
        "context": context,
        "eps": eps if isinstance(eps, Tensor) else eps.sample,
        "mean": posterior.mean if hasattr(posterior, "mean") else posterior.latent_dist.mean,
        "image": image if isinstance(image, Tensor) else image.sample,
    }


def assert_equal_outputs(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    for name, expected in reference.items():
        assert expected.std() > 0.05, name
        assert (ours[name] - expected).abs().max() <= TOLERANCE, name


def run_ours(components: Components) -> dict[str, Tensor]:
    return outputs(components.text, components.vae, components.unet)


def run_theirs(folder: Path) -> dict[str, Tensor]:
    return outputs(
        CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
        AutoencoderKL.from_pretrained(folder / "vae").eval(),
        UNet2DConditionModel.from_pretrained(folder / "unet").eval(),
    )


def test_what_they_save_we_load(theirs: Path) -> None:
    loaded = load_components(theirs)
    assert "unexpected" not in loaded.summary
    assert loaded.config.unet == TINY.unet
    assert loaded.config.vae == TINY.vae
    assert loaded.config.text == TINY.text
    assert loaded.config.schedule == TINY.schedule
    assert_equal_outputs(run_ours(loaded), run_theirs(theirs))


@pytest.mark.parametrize("shard", [False, True])
def test_what_we_save_they_load(components: Components, tmp_path: Path, shard: bool) -> None:
    save_folder(components, tmp_path, shard_bytes=1_000_000 if shard else 10**9)
    assert_equal_outputs(run_ours(components), run_theirs(tmp_path))


def test_their_shards_and_variants(tmp_path: Path) -> None:
    unet, vae = liven(reference_unet(TINY.unet), 1), liven(reference_vae(TINY.vae), 2)
    text = liven(reference_text_encoder(TINY.text), 3)
    unet.half().save_pretrained(tmp_path / "unet", variant="fp16", max_shard_size="1MB")
    vae.half().save_pretrained(tmp_path / "vae", variant="fp16")
    text.half().save_pretrained(tmp_path / "text_encoder", max_shard_size="1MB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert len(list((tmp_path / "text_encoder").glob("*.safetensors"))) > 1
    loaded = load_components(tmp_path)
    assert "fp16.safetensors used" in loaded.summary
    expected = outputs(text.float(), vae.float(), unet.float())
    assert_equal_outputs(run_ours(loaded), expected)


def test_their_pipeline_takes_a_folder_of_ours(components: Components, tmp_path: Path) -> None:
    save_folder(components, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(pipeline.scheduler, PNDMScheduler)
    assert isinstance(pipeline.tokenizer, CLIPTokenizer)
    assert pipeline.safety_checker is None
    text = "a photograph of an astronaut riding a horse"
    ids = pipeline.tokenizer(text, padding="max_length", max_length=77).input_ids
    assert tuple(ids) == components.tokenizer.encode(text).ids
    found = outputs(pipeline.text_encoder, pipeline.vae, pipeline.unet)
    assert_equal_outputs(run_ours(components), found)


def test_their_single_file_reader_takes_a_file_of_ours(
    components: Components, tmp_path: Path
) -> None:
    """diffusers' own key map, written by other people, reads what ours wrote."""
    save_folder(components, tmp_path / "folder")
    save_single_file(components, tmp_path / "model.safetensors")
    options = {"config": str(tmp_path / "folder"), "local_files_only": True}
    file = str(tmp_path / "model.safetensors")
    unet = UNet2DConditionModel.from_single_file(file, subfolder="unet", **options).eval()
    vae = AutoencoderKL.from_single_file(file, subfolder="vae", **options).eval()
    for network, ours in ((unet, components.unet), (vae, components.vae)):
        state = network.state_dict()
        assert state.keys() == ours.state_dict().keys()
        for key, tensor in ours.state_dict().items():
            assert torch.equal(state[key], tensor), key


@pytest.mark.parametrize(
    ("scheduler", "sampler"),
    [
        (PNDMScheduler, "pndm"),
        (DDIMScheduler, "ddim"),
        (DDPMScheduler, "ddpm"),
        (LMSDiscreteScheduler, "lms"),
        (EulerDiscreteScheduler, "euler"),
        (EulerAncestralDiscreteScheduler, "euler_a"),
        (HeunDiscreteScheduler, "heun"),
        (DPMSolverMultistepScheduler, "dpmpp_2m"),
    ],
)
def test_their_schedulers(theirs: Path, tmp_path: Path, scheduler: type, sampler: str) -> None:
    """What a scheduler means by its defaults is what is read here."""
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / part).symlink_to(theirs / part)
    reference = scheduler()
    reference.save_pretrained(tmp_path / "scheduler")
    config = load_components(tmp_path).config
    assert config.sampler == sampler
    assert config.schedule.timestep_spacing == reference.config.timestep_spacing
    assert config.schedule.beta_start == reference.config.beta_start
    assert config.schedule.beta_schedule == reference.config.beta_schedule
    if "set_alpha_to_one" in reference.config:
        assert config.schedule.set_alpha_to_one == reference.config.set_alpha_to_one
