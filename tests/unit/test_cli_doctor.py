import json
from importlib import metadata

import pytest

from sd_scratch.checkpoints import hub, shipped
from sd_scratch.cli import doctor, main
from sd_scratch.diffusion.samplers import SAMPLERS


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(hub, "list_cached", list)
    monkeypatch.setattr(shipped, "weights_folder", lambda: tmp_path)


def test_json_holds_what_a_bug_report_needs(capsys) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["torch"] == metadata.version("torch")
    assert report["machine"]["cores"] >= 1
    assert "cpu" in report["devices"]
    assert report["disk"]["free here GiB"] >= 0
    assert report["samplers"].keys() == SAMPLERS.keys()
    assert list(report["models"]) == ["none"]


def test_text_has_a_line_for_everything(capsys) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "versions"
    assert {line.split()[0] for line in lines} >= {
        "sd_scratch",
        "python",
        *doctor.NEEDED,
        *SAMPLERS,
    }


def test_missing_packages_are_named(monkeypatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", version)
    found = doctor.versions()
    assert found["torch"] == "missing"
    assert found["diffusers"] == "not installed (optional)"


def test_no_network_is_told(monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.disk()["hub"] == "offline (HF_HUB_OFFLINE)"
