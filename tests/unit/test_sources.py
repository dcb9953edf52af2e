from pathlib import Path

import pytest
import torch

from sd_scratch.checkpoints import list_shipped, load_components, save_folder, shipped
from sd_scratch.checkpoints.source import Place, locate
from tests.checkpoints import assert_same_weights
from tests.tiny import tiny_components


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one shipped model, and the package in it."""
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "checkout" / "sd_scratch")
    model = tmp_path / "checkout" / "weights" / "shapes"
    save_folder(tiny_components(), model, torch.float16)
    (tmp_path / "checkout" / "weights" / "unfinished").mkdir()
    return tmp_path / "checkout"


def test_shipped_models_lie_in_the_checkout(checkout: Path) -> None:
    assert list_shipped() == ["shapes"]
    assert locate("shapes") == Place(checkout / "weights" / "shapes", "shapes")
    loaded = load_components("shapes")
    assert loaded.source == "shapes"
    assert_same_weights(loaded, tiny_components(), 2**-10)


def test_an_installed_package_has_its_own_copy(checkout: Path) -> None:
    (checkout / "weights").rename(checkout / "elsewhere")
    (checkout / "sd_scratch").mkdir()
    (checkout / "elsewhere").rename(checkout / "sd_scratch" / "weights")
    assert list_shipped() == ["shapes"]
    assert locate("shapes").path == checkout / "sd_scratch" / "weights" / "shapes"


def test_nothing_is_shipped_where_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "sd_scratch")
    assert list_shipped() == []


def test_a_name_wins_over_a_path_and_a_path_over_the_hub(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert locate("shapes").path == checkout / "weights" / "shapes"
    assert locate("./shapes").path == Path("shapes")
    assert locate("owner/name") == Place(Path("owner/name"), "name")


def test_a_model_is_called_as_its_file_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v1-5-pruned.safetensors").touch()
    assert locate("v1-5-pruned.safetensors").name == "v1-5-pruned"
    assert locate(tmp_path / "v1-5-pruned.safetensors").name == "v1-5-pruned"
    assert locate(".").name == tmp_path.name


def test_a_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert locate("~/models").path == tmp_path / "models"
