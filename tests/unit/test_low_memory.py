"""Weights that stay in half precision and are computed with in fp32: no bit of a picture is another."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sd_scratch as sd
from sd_scratch.checkpoints import build, load
from sd_scratch.checkpoints.save import save_folder, save_single_file
from sd_scratch.cli import main
from sd_scratch.networks.layers import computing_type
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from tests.checkpoints import rewrite
from tests.tiny import tiny_components
from tests.unit.test_lora import write

LORA = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": (32, 2),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": (
        2,
        32,
    ),
}


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a tiny model weights of a thousand numbers and more are large (the first convolution's are fewer)."""
    monkeypatch.setattr(build, "LARGE", 2500)
    return


@pytest.fixture(scope="module", params=["fp16 folder", "bf16 file", "fp8 folder"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("half") / "m.safetensors"
    if request.param == "bf16 file":
        save_single_file(tiny_components(), place, torch.bfloat16)
        return place
    save_folder(tiny_components(), place, torch.float16)
    if request.param == "fp8 folder":
        for file in place.rglob("*.safetensors"):
            rewrite(file, {k: v.to(torch.float8_e4m3fn) for k, v in load_file(file).items()})
    return place


def two(path: Path) -> tuple[StableDiffusion, StableDiffusion]:
    """The model whole in fp32, and in low memory."""
    return sd.load(path), sd.load(path, low_memory=True)


def picture(model: StableDiffusion) -> torch.Tensor:
    return model.generate(model.prompt("a red star"), model.noise(7), steps=2).decode()


def test_pictures_are_the_same_to_the_bit(stored: Path) -> None:
    whole, low = two(stored)
    sizes = [
        sum(p.nbytes for n in m.components.networks.values() for p in n.parameters())
        for m in (whole, low)
    ]
    assert sizes[1] < 0.7 * sizes[0]
    assert low.dtype == torch.float32
    assert low.components.low_memory
    assert "computed as fp32" in low.components.summary
    assert torch.equal(picture(low), picture(whole))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(low.vae.encode(image).mean, whole.vae.encode(image).mean)


def test_strips_and_named_tensors(stored: Path) -> None:
    whole, low = two(stored)
    traces = []
    for model in (whole, low):
        model.vae.in_strips = True
        with model.record("unet.*.attn1.result", "text.*.token_embedding", "unet.*.probs") as trace:
            picture(model)
        traces.append(trace)
    assert traces[0].names == traces[1].names
    for name in traces[0].names:
        assert torch.equal(traces[1][name].tensor, traces[0][name].tensor)


def test_adapters_change_weights_in_full_precision(stored: Path, tmp_path: Path) -> None:
    lora = write(tmp_path / "l.safetensors", {k: torch.randn(*shape) for k, shape in LORA.items()})
    word = write(tmp_path / "w.safetensors", {"emb_params": torch.randn(1, 32)})
    pictures = []
    for model in two(stored):
        changed = model.with_lora(lora).with_embedding(word)
        made = changed.generate(changed.prompt("a red w"), changed.noise(7), steps=2)
        pictures.append(made.latent)
        assert not torch.equal(
            made.latent, model.generate(model.prompt("a red w"), model.noise(7), steps=2).latent
        )
    assert torch.equal(*pictures)


def test_a_trace_of_one_replays_on_the_other(stored: Path, tmp_path: Path) -> None:
    whole, low = two(stored)
    with whole.record("unet.pred") as trace:
        made = whole.generate(whole.prompt("a red star"), whole.noise(7), steps=2)
    trace.save(tmp_path / "t")
    assert torch.equal(low.replay(tmp_path / "t").latent, made.latent)


def test_where_memory_is_short_it_happens_of_itself(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = load.read_layout(stored)
    whole, low = (load.weight_bytes(layout, torch.float32, way) for way in (False, True))
    monkeypatch.setattr(load, "available_memory", lambda device: (whole + low) // 2)
    assert load.load_components(stored).low_memory
    monkeypatch.setattr(load, "available_memory", lambda device: whole)
    assert not load.load_components(stored).low_memory


def test_a_file_of_whole_numbers_has_nothing_to_keep(tmp_path: Path, caplog, capsys) -> None:
    save_folder(tiny_components(), tmp_path / "m", torch.float32)
    assert (
        main(
            [
                "generate",
                "x",
                "-m",
                str(tmp_path / "m"),
                "--low-memory",
                "--steps",
                "1",
                "-s",
                "1",
                "-o",
                str(tmp_path / "x.png"),
            ]
        )
        == 0
    )
    assert "has no weights in less than fp32" in capsys.readouterr().err + caplog.text


def test_what_a_network_computes_in() -> None:
    assert computing_type(tiny_components().unet) == torch.float32
