"""LoRA files in diffusers' and kohya's namings, against diffusers and PEFT on the same random files."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn

import sd_scratch as sd
from sd_scratch.checkpoints import save_folder
from tests.tiny import tiny_components

pytest.importorskip("peft")

PROMPT = "a photograph of an astronaut riding a horse"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_components(), path)
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return sd.load(str(folder))


def adapted_modules(network: nn.Module, convolutions: bool) -> dict[str, nn.Module]:
    """Attention, feed-forward and, if asked for, convolutions: what trainers adapt."""
    marks = ("to_q", "to_k", "to_v", "to_out.0", "proj", "_proj", "net.2", "fc1", "fc2")
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(marks) and "time" not in name:
            found[name] = module
        if isinstance(module, nn.Conv2d) and convolutions and name.count(".") > 2:
            found[name] = module
    return found


def random_lora(model, naming: str, alpha: float | None, convolutions: bool) -> dict:
    """A LoRA whose ranks differ from module to module, in one of the namings."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for part, network in (("unet", model.unet), ("text", model.text)):
        for i, (path, module) in enumerate(adapted_modules(network, convolutions).items()):
            rank = 1 + i % 3
            weight = module.weight
            down = torch.randn(rank, *weight.shape[1:], generator=generator) / rank**0.5
            down = down / weight[0].numel() ** 0.5
            up = torch.randn(weight.shape[0], rank, *(1,) * (weight.ndim - 2), generator=generator)
            name, ends = spelled(part, path, naming)
            tensors |= {f"{name}{ends[0]}": down, f"{name}{ends[1]}": 0.3 * up}
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def spelled(part: str, path: str, naming: str) -> tuple[str, tuple[str, str]]:
    if naming == "kohya":
        root = {"unet": "lora_unet_", "text": "lora_te_text_model_"}[part]
        return root + path.replace(".", "_"), (".lora_down.weight", ".lora_up.weight")
    root = {"unet": "unet.", "text": "text_encoder.text_model."}[part]
    if naming == "peft":
        return root + path, (".lora_A.weight", ".lora_B.weight")
    if part == "text":
        return root + path, (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    return root + path, (".lora.down.weight", ".lora.up.weight")


CASES = {
    "kohya": (1.5, False),
    "kohya-locon": (2.0, True),
    "peft": (None, True),
    "diffusers": (None, False),
}


@pytest.mark.parametrize("case", CASES)
def test_latents_are_those_of_diffusers(folder, ours, tmp_path, case):
    alpha, convolutions = CASES[case]
    file = tmp_path / "style.safetensors"
    tensors = random_lora(ours, case.split("-")[0], alpha, convolutions)
    save_file(tensors, file)
    scale = 0.7
    adapted = ours.with_lora(file, scale)
    (use,) = adapted.adapters
    assert use.lora.unused == () and use.lora.keys == len(tensors)

    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    theirs.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="style")
    theirs.set_adapters(["style"], [scale])

    expected, _ = theirs.encode_prompt(PROMPT, "cpu", 1, False)
    context = adapted.prompt(PROMPT).context
    assert (context - expected).abs().max() < 1e-5
    assert (context - ours.prompt(PROMPT).context).abs().max() > 1e-2

    noise = ours.noise(seed=3, width=64, height=64)
    latent = adapted.generate(PROMPT, noise, sampler="ddim", steps=4).latent
    settings = {"num_inference_steps": 4, "guidance_scale": ours.config.guidance}
    settings |= {"width": 64, "height": 64, "latents": noise.latent.clone()}
    their_latent = theirs(PROMPT, **settings, output_type="latent").images
    assert (latent - their_latent).abs().max() < 1e-4 * their_latent.abs().max()
    plain = ours.generate(PROMPT, noise, sampler="ddim", steps=4).latent
    assert (latent - plain).abs().max() > 1e-2
