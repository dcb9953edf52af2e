"""A wheel built from the checkout works where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

import sd_scratch

ROOT = Path(__file__).resolve().parents[2]
CORE = {"torch", "safetensors", "numpy", "pillow", "tqdm", "regex", "ftfy", "huggingface_hub"}
KINDS = ("model_index.json", "config.json")  # a diffusers folder, or a model of pixels
SHIPPED = sorted(index.parent.name for kind in KINDS for index in ROOT.glob(f"weights/*/{kind}"))
needs_model = pytest.mark.skipif("scenes" not in SHIPPED, reason="no model is shipped yet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel in it; the libraries are borrowed."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, symlinks=True)
    pip("--python", str(folder / "bin" / "python"), "install", "--no-deps", str(wheel))
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def pip(*args: str) -> None:
    run([sys.executable, "-m", "pip", "--no-input", *args], cwd=ROOT)


def run(command: list[str | Path], cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_the_package_with_its_data_and_weights_and_nothing_else(wheel: Path) -> None:
    ignored = {"__pycache__"}
    there = {
        file.relative_to(ROOT).as_posix(): file
        for file in ROOT.glob("sd_scratch/**/*")
        if file.is_file() and not ignored & set(file.parts)
    } | {
        "sd_scratch/" + file.relative_to(ROOT).as_posix(): file
        for file in ROOT.glob("weights/**/*")
        if file.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert inside == set(there)
        for name in inside:
            assert archive.read(name) == there[name].read_bytes(), name


def test_it_wants_exactly_the_core_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(metadata).decode())
    wanted = [Requirement(line) for line in message.get_all("Requires-Dist", [])]
    assert {r.name.replace("-", "_") for r in wanted if r.marker is None} == CORE
    assert message["Version"] == sd_scratch.__version__
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_its_command_answers(installed: Path, tmp_path: Path) -> None:
    assert "generate" in run([installed / "sd-scratch", "--help"], tmp_path)
    assert sd_scratch.__version__ in run([installed / "sd-scratch", "--version"], tmp_path)


def test_it_runs_from_the_wheel_and_not_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(
        [installed / "python", "-c", "import sd_scratch; print(sd_scratch.__file__)"], tmp_path
    )
    assert Path(where).is_relative_to(installed.parent)


@needs_model
def test_it_finds_its_models(installed: Path, tmp_path: Path) -> None:
    listed = run([installed / "sd-scratch", "weights", "list"], tmp_path)
    assert not [name for name in SHIPPED if name not in listed]


@needs_model
def test_it_makes_a_picture(installed: Path, tmp_path: Path) -> None:
    prompt = "a large red star on a blue background"
    out = run(
        [installed / "sd-scratch", "generate", prompt, "--steps", "2", "--seed", "7"], tmp_path
    )
    picture = Image.open(tmp_path / out.strip())
    assert picture.getextrema() != ((0, 0),) * 3


def test_it_draws_a_digit(installed: Path, tmp_path: Path) -> None:
    assert "ddpm-mnist" in SHIPPED
    command = ["sample", "mnist", "--class", "7", "--steps", "2", "-o", "7.png"]
    run([installed / "sd-scratch", *command], tmp_path)
    assert Image.open(tmp_path / "7.png").convert("L").getextrema()[1] > 100
