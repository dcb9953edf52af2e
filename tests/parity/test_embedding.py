"""A word of several vectors, against diffusers' `load_textual_inversion` on the same file."""

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

import sd_scratch as sd


def test_vectors_are_those_of_diffusers(tiny_folder, tmp_path):
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    save_file({"<toy>": vectors}, tmp_path / "toy.safetensors")
    theirs = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    theirs.load_textual_inversion(tmp_path / "toy.safetensors")
    prompt = "a photograph of <toy> on the moon"
    expected, _ = theirs.encode_prompt(prompt, "cpu", 1, False)
    ours = sd.load(str(tiny_folder)).with_embedding(tmp_path / "toy.safetensors")
    assert (ours.prompt(prompt).context - expected).abs().max() < 1e-5
