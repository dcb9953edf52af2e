import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sd_scratch.checkpoints import (
    Components,
    hashes,
    inspect,
    load_components,
    save_folder,
    save_single_file,
)
from sd_scratch.checkpoints.hashes import cached_sha256, sha256
from sd_scratch.checkpoints.load import read_layout
from sd_scratch.checkpoints.safetensors_file import StoredTensor, read_header
from sd_scratch.checkpoints.safetensors_writer import write_tensors
from sd_scratch.config import TINY
from sd_scratch.errors import ScratchError, UsageError
from tests.checkpoints import assert_same_weights, edit_json, rewrite
from tests.tiny import tiny_components

HALF = 2**-10  # relative error of rounding to fp16; bf16 has three bits fewer


@pytest.fixture(scope="module")
def components() -> Components:
    return tiny_components()


@pytest.fixture(scope="module")
def whole(components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the tests that only read it."""
    folder = tmp_path_factory.mktemp("model") / "tiny-folder"
    save_folder(components, folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A folder to change."""
    return shutil.copytree(whole, tmp_path / "model")


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 0.0), (torch.float16, HALF), (torch.bfloat16, 8 * HALF)],
    ids=str,
)
def test_every_layout_and_type_gives_the_same_weights(
    components: Components, tmp_path: Path, layout: str, dtype: torch.dtype, tolerance: float
) -> None:
    if layout == "folder":
        path = tmp_path / "model"
        save_folder(components, path, dtype)
    else:
        path = tmp_path / "model.safetensors"
        save_single_file(components, path, dtype)
    loaded = load_components(path)
    assert loaded.config == components.config
    assert loaded.unet.conv_in.weight.dtype == torch.float32
    assert_same_weights(loaded, components, tolerance)


def test_both_layouts_hold_the_same_bits(components: Components, tmp_path: Path) -> None:
    save_folder(components, tmp_path / "a", torch.float16)
    save_single_file(components, tmp_path / "b.safetensors", torch.float16)
    assert_same_weights(
        load_components(tmp_path / "a"), load_components(tmp_path / "b.safetensors")
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_are_cast_as_asked(whole: Path, components: Components, dtype: torch.dtype) -> None:
    loaded = load_components(whole, dtype=dtype)
    for network in (loaded.text, loaded.vae, loaded.unet):
        assert {p.dtype for p in network.parameters()} == {dtype}
    expected = components.unet.conv_in.weight.to(dtype)
    assert torch.equal(loaded.unet.conv_in.weight, expected)


def test_networks_come_ready_to_run(whole: Path) -> None:
    loaded = load_components(whole)
    for network in (loaded.text, loaded.vae, loaded.unet):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert {p.device.type for p in network.parameters()} == {"cpu"}


def test_convolutions_can_be_stored_channels_last(whole: Path, components: Components) -> None:
    loaded = load_components(whole, memory_format=torch.channels_last)
    weight = loaded.unet.down_blocks[0].resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert_same_weights(loaded, components)


def test_a_large_network_is_cut_into_shards(components: Components, tmp_path: Path) -> None:
    save_folder(components, tmp_path, torch.float16, shard_bytes=1_000_000)
    names = sorted(p.name for p in (tmp_path / "unet").iterdir())
    assert names == [
        "config.json",
        *(f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
        "diffusion_pytorch_model.safetensors.index.json",
    ]
    assert all(p.stat().st_size < 1_100_000 for p in (tmp_path / "unet").iterdir())
    loaded = load_components(tmp_path)
    assert_same_weights(loaded, components, HALF)
    assert len(loaded.hashed_files) == 3


def test_saving_over_a_model_leaves_no_file_of_the_old_one(
    components: Components, tmp_path: Path
) -> None:
    save_folder(components, tmp_path, torch.float16, shard_bytes=1_000_000)
    (tmp_path / "README.md").write_text("a card")
    changed = tiny_components()
    changed.unet.conv_in.bias.data += 1
    with pytest.raises(ScratchError, match="holds a model already") as caught:
        save_folder(changed, tmp_path)
    assert isinstance(caught.value, UsageError)
    save_folder(changed, tmp_path, overwrite=True)
    assert_same_weights(load_components(tmp_path), changed)
    assert not list(tmp_path.rglob("*-of-*"))
    assert (tmp_path / "README.md").exists()


def test_a_single_file_is_not_replaced_unasked(components: Components, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"precious")
    with pytest.raises(ScratchError, match="exists already"):
        save_single_file(components, file)
    assert file.read_bytes() == b"precious"
    save_single_file(components, file, overwrite=True)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_saved_weights_follow_the_umask(components: Components, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_single_file(components, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_broken_weights_are_not_saved(tmp_path: Path) -> None:
    for value, dtype in ((float("nan"), torch.float32), (1e5, torch.float16)):
        components = tiny_components()
        components.unet.conv_in.bias.data[0] = value
        with pytest.raises(ScratchError, match=r"input_blocks\.0\.0\.bias holds NaN"):
            save_single_file(components, tmp_path / "a.safetensors", dtype)
        assert not list(tmp_path.iterdir())


def test_a_vocabulary_of_its_own_needs_a_folder(components: Components, tmp_path: Path) -> None:
    other = SimpleNamespace(vocab={"a": 0})
    with pytest.raises(ScratchError, match="no place for the model's own vocabulary"):
        save_single_file(replace(components, tokenizer=other), tmp_path / "a.safetensors")


def test_the_tokenizer_of_a_checkpoint_wins(folder: Path) -> None:
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    vocab["a</w>"], vocab["b</w>"] = vocab["b</w>"], vocab["a</w>"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocab))
    own = load_components(folder).tokenizer.encode("a").ids
    shutil.rmtree(folder / "tokenizer")
    shipped = load_components(folder).tokenizer.encode("a").ids
    assert len(own) == len(shipped) == 77
    assert own[1] != shipped[1]


def test_a_tokenizer_larger_than_the_text_encoder_is_refused(folder: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    rewrite(weights, {"text_model.embeddings.token_embedding.weight": torch.zeros(100, 32)})
    edit_json(folder / "text_encoder" / "config.json", vocab_size=100)
    with pytest.raises(ScratchError, match=r"needs 49,408 embeddings .* has 100 - the tokenizer"):
        load_components(folder)


def test_types_may_be_mixed_in_one_file(folder: Path, components: Components) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = components.unet.state_dict()
    rewrite(
        weights,
        {
            "conv_in.weight": state["conv_in.weight"].half(),
            "conv_in.bias": state["conv_in.bias"].bfloat16(),
            "conv_out.bias": state["conv_out.bias"].double(),
        },
    )
    loaded = load_components(folder)
    assert_same_weights(loaded, components, 8 * HALF)
    assert "(folder, bf16+f16+f32+f64 as fp32)" in loaded.summary


def test_a_single_file_without_metadata_is_told_by_its_shapes(tmp_path: Path) -> None:
    """As a file of any other program: widths are inferred, heads and groups are those of SD 1.x."""
    config = replace(
        TINY,
        name="other",
        text=replace(TINY.text, hidden_size=128, num_attention_heads=2),
        vae=replace(TINY.vae, block_out_channels=(32, 64, 64), norm_num_groups=32),
        unet=replace(
            TINY.unet,
            block_out_channels=(64, 64, 128),
            cross_attention_dim=128,
            num_attention_heads=8,
            norm_num_groups=32,
        ),
        sample_size=256,
    )
    components = tiny_components(config)
    file = tmp_path / "other.safetensors"
    save_single_file(components, file)
    rewrite(file, {})
    assert not read_header(file).metadata.get("sd_scratch")
    loaded = load_components(file)
    assert loaded.config == config
    assert_same_weights(loaded, components)


def test_a_damaged_configuration_in_a_header_is_refused(
    components: Components, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    for text, message in (("[", "not valid JSON"), ('{"unet": 3}', "must be an object")):
        save_single_file(components, file, overwrite=True)
        tensors = {key: stored.read() for key, stored in read_header(file).tensors.items()}
        write_tensors(file, tensors, torch.float32, {"sd_scratch": text}, overwrite=True)
        with pytest.raises(ScratchError, match=message):
            load_components(file)


def test_settings_of_a_folder(folder: Path) -> None:
    edit_json(
        folder / "model_index.json", sd_scratch={"sampler": "ddim", "steps": 25, "guidance": 4.0}
    )
    edit_json(folder / "unet" / "config.json", sample_size=8)
    config = load_components(folder).config
    assert (config.sampler, config.steps, config.guidance) == ("ddim", 25, 4.0)
    assert config.name == "model"
    assert config.sample_size == 8 * config.vae.downscale == 32


def test_a_folder_needs_neither_scheduler_nor_index_nor_tokenizer(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    shutil.rmtree(folder / "scheduler")
    shutil.rmtree(folder / "tokenizer")
    config = load_components(folder).config
    assert (config.sampler, config.steps, config.guidance) == ("pndm", 50, 7.5)
    assert config.schedule == TINY.schedule


def test_the_summary_says_what_was_loaded_and_left_aside(folder: Path) -> None:
    rewrite(
        folder / "text_encoder" / "model.safetensors",
        {
            "text_model.embeddings.position_ids": torch.arange(77)[None],
            "logit_scale": torch.ones(1),
        },
    )
    summary = load_components(folder).summary
    assert summary == (
        "tiny: 529 tensors, 3.3 M parameters (folder, f32 as fp32);"
        " 1 ignored, such as text.embeddings.position_ids;"
        " 1 unexpected and not used, such as text.logit_scale"
    )


def test_files_are_not_held_open_or_mapped(folder: Path, components: Components) -> None:
    loaded = load_components(folder)
    for file in folder.rglob("*.safetensors"):
        assert str(file) not in Path("/proc/self/maps").read_text()
        file.write_bytes(b"")
    assert_same_weights(loaded, components)


def test_memory_never_holds_the_weights_twice(components: Components, tmp_path: Path) -> None:
    """A larger U-Net in a process of its own: the peak stays near the weights' size."""
    widths = (256, 512, 512)
    config = replace(
        TINY, unet=replace(TINY.unet, block_out_channels=widths, num_attention_heads=8)
    )
    save_folder(tiny_components(config), tmp_path, torch.float16)
    code = """
import resource, sys
from sd_scratch.checkpoints import load_components
import sd_scratch.checkpoints.load, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loaded = load_components(sys.argv[1], memory_format=torch.channels_last)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert "huggingface_hub" not in sys.modules
weights = sum(p.nbytes for n in (loaded.text, loaded.vae, loaded.unet) for p in n.parameters())
print(peak * 1024 / weights, weights)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    ratio, weights = map(float, result.stdout.split())
    assert weights > 150e6
    assert ratio < 1.3


# Hashes -----------------------------------------------------------------------------------------


def test_the_hash_is_that_of_the_file(components: Components, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_single_file(components, file)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    assert load_components(file).hash == expected
    assert inspect(file).hash == expected


def test_the_hash_of_a_folder_is_that_of_its_unet(whole: Path) -> None:
    unet = (whole / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert load_components(whole).hash == hashlib.sha256(unet).hexdigest()[:10]


def test_components_without_a_file_have_no_hash(components: Components) -> None:
    assert components.hash == ""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every time that a file is hashed in earnest."""
    calls: list[object] = []
    monkeypatch.setattr(hashes, "sha256", lambda paths: calls.append(paths) or sha256(paths))
    yield calls


def test_a_hash_is_computed_once(tmp_path: Path, counted: list[object]) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = cached_sha256([file])
    assert cached_sha256([file]) == first == sha256([file])
    assert len(counted) == 1
    file.write_bytes(b"other")
    assert cached_sha256([file]) == sha256([file]) != first
    assert len(counted) == 2


@pytest.mark.parametrize("spoilt", [b"", b"[]", b'{"a": 1}', b"\xff"])
def test_a_spoilt_cache_is_no_harm(tmp_path: Path, spoilt: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    hashes.cache_file().parent.mkdir(parents=True)
    hashes.cache_file().write_bytes(spoilt)
    assert cached_sha256([file]) == sha256([file])


def test_loading_does_not_hash(whole: Path, counted: list[object]) -> None:
    loaded = load_components(whole)
    assert not counted
    assert len(loaded.hash) == 10
    assert len(counted) == 1


# Reports ----------------------------------------------------------------------------------------


def test_inspect_tells_what_a_model_is(whole: Path, components: Components) -> None:
    report = inspect(whole, check=True)
    assert report.family == "Stable Diffusion 1.x"
    assert report.layout == "folder"
    assert report.problem == ""
    assert report.not_finite == ()
    assert [part.name for part in report.parts] == ["text encoder", "U-Net", "VAE"]
    parameters = sum(p.numel() for p in components.unet.parameters())
    assert report.parts[1].parameters == parameters
    assert f"U-Net         324 tensors, {parameters:,} parameters, f32" in report.lines()
    assert json.loads(json.dumps(asdict(report)))["hash"] == report.hash


def test_inspect_names_what_is_left_aside_and_broken(folder: Path, components: Components) -> None:
    bias = components.unet.conv_in.bias.clone()
    bias[3] = torch.inf
    rewrite(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        {"conv_in.bias": bias, "extra": torch.ones(1), "conv_out.bias": None},
    )
    report = inspect(folder, check=True)
    assert report.not_finite == ("unet.conv_in.bias",)
    assert "1 of the U-Net's 324 tensors are missing: conv_out.bias" in report.problem
    assert inspect(folder).not_finite is None
    lines = "\n".join(report.lines())
    assert "not finite    1: unet.conv_in.bias" in lines
    assert "problem       " in lines


def test_inspect_shows_ema_and_unknown_keys(components: Components, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_single_file(components, file)
    extra = {"model_ema.decay": torch.ones(1), "betas": torch.ones(9), "strange": torch.ones(1)}
    tensors = {key: stored.read() for key, stored in read_header(file).tensors.items()}
    metadata = {"sd_scratch": read_header(file).metadata["sd_scratch"]}
    write_tensors(file, tensors | extra, torch.float32, metadata, overwrite=True)
    report = inspect(file)
    assert report.ignored == ("model_ema.decay", "betas")
    assert report.unknown == ("strange",)
    assert report.layout == "single file"
    assert report.problem == ""
    assert load_components(file).summary.endswith(
        "; 2 ignored, such as model_ema.decay; 1 unexpected and not used, such as strange"
    )


def test_layouts_are_read_without_their_weights(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(StoredTensor, "read", refuse)
    layout = read_layout(whole)
    assert layout.config == TINY
    assert layout.parts["unet"].parameters == 1_466_500


def test_words_that_a_save_cannot_keep_are_named(
    components: Components, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    added = {"<one>": (100,), "<several>": (101, 102)}
    words = replace(components, tokenizer=components.tokenizer.changed(added=added))
    save_folder(words, tmp_path / "folder")
    assert "keeps the vectors of '<several>' and not their names" in caplog.text
    assert "<one>" not in caplog.text
    assert load_components(tmp_path / "folder").tokenizer.added == {"<one>": (100,)}
    save_single_file(words, tmp_path / "a.safetensors")
    assert "keeps the vectors of '<several>', '<one>' and not" in caplog.text
