"""Weights of the small models (pixels, classifier, CLIP) that do not fit, refused before memory is taken."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sd_scratch.checkpoints import memory
from sd_scratch.checkpoints.clip import load_clip
from sd_scratch.checkpoints.pixel_model import load_classifier, load_pixel_model
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.errors import ScratchError
from tests.checkpoints import edit_json, rewrite

LOADERS: dict[str, Callable[[str], object]] = {
    "ddpm-mnist": load_pixel_model,
    "scenes-classifier": load_classifier,
    "scenes-clip": load_clip,
}


@pytest.fixture(params=LOADERS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights_folder() / request.param, tmp_path / request.param))


def refusal(model: Path) -> str:
    with pytest.raises(ScratchError) as caught:
        LOADERS[model.name](str(model))
    line = str(caught.value)
    assert line.startswith(str(model))
    assert "\n" not in line
    return line


def retype(path: Path, dtype: str, size: int) -> str:
    """Let the header say that the first tensor has another type, of as many bytes; its name."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    key = next(
        k
        for k, e in header.items()
        if k != "__metadata__" and e["shape"] and e["shape"][-1] % 4 == 0
    )
    entry = header[key]
    entry["dtype"] = dtype
    entry["shape"][-1] = entry["shape"][-1] * 2 // size  # what is shipped has two bytes a number
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return str(key)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("C64", 8), ("U16", 2), ("I16", 2), ("F8_E8M0", 1), ("I8", 1), ("BOOL", 1)],
)
def test_weights_that_are_no_floating_point_numbers(model: Path, dtype: str, size: int) -> None:
    key = retype(model / "model.safetensors", dtype, size)
    line = refusal(model)
    assert key in line
    # A type of another size changes the shape, which is refused first.
    assert f"is stored as {dtype} - quantised" in line if size == 2 else "the network needs" in line


def test_a_configuration_much_larger_than_its_weights(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise AssertionError("a tensor was read before shapes were compared")

    monkeypatch.setattr(StoredTensor, "read", no_memory)
    if model.name == "scenes-clip":
        config = json.loads((model / "config.json").read_text())
        edit_json(
            model / "config.json", vision_config=config["vision_config"] | {"hidden_size": 16384}
        )
    else:
        network = json.loads((model / "config.json").read_text())["network"]
        wide = network | {"block_out_channels": [15360] * len(network["block_out_channels"])}
        edit_json(model / "config.json", network=wide)
    assert "the network needs" in refusal(model)


def test_a_tensor_that_is_missing_and_one_too_many(model: Path) -> None:
    weights = model / "model.safetensors"
    key = next(iter(build_keys(weights)))
    rewrite(weights, {"stranger": torch.zeros(1)})
    if model.name != "scenes-clip":  # CLIP's files hold constants that are not needed
        assert "stranger" in refusal(model)
    rewrite(weights, {"stranger": None, key: None})
    assert f"tensors are missing: {key}" in refusal(model)


def build_keys(weights: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        return list(file.keys())


def test_more_than_the_free_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    assert "of memory are free" in refusal(model)


def test_a_pickle_that_is_a_list(tmp_path: Path) -> None:
    model = Path(shutil.copytree(weights_folder() / "scenes-clip", tmp_path / "scenes-clip"))
    (model / "model.safetensors").unlink()
    torch.save([torch.zeros(1)], model / "pytorch_model.bin")
    assert "pytorch_model.bin - holds a list and no weights by their names" in refusal(model)
