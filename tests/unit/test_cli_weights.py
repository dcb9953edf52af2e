import json
from pathlib import Path

import pytest

from sd_scratch.checkpoints import hub, pixel_model, save_folder, shipped
from sd_scratch.checkpoints.hub import CachedModel
from sd_scratch.cli import main
from tests.tiny import tiny_components


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def models(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shipped model, and one in the hub's cache."""
    cached = CachedModel("owner/name", "0123456789abcdef", 4_000_000_000, Path("cached"))
    for module in (shipped, pixel_model):
        monkeypatch.setattr(module, "weights_folder", lambda: tiny_folder.parent)
    monkeypatch.setattr(hub, "list_cached", lambda: [cached])


def test_list(models, capsys) -> None:
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tiny", "owner/name", "sd15"]
    assert "13 MB  shipped" in lines[0]
    assert "4,000 MB  hub cache, commit 0123456789" in lines[1]
    assert "sd-scratch weights download sd15" in lines[2]


def test_list_as_json(models, capsys) -> None:
    assert main(["weights", "list", "--json"]) == 0
    assert [model["model"] for model in json.loads(capsys.readouterr().out)] == [
        "tiny",
        "owner/name",
        "sd15",
    ]


def test_inspect(tiny_folder, capsys) -> None:
    assert main(["weights", "inspect", str(tiny_folder), "--check"]) == 0
    out = capsys.readouterr().out
    assert "family        Stable Diffusion 1.x" in out
    assert "not finite    none" in out


def test_inspect_as_json_fails_for_what_cannot_be_loaded(tmp_path, capsys) -> None:
    folder = tmp_path / "broken"
    save_folder(tiny_components(), folder)
    config = json.loads((folder / "vae" / "config.json").read_text())
    config["layers_per_block"] = 2
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    assert main(["weights", "inspect", str(folder), "--json"]) == 1
    assert "missing" in json.loads(capsys.readouterr().out)["problem"]


def test_download_prints_the_folder(models, monkeypatch, capsys) -> None:
    asked = []

    def download(source: str, **options: object) -> Path:
        asked.append((source, options))
        return Path("somewhere")

    monkeypatch.setattr(hub, "download", download)
    assert main(["weights", "download", "owner/name", "--revision", "main", "--offline"]) == 0
    assert asked == [("owner/name", {"revision": "main", "offline": True})]
    assert capsys.readouterr().out == "somewhere\n"


@pytest.mark.parametrize(("model", "reason"), [("tiny", "is shipped"), ("a/b/c", "is no hub id")])
def test_downloads_that_make_no_sense(models, capsys, model: str, reason: str) -> None:
    assert main(["weights", "download", model]) == 2
    assert reason in capsys.readouterr().err


def test_an_action_is_needed(capsys) -> None:
    assert main(["weights"]) == 2
    assert "ACTION" in capsys.readouterr().err
