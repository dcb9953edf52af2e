"""ControlNets in every naming, what is refused, and their tensors by name."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sd_scratch.checkpoints.adapters.control import original_names, read_control
from sd_scratch.config import ControlNetConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.networks.controlnet import ControlNet
from sd_scratch.networks.kernels import Cells, cells_of
from sd_scratch.pipeline.control import Control
from tests.lively import liven
from tests.tiny import tiny_model

RUN = {"sampler": "ddim", "steps": 2}
HINT = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def state(model) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = ControlNet(ControlNetConfig(model.config.unet, conditioning_widths=(8, 16, 24)))
    return liven(network, 4).state_dict()


def original(model, state, prefix: str = "control_model.") -> dict[str, torch.Tensor]:
    names = original_names(model.config.unet, model.config, 4)
    assert names.keys() == state.keys()
    return {prefix + names[key]: value for key, value in state.items()}


def difference(model, state) -> dict[str, torch.Tensor]:
    base = model.unet.state_dict()
    less = {key: value - base[key] if key in base else value for key, value in state.items()}
    return {**original(model, less), "difference": torch.zeros(1)}


NAMINGS = {
    "diffusers": lambda model, state: state,
    "the original's": original,
    "bare": lambda model, state: original(model, state, ""),
    "with the base model": lambda model, state: {
        **original(model, state),
        "model.diffusion_model.out.2.bias": torch.zeros(4),
    },
    "a difference": difference,
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_network(model, state, tmp_path, naming):
    tensors = NAMINGS[naming](model, state)
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, tmp_path / "c.safetensors"
    )
    loaded = read_control(tmp_path / "c.safetensors", model.base)
    assert loaded.network.config.conditioning_widths == (8, 16, 24)
    for key, value in loaded.network.state_dict().items():
        assert torch.allclose(value, state[key], atol=1e-6, rtol=1e-5)
    assert ("1 not used" in loaded.summary) == (naming == "with the base model")


def test_its_convolutions_run_as_was_measured_for_the_unet(state, tmp_path):
    model = tiny_model()
    save_file(state, tmp_path / "c.safetensors")
    cells = Cells(product=32, tiles=512)
    assert cells_of(model.unet) == Cells(0, 0)
    model.unet.conv_in.product_cells = 32
    model.unet.mid_block.resnets[0].conv1.tile_cells = 512
    assert cells_of(model.unet) == cells
    steered = model.with_control(tmp_path / "c.safetensors")
    (control,) = set(steered.networks.values()) - set(model.networks.values())
    assert control.mid_block.resnets[0].conv1.product_cells == 32


def test_a_pickle_in_a_state_dict(model, state, tmp_path):
    torch.save({"state_dict": original(model, state)}, tmp_path / "c.pth")
    network = read_control(tmp_path / "c.pth", model.base).network
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_the_original_names_of_stable_diffusion_1():
    from sd_scratch.config import SD15

    names = original_names(SD15.unet, SD15, 6)
    assert names["controlnet_cond_embedding.blocks.5.weight"] == "input_hint_block.12.weight"
    assert names["controlnet_cond_embedding.conv_out.bias"] == "input_hint_block.14.bias"
    assert names["controlnet_down_blocks.11.weight"] == "zero_convs.11.0.weight"
    assert names["controlnet_mid_block.weight"] == "middle_block_out.0.weight"
    assert names["down_blocks.2.downsamplers.0.conv.weight"] == "input_blocks.9.0.op.weight"
    assert len(names) == 340


@pytest.fixture
def steered(model, state, tmp_path):
    save_file(state, tmp_path / "c.safetensors")
    return model.with_control(tmp_path / "c.safetensors")


def test_residuals_have_names_and_can_be_edited(model, steered):
    import sd_scratch as sd

    names = [info.name for info in steered.tensors("*control*.residual.*", "unet.control.*")]
    count = len(steered.adapters[0].network.controlnet_down_blocks) + 1
    assert len(names) == 2 * count
    noise = model.noise(1)
    plain = model.generate("a", noise, **RUN).latent
    with steered.record("unet.control.*", "control.*attn2.probs") as trace:
        latent = steered.generate("a", noise, control=Control(HINT), **RUN).latent
    assert not torch.equal(latent, plain)
    assert torch.equal(steered.generate("a", noise, control=[Control(HINT)], **RUN).latent, latent)
    assert trace["unet.control.0"].tensor.abs().max() > 0
    with steered.edit("unet.control.*", sd.edits.ablate()):
        none = steered.generate("a", noise, control=Control(HINT), **RUN).latent
    assert torch.equal(none, plain)
    assert not any("control" in info.name for info in model.tensors())


def test_what_a_hint_may_be(steered, model):
    noise = model.noise(1)
    picture = Image.new("RGB", (64, 64), (255, 0, 51))
    shown = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None].expand(1, 3, 64, 64)
    one = steered.generate("a", noise, control=Control(picture), **RUN).latent
    two = steered.generate("a", noise, control=Control(shown), **RUN).latent
    assert torch.allclose(one, two, atol=1e-5)
    off = Control(HINT, strength=0.0)
    assert torch.equal(steered.generate("a", noise, control=off, **RUN).latent,
                       model.generate("a", noise, **RUN).latent)  # fmt: skip
    for control, message in (
        ((), "1 ControlNets and 0 hints"),
        (Control(HINT[..., :32]), "the hint is 32x64 pixels and the picture 64x64"),
        (Control(2 * HINT), "from 0 .black. to 1"),
        (Control(HINT[:, :1]), "a hint is 3 x 64 x 64"),
        (Control(HINT, start=0.5, end=0.4), "both are from 0 to 1"),
        (Control(HINT, strength=1e9), "control strength"),
    ):
        with pytest.raises(UsageError, match=message):
            steered.generate("a", noise, control=control, **RUN)
    with pytest.raises(UsageError, match="0 ControlNets and 1 hints"):
        model.generate("a", noise, control=Control(HINT), **RUN)


def test_a_trace_of_a_steered_run_replays(steered, tmp_path):
    control = Control(HINT, 0.7, end=0.6)
    with steered.record("unet.h") as trace:
        latent = steered.generate("a", steered.noise(1), control=control, **RUN).latent
    trace.save(tmp_path / "trace")
    assert torch.equal(steered.replay(tmp_path / "trace").latent, latent)


def test_global_pooling_is_read_from_a_folder(model, state, tmp_path):
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    heads = f'"attention_head_dim": {model.config.unet.num_attention_heads}, "norm_num_groups": 8'
    (tmp_path / "config.json").write_text(f'{{{heads}, "global_pool_conditions": true}}')
    assert read_control(tmp_path, model.base).network.config.global_pool
    assert not read_control(tmp_path, model.base, global_pool=False).network.config.global_pool
    order = '"controlnet_conditioning_channel_order": "bgr"'
    (tmp_path / "config.json").write_text(f"{{{heads}, {order}}}")
    with pytest.raises(ScratchError, match="controlnet_conditioning_channel_order"):
        read_control(tmp_path, model.base)


def test_what_is_none_is_refused_in_one_line(model, state, tmp_path):
    context = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    cases = {
        "this is no ControlNet": {"a.weight": torch.zeros(2, 2)},
        "no ControlNet": {k: v for k, v in state.items() if "cond_embedding" not in k},
        "tensors are missing": {k: v for k, v in state.items() if "down_blocks.0.res" not in k},
        "ControlNet for Stable Diffusion 2.x": {**state, context: torch.zeros(64, 1024)},
        "a control LoRA": {**state, "lora_controlnet": torch.zeros(1)},
        "the network needs": {**state, "conv_in.weight": torch.zeros(32, 5, 3, 3)},
    }
    for message, tensors in cases.items():
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(ScratchError, match=message) as raised:
            model.with_control(tmp_path / "bad.safetensors")
        assert "\n" not in str(raised.value)
    with pytest.raises(ScratchError, match="cannot be read"):
        model.with_control(tmp_path / "nowhere.safetensors")


def test_an_inpainting_model_takes_a_plain_controlnet(model, state, tmp_path):
    save_file(state, tmp_path / "c.safetensors")
    unet = replace(model.config.unet, in_channels=9)
    base = replace(model.base, config=replace(model.config, unet=unet))
    assert read_control(tmp_path / "c.safetensors", base).network.conv_in.in_channels == 4
