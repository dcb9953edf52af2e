import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock


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


@pytest.fixture
def tiny_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST of ten patterns, eight pixels a side, in the folder where the program looks by itself."""
    from dataclasses import replace

    import torch

    from sd_scratch.training.pixels import ddpm
    from sd_scratch.training.pixels.datasets import DATA_SETS
    from tests.digits import BETTER, JUDGE, PAPER_TINY, digits, write_idx

    monkeypatch.setattr(ddpm, "LOOK_STEPS", 2)
    presets = {"better": BETTER, "paper": PAPER_TINY}
    row = replace(DATA_SETS["mnist"], presets=presets, judge=JUDGE)
    monkeypatch.setitem(DATA_SETS, "mnist", row)
    monkeypatch.setenv("SD_SCRATCH_DATA", str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    for stem, count in (("train", 60), ("t10k", 20)):
        data = digits(count)
        write_idx(folder / f"{stem}-images-idx3-ubyte", data.images[:, 0])
        write_idx(folder / f"{stem}-labels-idx1-ubyte", data.labels.to(torch.uint8))


@pytest.fixture(scope="module")
def full_size_turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One module at a time with models of full size, however many processes the tests run in, and with all
    of the cores: its bounds were set so, as one thread adds up in another order."""
    import torch

    threads = torch.get_num_threads()
    with FileLock(tmp_path_factory.getbasetemp().parent / "full-size.lock"):
        torch.set_num_threads(max(os.cpu_count() or 1, 2))
        yield
        torch.set_num_threads(threads)
