"""Checkpoints that are pickles: read as their safetensors twins are, and no code of theirs is run."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sd_scratch.checkpoints import Components, inspect, load_components, save_folder
from sd_scratch.checkpoints.save import save_single_file
from sd_scratch.errors import ScratchError
from tests.checkpoints import assert_same_weights
from tests.parity.test_obeyed import PLAIN
from tests.tiny import tiny_components


@pytest.fixture(scope="module")
def components() -> Components:
    return tiny_components(PLAIN)


@pytest.fixture(scope="module")
def tensors(components: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    path = tmp_path_factory.mktemp("twin") / "model.safetensors"
    save_single_file(components, path)
    return load_file(path)


def refusal(path: Path) -> str:
    with pytest.raises(ScratchError) as caught:
        load_components(path)
    line = str(caught.value)
    assert line.startswith(f"{path} - ")
    assert "\n" not in line
    return line


def lightning(tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a training program leaves: objects of classes that are not here."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    score = torch.ones(1).double().numpy()[0]
    return {
        "epoch": 3,
        "callbacks": {kind: {"best_model_score": score, "monitor": kind()}},
        "state_dict": OrderedDict(tensors),
    }


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "twice", "lightning", "parameters"])
def test_a_pickle_is_read_as_its_safetensors_twin(
    kind: str,
    tensors: dict[str, Tensor],
    components: Components,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content: Any = {"state_dict": tensors, "global_step": 7}
    if kind == "bare":
        content = tensors
    elif kind == "twice":
        content = {"state_dict": {"state_dict": tensors}}
    elif kind == "lightning":
        content = lightning(tensors, monkeypatch)
    elif kind == "parameters":
        content = {key: torch.nn.Parameter(value) for key, value in tensors.items()}
    path = tmp_path / "model.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    assert_same_weights(load_components(path), components)
    assert not inspect(path).problem


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_types_may_be_mixed(dtype: torch.dtype, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    mixed = {k: v.to(dtype) if i % 2 else v for i, (k, v) in enumerate(tensors.items())}
    torch.save(mixed, tmp_path / "model.ckpt")
    found = load_components(tmp_path / "model.ckpt").unet.conv_in.weight
    expected = mixed["model.diffusion_model.input_blocks.0.0.weight"].float()
    assert torch.equal(found, expected)


def test_keys_of_a_compiled_module(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    wrapped = {
        key.replace("diffusion_model.", "diffusion_model._orig_mod."): value
        for key, value in tensors.items()
    }
    torch.save(wrapped, tmp_path / "model.pt")
    assert "unexpected" not in load_components(tmp_path / "model.pt").summary


def test_a_folder_of_pickles(components: Components, tmp_path: Path) -> None:
    save_folder(components, tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        name = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(load_file(file), file.with_name(f"{name}.bin"))
        file.unlink()
    found = load_components(tmp_path / "model")
    assert_same_weights(found, components)
    assert "unet/diffusion_pytorch_model.bin used" in found.summary


class Payload:
    """Calls something when it is unpickled."""

    def __init__(self, call: Any, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (exec, "builtins.exec"),
        (eval, "builtins.eval"),
        (__import__, "builtins.__import__"),
        (__import__("os").system, "system"),
        (__import__("subprocess").Popen, "Popen"),
        (__import__("runpy")._run_code, "runpy"),
        (__import__("shutil").rmtree, "shutil.rmtree"),
        (__import__("importlib").import_module, "importlib.import_module"),
        (__import__("operator").attrgetter, "operator.attrgetter"),
        (torch.load, "torch.serialization.load"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(
    call: Any, named: str, zipped: bool, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / "model.ckpt"
    content = {"state_dict": tensors, "x": Payload(call, f"open({str(trap)!r}, 'w')")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    line = refusal(path)
    assert "a pickle that holds more than tensors" in line
    assert not zipped or named in line
    assert not trap.exists()


def test_bombs_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path, key = tmp_path / "model.ckpt", "model.diffusion_model.out.2.weight"
    torch.save(tensors | {key: torch.zeros(1).expand(1_000_000, 1_000_000)}, path)
    assert f"{key} is not stored whole" in refusal(path)
    torch.save(tensors | {key: torch.eye(4).to_sparse()}, path)
    assert f"{key} is not stored whole" in refusal(path)
    torch.save(tensors | {key: torch.empty(10**6, 10**6, device="meta")}, path)
    assert "is not stored whole" in refusal(path)


def rezip(path: Path, **options: Any) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, data in (entries | options.get("more", {})).items():
            archive.writestr(name, data)


def test_archives_that_pytorch_does_not_write(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(tensors, path)
    rezip(path, compression=zipfile.ZIP_DEFLATED)
    assert "a compressed archive" in refusal(path)
    for name in ("../evil", "/evil", "model/data/../../evil", "model/code.py"):
        torch.save(tensors, path)
        rezip(path, more={name: b"x"})
        assert "an archive with files that PyTorch does not write" in refusal(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(1)], "holds a list and no weights"),
        ({"state_dict": {"state_dict": {"state_dict": {"a": torch.zeros(1)}}}}, "holds 0 tensors"),
        ({}, "holds 0 tensors"),
        ({"a": torch.zeros(1)}, "not a Stable Diffusion checkpoint"),
    ],
)
def test_pickles_that_are_no_checkpoints(content: object, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    assert expected in refusal(tmp_path / "model.ckpt")


def test_damaged_pickles(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(tensors, path)
    data = path.read_bytes()
    for cut in (3, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        refusal(path)
    path.write_bytes(b"\x80\x02" + struct.pack("<Q", 2**60))
    refusal(path)
    loop: dict[str, Any] = {"a": torch.zeros(1)}
    loop["state_dict"] = loop
    torch.save(loop, path)
    assert "not a Stable Diffusion checkpoint" in refusal(path)
    stream = io.BytesIO()
    pickle.dump({"a": 1}, stream)
    path.write_bytes(stream.getvalue())
    refusal(path)


def test_weights_are_never_read_without_the_list(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": tensors, "x": Payload(exec, "raise SystemExit")}, path)
    assert "builtins.exec" in refusal(path)
