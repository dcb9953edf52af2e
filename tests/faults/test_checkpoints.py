"""Model files as people meet them: the wrong thing, half a thing, a thing of another kind, a trap.

Every refusal is one line that names the file, the likely cause and what to do.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sd_scratch.checkpoints import (
    Components,
    inspect,
    list_shipped,
    load_components,
    memory,
    save_folder,
    save_single_file,
)
from sd_scratch.checkpoints.family import family
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.checkpoints.safetensors_writer import write_tensors
from sd_scratch.checkpoints.single_file import usual_tensors
from sd_scratch.checkpoints.sniff import HEADER_LIMIT
from sd_scratch.errors import MemoryShortage, ScratchError, UsageError
from tests.checkpoints import (
    assert_same_weights,
    edit_json,
    named_shapes,
    raw_file,
    raw_tensors,
    rewrite,
)
from tests.tiny import tiny_components

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
TEXT_FILE = "text_encoder/model.safetensors"
ONE = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.fixture(scope="module")
def components() -> Components:
    return tiny_components()


@pytest.fixture(scope="module")
def saved(components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    save_folder(components, path / "model")
    save_single_file(components, path / "model.safetensors")
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    return shutil.copytree(saved / "model", tmp_path / "model")


@pytest.fixture
def single(saved: Path, tmp_path: Path) -> Path:
    """A single file to spoil."""
    return shutil.copy(saved / "model.safetensors", tmp_path / "model.safetensors")


def refusal(source: Path | str, kind: type[ScratchError] = ScratchError, **options: object) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(ScratchError) as caught:
        load_components(source, **options)
    assert type(caught.value) is kind
    line = str(caught.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 600
    return line


# Nothing there, or something else ---------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "dreams.safetensors").touch()
    line = refusal(tmp_path / "dream.safetensors", kind=UsageError)
    assert line.startswith(f"{tmp_path}/dream.safetensors - no such model; looked for ")
    assert f"did you mean {tmp_path}/dreams.safetensors?" in line


def test_a_name_that_is_nearly_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    line = refusal("sd-15", kind=UsageError)
    assert f"looked for {tmp_path}/sd-15 and in " in line
    assert "did you mean sd15?" in line


def test_a_name_that_is_like_nothing_lists_the_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refusal("qqqqqq", kind=UsageError)
    assert "the models by name are " + ", ".join([*list_shipped(), "sd15"]) in line


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    line = refusal(tmp_path)
    assert line.startswith(f"{tmp_path} - no text_encoder/, unet/, vae/ in it")


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4265146304\n"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(LFS, "a git-lfs pointer, not the file - run git lfs pull", id="git-lfs"),
        pytest.param(b"\n <!DOCTYPE html><html>log in", "looks like a web page - ", id="html"),
        pytest.param(b"<html>" + b" " * 100, "looks like a web page - ", id="html2"),
        pytest.param(b'{"error": "Access denied"}', "looks like JSON, perhaps an", id="json"),
        pytest.param(b'{"data":{"error": 1}}', "looks like JSON, perhaps an", id="json2"),
        pytest.param(b"GGUF\x03\0\0\0" + b"\0" * 50, "a GGUF file (quantised", id="gguf"),
        pytest.param(b"", "an empty file - download it again", id="empty"),
        pytest.param(b"\x05", "not a safetensors file", id="one byte"),
        pytest.param(b"\0" * 500, "not a safetensors file", id="zeros"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "a picture", id="png"),
    ],
)
def test_something_else_with_a_models_name(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert refusal(file).startswith(f"{file} - {message}")


def test_the_same_inside_a_folder(folder: Path) -> None:
    (folder / UNET_FILE).write_bytes(LFS)
    assert refusal(folder).startswith(f"{folder / UNET_FILE} - a git-lfs pointer")


def test_a_device_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert refusal(tmp_path / "pipe.safetensors").endswith(
        " - a device or a pipe, not a regular file"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(single: Path) -> None:
    single.chmod(0)
    assert "cannot be read: permission denied" in refusal(single)


def test_safetensors_by_another_name(single: Path, components: Components) -> None:
    other = single.rename(single.with_suffix(".ckpt"))
    loaded = load_components(other)
    assert_same_weights(loaded, components)
    assert loaded.summary.endswith("; model.ckpt is a safetensors file, whatever its name says")


# Damaged and crafted files ----------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.25, 0.5, 0.99])
def test_a_download_that_broke_off(single: Path, kept: float) -> None:
    size = single.stat().st_size
    have = int(size * kept)
    os.truncate(single, have)
    line = refusal(single)
    assert f"cut short: have {have:,} of {size:,} bytes ({100 * have // size} %)" in line
    assert line.endswith("the download was interrupted, run it again")


def test_a_download_that_broke_off_in_the_header(single: Path) -> None:
    os.truncate(single, 1000)
    assert "cut short: have 1,000 of more than " in refusal(single)


def test_bytes_after_the_end(single: Path) -> None:
    with single.open("ab") as file:
        file.write(b"\0" * 1234)
    line = refusal(single)
    assert "1,234 extra bytes after the last tensor" in line
    assert "cut short" not in line


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    for length in (HEADER_LIMIT + 1, 2**60):
        file = tmp_path / "model.safetensors"
        file.write_bytes(length.to_bytes(8, "little") + b'{"a":1}')
        assert f"its header claims {length:,} bytes, and 16,777,216 is the limit" in refusal(file)


def test_too_many_tensors(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{i}": entry for i in range(10_001)})
    file = raw_file(tmp_path / "model.safetensors", header)
    assert "lists 10,001 tensors" in refusal(file)


def entry(text: str) -> str:
    return '{"a":' + text + "}"


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (ONE[:-1] + "," + ONE[1:], 4, 'the key "a" appears twice'),
        (
            entry('{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}'),
            4,
            '"dtype" appe',
        ),
        ("{}", 0, "lists 0 tensors"),
        ('{"__metadata__":{}}', 0, "lists 0 tensors"),
        ('{"a":' + "[" * 100_000, 0, "nested too deeply"),
        ('{"a":1', 0, "not valid JSON"),
        (b'{"\xff":1}', 0, "not UTF-8 text"),
        (entry("[1]"), 0, "the header's entry for 'a' is malformed"),
        (entry('{"dtype":"F32","shape":[1]}'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":[true],"data_offsets":[0,4]}'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":7,"data_offsets":[0,4]}'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":"1","data_offsets":[0,4]}'), 4, "malformed"),
        (entry('{"dtype":7,"shape":[1],"data_offsets":[0,4]}'), 4, "malformed"),
        (ONE.replace('"a"', r'"a\u0000"'), 4, "malformed"),
        (ONE.replace('"a"', r'"\u001b[31m"'), 4, "malformed"),
        (entry('{"dtype":"F32","shape":[2],"data_offsets":[0,4]}'), 4, "not a valid safetensors"),
        (entry('{"dtype":"F99","shape":[1],"data_offsets":[0,4]}'), 4, "not a valid safetensors"),
        (entry('{"dtype":"F32","shape":[1],"data_offsets":[4,0]}'), 0, "not a valid safetensors"),
        (entry('{"dtype":"F32","shape":[1],"data_offsets":[4,8]}'), 8, "not a valid safetensors"),
        (
            entry('{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}'),
            4,
            "not a valid safetensors",
        ),
        (ONE[:-1] + ',"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}', 6, "not a valid"),
        (ONE[:-1] + ',"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}', 12, "not a valid"),
        (ONE[:-1] + ',"__metadata__":{"a":1}}', 4, "not an object of texts"),
        (ONE[:-1] + ',"__metadata__":[]}', 4, "not a valid safetensors"),
    ],
)
def test_crafted_headers(tmp_path: Path, header: str | bytes, data: int, message: str) -> None:
    file = raw_file(tmp_path / "model.safetensors", header, bytes(data))
    assert message in refusal(file)


def test_broken_numbers_are_found_on_request(single: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    bias = load_file(single)[key]
    bias[0] = torch.nan
    rewrite(single, {key: bias})
    report = inspect(single, check=True)
    assert report.not_finite == (key,) or report.not_finite == ("unet.conv_out.bias",)


# Other kinds of models --------------------------------------------------------------------------

CONTEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
WHOLE = {
    FIRST: (8, 4, 3, 3),
    CONTEXT: (8, 768),
    "first_stage_model.quant_conv.bias": (8,),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": (8,),
}
WHOLE_2 = {
    FIRST: (8, 4, 3, 3),
    CONTEXT: (8, 1024),
    "first_stage_model.quant_conv.bias": (8,),
    "cond_stage_model.model.ln_final.bias": (8,),
}

FAMILIES = [
    pytest.param(
        WHOLE_2 | {FIRST: (8, 5, 3, 3)},
        "Stable Diffusion 2.x with depth, whose U-Net reads a map of it (5 input channels)",
        id="sd2-depth",
    ),
    pytest.param(
        WHOLE_2 | {FIRST: (8, 7, 3, 3)},
        "the upscaler of Stable Diffusion 2.x (7 input channels)",
        id="sd2-upscaler",
    ),
    pytest.param(
        WHOLE_2 | {"model.diffusion_model.label_emb.0.0.weight": (8, 8)},
        "a U-Net with labels, as of Stable Diffusion 2.1 unCLIP",
        id="sd2-unclip",
    ),
    pytest.param(WHOLE | {CONTEXT: (8, 2048)}, "Stable Diffusion XL", id="sdxl-context"),
    pytest.param(
        {FIRST: (8, 4, 3, 3), "conditioner.embedders.0.x": (1,)}, "Stable Diffusion XL", id="sdxl"
    ),
    pytest.param({"double_blocks.0.img_attn.proj.bias": (8,)}, "Flux", id="flux"),
    pytest.param(
        {"model.diffusion_model.double_blocks.0.img_mod.lin.bias": (8,)}, "Flux", id="flux-whole"
    ),
    pytest.param(
        {"model.diffusion_model.joint_blocks.0.x.weight": (8,)}, "Stable Diffusion 3", id="sd3"
    ),
    pytest.param({"lora_unet_down_blocks_0_x.lora_down.weight": (4, 8)}, "a LoRA", id="lora-kohya"),
    pytest.param(
        {"unet.down_blocks.0.attn1.processor.to_q_lora.up.weight": (8, 4)},
        "a LoRA",
        id="lora-diffusers",
    ),
    pytest.param({"unet.mid_block.to_k.lora_A.weight": (4, 8)}, "a LoRA", id="lora-peft"),
    pytest.param({"control_model.input_hint_block.0.bias": (8,)}, "a ControlNet", id="control"),
    pytest.param({"controlnet_cond_embedding.conv_in.bias": (8,)}, "a ControlNet", id="control-hf"),
    pytest.param({"emb_params": (3, 768)}, "a textual inversion embedding", id="embedding"),
    pytest.param({"first_stage_model.quant_conv.bias": (8,)}, "a VAE alone", id="vae"),
    pytest.param({"encoder.conv_in.bias": (8,)}, "a VAE alone", id="vae-bare"),
    pytest.param({"decoder.mid_block.resnets.0.norm1.bias": (8,)}, "a VAE alone", id="vae-hf"),
    pytest.param({"text_model.final_layer_norm.bias": (8,)}, "a text encoder alone", id="clip"),
    pytest.param({FIRST: (8, 4, 3, 3)}, "a U-Net alone", id="unet"),
    pytest.param({"down_blocks.0.resnets.0.norm1.bias": (8,)}, "a U-Net alone", id="unet-hf"),
]


@pytest.mark.parametrize(("shapes", "name"), FAMILIES)
def test_another_family_is_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], name: str
) -> None:
    file = named_shapes(tmp_path / "v1-5-pruned.safetensors", shapes)
    line = refusal(file)
    assert line.startswith(f"{file} - this is {name} - ")
    assert "Stable Diffusion 1.x" in line
    report = inspect(file)
    assert report.family == name
    assert report.problem == line


def test_an_unknown_file_shows_what_it_holds(tmp_path: Path) -> None:
    file = named_shapes(tmp_path / "m.safetensors", {"blocks.0.w": (1,), "blocks.1.w": (1,)})
    assert "not a Stable Diffusion checkpoint that is known here (tensors such as" in refusal(file)
    assert "blocks.0.w" in refusal(file)


def test_real_adapters_are_told_apart_from_models(shared_data: Path) -> None:
    for file in (shared_data / "adapters").glob("*.safetensors"):
        assert family(read_header(file).tensors) == "a LoRA"
        assert "this is a LoRA - a whole Stable Diffusion 1.x or 2.x model is needed" in refusal(
            file
        )
    for file in (shared_data / "adapters").glob("*.bin"):
        assert "this is a textual inversion embedding" in refusal(file)


def test_the_family_of_stable_diffusion_itself(tmp_path: Path) -> None:
    for whole, version in ((WHOLE, "1.x"), (WHOLE_2, "2.x")):
        for channels, kind in ((4, ""), (9, " inpainting")):
            file = named_shapes(tmp_path / "m.safetensors", whole | {FIRST: (8, channels, 3, 3)})
            assert family(usual_tensors(read_header(file))) == f"Stable Diffusion {version}{kind}"
        file = named_shapes(tmp_path / "m.safetensors", whole | {FIRST: (8, 8, 3, 3)})
        assert family(usual_tensors(read_header(file))).startswith("InstructPix2Pix")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["transformer", "vae", "text_encoder"],
            "a diffusion transformer (Stable Diffusion 3, Flux",
        ),
        (["unet", "vae", "text_encoder", "text_encoder_2"], "a Stable Diffusion XL model"),
        (["unet", "scheduler"], "no text_encoder/, vae/ in it"),
    ],
)
def test_folders_of_other_families(tmp_path: Path, folders: list[str], message: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    assert f"{tmp_path} - {message}" in refusal(tmp_path)


# Keys and shapes --------------------------------------------------------------------------------


def test_missing_tensors_are_counted_and_named(folder: Path) -> None:
    gone = sorted(k for k in load_file(folder / UNET_FILE) if k.startswith("mid_block.resnets.0"))
    rewrite(folder / UNET_FILE, dict.fromkeys(gone))
    line = refusal(folder)
    assert f"{folder} - {len(gone)} of the U-Net's 324 tensors are missing: mid_block.res" in line
    assert line.count("mid_block.resnets.0.") == 5
    assert ", ..." in line


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("first_stage_model.quant_conv.bias", "VAE"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text encoder"),
        ("model.diffusion_model.out.2.bias", "U-Net"),
    ],
)
def test_a_missing_tensor_of_each_part(single: Path, key: str, part: str) -> None:
    metadata = {"sd_scratch": read_header(single).metadata["sd_scratch"]}
    tensors = load_file(single)
    del tensors[key]
    write_tensors(single, tensors, torch.float32, metadata, overwrite=True)
    assert f"1 of the {part}'s " in refusal(single)


def test_a_wrong_shape(folder: Path) -> None:
    rewrite(folder / UNET_FILE, {"conv_in.weight": torch.zeros(32, 9, 3, 3)})
    line = refusal(folder)
    assert "U-Net: conv_in.weight is 32x9x3x3 and the network needs 32x4x3x3" in line


def test_a_transposed_weight_of_the_same_size(folder: Path) -> None:
    rewrite(folder / UNET_FILE, {"time_embedding.linear_1.weight": torch.zeros(32, 128)})
    assert "linear_1.weight is 32x128 and the network needs 128x32" in refusal(folder)


def test_quantised_weights(folder: Path) -> None:
    rewrite(folder / UNET_FILE, {"conv_in.weight": torch.zeros(32, 4, 3, 3, dtype=torch.int8)})
    assert "conv_in.weight is stored as I8 - quantised weights are not supported" in refusal(folder)


def test_eight_bit_floating_point_is_read(folder: Path) -> None:
    small = torch.full((32, 4, 3, 3), 0.5).to(torch.float8_e4m3fn)
    rewrite(folder / UNET_FILE, {"conv_in.weight": small})
    assert (load_components(folder).unet.conv_in.weight == 0.5).all()


def test_averaged_weights_and_tables_are_left_aside(
    single: Path, components: Components, tmp_path: Path
) -> None:
    metadata = {"sd_scratch": read_header(single).metadata["sd_scratch"]}
    tensors = load_file(single)
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    extra = {
        "betas": torch.ones(1000),
        "model_ema.decay": torch.ones(1),
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(32, 4, 3, 3),
        ids: torch.arange(77.0)[None],  # as some programs store it
    }
    write_tensors(single, tensors | extra, torch.float32, metadata, overwrite=True)
    loaded = load_components(single)
    assert "; 4 ignored, such as betas" in loaded.summary
    assert "unexpected" not in loaded.summary
    assert_same_weights(loaded, components)


def test_text_keys_as_novelai_has_them(single: Path, components: Components) -> None:
    metadata = {"sd_scratch": read_header(single).metadata["sd_scratch"]}
    tensors = {key.replace("text_model.", ""): t for key, t in load_file(single).items()}
    write_tensors(single, tensors, torch.float32, metadata, overwrite=True)
    assert_same_weights(load_components(single), components)


@pytest.mark.parametrize("convolution", [False, True])
def test_the_autoencoders_attention_under_its_old_names(
    folder: Path, components: Components, convolution: bool
) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    changes: dict[str, torch.Tensor | None] = {}
    for key, tensor in load_file(folder / VAE_FILE).items():
        for new, name in old.items():
            if f".{new}." in key:
                changes[key] = None
                unsqueezed = convolution and key.endswith("weight")
                changes[key.replace(new, name)] = tensor[:, :, None, None] if unsqueezed else tensor
    assert len(changes) == 32
    rewrite(folder / VAE_FILE, changes)
    loaded = load_components(folder)
    assert "unexpected" not in loaded.summary
    assert_same_weights(loaded, components)


def test_text_encoders_with_and_without_their_prefix(folder: Path, components: Components) -> None:
    tensors = load_file(folder / TEXT_FILE)
    assert all(key.startswith("text_model.") for key in tensors)
    raw_tensors(folder / TEXT_FILE, {k.removeprefix("text_model."): t for k, t in tensors.items()})
    assert_same_weights(load_components(folder), components)


# Variants and shards ----------------------------------------------------------------------------


def test_only_an_fp16_variant(folder: Path, components: Components) -> None:
    half = {key: tensor.half() for key, tensor in load_file(folder / UNET_FILE).items()}
    (folder / UNET_FILE).unlink()
    raw_tensors((folder / UNET_FILE).with_suffix(".fp16.safetensors"), half)
    loaded = load_components(folder)
    assert loaded.summary.endswith("; unet/diffusion_pytorch_model.fp16.safetensors used")
    assert_same_weights(loaded, components, 2**-10)


def test_the_plain_variant_wins(folder: Path, components: Components) -> None:
    zeros = {key: torch.zeros_like(t) for key, t in load_file(folder / UNET_FILE).items()}
    raw_tensors((folder / UNET_FILE).with_suffix(".fp16.safetensors"), zeros)
    loaded = load_components(folder)
    assert "fp16" not in loaded.summary
    assert_same_weights(loaded, components)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.fp16.safetensors.index.json", "model-0000{}-of-00002.fp16.safetensors"),
    ],
)
def test_shards_under_every_name(
    folder: Path, components: Components, index: str, shard: str
) -> None:
    cut(folder / "unet", "diffusion_pytorch_" + index, "diffusion_pytorch_" + shard)
    assert_same_weights(load_components(folder), components)


def cut(
    folder: Path,
    index: str = "diffusion_pytorch_model.safetensors.index.json",
    shard: str = "diffusion_pytorch_model-0000{}-of-00002.safetensors",
) -> Path:
    """Cut a folder's weights into two files with an index."""
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    keys = sorted(tensors)
    weight_map = {}
    for number, half in enumerate((keys[:100], keys[100:]), 1):
        raw_tensors(folder / shard.format(number), {key: tensors[key] for key in half})
        weight_map |= dict.fromkeys(half, shard.format(number))
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / index


def test_spoilt_shards(folder: Path) -> None:
    index = cut(folder / "unet")
    first = folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    key = sorted(load_file(first))[0]

    rewrite(first, {key: None})
    assert f"lists 1 tensors that its shards lack, such as {key}" in refusal(folder)

    rewrite(first, {key: torch.zeros(1), "stranger": torch.zeros(1)})
    assert "does not list stranger of diffusion_pytorch_model-00001" in refusal(folder)

    first.unlink()
    assert f"names a shard {first.name}, which is not there" in refusal(folder)

    index.write_text(json.dumps({"weight_map": {key: "../../vae/x.safetensors"}}))
    assert "names a shard '../../vae/x.safetensors' outside its folder" in refusal(folder)

    index.write_text(json.dumps({"weight_map": []}))
    assert "`weight_map` must be an object" in refusal(folder)


# Configurations ---------------------------------------------------------------------------------


def test_a_missing_configuration(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    assert f"{folder}/vae/config.json - missing" in refusal(folder)


def test_a_garbled_configuration(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text('{"in_channels": NaN}')
    expected = (
        f"{folder}/unet/config.json - `in_channels` must be an integer from 1 to 64, found NaN"
    )
    assert refusal(folder) == expected
    (folder / "unet" / "config.json").write_text('{"in_channels": 4')
    assert f"{folder}/unet/config.json - not valid JSON (" in refusal(folder)


def test_a_configuration_of_another_network(folder: Path) -> None:
    edit_json(folder / "unet" / "config.json", dual_cross_attention=True)
    line = refusal(folder)
    assert f"{folder}/unet/config.json - `dual_cross_attention`: true describes" in line


def test_a_huge_network_is_refused_before_memory_is_taken(folder: Path) -> None:
    edit_json(folder / "text_encoder" / "config.json", num_hidden_layers=64, vocab_size=1_000_000)
    assert "of the text encoder's 1028 tensors are missing" in refusal(folder)


def test_inpainting_loads_and_says_so(folder: Path) -> None:
    edit_json(folder / "unet" / "config.json", in_channels=9)
    rewrite(folder / UNET_FILE, {"conv_in.weight": torch.zeros(32, 9, 3, 3)})
    assert load_components(folder).config.unet.in_channels == 9
    assert inspect(folder).family == "Stable Diffusion 1.x inpainting"


# Memory -----------------------------------------------------------------------------------------


def test_too_little_memory(
    folder: Path, components: Components, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  999999 kB\nMemAvailable:     10000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    line = refusal(folder, MemoryShortage)
    assert (
        f"{folder} - its weights take, as fp32, 0.01 GiB and 0.01 GiB of memory are free on cpu"
        in line
    )
    assert_same_weights(load_components(folder, dtype=torch.bfloat16), components, 2**-7)
    assert_same_weights(load_components(folder, force=True), components)


def test_no_estimate_where_the_system_gives_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    load_components(folder)
