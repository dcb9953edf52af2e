from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data that lies beside a developer's checkout; the tests that read it skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder.name}")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model with random weights, as a diffusers folder that nobody may change."""
    from sd_scratch.checkpoints import save_folder
    from tests.tiny import tiny_components

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(tiny_components(), folder)
    return folder
