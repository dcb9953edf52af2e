"""Other tools' names and conventions, and what separates two pictures."""

import argparse
import contextlib
import json
import re
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.cli import main
from sd_scratch.cli.generate import add_arguments
from sd_scratch.config import ScheduleConfig
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.dialects.conventions import DIALECTS, speak
from sd_scratch.dialects.differences import differences
from sd_scratch.dialects.invoke import recipe_from_invoke
from sd_scratch.dialects.stored_recipe import encode_picture, read_recipe
from sd_scratch.diffusion.sampler_names import (
    DRAWING,
    a1111_schedule,
    a1111_title,
    comfy_schedule,
    find_sampler,
)
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.settings import SETTINGS
from sd_scratch.pipeline.way import Way


@pytest.mark.parametrize(
    ("written", "name", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),  # A1111 before 1.9
        ("DPM++ 2M", "dpmpp_2m", None),
        ("dpm++2m", "dpmpp_2m", None),  # stable-diffusion.cpp
        ("sample_dpmpp_2m", "dpmpp_2m", None),  # k-diffusion
        ("DPMSolverMultistepScheduler", "dpmpp_2m", None),  # diffusers
        ("Euler a", "euler_a", None),
        ("euler_ancestral", "euler_a", None),  # ComfyUI
        ("k_euler_ancestral", "euler_a", None),  # InvokeAI
        ("EulerAncestralDiscreteScheduler", "euler_a", None),
        ("Euler", "euler", None),
        ("k_euler", "euler", None),
        ("EulerDiscreteScheduler", "euler", None),
        ("LMS Karras", "lms", "karras"),
        ("k_lms", "lms", None),
        ("Heun", "heun", None),
        ("DDIM", "ddim", None),
        ("DDIMScheduler", "ddim", None),
        ("PLMS", "pndm", None),
        ("PNDMScheduler", "pndm", None),
        ("Karras", "Karras", None),
        ("DPM++ 2M SGM Uniform", "dpmpp_2m", "sgm_uniform"),
        ("Euler ancestral Karras", "euler_a", "karras"),
        ("dpmpp_2m_k", "dpmpp_2m", "karras"),  # InvokeAI
        ("kdpm_2_a_k", "dpm2_a", "karras"),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde", None),  # ComfyUI
        ("uni_pc_bh2", "unipc", None),
        ("ddim_trailing", "ddim", "trailing"),  # stable-diffusion.cpp
        ("KDPM2DiscreteScheduler", "dpm2", None),
        ("KDPM2AncestralDiscreteScheduler", "dpm2_a", None),
        ("DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun", None),
        ("nothing of the kind", "nothing of the kind", None),
    ],
)
def test_samplers_by_the_names_of_invoke_metadata(
    written: str, name: str, schedule: str | None
) -> None:
    assert find_sampler(written) == (name, schedule)


def test_every_sampler_is_found_by_its_own_names() -> None:
    for name, sampler in SAMPLERS.items():
        assert find_sampler(name)[0] == find_sampler(sampler.metadata_name)[0] == name


def test_a_dialect_sets_conventions_and_nothing_else() -> None:
    recipe = Recipe("a", seed=1, rng="cpu", syntax="plain")
    spoken = speak(recipe, "a1111")
    assert {each.name for each in differences(recipe, spoken)} <= {
        "rng",
        "syntax",
        "emphasis",
        "text_cleaning",
        "strength_steps",
    }
    assert (spoken.rng, spoken.syntax) == ("nv", "a1111")
    assert len({tuple(d.settings.values()) for d in DIALECTS.values()}) == len(DIALECTS)
    with pytest.raises(UsageError, match="unknown dialect 'x' - use a1111, comfy, diffusers"):
        speak(recipe, "x")


def test_what_differs_comes_in_the_order_of_what_it_changes() -> None:
    first = Recipe("a (b:1.2)", seed=1, rng="nv", emphasis="a1111", steps=20)
    second = Recipe("a (b:1.2)", seed=1, rng="cpu", emphasis="comfy", steps=30)
    found = differences(first, second)
    assert [(each.name, each.is_convention) for each in found] == [
        ("rng", True),
        ("emphasis", True),
        ("steps", False),
    ]
    assert differences(first, first) == []
    assert differences(Recipe("a", emphasis="comfy"), Recipe("a", emphasis="none")) == []
    assert set(SETTINGS) == set(vars(Recipe("a")))


def test_explain_says_what_separates_two_pictures(tmp_path: Path, capsys) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a (b:1.2)\nSteps: 20, Sampler: Euler a, Seed: 3, Pad conds: True, Version: v1.10.1",
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=info)
    ours = Recipe(
        "a (b:1.2)",
        seed=3,
        steps=20,
        sampler="euler_a",
        syntax="a1111",
        emphasis="a1111",
        schedule="linspace",
        rng="cpu",
    )
    (tmp_path / "ours.png").write_bytes(encode_picture(Image.new("RGB", (8, 8)), ours))
    words = ["explain", str(tmp_path / "theirs.png"), str(tmp_path / "ours.png")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rng (convention): nv / cpu - where the noise comes from")
    assert lines[1:] == [f"{words[1]}: not understood, and may matter: Pad conds"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["name"] == "rng"
    assert main(["explain", words[2], words[2]]) == 0
    assert "nothing separates" in capsys.readouterr().out


def test_explain_shows_adapters_as_they_are_typed(tmp_path: Path, capsys) -> None:
    for name, scale in (("a", 1.0), ("b", 0.5)):
        recipe = Recipe("a", loras=(LoraUse("style", scale, 1.0, "b5d2c4efb672"),))
        (tmp_path / f"{name}.png").write_bytes(encode_picture(Image.new("RGB", (8, 8)), recipe))
    assert main(["explain", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "style:1.0:1.0:b5d2c4efb672 / style:0.5:1.0:b5d2c4efb672 - " in line


def graph(**changes: dict) -> str:
    """ComfyUI's own first workflow with a LoRA, and with other inputs where they are named."""
    nodes = {
        "3": ("KSampler", {"seed": 5, "steps": 20, "cfg": 8, "sampler_name": "euler_ancestral",
              "scheduler": "karras", "denoise": 1, "model": ["10", 0], "positive": ["6", 0],
              "negative": ["7", 0], "latent_image": ["5", 0]}),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "sub\\v1-5.safetensors"}),
        "5": ("EmptyLatentImage", {"width": 512, "height": 768, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": "a (red:1.2) star", "clip": ["11", 0]}),
        "7": ("CLIPTextEncode", {"text": "dog", "clip": ["11", 0]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"filename_prefix": "x", "images": ["8", 0]}),
        "10": ("LoraLoader", {"lora_name": "stars.safetensors", "strength_model": 0.8,
               "strength_clip": 0.5, "model": ["4", 0], "clip": ["4", 1]}),
        "11": ("CLIPSetLastLayer", {"stop_at_clip_layer": -2, "clip": ["10", 1]}),
    }  # fmt: skip
    made = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    for key, inputs in changes.items():
        number = key.removeprefix("n")
        made.setdefault(number, {"class_type": inputs.get("class_type"), "inputs": {}})
        made[number]["class_type"] = inputs.get("class_type", made[number]["class_type"])
        made[number]["inputs"] |= {k: v for k, v in inputs.items() if k != "class_type"}
    return json.dumps(made)


def read_text(tmp_path: Path, keyword: str, text: str) -> tuple[Recipe, tuple[str, ...]]:
    info = PngInfo()
    info.add_text(keyword, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    return read_recipe(tmp_path / "a.png")


def test_a_plain_chain_of_comfyui_is_a_recipe(tmp_path: Path) -> None:
    recipe, left = read_text(tmp_path, "prompt", graph())
    assert left == NOISE
    assert recipe == Recipe(
        "a (red:1.2) star",
        "dog",
        seed=5,
        steps=20,
        sampler="euler_a",
        schedule="karras+all+whole+unit",
        guidance=8.0,
        width=512,
        height=768,
        clip_skip=2,
        model="v1-5",
        loras=(LoraUse("stars", 0.8, 0.5),),
        **DIALECTS["comfy"].settings,
    )
    _, left = read_text(
        tmp_path,
        "prompt",
        graph(
            n3={"scheduler": "bong_tangent", "sampler_name": "euler"}, n12={"class_type": "FreeU"}
        ),
    )
    assert left == ("scheduler bong_tangent", "node FreeU")
    pag = {"class_type": "PerturbedAttentionGuidance", "scale": 2.5, "model": ["10", 0]}
    guided, left = read_text(tmp_path, "prompt", graph(n3={"model": ["12", 0]}, n12=pag))
    assert guided == recipe.over(pag=2.5) and not any("node" in each for each in left)


SECOND = {"class_type": "KSampler", "seed": 5, "steps": 12, "cfg": 8, "sampler_name": "euler_ancestral",
          "scheduler": "karras", "denoise": 0.5, "model": ["10", 0], "positive": ["6", 0],
          "negative": ["7", 0], "latent_image": ["20", 0]}  # fmt: skip
NOISE = ("the noise that euler_ancestral adds (another stream's)",)
LATENT = {
    "class_type": "LatentUpscaleBy",
    "upscale_method": "bilinear",
    "scale_by": 1.5,
    "samples": ["3", 0],
}
IMAGE = {
    "class_type": "ImageScale",
    "upscale_method": "lanczos",
    "width": 1024,
    "height": 1536,
    "crop": "disabled",
    "image": ["23", 0],
}


def two_passes(**changes: dict) -> str:
    nodes = {"n8": {"samples": ["21", 0]}, "n21": SECOND, "n20": LATENT}
    return graph(
        **{key: {**nodes.get(key, {}), **changes.get(key, {})} for key in {**nodes, **changes}}
    )


def test_two_passes_of_comfyui(tmp_path: Path) -> None:
    recipe, left = read_text(tmp_path, "prompt", two_passes())
    assert left == NOISE
    assert (recipe.width, recipe.height, recipe.steps, recipe.seed) == (512, 768, 20, 5)
    second = (recipe.hires_scale, recipe.hires_method, recipe.hires_strength, recipe.hires_steps)
    assert second == (1.5, "latent", 0.5, 12)
    size = {
        "class_type": "LatentUpscale",
        "upscale_method": "nearest-exact",
        "width": 1024,
        "height": 1536,
    }
    text = two_passes(n20=size | {"scale_by": None}).replace('"scale_by": null, ', "")
    recipe, _ = read_text(tmp_path, "prompt", text)
    assert (recipe.hires_scale, recipe.hires_method) == (2.0, "latent-nearest-exact")
    recipe, left = read_text(
        tmp_path,
        "prompt",
        two_passes(
            n20={"class_type": "VAEEncode", "pixels": ["22", 0], "vae": ["4", 2]},
            n22=IMAGE,
            n23={"class_type": "VAEDecode", "samples": ["3", 0], "vae": ["4", 2]},
            n21={"seed": 6, "cfg": 8},
        ),
    )
    assert (recipe.hires_scale, recipe.hires_method) == (2.0, "lanczos")
    assert left == (*NOISE, "seed of the second pass (both passes have one here)")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n20": {"upscale_method": "bislerp"}}, "a second pass of 768x1152 by bislerp"),
        ({"n20": {"scale_by": 0.5}}, "a second pass of 256x384"),
        ({"n20": {"samples": ["21", 0]}}, "does not go on from the first"),
        ({"n20": {"class_type": "LatentRotate"}}, "2 nodes called KSampler"),
        ({"n21": {"denoise": "much"}}, "node 21 - `denoise`"),
    ],
)
def test_second_passes_that_are_not_here(tmp_path: Path, changes: dict, reason: str) -> None:
    with pytest.raises(ScratchError, match=reason):
        read_text(tmp_path, "prompt", two_passes(**changes))


INVOKE = {
    "generation_mode": "txt2img", "positive_prompt": "a star", "negative_prompt": "", "seed": 7,
    "steps": 30, "scheduler": "euler", "cfg_scale": 7.5, "width": 512, "height": 768, "clip_skip": 0,
    "rand_device": "cpu", "model": {"name": "v1-5", "key": "x"}, "hrf_enabled": True, "hrf_method": "latent",
    "hrf_strength": 0.45, "hrf_scale": 2.0, "hrf_latent_interpolation_mode": "bicubic",
}  # fmt: skip


def test_two_passes_of_invokeai() -> None:
    """Some versions store the first pass's size, others the finished picture's."""
    for size in (None, (1024, 1536), (512, 768)):
        recipe, left = recipe_from_invoke(json.dumps(INVOKE), "x.png", size)
        assert (recipe.width, recipe.height) == ((256, 384) if size == (512, 768) else (512, 768))
        second = (recipe.hires_scale, recipe.hires_method, recipe.hires_strength)
        assert second == (2.0, "latent-bicubic", 0.45)
        assert left == ()
    other = {k: v for k, v in INVOKE.items() if "latent" not in k} | {"hrf_method": "ESRGAN"}
    recipe, left = recipe_from_invoke(json.dumps(other), "x.png")
    assert recipe.hires_scale is None
    assert left == ("hrf_enabled (a second pass by ESRGAN is not here)",)
    recipe, left = recipe_from_invoke(json.dumps(INVOKE | {"hrf_enabled": False}), "x.png")
    assert (recipe.hires_scale, left) == (None, ())
    for wrong in ({"hrf_scale": "2"}, {"hrf_strength": 2}, {"hrf_method": ["latent"]}):
        data = json.dumps(INVOKE | wrong)
        if "hrf_method" in wrong:
            assert recipe_from_invoke(data, "x.png")[1]
            continue
        with pytest.raises(ScratchError, match="`hrf_"):
            recipe_from_invoke(data, "x.png")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n3": {"denoise": 0.5}}, "a start from an empty picture"),
        ({"n3": {"steps": "20"}}, "node 3 - `steps`"),
        ({"n3": {"positive": ["99", 0]}}, "no node for 'positive'"),
        ({"n3": {"class_type": "KSampler (Efficient)"}}, "0 nodes called KSampler"),
        (
            {"n3": {"class_type": "KSamplerAdvanced", "start_at_step": 5, "end_at_step": 20}},
            "a KSamplerAdvanced that takes a part of the steps",
        ),
        (
            {"n3": {"class_type": "SamplerCustom", "add_noise": False}},
            "a SamplerCustom that adds no noise",
        ),
        ({"n3": {"class_type": "SamplerCustom", "sigmas": ["4", 0]}}, "no node for 'sampler'"),
        ({"n10": {"class_type": "FreeU_V2"}}, "a node FreeU_V2 for"),
        (
            {"n6": {"class_type": "ConditioningCombine"}},
            "a node ConditioningCombine for 'positive'",
        ),
        ({"n10": {"model": ["10", 0]}}, "round in a circle"),
        ({"n6": {"text": ["3", 0]}}, "`text` must be a text"),
    ],
)
def test_other_graphs_are_refused_by_what_is_in_them(
    tmp_path: Path, changes: dict, reason: str
) -> None:
    with pytest.raises(ScratchError, match=reason):
        read_text(tmp_path, "prompt", graph(**changes))


def test_graphs_in_other_words_say_the_same(tmp_path: Path) -> None:
    """Every node that samples, values from nodes of their own, what stands in the model's chain."""
    linked = {"sampler_name": "euler", "latent_image": ["5", 0]}
    want, left = read_text(tmp_path, "prompt", graph(n3=linked))
    assert left == ()
    custom = {"sampler": ["30", 0], "sigmas": ["31", 0]}
    parts = {
        "n30": {"class_type": "KSamplerSelect", "sampler_name": "euler"},
        "n31": {"class_type": "BasicScheduler", "scheduler": "karras", "steps": 20, "denoise": 1.0},
        "n32": {"class_type": "RandomNoise", "noise_seed": 5},
        "n33": {"class_type": "CFGGuider", "cfg": 8, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0]},
    }  # fmt: skip
    same = {
        "advanced": {"n3": linked | {"class_type": "KSamplerAdvanced", "noise_seed": 5, "add_noise": "enable",
                     "start_at_step": 0, "end_at_step": 10000}},
        "custom": parts | {"n3": custom | {"class_type": "SamplerCustom", "add_noise": True, "noise_seed": 5}},
        "guider": parts | {"n3": custom | {"class_type": "SamplerCustomAdvanced", "noise": ["32", 0], "guider": ["33", 0]}},
        "values": {"n3": linked | {"seed": ["40", 0], "steps": ["41", 0]}, "n6": {"text": ["42", 0]},
                   "n40": {"class_type": "Seed (rgthree)", "seed": 5}, "n41": {"class_type": "PrimitiveInt", "value": 20},
                   "n42": {"class_type": "String Literal", "string": "a (red:1.2) star"}},
    }  # fmt: skip
    for name, changes in same.items():
        text = graph(**changes)
        if name in ("custom", "guider"):  # whose settings stand in other nodes
            nodes = json.loads(text)
            for key in ("steps", "sampler_name", "scheduler", "denoise", "seed"):
                del nodes["3"]["inputs"][key]
            nodes = {k: n for k, n in nodes.items() if name == "guider" or k not in ("32", "33")}
            text = json.dumps(nodes)
        assert read_text(tmp_path, "prompt", text) == (want, ()), name


def test_what_a_graph_says_of_one_network_is_said_of_that_alone(tmp_path: Path) -> None:
    plain = {"sampler_name": "euler"}
    recipe, left = read_text(tmp_path, "prompt", graph(n3=plain, n11={"clip": ["4", 1]}))
    assert recipe.loras == (LoraUse("stars", 0.8, 0.0),)
    only = {"class_type": "LoraLoaderModelOnly"}
    recipe, left = read_text(tmp_path, "prompt", graph(n3=plain, n10=only, n11={"clip": ["4", 1]}))
    assert (recipe.loras, left) == ((LoraUse("stars", 0.8, 0.0),), ())
    recipe, left = read_text(tmp_path, "prompt", graph(n3=plain, n7={"clip": ["10", 1]}))
    assert recipe.clip_skip == 2
    assert left == ("a clip skip of 1 for the negative prompt alone",)
    vae = {"class_type": "VAELoader", "vae_name": "sub/mse.safetensors"}
    v = {"class_type": "ModelSamplingDiscrete", "sampling": "v_prediction", "zsnr": True, "model": ["10", 0]}  # fmt: skip
    recipe, left = read_text(
        tmp_path,
        "prompt",
        graph(n3=plain | {"model": ["51", 0]}, n50=vae, n8={"vae": ["50", 0]}, n51=v),
    )
    assert (recipe.vae, recipe.prediction, recipe.zero_snr, left) == (
        "mse",
        "v_prediction",
        True,
        (),
    )
    begun = {"class_type": "VAEEncode", "pixels": ["61", 0], "vae": ["4", 2]}
    load = {"class_type": "LoadImage", "image": "x.png"}
    recipe, _ = read_text(
        tmp_path,
        "prompt",
        graph(n3=plain | {"denoise": 0.6, "latent_image": ["60", 0]}, n60=begun, n61=load),
    )
    assert (recipe.strength, recipe.strength_steps, recipe.width) == (0.6, "comfy", None)


def test_samplers_that_other_tools_call_otherwise_or_set_otherwise(tmp_path: Path) -> None:
    for written, scheduler, name, options, schedule in (
        ("ddim", "normal", "euler", {}, "linspace+whole+unit"),
        ("uni_pc", "simple", "unipc", {"order": 3, "variant": "bh1"}, "simple+cut+unit"),
        (
            "uni_pc_bh2",
            "karras",
            "unipc",
            {"order": 3, "variant": "bh2"},
            "karras+all+cut+whole+unit",
        ),
        ("dpmpp_2m_sde_gpu", "sgm_uniform", "dpmpp_2m_sde", {}, "sgm_uniform+whole+unit"),
        ("euler", "ddim_uniform", "euler", {}, "ddim_uniform"),
        ("dpm_2", "beta", "dpm2", {}, "beta_timesteps+cut+unit"),
        ("dpmpp_2m_sde_heun_gpu", "simple", "dpmpp_2m_sde", {"solver": "heun"}, "simple+unit"),
    ):
        recipe, _ = read_text(
            tmp_path, "prompt", graph(n3={"sampler_name": written, "scheduler": scheduler})
        )
        assert (recipe.sampler, recipe.sampler_options, recipe.schedule) == (
            name,
            options,
            schedule,
        )


def test_samplers_that_draw_noise_are_known_by_name() -> None:
    schedule = Schedule(ScheduleConfig())
    for name, sampler in SAMPLERS.items():
        way = Way(sampler, {}, sampler.ladder(schedule, 4), None)
        assert way.draws_noise == (name in DRAWING), name


def test_invokeai_s_metadata_are_a_recipe(tmp_path: Path) -> None:
    data = {
        "generation_mode": "txt2img", "positive_prompt": "a star", "negative_prompt": "", "seed": 7,
        "steps": 30, "scheduler": "dpmpp_2m_k", "cfg_scale": 7.5, "width": 512, "height": 512,
        "clip_skip": 0, "rand_device": "cpu", "model": {"name": "v1-5", "key": "x"}, "loras": [],
        "seamless_x": True, "app_version": "5.0",
    }  # fmt: skip
    recipe, left = read_text(tmp_path, "invokeai_metadata", json.dumps(data))
    assert (recipe.sampler, recipe.schedule, recipe.rng, recipe.model) == (
        "dpmpp_2m",
        "karras",
        "cpu",
        "v1-5",
    )
    assert (recipe.seed, recipe.steps, recipe.guidance, recipe.clip_skip) == (7, 30, 7.5, 1)
    assert (recipe.tiling, left) == ("x", ())
    more = data | {
        "positive_prompt": "a well-lit (red star)1.2", "scheduler": "kdpm_2_a_k", "seamless_y": True,
        "loras": [{"lora": {"model_name": "a"}, "weight": 0.5}, {"model": {"name": "b"}, "weight": 2}],
        "vae": {"name": "mse"}, "cfg_rescale_multiplier": 0.5, "controlnets": [{"x": 1}],
    }  # fmt: skip
    recipe, left = read_text(tmp_path, "invokeai_metadata", json.dumps(more))
    assert recipe.loras == (LoraUse("a", 0.5, 0.5), LoraUse("b", 2.0, 2.0))
    assert (recipe.tiling, recipe.vae, recipe.guidance_rescale) == ("xy", "mse", 0.5)
    assert (recipe.sampler, recipe.schedule) == ("dpm2_a", "karras")
    assert left == (
        "controlnets",
        "weights in the prompt",
        "the noise that kdpm_2_a_k adds (another stream's)",
    )
    for text, weighs in (("a well-lit star - red", 0), ("red- star", 1), ("(red)+ star", 1)):
        found = read_text(
            tmp_path, "invokeai_metadata", json.dumps(data | {"positive_prompt": text})
        )[1]
        assert found == ("weights in the prompt",) * weighs
    with pytest.raises(ScratchError, match="`loras` must be"):
        read_text(tmp_path, "invokeai_metadata", json.dumps(data | {"loras": [{"weight": 1}]}))
    with pytest.raises(ScratchError, match="not made from text alone"):
        read_text(tmp_path, "invokeai_metadata", json.dumps(data | {"generation_mode": "img2img"}))
    with pytest.raises(ScratchError, match="`seed` must be"):
        read_text(tmp_path, "invokeai_metadata", json.dumps(data | {"seed": -1}))


def test_a_schedule_that_is_not_here_is_said_with_its_name() -> None:
    text = "a\nSteps: 3, Sampler: Euler, Schedule type: Turbo, Seed: 1, Version: v1.10.1"
    assert recipe_from_parameters(text, "x")[1] == ("Schedule type (Turbo is not here)",)


def test_the_schedule_that_a1111_takes() -> None:
    assert a1111_schedule("dpmpp_2m") == "karras+all" and a1111_schedule("euler") == "linspace"
    assert a1111_schedule("dpm2_a") == "karras+all+cut"
    assert a1111_schedule("dpmpp_3m_sde") == "exponential+all+cut"
    assert a1111_schedule("euler_a", "align your steps") == "ays"
    assert comfy_schedule("dpm2") == comfy_schedule("unipc") == "linspace+cut+whole+unit"
    assert (
        comfy_schedule("euler", "karras") == "karras+all+whole+unit"
        and comfy_schedule("ddim") is None
    )
    assert a1111_schedule("euler", "Polyexponential") == "exponential+all"  # its rho is 1
    assert a1111_schedule("euler", "Normal") == "linspace"
    for written in ("Karras", "Exponential", "Uniform", "Beta", "SGM Uniform", "Simple"):
        for sampler in ("euler", "dpm2"):
            assert a1111_title(a1111_schedule(sampler, written)) == written
    assert a1111_schedule("ddim") == "ddim_uniform+end" and a1111_schedule("ddim", "Karras") == ""
    assert a1111_schedule("euler", "KL Optimal") == "kl_optimal+all+cut+last"
    assert a1111_title("kl_optimal+all+cut+last") == "KL Optimal"
    assert a1111_schedule("dpm2", "KL Optimal") == "" and a1111_schedule("nothing") is None


def test_sigmas_over_the_whole_schedule_without_the_next_to_last() -> None:
    schedule = Schedule(ScheduleConfig())
    high, low = float(schedule.sigmas[-1]), float(schedule.sigmas[0])

    def karras(n: int) -> list[float]:
        ends = high ** (1 / 7), low ** (1 / 7)
        return [(ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** 7 for i in range(n)]

    ladder = schedule.ladder(10, "karras+all", sigma_space=True)
    assert ladder.sigmas == pytest.approx(karras(10), rel=1e-6)
    # A1111 begins with noise times the first sigma, in sigma space.
    assert ladder.noise_scale == pytest.approx(high / (high**2 + 1) ** 0.5, rel=1e-6)
    cut = schedule.ladder(10, "karras+all+cut", sigma_space=True)
    assert cut.sigmas == pytest.approx(karras(11)[:-1], rel=1e-6)
    even = schedule.ladder(10, "linspace+cut", sigma_space=True)
    assert even.timesteps == pytest.approx([999 - i * 99.9 for i in range(10)])
    with pytest.raises(
        UsageError, match=r"1000 steps cannot be taken: karras\+all\+cut leaves out one"
    ):
        schedule.ladder(1000, "karras+all+cut", sigma_space=True)
    assert len(schedule.ladder(999, "karras+all+cut", sigma_space=True)) == 999
    with pytest.raises(UsageError, match="did you mean all"):
        schedule.ladder(10, "karras+al")


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["features.md", "dialects.md", "prompts.md"])
def test_pages_name_flags_and_files_that_are_there(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= flags | {"--json"}
    for path in re.findall(r"tests/[\w/]+\.py", text):
        assert (DOCS.parent / path).is_file(), path
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DOCS / path).exists(), path


A1111_TEXTS = {  # a line of settings, what of it is in the recipe, what is said
    "Sampler: DDIM, Version: v1.10.1": ({"schedule": "ddim_uniform+end", "steps": 20}, ()),
    "Sampler: DDIM, Version: f2.0.1v1.10.1-previous": ({"schedule": "ddim_uniform+end"}, ()),
    "Sampler: DDIM, Version: v1.5.2": ({"schedule": "ddim_uniform"}, ()),
    "Sampler: PLMS, Denoising strength: 0.5, Version: v1.6.0": (
        {"sampler": "pndm", "strength": 0.5},
        ("Sampler (from a picture on its noise and its first timestep disagree there)",),
    ),
    "Sampler: DDIM, Version: sd_scratch 1": ({"sampler": "ddim", "schedule": None}, ()),
    "Sampler: ddim_trailing, Version: stable-diffusion.cpp": ({"schedule": "trailing"}, ()),
    "Sampler: Euler, Schedule type: Beta, Beta schedule alpha: 0.6, Beta schedule beta: 0.6": (
        {"schedule": "beta+all"},
        (),
    ),
    "Sampler: Euler, Discard penultimate sigma: True": ({"schedule": "linspace+cut"}, ()),
    "Sampler: DPM++ SDE Karras": (
        {"sampler": "dpmpp_sde", "schedule": "karras+all"},
        ("Sampler (its noise is another stream's there)",),
    ),
    "Sampler: UniPC, UniPC order: 2": (
        {"sampler_options": {"order": 2, "variant": "bh1"}, "schedule": "linspace+cut+last+unit"},
        (),
    ),
    "Sampler: DPM++ 2M SDE Heun Karras": (
        {
            "sampler": "dpmpp_2m_sde",
            "sampler_options": {"solver": "heun"},
            "schedule": "karras+all",
        },
        ("Sampler (its noise is another stream's there)",),
    ),
    "Sampler: Euler, Schedule type: Simple": ({"schedule": "simple"}, ()),
    "Sampler: Euler, Noise Schedule: Zero Terminal SNR": ({"zero_snr": True}, ()),
    'Sampler: Euler, Model: "a, b: \\"c\\"", VAE: x': ({"model": 'a, b: "c"', "vae": "x"}, ()),
    'Sampler: Euler, Civitai resources: [{"type":"lora","weight":1},{"a":2}], Model: m': (
        {"model": "m"},
        ("Civitai (a picture chooses no file)",),
    ),
    "Sampler: Euler, Odd: [a, Model: m": ({"model": "m"}, ("Odd",)),
    "Sampler: Euler, Hypernet: anime(abc), Hypernet strength: 0.7": (
        {},
        ("Hypernet (there are no hypernetworks here)",),
    ),
    "Sampler: Euler, Steps: 3": ({"width": 64, "height": 64}, ()),
    "Sampler: Euler\nTemplate: {a|b}": ({}, ("what stands behind the settings (Template: {a|b})",)),
    "Sampler: Euler, Hires upscale: 2, Denoising strength: 0.5, Version: v1.5.2": (
        {"hires_scale": 2.0},
        ("Prompt (before 1.6 its changes began anew in the second pass)",),
    ),
    "Sampler: Euler, Hires upscale: 2, Denoising strength: 0.5, Version: v1.6.0": (
        {"hires_scale": 2.0},
        (),
    ),
}


@pytest.mark.parametrize("line", A1111_TEXTS)
def test_odd_lines_of_a1111_s(line: str) -> None:
    wanted, said = A1111_TEXTS[line]
    recipe, left = recipe_from_parameters(
        f"[a:b:0.5]\nSteps: 20, Size: 70x64, Seed: 1, {line}", "x"
    )
    assert {key: getattr(recipe, key) for key in wanted} == wanted
    assert left == said


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"Comment": "{}", "Software": "NovelAI"}, "texts are Comment, Software, of NovelAI"),
        ({"parameters": '{"sui_image_params": {}}'}, "of SwarmUI or another"),
        ({"parameters": "{}", "fooocus_scheme": "fooocus"}, "of Fooocus"),
        ({"prompt": "a cat", "num_inference_steps": "20"}, "of Easy Diffusion"),
        ({"Dream": '"a cat" -s 50', "sd-metadata": "{}"}, "of InvokeAI before version 3"),
        ({"Author": "me"}, "texts are Author - give"),
    ],
)
def test_settings_of_tools_that_are_not_read_are_named(tmp_path, texts, said) -> None:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ScratchError, match=said):
        read_recipe(tmp_path / "a.png")


def test_a1111_s_text_beside_a_graph_of_comfyui_s(tmp_path: Path) -> None:
    """Nodes that save pictures write both: the graph knows more, and the noise is ComfyUI's."""
    text = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 3, Size: 64x64"
    for nodes, prompt, more in ((graph(), "a (red:1.2) star", 0), ("{}", "a cat", 1)):
        info = PngInfo()
        info.add_text("parameters", text)
        info.add_text("prompt", nodes)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
        recipe, left = read_recipe(tmp_path / "a.png")
        assert (recipe.prompt, recipe.rng, recipe.syntax) == (prompt, "cpu", "comfy")
        assert sum(each.startswith("ComfyUI's graph beside") for each in left) == more


def test_a_graph_of_comfyui_s_in_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = 'workflow:{"nodes": []}'
    exif[ExifTags.Base.Model] = "prompt:" + graph()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif)
    assert read_recipe(tmp_path / "a.webp") == read_text(tmp_path, "prompt", graph())


@pytest.mark.parametrize("kind", ["jpg", "webp"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + "naïve 漢字\nSteps: 3, Seed: 4".encode("utf-16-be"),
        b"UNICODE\0" + "naïve 漢字\nSteps: 3, Seed: 4".encode("utf-16-le"),
        b"UNICODE\0" + "naïve 漢字\nSteps: 3, Seed: 4".encode("utf-16"),
        b"UNICODE\0" + "naïve 漢字\nSteps: 3, Seed: 4".encode(),
        b"ASCII\0\0\0" + "naïve 漢字\nSteps: 3, Seed: 4".encode(),
    ],
)
def test_a1111_s_text_in_jpeg_and_webp(tmp_path: Path, kind: str, comment: bytes) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{kind}", exif=exif)
    recipe, left = read_recipe(tmp_path / f"a.{kind}")
    assert (recipe.prompt, recipe.steps, recipe.seed, left) == ("naïve 漢字", 3, 4, ())


def test_jpegs_without_settings_and_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ScratchError, match=r"a\.jpg"):
        read_recipe(path)
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0x\nSteps: 3"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    whole = path.read_bytes()
    for i in range(2, 120, 3):
        path.write_bytes(whole[:i] + b"\xff\x00" + whole[i + 2 :])
        with contextlib.suppress(ScratchError):
            read_recipe(path)
