"""`weights compare` through a run: two models, one with and without a LoRA, and diffusers on the same files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sd_scratch.checkpoints import save_folder, save_single_file
from sd_scratch.cli import main
from sd_scratch.networks import unet
from tests.checkpoints import rewrite
from tests.tiny import tiny_components

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
QUERY = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_folder(tiny_components(), folder / "tiny")
    save_single_file(tiny_components(), folder / "tiny.safetensors", torch.float32)
    save_folder(tiny_components(), folder / "other")
    place = folder / "other" / UNET_FILE
    bias = load_file(place)["mid_block.resnets.0.conv1.bias"]
    rewrite(place, {"mid_block.resnets.0.conv1.bias": bias + 0.25})
    down, up = torch.randn(2, 64), torch.randn(64, 2)
    lora = {f"{QUERY}.lora_A.weight": down, f"{QUERY}.lora_B.weight": up}
    save_file(lora, folder / "lora.safetensors")
    return folder


def compare(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, list[str]]:
    code = main(["weights", "compare", *map(str, args)])
    return code, capsys.readouterr().out.splitlines()


def test_one_model_in_two_layouts_is_one(files, capsys):
    code, said = compare(capsys, files / "tiny", files / "tiny.safetensors", "--run", "--steps", 1)
    assert (code, len(said)) == (0, 1)
    assert said[0].endswith("tensors of the run compared: none differs")


def test_the_first_tensor_that_differs_is_named(files, capsys):
    code, said = compare(capsys, files / "tiny", files / "other", "--run", "--steps", 1)
    assert code == 1
    assert said[1].startswith("unet.mid_block.resnets.0.conv1@0:uncond: by up to 0.25,")
    assert [line.partition(".")[0] for line in said[3:]] == ["unet", "guidance", "sampler", "vae"]
    more = ("--run", "--json", "--steps", 1, "--cfg-scale", 1, "--tensors", "unet.mid*conv1")
    code, said = compare(capsys, files / "tiny", files / "other", *more)
    assert json.loads("\n".join(said))[0]["largest"] == pytest.approx(0.25, abs=1e-5)


def test_with_and_without_a_lora(files, capsys):
    code, said = compare(
        capsys, files / "tiny", "--lora", files / "lora.safetensors", "--run", "--steps", 1
    )
    block = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
    assert (code, said[1].partition("@")[0]) == (1, f"{block}.attn2.q")
    code, said = compare(
        capsys, files / "tiny", "--lora", f"{files / 'lora.safetensors'}:0", "--run"
    )
    assert code == 0
    code, said = compare(capsys, files / "tiny", "--lora", files / "lora.safetensors")
    assert said[0] == f"1 tensors differ, in the order of a run first {QUERY}.weight"


@pytest.mark.parametrize("name", ["tiny", "tiny.safetensors"])
def test_diffusers_makes_the_same(files, capsys, name):
    code, said = compare(capsys, files / name, "--with", "diffusers")
    assert code == 0, said
    assert "none differs by more than 0.0001 of its largest number" in said[0]
    assert int(said[0].split()[0].replace(",", "")) > 1500


def test_diffusers_with_the_same_lora(files, capsys):
    pytest.importorskip("peft")
    args = (
        files / "tiny",
        "--lora",
        f"{files / 'lora.safetensors'}:0.5",
        "--with",
        "diffusers",
    )
    code, said = compare(capsys, *args)
    assert code == 0, said


def test_a_fault_of_ours_is_named_beside_diffusers(files, capsys, monkeypatch):
    monkeypatch.setattr(unet, "TRANSFORMER_EPS", 0.1)
    code, said = compare(capsys, files / "tiny", "--with", "diffusers")
    assert (code, said[1].partition(":")[0]) == (1, "unet.down_blocks.0.attentions.0.norm@0")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "name another one"),
        (["b", "--steps", "3"], "--steps is for a run"),
        (["b", "--with", "diffusers"], "takes one model"),
        (["--with", "diffusers", "--cfg-scale", "0"], "diffusers knows no guidance"),
        (["--with", "diffusers", "--sampler", "dpmpp_3m_sde"], "dpmpp_3m_sde has no counterpart"),
        (["--with", "diffusers", "--tensors", "sampler.x_t"], "has a place in diffusers"),
        (["--run", "--lora", "x"], "no such file"),
    ],
)
def test_wishes_that_make_no_sense(files, capsys, args, reason):
    assert main(["weights", "compare", str(files / "tiny"), *args]) == 2
    assert reason in capsys.readouterr().err
