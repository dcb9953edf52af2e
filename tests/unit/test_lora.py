"""LoRA and its relatives: arithmetic against the definitions in float64, names, models side by side."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sd_scratch.checkpoints.adapters.changes import Change
from sd_scratch.checkpoints.adapters.lora import read_lora
from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.load import Components
from sd_scratch.config import SD15
from sd_scratch.errors import ScratchError
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from tests.tiny import tiny_model

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "adapters"
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
OUT, IN, RANK = 6, 4, 2


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )


def change(alpha: float | None = None, **slots: torch.Tensor) -> Change:
    return Change("unet.x", slots, alpha)


def kron(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[o, i] and [p, j, h, w] -> [o p, i j, h, w], entry by entry."""
    (o, i), (p, j, *rest) = a.shape, b.shape
    return torch.einsum("oi,pjhw->opijhw", a, b).reshape(o * p, i * j, *rest)


WEIGHT, CONV = draw(OUT, IN), draw(OUT, IN, 3, 3)
DOWN, UP, MID = draw(RANK, IN), draw(OUT, RANK), draw(RANK, RANK, 3, 3)
DOWN3 = draw(RANK, IN, 3, 3)
A, B, C, D = draw(OUT, RANK), draw(RANK, IN), draw(OUT, RANK) + 1, draw(RANK, IN) - 1
CORE = draw(RANK, RANK, 3, 3)


def test_low_rank_definitions():
    assert torch.allclose(change(3.0, down=DOWN, up=UP).of_weight(WEIGHT), 1.5 * UP @ DOWN)
    assert torch.allclose(change(down=DOWN, up=UP).of_weight(WEIGHT), UP @ DOWN)  # alpha = rank
    rooted = Change("unet.x", {"down": DOWN, "up": UP}, 3.0, root_rank=True)
    assert torch.allclose(rooted.of_weight(WEIGHT), 3 / 2**0.5 * UP @ DOWN)
    conv = change(down=DOWN3, up=UP[:, :, None, None]).of_weight(CONV)
    assert torch.allclose(conv, torch.einsum("or,rihw->oihw", UP, DOWN3))
    parts = {"down": DOWN[:, :, None, None], "up": UP[:, :, None, None], "mid": MID}
    expected = torch.einsum("or,rshw,si->oihw", UP, MID, DOWN)
    assert torch.allclose(change(**parts).of_weight(CONV), expected)


def test_a_convolution_of_one_pixel_is_a_matrix_either_way():
    flat, deep = (
        {"down": DOWN, "up": UP},
        {"down": DOWN[..., None, None], "up": UP[..., None, None]},
    )
    expected = UP @ DOWN
    for slots in (flat, deep):
        assert torch.allclose(change(**slots).of_weight(WEIGHT), expected)
        result = change(**slots).of_weight(WEIGHT[..., None, None])
        assert torch.allclose(result, expected[..., None, None])


def test_loha_definitions():
    slots = {"hada_w1_a": A, "hada_w1_b": B, "hada_w2_a": C, "hada_w2_b": D}
    expected = 0.5 * (A @ B) * (C @ D)
    assert torch.allclose(change(1.0, **slots).of_weight(WEIGHT), expected)
    core = {
        **{"hada_w1_a": A.T, "hada_w1_b": B, "hada_t1": CORE},
        **{"hada_w2_a": C.T, "hada_w2_b": D, "hada_t2": CORE + 1},
    }
    first = torch.einsum("rshw,si,or->oihw", CORE, B, A)
    second = torch.einsum("rshw,si,or->oihw", CORE + 1, D, C)
    assert torch.allclose(change(**core).of_weight(CONV), first * second)


def test_lokr_definitions():
    w1, w2 = draw(2, 2), draw(3, 2)
    whole = change(100.0, lokr_w1=w1, lokr_w2=w2).of_weight(WEIGHT)
    assert torch.allclose(whole, torch.kron(w1, w2))  # alpha means nothing without a rank
    w2a, w2b = draw(3, 1), draw(1, 2)
    parts = change(0.5, lokr_w1=w1, lokr_w2_a=w2a, lokr_w2_b=w2b).of_weight(WEIGHT)
    assert torch.allclose(parts, 0.5 * torch.kron(w1, w2a @ w2b))
    conv = draw(3, 2, 3, 3)
    assert torch.allclose(change(lokr_w1=w1, lokr_w2=conv).of_weight(CONV), kron(w1, conv))
    core, a, b = draw(1, 1, 3, 3), draw(1, 3), draw(1, 2)
    tucker = change(lokr_w1=w1, lokr_t2=core, lokr_w2_a=a, lokr_w2_b=b).of_weight(CONV)
    expected = kron(w1, torch.einsum("rshw,si,ro->oihw", core, b, a))
    assert torch.allclose(tucker, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_gives_every_output_or_input_its_magnitude(axis):
    magnitude = 1 + draw(OUT if axis == 0 else IN).abs()
    shaped = magnitude[:, None] if axis == 0 else magnitude[None]
    delta = change(down=DOWN, up=UP, dora_scale=shaped).of_weight(WEIGHT)
    changed, plain = WEIGHT + delta, WEIGHT + UP @ DOWN
    assert torch.allclose(changed.norm(dim=1 - axis), magnitude)
    assert torch.allclose(changed / changed.norm(dim=1 - axis, keepdim=True),
                          plain / plain.norm(dim=1 - axis, keepdim=True))  # fmt: skip
    convolution = {"down": DOWN3, "up": UP[..., None, None]}
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    changed = CONV + change(**convolution, dora_scale=magnitude.reshape(shape)).of_weight(CONV)
    norms = changed.transpose(0, axis).flatten(1).norm(dim=1)
    assert torch.allclose(norms, magnitude)


def test_plain_differences():
    both = change(diff=draw(OUT, IN), diff_b=draw(OUT))
    assert torch.allclose(both.of_weight(WEIGHT), draw(OUT, IN))
    assert torch.allclose(both.of_bias(torch.zeros(OUT, dtype=torch.float64)), draw(OUT))
    added = change(down=DOWN, up=UP, diff=draw(OUT, IN)).of_weight(WEIGHT)
    assert torch.allclose(added, UP @ DOWN + draw(OUT, IN))
    assert torch.allclose(
        change(set_weight=WEIGHT + 1).of_weight(WEIGHT), torch.ones(OUT, IN).double()
    )


# Files ----------------------------------------------------------------------------------------

KEYS = {
    "kohya": f"lora_unet_{ATTENTION.replace('.', '_')}_{{}}.lora_{{}}.weight",
    "kohya with the single file's names": (
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_{}.lora_{}.weight"
    ),
    "ComfyUI": "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.{}.lora_{}.weight",
    "diffusers 2023": f"{ATTENTION}.processor.{{}}_lora.{{}}.weight",
    "diffusers 2023, with the network": f"unet.{ATTENTION}.processor.{{}}_lora.{{}}.weight",
    "diffusers": f"unet.{ATTENTION}.{{}}.lora.{{}}.weight",
    "PEFT": f"unet.{ATTENTION}.{{}}.lora_{{}}.weight",
    "PEFT alone": f"base_model.model.{ATTENTION}.{{}}.lora_{{}}.weight",
    "PEFT with an adapter's name": f"unet.{ATTENTION}.{{}}.lora_{{}}.default.weight",
    "cloneofsimo": "unet:{}:{}",
}


def write(path: Path, tensors: dict, metadata: dict | None = None) -> Path:
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize("naming", KEYS)
def test_every_naming_finds_the_same_modules(model, tmp_path, naming):
    letters = naming.startswith("PEFT")
    tensors = {}
    for i, name in enumerate(("to_q", "to_k", "to_v", "to_out.0")):
        theirs = str(i) if naming == "cloneofsimo" else name
        if "2023" in naming:
            theirs = theirs.removesuffix(".0")
        if naming.startswith("kohya"):
            theirs = theirs.replace(".", "_")
        down, up = ("A", "B") if letters else ("down", "up")
        tensors[KEYS[naming].format(theirs, down)] = draw(RANK, 32) * (i + 1)
        tensors[KEYS[naming].format(theirs, up)] = draw(32, RANK)
    lora = read_lora(write(tmp_path / "a.safetensors", tensors), model.base)
    assert lora.unused == ()
    found = {change.module: change.slots for change in lora.changes}
    for i, name in enumerate(("to_q", "to_k", "to_v", "to_out.0")):
        slots = found.pop(f"unet.{ATTENTION}.{name}")
        assert torch.equal(slots["down"], (draw(RANK, 32) * (i + 1)).float())
    assert not found


TEXT_KEYS = (
    "lora_te_text_model_encoder_layers_1_self_attn_{}_proj.lora_down.weight",
    "lora_te1_text_model_encoder_layers_1_self_attn_{}_proj.lora_down.weight",
    "text_encoder.text_model.encoder.layers.1.self_attn.{}_proj.lora_linear_layer.down.weight",
    "text_encoder.text_model.encoder.layers.1.self_attn.{}_proj.lora_A.weight",
    "text_encoder.encoder.layers.1.self_attn.{}_proj.lora_A.weight",
    "text_encoder.text_model.encoder.layers.1.self_attn.to_{}_lora.down.weight",
)


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_every_naming_finds_the_text_encoder(model, tmp_path, key):
    up = key.replace("down", "up").replace("lora_A", "lora_B")
    tensors = {}
    for name in ("q", "k", "v", "out"):
        tensors |= {key.format(name): draw(RANK, 32), up.format(name): draw(32, RANK)}
    lora = read_lora(write(tmp_path / "a.safetensors", tensors), model.base)
    assert lora.unused == ()
    layer = "text.encoder.layers.1.self_attn"
    assert {c.module for c in lora.changes} == {f"{layer}.{n}_proj" for n in ("q", "k", "v", "out")}


def test_peft_configuration_gives_alpha(model, tmp_path):
    config = (
        '{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_k": 3}, "unet.use_rslora": true}'
    )
    tensors = {}
    for name in ("to_q", "to_k"):
        tensors |= {f"unet.{ATTENTION}.{name}.lora_A.weight": draw(RANK, 32),
                    f"unet.{ATTENTION}.{name}.lora_B.weight": draw(32, RANK)}  # fmt: skip
    file = write(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": config})
    lora = read_lora(file, model.base)
    found = {c.module[-4:]: (c.alpha, c.root_rank) for c in lora.changes}
    assert found == {"to_q": (8.0, True), "to_k": (3.0, True)}


def test_a_pickle_in_cloneofsimos_order(model, tmp_path):
    torch.save([draw(32, RANK).float(), draw(RANK, 32).float()], tmp_path / "a.pt")
    (found,) = read_lora(tmp_path / "a.pt", model.base).changes
    assert found.module == f"unet.{ATTENTION}.to_q" and found.slots["up"].shape == (32, RANK)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(
    ("file", "modules", "keys"),
    [
        ("catundchat_pytorch_lora_weights.safetensors", 128, 256),
        ("cloneofsimo_analog_svd_rank4.safetensors", 192, 384),
    ],
)
def test_every_key_of_real_files_is_used(file, modules, keys):
    whole = Components(SD15, empty(TextEncoder, SD15.text), None, empty(UNet, SD15.unet), None)
    lora = read_lora(REAL / file, whole)
    assert (len(lora.changes), lora.keys, lora.unused) == (modules, keys, ())


# Models ---------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, model):
    unet, text = f"unet.{ATTENTION}.to_q", "text_encoder.encoder.layers.0.mlp.fc1"
    bias = f"unet.{ATTENTION}.to_out.0"
    both = {
        **{f"{unet}.lora_A.weight": draw(RANK, 32), f"{unet}.lora_B.weight": draw(32, RANK)},
        **{f"{text}.lora_A.weight": draw(RANK, 32), f"{text}.lora_B.weight": draw(64, RANK)},
        f"{bias}.diff_b": draw(32),
    }
    other = {f"{unet}.diff": draw(32, 32)}
    return write(tmp_path / "a.safetensors", both), write(tmp_path / "b.safetensors", other)


def weights(model):
    return {f"{n}.{k}": v for n, net in model.networks.items() for k, v in net.state_dict().items()}


def test_the_model_without_stays_as_it_is_and_shares_its_weights(model, files):
    before = {key: value.clone() for key, value in weights(model).items()}
    adapted = model.with_lora(files[0], 0.5, text_scale=2.0)
    changed = {k for k, v in weights(adapted).items() if not torch.equal(v, before[k])}
    query, fc1 = f"unet.{ATTENTION}.to_q.weight", "text.encoder.layers.0.mlp.fc1.weight"
    bias = f"unet.{ATTENTION}.to_out.0.bias"
    assert changed == {query, fc1, bias}
    for key, value in weights(adapted).items():
        assert key in changed or value.data_ptr() == weights(model)[key].data_ptr()
    expected = before[query] + 0.5 * (draw(32, RANK) @ draw(RANK, 32)).float()
    assert torch.allclose(weights(adapted)[query], expected, atol=1e-5)
    expected = before[fc1] + 2.0 * (draw(64, RANK) @ draw(RANK, 32)).float()
    assert torch.allclose(weights(adapted)[fc1], expected, atol=1e-5)
    without = adapted.with_adapters()
    for other in (model, without):
        assert all(torch.equal(v, before[k]) for k, v in weights(other).items())
    noise = model.noise(1)
    plain = model.generate("a", noise, steps=2, sampler="ddim").latent
    assert torch.equal(without.generate("a", noise, steps=2, sampler="ddim").latent, plain)
    assert not torch.equal(adapted.generate("a", noise, steps=2, sampler="ddim").latent, plain)


def test_several_add_up_in_any_order(model, files):
    one = model.with_lora(files[0], 0.5).with_lora(files[1], -1.5)
    two = model.with_lora(files[1], -1.5).with_lora(files[0], 0.5)
    key = f"unet.{ATTENTION}.to_q.weight"
    expected = weights(model)[key] + 0.5 * (draw(32, RANK) @ draw(RANK, 32)).float()
    expected = expected - 1.5 * draw(32, 32).float()
    for both in (one, two):
        assert len(both.adapters) == 2
        assert torch.allclose(weights(both)[key], expected, atol=1e-5)


def test_recordings_of_the_two_models_do_not_meet(model, files):
    with model.record("unet.h") as plain:
        adapted = model.with_lora(files[0])
        adapted.generate("a", adapted.noise(1), steps=1, sampler="ddim")
        model.generate("a", model.noise(1), steps=1, sampler="ddim")
    with adapted.record("unet.h") as other:
        adapted.generate("a", adapted.noise(1), steps=1, sampler="ddim")
    assert plain["unet.h"].tensor.shape == other["unet.h"].tensor.shape
    assert not torch.equal(plain["unet.h"].tensor, other["unet.h"].tensor)


# Refusals -------------------------------------------------------------------------------------

UNET = f"unet.{ATTENTION}.to_q"
BAD = {
    "up is missing": ({f"{UNET}.lora_A.weight": draw(RANK, 32)}, "lacks its tensor 'up'"),
    "other width": (
        {f"{UNET}.lora_A.weight": draw(RANK, 31), f"{UNET}.lora_B.weight": draw(32, RANK)},
        "it changes 32x31 and the model has 32x32",
    ),
    "other ranks": (
        {f"{UNET}.lora_A.weight": draw(RANK, 32), f"{UNET}.lora_B.weight": draw(32, 3)},
        "for another model, or damaged",
    ),
    "not finite": (
        {f"{UNET}.lora_A.weight": draw(RANK, 32) / 0, f"{UNET}.lora_B.weight": draw(32, RANK)},
        "NaN or infinity",
    ),
    "alpha is a matrix": (
        {f"{UNET}.diff": draw(32, 32), f"{UNET}.alpha": draw(2, 2)},
        "is no number",
    ),
    "a bias that is not there": ({f"{UNET}.diff_b": draw(32)}, "which has none"),
    "magnitudes alone": ({f"{UNET}.dora_scale": draw(32, 1)}, "belongs to no kind"),
    "SD 2": (
        {
            f"{UNET.replace('attn1.to_q', 'attn2.to_k')}.lora_A.weight": draw(RANK, 1024),
            f"{UNET.replace('attn1.to_q', 'attn2.to_k')}.lora_B.weight": draw(32, RANK),
        },
        "a LoRA for Stable Diffusion 2.x",
    ),
    "SDXL": ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": draw(2, 2)}, "SDXL"),
    "Flux": ({"transformer.single_transformer_blocks.0.x.lora_A.weight": draw(2, 2)}, "Flux"),
    "OFT": ({f"{UNET}.oft_blocks": draw(2, 2)}, "not supported"),
    "something else": ({"model.embed.weight": draw(2, 2)}, "no LoRA that is known here"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_in_one_line(model, tmp_path, case):
    tensors, message = BAD[case]
    file = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(ScratchError) as raised:
        model.with_lora(file)
    text = str(raised.value)
    assert message in text and text.startswith(str(file)) and "\n" not in text


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b"PK\x03\x04rest", b"\x80\x02garbage"])
def test_what_is_no_tensor_file_is_refused(model, tmp_path, content):
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(ScratchError, match=r"bad\.bin - "):
        model.with_lora(tmp_path / "bad.bin")


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def test_a_pickle_runs_nothing(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, "bad.pt")
    with pytest.raises(ScratchError, match="more than tensors"):
        model.with_lora("bad.pt")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, "bomb.pt")
    with pytest.raises(ScratchError, match="not stored whole"):
        model.with_lora("bomb.pt")
    assert not Path("was-run").exists()


def test_a_key_that_is_not_known_is_named(model, tmp_path, caplog):
    tensors = {f"{UNET}.diff": draw(32, 32), "unet.nowhere.diff": draw(2, 2)}
    adapted = model.with_lora(write(tmp_path / "a.safetensors", tensors))
    assert adapted.adapters[0].lora.unused == ("unet.nowhere.diff",)
    assert "1 of 2 keys are not known and not used: unet.nowhere.diff" in caplog.text
