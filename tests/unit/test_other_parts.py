"""Another VAE, another model's text encoder, the averaged weights: in every form that people have them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sd_scratch as sd
from sd_scratch.checkpoints import load_components
from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.key_rules import averaged_name, of_average, single_file_names
from sd_scratch.checkpoints.save import save_folder, save_single_file
from sd_scratch.cli import main
from sd_scratch.config import PRESETS, TINY, TinyAutoencoderConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.networks.taesd import TinyAutoencoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pictures.png import read_texts
from tests.lively import liven
from tests.tiny import tiny_components

TAESD = TinyAutoencoderConfig(block_out_channels=(8,) * 3)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny model as a folder: its VAE is scaled otherwise, its weights are others."""
    config = replace(TINY, vae=replace(TINY.vae, scaling_factor=0.3))
    components = tiny_components(config)
    for network in (components.vae, components.text):
        liven(network, 77)
    folder = tmp_path_factory.mktemp("other") / "second"
    save_folder(components, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as CompVis has it, without a header of ours."""
    file = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_single_file(tiny_components(), file, torch.float32)
    return file


def vae_tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_vae_of_another_model(tiny_folder: Path, other: Path) -> None:
    made = load_components(tiny_folder, vae=other)
    assert same(made.vae, load_components(other).vae)
    assert same(made.unet, load_components(tiny_folder).unet)
    assert made.config.vae.scaling_factor == 0.3
    assert "VAE of second" in made.summary


def test_a_vae_folder_and_a_file_in_diffusers_names(
    tiny_folder: Path, other: Path, tmp_path: Path
) -> None:
    wanted = load_components(other).vae
    made = load_components(tiny_folder, vae=other / "vae")
    assert same(made.vae, wanted) and made.config.vae.scaling_factor == 0.3
    file = tmp_path / "vae.safetensors"
    save_file(vae_tensors(other), file)
    made = load_components(tiny_folder, vae=file)
    # A file says neither its scale nor its groups: they are the model's.
    assert same(made.vae, wanted)
    assert made.config.vae == load_components(tiny_folder).config.vae


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
def test_a_file_in_compvis_names(
    tiny_folder: Path, other: Path, single: Path, tmp_path: Path, prefix: str
) -> None:
    whole = tmp_path / "whole.safetensors"
    save_single_file(load_components(other), whole, torch.float32)
    stem = "first_stage_model."
    tensors = {prefix + k.removeprefix(stem): t for k, t in load_file(whole).items() if stem in k}
    file = tmp_path / "vae.safetensors"
    save_file(tensors, file)
    made = load_components(tiny_folder, vae=file)
    assert same(made.vae, load_components(other).vae)


def taesd(folder: Path, layout: str) -> Path:
    """A TAESD of random weights in one of its layouts."""
    network = liven(_empty(TAESD), 5)
    tensors = network.state_dict()
    if layout == "folder":
        (folder / "taesd").mkdir()
        (folder / "taesd" / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
        save_file(tensors, folder / "taesd" / "diffusion_pytorch_model.safetensors")
        return folder / "taesd"
    if layout == "decoder":
        stem = "decoder.layers."
        numbers = {k.removeprefix(stem): t for k, t in tensors.items() if k.startswith(stem)}
        tensors = {}
        for key, tensor in numbers.items():
            number, _, rest = key.partition(".")
            tensors[f"{int(number) + 1}.{rest}"] = tensor
    save_file(tensors, folder / f"{layout}.safetensors")
    return folder / f"{layout}.safetensors"


def _empty(config: TinyAutoencoderConfig) -> TinyAutoencoder:
    with torch.device("meta"):
        return TinyAutoencoder(config)


@pytest.mark.parametrize("layout", ["folder", "whole", "decoder"])
def test_taesd_makes_the_pictures(tiny_folder: Path, tmp_path: Path, layout: str) -> None:
    model = sd.load(tiny_folder, device="cpu", vae=taesd(tmp_path, layout))
    noise = model.noise(7, 32, 32)
    latents = model.generate("a red circle", noise, steps=2)
    expected = liven(_empty(TAESD), 5).decode(latents.latent)
    assert torch.allclose(latents.decode(), expected, atol=1e-5)
    plain = sd.load(tiny_folder, device="cpu").generate("a red circle", noise, steps=2)
    assert torch.equal(plain.latent, latents.latent)  # the same latents, other pixels
    with model.record("vae.image") as trace:
        latents.decode()
    assert "vae.image" in trace.names or trace.names == []
    if layout == "decoder":
        with pytest.raises(UsageError, match="decoder alone"):
            model.encode(latents.to_pil())
    else:
        assert model.encode(latents.to_pil()).latent.shape == latents.latent.shape


def test_taesd_is_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
    ).eval()
    config = TinyAutoencoderConfig(block_out_channels=(8,) * 4)
    ours = _empty(config).to_empty(device="cpu").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image, latent = torch.rand(2, 3, 32, 48) * 2 - 1, torch.randn(2, 4, 4, 6) * 3
    with torch.no_grad():
        assert torch.allclose(ours.encode(image).mean, theirs.encode(image).latents, atol=1e-5)
        assert torch.allclose(ours.decode(latent), theirs.decode(latent).sample, atol=1e-5)


def test_a_missing_vae_comes_from_elsewhere(
    tiny_folder: Path, other: Path, single: Path, tmp_path: Path
) -> None:
    pruned = tmp_path / "pruned.safetensors"
    tensors = {k: t for k, t in load_file(single).items() if not k.startswith("first_stage_model")}
    save_file(tensors, pruned, _metadata(single))
    with pytest.raises(ScratchError, match="VAE"):
        load_components(pruned)
    assert same(load_components(pruned, vae=other).vae, load_components(other).vae)


def test_the_text_encoder_of_another_model(tiny_folder: Path, other: Path, single: Path) -> None:
    made = load_components(tiny_folder, text_encoder=other)
    assert same(made.text, load_components(other).text)
    assert same(made.vae, load_components(tiny_folder).vae)
    with pytest.raises(ScratchError, match="vectors of 128"):
        load_components(tiny_folder, text_encoder="scenes")


def test_a_text_encoder_s_folder_alone(tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    """In a model's folder of nothing else, and as CLIP's own repository has it: all in one place."""
    wanted = load_components(other).text
    shutil.copytree(other / "text_encoder", tmp_path / "part" / "text_encoder")
    whole = tmp_path / "clip"
    shutil.copytree(other / "text_encoder", whole)
    for file in (other / "tokenizer").iterdir():
        shutil.copy(file, whole)
    weights = load_file(whole / "model.safetensors")
    save_file({**weights, "vision_model.x": torch.zeros(1)}, whole / "model.safetensors")
    for source in (tmp_path / "part", tmp_path / "part" / "text_encoder", whole):
        made = load_components(tiny_folder, text_encoder=source)
        assert same(made.text, wanted)
    assert made.tokenizer.vocab == load_components(other).tokenizer.vocab
    with pytest.raises(ScratchError, match="no text encoder is in it"):
        load_components(tiny_folder, text_encoder=tmp_path)


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def test_the_averaged_weights(single: Path, tmp_path: Path) -> None:
    tensors = load_file(single)
    stem = "model.diffusion_model."
    copies = {
        f"model_ema.{key.removeprefix('model.').replace('.', '')}": tensor + 1
        for key, tensor in tensors.items()
        if key.startswith(stem)
    }
    both = tmp_path / "both.safetensors"
    save_file({**tensors, **copies}, both, _metadata(single))
    plain, averaged = load_components(both), load_components(both, ema=True)
    assert torch.equal(averaged.unet.conv_in.weight, plain.unet.conv_in.weight + 1)
    assert "EMA weights" in averaged.summary and "ignored" in plain.summary
    with pytest.raises(UsageError, match="no EMA weights"):
        load_components(single, ema=True)
    alone = tmp_path / "alone.safetensors"
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(stem)}
    save_file({**rest, **copies}, alone, _metadata(single))
    for asked in (False, True):
        made = load_components(alone, ema=asked)
        assert same(made.unet, averaged.unet)
        assert "EMA weights, there are no others" in made.summary


def test_names_of_averages_have_their_dots_again() -> None:
    for model in ("sd15", "sd21"):
        config = PRESETS[model]
        ours = (f"unet.{key}" for key in empty(UNet, config.unet).state_dict())
        for name in single_file_names(ours, config).values():
            assert of_average(averaged_name(name)) == name
    for other in ("model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_modelx"):
        assert of_average(other) == other


def test_ema_of_a_folder_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match="once"):
        load_components(tiny_folder, ema=True)


def test_a_vae_of_another_family_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ScratchError, match="pixels a cell"):
        load_components(tiny_folder, vae="scenes")
    save_file({"some.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ScratchError, match="no autoencoder"):
        load_components(tiny_folder, vae=tmp_path / "a.safetensors")
    save_file({"0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "b.safetensors")
    with pytest.raises(ScratchError, match="encoder, which makes no pictures"):
        load_components(tiny_folder, vae=tmp_path / "b.safetensors")


def test_the_command_line_and_the_recipe(
    tiny_folder: Path, other: Path, tmp_path: Path, capsys
) -> None:
    words = ["generate", "a circle", "-m", str(tiny_folder), "--steps=1", "-W", "32", "-H", "32"]
    file = tmp_path / "a.png"
    assert main([*words, "--vae", str(other), "-o", str(file), "--device=cpu"]) == 0
    texts, _ = read_texts(file, ("sd_scratch", "parameters"))
    assert '"vae": "second"' in texts["sd_scratch"] and "VAE: second" in texts["parameters"]
    again = ["generate", "--from-image", str(file), "-m", str(tiny_folder), "--device=cpu"]
    capsys.readouterr()
    assert main([*again, "-o", str(tmp_path / "b.png")]) == 0
    assert "the VAE second" in capsys.readouterr().err
    assert main([*again, "--vae", str(other), "-o", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").read_bytes() == file.read_bytes()
