"""Files in the wrong place, or of another kind than their name says: each is read, or named in one line."""

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sd_scratch.checkpoints import Components, load_components, save_folder, save_single_file
from sd_scratch.checkpoints.adapters.control import read_control
from sd_scratch.checkpoints.adapters.embedding import read_embeddings
from sd_scratch.checkpoints.adapters.lora import read_lora
from sd_scratch.checkpoints.pickle_file import read_weights
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.checkpoints.single_file import usual_tensors
from sd_scratch.errors import ScratchError
from tests.checkpoints import assert_same_weights
from tests.tiny import tiny_components

PLACE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
LORA = {
    f"{PLACE}.lora_down.weight": torch.ones(4, 32),
    f"{PLACE}.lora_up.weight": torch.ones(32, 4),
}
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def components() -> Components:
    return tiny_components()


@pytest.fixture(scope="module")
def single(components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_single_file(components, file)
    return file


def line(read: Callable[[], object]) -> str:
    with pytest.raises(ScratchError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_in_anothers_place_is_named(
    components: Components, single: Path, tmp_path: Path
) -> None:
    stem = "first_stage_model."
    vae = {k.removeprefix(stem): t for k, t in load_file(single).items() if stem in k}
    control = {"control_model.zero_convs.0.0.weight": torch.ones(1)}
    kinds = {"a VAE alone": vae, "a LoRA": LORA, "a ControlNet": control}
    files = {"a whole model": single}
    for number, (kind, tensors) in enumerate(kinds.items()):
        files[kind] = tmp_path / f"{number}.safetensors"
        save_file(tensors, files[kind])
    torch.save({"string_to_param": {"*": torch.ones(2, 32)}}, tmp_path / "word.pt")
    files["a textual inversion embedding"] = tmp_path / "word.pt"
    folder = tmp_path / "folder"
    save_folder(components, folder)
    readers: dict[str, Callable[[Path], object]] = {
        "a LoRA": lambda path: read_lora(path, components),
        "a textual inversion": lambda path: read_embeddings(path, components),
        "a ControlNet": lambda path: read_control(path, components),
        "a VAE": lambda path: load_components(folder, vae=path),
        "a model": load_components,
    }
    for wanted, read in readers.items():
        for kind, file in files.items():
            fits = wanted in kind or {wanted, kind} <= {"a VAE", "a model", "a whole model"}
            if not fits:
                assert f"{file} - this is {kind}" in line(partial(read, file))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x08\x07\x12\x07pytorch", "an ONNX graph"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive - unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive - unpack it"),
        (b"\x1f\x8b\x08", "a gzip archive - unpack it"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"{}", "of a model's configuration name the folder"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-lfs pointer"),
        (b"<!DOCTYPE html>", "looks like a web page"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_model_is_named(
    components: Components, tmp_path: Path, start: bytes, what: str
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(start + bytes(100) * bool(start))
    assert what in line(lambda: load_components(file))
    assert what in line(lambda: read_lora(file, components))
    assert what in line(lambda: read_control(file, components))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors, "optimizer": {}},
        lambda tensors: {"state_dict": {"module": tensors}},
        lambda tensors: {f"module.{key}": tensor for key, tensor in tensors.items()},
        lambda tensors: {f"_orig_mod.{key}": tensor for key, tensor in tensors.items()},
    ],
)
def test_wrappers_are_taken_off(
    single: Path, tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    torch.save(wrap(load_file(single)), tmp_path / "model.ckpt")

    def tensors(path: Path) -> dict[str, StoredTensor]:
        return usual_tensors(read_weights(path))

    assert tensors(tmp_path / "model.ckpt").keys() == tensors(single).keys()


def test_what_a_file_without_its_vae_lacks(single: Path, tmp_path: Path) -> None:
    tensors = load_file(single)
    left = {k: t for k, t in tensors.items() if not k.startswith("first_stage_model.")}
    save_file(left, tmp_path / "bare.safetensors")
    said = line(lambda: load_components(tmp_path / "bare.safetensors"))
    assert "without its VAE (first_stage_model.*) - name another model to take that from" in said


def test_a_folder_of_pickles_in_shards_and_one_that_is_missing(
    components: Components, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_folder(components, folder)
    whole = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors, stem = load_file(whole), "diffusion_pytorch_model"
    keys, names = list(tensors), [f"{stem}-0000{n}-of-00002.bin" for n in (1, 2)]
    for n, name in enumerate(names):
        torch.save({key: tensors[key] for key in keys[n::2]}, folder / "unet" / name)
    index = {"weight_map": {key: names[n % 2] for n, key in enumerate(keys)}}
    (folder / "unet" / f"{stem}.bin.index.json").write_text(json.dumps(index))
    whole.unlink()
    assert_same_weights(load_components(f"{folder}/"), components)
    (folder / "unet" / names[1]).unlink()
    assert f"names a shard {names[1]}, which is not there" in line(lambda: load_components(folder))
    for name in (names[0], f"{stem}.bin.index.json"):
        (folder / "unet" / name).unlink()
    (folder / "unet" / "model.onnx").touch()
    said = line(lambda: load_components(folder))
    assert f"no {stem}.safetensors in it but model.onnx" in said


def test_names_and_places(
    components: Components, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "M.SAFETENSORS").symlink_to(single)
    assert "whatever its name says" not in load_components("~/M.SAFETENSORS").summary
    (tmp_path / "dead.safetensors").symlink_to("nowhere")
    said = line(lambda: load_components(tmp_path / "dead.safetensors"))
    assert said.endswith("a link to nowhere, which is not there")
    save_file(LORA, tmp_path / "l.safetensors")
    assert len(read_lora("~/l.safetensors", components).changes) == 1
    assert "a folder - name the file in it" in line(lambda: read_lora(tmp_path, components))


def test_a_lora_of_another_family_and_an_alpha_alone(
    components: Components, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sd_scratch")
    file = tmp_path / "l.safetensors"
    save_file({re.sub("blocks_0_attn1", "blocks_1_attn1", k): t for k, t in LORA.items()}, file)
    assert "this is a LoRA for SDXL" in line(lambda: read_lora(file, components))
    alone = PLACE.replace("to_q", "to_k")
    save_file({**LORA, f"{alone}.alpha": torch.tensor(4.0)}, file)
    assert len(read_lora(file, components).changes) == 1
    assert "attn1.to_k, of which there is nothing else" in caplog.messages[-1]
