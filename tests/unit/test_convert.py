"""Models written in another layout or type, and two of them compared."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sd_scratch
from sd_scratch.checkpoints import load_components, save_folder
from sd_scratch.checkpoints.compare import compare
from sd_scratch.checkpoints.hub import check_revision
from sd_scratch.cli import main
from sd_scratch.errors import UsageError
from tests.checkpoints import assert_same_weights, rewrite
from tests.tiny import tiny_components

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tiny_components(), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_folder_becomes_a_file_and_a_folder_again(folder: Path, tmp_path: Path) -> None:
    single, again = tmp_path / "one.safetensors", tmp_path / "again"
    assert main(["weights", "convert", str(folder), str(single), "--dtype", "float32"]) == 0
    assert main(["weights", "convert", str(single), str(again), "--dtype", "float32"]) == 0
    assert_same_weights(load_components(again), load_components(folder))
    assert main(["weights", "compare", str(folder), str(again)]) == 0
    assert compare(folder, single) == []
    assert main(["weights", "convert", str(folder), str(single)]) == 2  # there already
    assert main(["weights", "convert", str(folder), str(single), "--overwrite"]) == 0
    assert {tensor.dtype for tensor in load_file(single).values()} == {torch.float16}
    assert compare(folder, single)


def test_loras_are_merged_in(folder: Path, tmp_path: Path) -> None:
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {
        f"{place}.lora_A.weight": torch.randn(2, 64),
        f"{place}.lora_B.weight": torch.ones(64, 2),
    }
    save_file(lora, file := tmp_path / "a.safetensors")
    words = ["weights", "convert", str(folder), "--dtype", "float32", "--lora", f"{file}:0.5"]
    assert main([*words, str(tmp_path / "merged"), "--lora", f"{file}:0.25"]) == 0
    assert main([*words, str(tmp_path / "one.safetensors"), "--lora", f"{file}:0.25"]) == 0
    live = sd_scratch.load(str(folder)).with_lora(file, 0.5).with_lora(file, 0.25).components
    assert_same_weights(load_components(tmp_path / "merged"), live)
    assert_same_weights(load_components(tmp_path / "one.safetensors"), live)
    assert [d.name for d in compare(folder, tmp_path / "merged")] == [f"{place}.weight"]
    assert main([*words, str(tmp_path / "no"), "--lora", "nowhere.safetensors"]) == 2
    assert not (tmp_path / "no").exists()


def test_what_differs_is_named_in_the_order_of_a_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_folder(tiny_components(), other := tmp_path / "other")
    state = load_file(folder / UNET_FILE)
    first, last = state["conv_in.bias"], state["conv_out.bias"]
    rewrite(other / UNET_FILE, {"conv_in.bias": first + 0.25, "conv_out.bias": last + 0.5})
    found = compare(folder, other)
    assert [d.name for d in found] == ["unet.conv_in.bias", "unet.conv_out.bias"]
    assert [d.largest for d in found] == pytest.approx([0.25, 0.5], abs=1e-6)
    assert main(["weights", "compare", str(folder), str(other)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "2 tensors differ, in the order of a run first unet.conv_in.bias"
    assert said[1].startswith("unet.conv_out.bias: by up to 0.5,")  # the largest one first
    main(["weights", "compare", str(folder), str(other), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["name"] == "unet.conv_in.bias"
    rewrite(other / UNET_FILE, {"conv_in.bias": None})
    assert compare(folder, other)[0].note == "is not in the second"


def test_a_number_that_is_none_differs_wherever_it_stands(folder: Path, tmp_path: Path) -> None:
    """Also in the last of the pieces that are compared at a time."""
    other = tmp_path / "other"
    save_folder(tiny_components(), other)
    key, file = "conv_out.bias", other / UNET_FILE
    table = "text_model.embeddings.token_embedding.weight"
    words = load_file(other / "text_encoder/model.safetensors")[table]
    largest = float(words.abs().max())
    words[-1, -1] += 0.5
    rewrite(other / "text_encoder/model.safetensors", {table: words})
    rewrite(file, {key: torch.full_like(load_file(file)[key], torch.nan)})
    first, second = compare(folder, other)
    assert first.name == "text.embeddings.token_embedding.weight"
    assert first.largest == pytest.approx(0.5) and first.scale == largest
    assert second.name == f"unet.{key}" and second.largest != second.largest


@pytest.mark.parametrize("name", ["main", "v1.0", "refs/pr/3", "a" * 40, "fp16", "my-branch_2"])
def test_names_of_revisions(name: str) -> None:
    check_revision(name)


@pytest.mark.parametrize(
    "name", ["../../x", "a/../b", "/etc", "", "a//b", ".git", "a/.b", "x\n", "a b", "a" * 201, "b."]
)
def test_names_that_are_no_revisions(name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a branch"):
        check_revision(name)


@pytest.mark.parametrize(("name", "reason"), [("", "an empty name"), ("~nobody_here/x", "no such")])
def test_models_without_a_name(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        load_components(name)
