"""What a checkpoint says of itself is done as diffusers does it, or is said."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd_scratch.checkpoints import load_components, save_folder, save_single_file
from sd_scratch.config import TINY
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from tests.checkpoints import edit_json, rewrite
from tests.tiny import tiny_components

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SCHEDULE = "scheduler/scheduler_config.json"
STEPS, SIDE, SEED = 5, 32, 3
# What shapes do not tell is as in Stable Diffusion 1.x, so that a bare single file can be read.
PLAIN = replace(
    TINY,
    text=replace(TINY.text, num_attention_heads=1),
    vae=replace(TINY.vae, block_out_channels=(32, 32, 32), norm_num_groups=32),
    unet=replace(TINY.unet, num_attention_heads=8, norm_num_groups=32),
)
EULER, DPM, DDIM = "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"
SINGLE, UNIPC, DEIS = (
    f"{name}Scheduler" for name in ("DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")
)
V = {"prediction_type": "v_prediction"}
ZERO = V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
GONE = object()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    components = tiny_components(PLAIN)
    save_folder(components, path / "model")
    save_single_file(components, path / "model.safetensors")
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    place = Path(shutil.copytree(saved / "model", tmp_path / "model"))
    index = json.loads((place / "model_index.json").read_text())
    del index["sd_scratch"]  # our own word on the sampler
    (place / "model_index.json").write_text(json.dumps(index))
    return place


@pytest.fixture
def single(saved: Path, tmp_path: Path) -> Path:
    """A single file that nobody wrote anything about."""
    tensors = load_file(saved / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def schedule(folder: Path, **changes: Any) -> None:
    path = folder / SCHEDULE
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not GONE}))
    edit_json(folder / "model_index.json", scheduler=["diffusers", data["_class_name"]])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("sd_scratch")]


def ours(source: Path, **settings: Any) -> Tensor:
    model = StableDiffusion(load_components(source))
    noise = model.noise(SEED, SIDE, SIDE)
    return model.generate("a red star", noise, steps=STEPS, guidance=7.5, **settings).latent


def theirs(folder: Path) -> Tensor:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        "a red star",
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        width=SIDE,
        height=SIDE,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": EULER, "use_karras_sigmas": True},
        {"_class_name": EULER, "use_beta_sigmas": True},
        {"_class_name": EULER, "use_exponential_sigmas": True},
        {"_class_name": DPM, "use_karras_sigmas": True},
        {"_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": True},
        {"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": True},
        {"_class_name": EULER, "timestep_spacing": GONE},
        {"_class_name": DDIM, "steps_offset": GONE},
        {"_class_name": DDIM, "clip_sample": GONE},
        {"_class_name": DDIM, "set_alpha_to_one": GONE},
        {"_class_name": DDIM, "timestep_spacing": "trailing"},
        {"_class_name": DDIM, **V},
        {"_class_name": DDIM, "prediction_type": "sample"},
        {"_class_name": DDIM, **ZERO},
        {"_class_name": DDIM, **ZERO, "timestep_spacing": "leading"},
        {"_class_name": EULER, **ZERO},
        {"_class_name": "EulerAncestralDiscreteScheduler", **ZERO},
        {"_class_name": DDIM, "timestep_spacing": "linspace"},
        {"_class_name": DDIM, "thresholding": True, "sample_max_value": 2.0},
        {"_class_name": DDIM, "variance_type": "fixed_small"},
        {"_class_name": DPM, "use_lu_lambdas": True},
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_small_log"},
        {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"},
        {"_class_name": "PNDMScheduler", "trained_betas": [0.001] * 1000},
        {"_class_name": EULER, "trained_betas": [1e-4 + 1e-5 * t for t in range(1000)]},
        {"_class_name": DPM, "timestep_spacing": GONE, **V},
        {"_class_name": DPM, "algorithm_type": "sde-dpmsolver++"},
        {"_class_name": UNIPC, "solver_order": 3},
        {"_class_name": DEIS},
        {"_class_name": "KDPM2AncestralDiscreteScheduler", "use_karras_sigmas": True},
        {"_class_name": "LCMScheduler"},
    ],
    ids=lambda changes: "-".join(f"{k}={str(v)[:12]}" for k, v in changes.items()),
)
def test_a_schedule_is_obeyed(
    folder: Path, tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    schedule(folder, **changes)
    caplog.set_level(logging.WARNING, "sd_scratch")
    latent, expected = ours(folder), theirs(folder)
    assert not said(caplog)
    # At the sigma of 4096 that stands for pure noise, Euler's step in float32 keeps three digits less, here and there.
    rounded = "rescale_betas_zero_snr" in changes and changes["_class_name"].startswith("Euler")
    # What thresholding divides is steep in these random networks: a relative 1e-7 of the noise moves the latent by
    # 1e-3, and against networks in float64 this side is 7e-4 off and the other 1.3e-3.
    rounded |= "thresholding" in changes
    bound = (2e-3 if rounded else 1e-4) * float(expected.abs().max())
    assert float((latent - expected).abs().max()) <= bound
    again = load_components(folder)
    for place in (tmp_path / "again", tmp_path / "again.safetensors"):
        save = save_single_file if place.suffix else save_folder
        save(again, place)
        config = load_components(place).config
        assert replace(config, name=again.config.name) == again.config
        assert torch.equal(ours(place), latent)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "DPMSolverSDEScheduler"}, "others than in diffusers"),
        ({"_class_name": "PNDMScheduler", "thresholding": True}, "`thresholding`: true has no effect"),
        ({"_class_name": "PNDMScheduler", **ZERO, "timestep_spacing": "leading"}, "`rescale_betas_zero_snr`: true is followed"),
        ({"_class_name": "KDPM2AncestralDiscreteScheduler", "timestep_spacing": "trailing",
          "beta_schedule": "squaredcos_cap_v2"}, "`beta_schedule`: \"squaredcos_cap_v2\" is followed; diffusers' KDPM2"),
        ({"_class_name": UNIPC, "use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
         "`beta_schedule`: \"squaredcos_cap_v2\" is followed; diffusers asks"),
        ({"_class_name": DDIM, "use_karras_sigmas": True}, "`use_karras_sigmas`: true"),
        ({"_class_name": DDIM, "final_sigmas_type": "sigma_min"}, "`final_sigmas_type`: \"sigma_min\" has no effect"),
        ({"_class_name": DDIM, "predict_x0": False}, "`predict_x0`: false is not supported and not followed, and changes nothing"),
        ({"_class_name": EULER, "sigma_max": 20.0}, "`sigma_max`: 20.0 is not supported and not followed, and changes nothing"),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}, "`variance_type`: \"fixed_large\" is followed"),
        ({"_class_name": "PNDMScheduler", "timestep_spacing": "trailing"}, "`timestep_spacing`: \"trailing\""),
        ({"_class_name": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": True}, "`use_karras_sigmas`: true"),
        ({"_class_name": DDIM, "steps_offset": 0}, "`steps_offset`: 0 is followed"),
        ({"never_heard_of": [1]}, "`never_heard_of`: [1] is not known here"),
    ],
)  # fmt: skip
def test_what_a_schedule_says_in_vain_is_said(
    folder: Path, changes: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    schedule(folder, **changes)
    caplog.set_level(logging.WARNING, "sd_scratch")
    model = StableDiffusion(load_components(folder))
    (line,) = said(caplog)
    assert named in line
    assert line.startswith(f"{folder / SCHEDULE} - ")
    model.way()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "IPNDMScheduler"}, "`_class_name`: \"IPNDMScheduler\" is no sampler"),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 40}, "`original_inference_steps`: 40"),
        ({"_class_name": "TCDScheduler", "timestep_scaling": 5.0}, "`timestep_scaling`: 5.0"),
        ({"_class_name": DPM, "solver_order": 1}, "`solver_order`: 1"),
        ({"_class_name": DPM, "algorithm_type": "dpmsolver"}, "`algorithm_type`: \"dpmsolver"),
        ({"_class_name": DPM, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "`solver_order`: 3"),
        ({"_class_name": DPM, "use_flow_sigmas": True}, "`use_flow_sigmas`: true"),
        ({"_class_name": DPM, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, "`lambda_min_clipped`: -5.1"),
        ({"_class_name": SINGLE, "final_sigmas_type": "sigma_min"}, "`final_sigmas_type`"),
        ({"_class_name": SINGLE, "solver_order": 3, "solver_type": "heun"}, "`solver_order`: 3"),
        ({"_class_name": UNIPC, "predict_x0": False}, "`predict_x0`: false"),
        ({"_class_name": UNIPC, "disable_corrector": [0]}, "`disable_corrector`: [0]"),
        ({"_class_name": UNIPC, "lower_order_final": False}, "`lower_order_final`: false"),
        ({"_class_name": DEIS, "solver_order": 4}, "`solver_order`: 4"),
        ({"_class_name": EULER, "final_sigmas_type": "sigma_min"}, "`final_sigmas_type`"),
        ({"_class_name": EULER, "sigma_max": 20.0, "use_karras_sigmas": True}, "`sigma_max`: 20.0"),
        ({"_class_name": EULER, "interpolation_type": "log_linear"}, "`interpolation_type`"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "`variance_type`: \"learned\""),
        ({"_class_name": DPM, "variance_type": "learned_range"}, "`variance_type`: \"learned_range\""),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_be_had_wants_a_sampler_named(
    folder: Path, changes: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    schedule(folder, **changes)
    caplog.set_level(logging.WARNING, "sd_scratch")
    model = StableDiffusion(load_components(folder))
    (line,) = said(caplog)  # who does not run it hears of it, too
    for run in (model.way, lambda: next(model.run("a red star"))):
        with pytest.raises(ScratchError) as error:
            run()
        assert str(error.value).startswith(line)
        assert named in line and line.startswith(f"{folder / SCHEDULE} - ")
        assert str(error.value).endswith("choose a sampler by name")
    assert model.way("euler").sampler.name == "euler"


def test_the_samplers_class_is_that_of_the_index(folder: Path) -> None:
    """Where it and the scheduler's own file differ, diffusers takes it, too."""
    schedule(folder, _class_name="PNDMScheduler", skip_prk_steps=True)
    edit_json(folder / "model_index.json", scheduler=["diffusers", EULER])
    latent, expected = ours(folder), theirs(folder)
    assert float((latent - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert load_components(folder).config.sampler == "euler"


def test_what_other_files_say_in_vain_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sd_scratch")
    load_components(folder)
    assert not said(caplog)
    edit_json(folder / "unet/config.json", strange=1)
    edit_json(folder / "vae/config.json", strange=2)
    edit_json(folder / "text_encoder/config.json", strange=3)
    edit_json(folder / "model_index.json", controlnet=["diffusers", "ControlNetModel"])
    edit_json(folder / "tokenizer/tokenizer_config.json", strange=4)
    load_components(folder)
    lines = said(caplog)
    assert len(lines) == 5
    for text in ("`strange`: 1", "`strange`: 2", "`strange`: 3", "`strange`: 4", "`controlnet`"):
        assert any(text in line for line in lines)


def test_zero_terminal_snr_with_eps_is_refused(folder: Path) -> None:
    schedule(folder, **ZERO, _class_name=DDIM)
    schedule(folder, prediction_type="epsilon")
    with pytest.raises(ScratchError, match="rescale_betas_zero_snr"):
        load = StableDiffusion(load_components(folder))
        load.noise(0)


@pytest.mark.parametrize(
    ("markers", "metadata", "reference"),
    [
        ((), {}, {}),
        (("v_pred",), {}, V),
        (("v_pred", "ztsnr"), {}, ZERO | {"timestep_spacing": "leading"}),
        ((), {"modelspec.prediction_type": "v"}, V),
    ],
)
def test_a_single_file_says_what_its_network_predicts(
    folder: Path,
    single: Path,
    markers: tuple[str, ...],
    metadata: dict[str, str],
    reference: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "sd_scratch")
    tensors = load_file(single) | {name: torch.empty(0) for name in markers}
    save_file(tensors, single, metadata=metadata or None)
    schedule(folder, _class_name=DDIM, **reference)
    expected = theirs(folder)
    latent = ours(single, sampler="ddim")
    assert float((latent - expected).abs().max()) <= 5e-4 * float(expected.abs().max())
    assert not said(caplog)
    assert "unexpected" not in load_components(single).summary


@pytest.mark.parametrize(
    ("markers", "metadata", "named"),
    [
        (("edm_vpred.sigma_max",), {}, "`edm_vpred.sigma_max`"),
        ((), {"modelspec.prediction_type": "flow"}, '`modelspec.prediction_type`: "flow"'),
    ],
)
def test_an_unknown_prediction_wants_one_named(
    single: Path, markers: tuple[str, ...], metadata: dict[str, str], named: str
) -> None:
    tensors = load_file(single) | {name: torch.ones(1) for name in markers}
    save_file(tensors, single, metadata=metadata or None)
    with pytest.raises(ScratchError, match=f"{re.escape(named)}.*name its prediction type"):
        load_components(single)
    config = load_components(single, prediction="v_prediction").config
    assert config.schedule.prediction_type == "v_prediction"


def test_what_a_person_says_comes_before_the_file(single: Path) -> None:
    config = load_components(single, prediction="v_prediction", zero_snr=True).config
    assert config.schedule.prediction_type == "v_prediction"
    assert config.schedule.rescale_betas_zero_snr
    with pytest.raises(UsageError, match="'velocity' is nothing that a network predicts"):
        load_components(single, prediction="velocity")


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer.json"])
def test_tokens_of_the_models_own(folder: Path, tmp_path: Path, where: str) -> None:
    text_file, key = (
        folder / "text_encoder/model.safetensors",
        "text_model.embeddings.token_embedding.weight",
    )
    table = load_file(text_file)[key]
    row = torch.randn(1, table.shape[1], generator=torch.Generator().manual_seed(0))
    rewrite(text_file, {key: torch.cat([table, row])})
    edit_json(folder / "text_encoder/config.json", vocab_size=49409)
    tokenizer = folder / "tokenizer"
    if where == "added_tokens.json":
        (tokenizer / where).write_text('{"<cat-toy>": 49408}')
    else:
        reference = transformers.CLIPTokenizer.from_pretrained(tokenizer)
        reference.add_tokens("<cat-toy>")
        shutil.rmtree(tokenizer)
        reference.save_pretrained(tokenizer)
    text = "a photo of <cat-toy> here"
    reference = transformers.CLIPTokenizer.from_pretrained(tokenizer)
    expected = reference(text, padding="max_length", max_length=77).input_ids
    assert 49408 in expected
    components = load_components(folder)
    assert list(components.tokenizer.encode(text).ids) == expected
    save_folder(components, tmp_path / "again")
    assert list(load_components(tmp_path / "again").tokenizer.encode(text).ids) == expected
    edit_json(folder / "text_encoder/config.json", vocab_size=49408)
    with pytest.raises(ScratchError, match="token_embedding"):
        load_components(folder)


@pytest.mark.parametrize("per_row", [False, True])
def test_scales_beside_eight_bit_weights_are_applied(single: Path, per_row: bool) -> None:
    tensors = load_file(single)
    scaled, meant = {}, {}
    for key, value in tensors.items():
        if key.startswith("model.diffusion_model.") and value.ndim == 2 and "emb" not in key:
            largest = value.abs().amax(1, keepdim=True) if per_row else value.abs().max()
            scale = largest / 448
            scaled[key] = (value / scale).to(torch.float8_e4m3fn)
            scaled[key.removesuffix("weight") + "scale_weight"] = scale
            meant[key] = scaled[key].float() * scale
    save_file(tensors | scaled | {"scaled_fp8": torch.empty(0)}, single)
    found = load_components(single)
    save_file(tensors | meant, single)
    expected = load_components(single)
    assert "unexpected" not in found.summary
    for key, value in expected.unet.state_dict().items():
        assert torch.equal(found.unet.state_dict()[key], value), key
    save_file(tensors | {"model.diffusion_model.out.9.scale_weight": torch.ones(1)}, single)
    with pytest.raises(ScratchError, match="fits no weight"):
        load_components(single)


def test_the_vaes_attention_under_other_names(single: Path) -> None:
    expected = load_components(single).vae.state_dict()
    names = {".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".proj_out.": ".to_out.0."}
    renamed = {}
    for key, value in load_file(single).items():
        if ".attn_1." in key:
            value = value.reshape(value.shape[:2]) if value.ndim == 4 else value
            for old, new in names.items():
                key = key.replace(old, new)
        renamed[key] = value.contiguous()
    save_file(renamed, single)
    found = load_components(single)
    assert all(torch.equal(found.vae.state_dict()[key], value) for key, value in expected.items())
    assert "unexpected" not in found.summary


@pytest.mark.parametrize(
    ("version", "cells", "meant"), [("0.4.1", 32, 64), ("0.8.9", 16, 64), ("0.9.0", 32, 32), ("0.42.1", 8, 8), (GONE, 16, 16)]
)  # fmt: skip
def test_the_size_of_pictures_in_folders_of_2022(
    folder: Path, version: object, cells: int, meant: int
) -> None:
    edit_json(folder / "unet/config.json", sample_size=cells)
    if version is not GONE:
        edit_json(folder / "unet/config.json", _diffusers_version=version)
    assert load_components(folder).config.latent_size == meant


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("only_cross_attention", [False] * 3),
        ("attention_head_dim", [8] * 3),
        ("cross_attention_dim", [32] * 3),
        ("layers_per_block", [1] * 3),
        ("transformer_layers_per_block", [1] * 3),
        ("sample_size", [16, 16]),
    ],
)
def test_one_value_a_level_is_one_value(folder: Path, key: str, value: list[object]) -> None:
    expected = load_components(folder).config
    edit_json(folder / "unet/config.json", **{key: value})
    assert load_components(folder).config == expected
    different = [*value[:-1], 1 if value[-1] is False else 5]
    edit_json(folder / "unet/config.json", **{key: different})
    if key == "sample_size":
        assert "two sides" in load_components_warnings(folder)
    else:
        with pytest.raises(ScratchError, match=f"`{key}`"):
            load_components(folder)


def load_components_warnings(folder: Path) -> str:
    from sd_scratch.checkpoints.load import read_layout

    return "\n".join(read_layout(folder).warnings)


def test_a_text_encoder_in_the_configuration_of_a_whole_clip(folder: Path) -> None:
    expected = load_components(folder).config
    path = folder / "text_encoder/config.json"
    text = json.loads(path.read_text())
    whole = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 32}
    path.write_text(json.dumps(whole | {"text_config": text, "vision_config": {}}))
    assert load_components(folder).config == expected


@pytest.mark.parametrize("variant", ["bf16", "fp32", "non_ema"])
def test_any_variant_is_loaded_and_named(folder: Path, variant: str) -> None:
    expected = load_components(folder)
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    found = load_components(folder)
    assert f"unet/diffusion_pytorch_model.{variant}.safetensors used" in found.summary
    for name, network in expected.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(found.networks[name].state_dict()[key], value)
