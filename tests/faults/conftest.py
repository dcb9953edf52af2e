"""A hub with one small model, and a client of it with an empty cache."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from sd_scratch.checkpoints import Components, save_folder
from sd_scratch.checkpoints import hub as client
from tests.fake_hub import COMMIT, REPO, TOKEN, Hub, reach, running_hub
from tests.tiny import tiny_components


@pytest.fixture(scope="module")
def components() -> Components:
    return tiny_components()


@pytest.fixture(scope="module")
def files(components: Components, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as they are: with files that nobody needs, in every variant."""
    folder = tmp_path_factory.mktemp("repository")
    save_folder(components, folder)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
    extra = (
        "README.md",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    )
    return files | dict.fromkeys(extra, b"not needed")


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, and a client with an empty cache and a token."""
    with running_hub() as hub:
        hub.files[REPO] = dict(files)
        reach(hub.endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
        yield hub


@pytest.fixture
def pinned(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> client.Pinned:
    """The tiny repository in the place of Stable Diffusion 1.5."""
    names = client.PINNED["sd15"].sha256
    sums = {name: hashlib.sha256(hub.files[REPO][name]).hexdigest() for name in names}
    pin = client.Pinned(REPO, COMMIT, sums)
    monkeypatch.setitem(client.PINNED, "sd15", pin)
    return pin
