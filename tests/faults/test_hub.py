"""The hub through its real client, against a small hub on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from sd_scratch.checkpoints import Components, download, list_cached, load_components, save_folder
from sd_scratch.checkpoints import hub as client
from sd_scratch.checkpoints.parts import PARTS
from sd_scratch.errors import ScratchError, UsageError
from tests.checkpoints import assert_same_weights
from tests.fake_hub import COMMIT, REPO, TOKEN, Hub, reach


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reach(f"http://127.0.0.1:{port}", monkeypatch)


def refusal(source: str, capfd: pytest.CaptureFixture[str] | None = None, **options: object) -> str:
    with pytest.raises(ScratchError) as caught:
        load_components(source, **options)
    assert not isinstance(caught.value, UsageError)
    line = str(caught.value)
    assert "\n" not in line
    assert TOKEN not in line
    if capfd is not None:
        assert TOKEN not in "".join(capfd.readouterr())
    return line


def test_only_what_is_needed_is_downloaded(hub: Hub, components: Components) -> None:
    loaded = load_components(REPO)
    assert_same_weights(loaded, components)
    assert loaded.source == REPO
    assert sorted(hub.served()) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert any(h.get("authorization") == f"Bearer {TOKEN}" for _, _, h in lower(hub))


def lower(hub: Hub) -> list[tuple[str, str, dict[str, str]]]:
    return [(m, p, {k.lower(): v for k, v in h.items()}) for m, p, h in hub.requests]


def test_the_second_time_nothing_is_downloaded(hub: Hub) -> None:
    first = download(REPO)
    hub.requests.clear()
    assert download(REPO) == first
    assert not hub.served()


def test_a_revision(hub: Hub) -> None:
    assert download(REPO, revision=COMMIT).name == COMMIT
    assert download(REPO, revision="main").name == COMMIT


def test_shards_and_an_fp16_variant(hub: Hub, components: Components, tmp_path: Path) -> None:
    save_folder(components, tmp_path / "m", torch.float16, shard_bytes=2_000_000)
    names = [p for p in (tmp_path / "m").rglob("*.*") if p.is_file()]
    hub.files[REPO] = {p.relative_to(tmp_path / "m").as_posix(): p.read_bytes() for p in names}
    vae = hub.files[REPO].pop("vae/diffusion_pytorch_model.safetensors")
    hub.files[REPO]["vae/diffusion_pytorch_model.fp16.safetensors"] = vae
    loaded = load_components(REPO)
    assert_same_weights(loaded, components, 2**-10)
    assert "vae/diffusion_pytorch_model.fp16.safetensors used" in loaded.summary


def test_offline_with_a_copy(hub: Hub, components: Components) -> None:
    download(REPO)
    hub.requests.clear()
    assert_same_weights(load_components(REPO, offline=True), components)
    assert not hub.requests


def test_offline_without_a_copy(hub: Hub) -> None:
    line = refusal(REPO, offline=True)
    assert f"{REPO} - not in the cache ({constants.HF_HUB_CACHE}), and offline" in line
    assert f"run once with a network: sd-scratch weights download {REPO}" in line
    assert not hub.requests


def test_offline_with_half_a_copy(hub: Hub) -> None:
    folder = download(REPO)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert f"{REPO} - only partly in the cache" in refusal(REPO, offline=True)


def test_no_network_with_a_copy(hub: Hub, request: pytest.FixtureRequest) -> None:
    download(REPO)
    request.getfixturevalue("no_network")
    load_components(REPO)


def test_no_network_without_a_copy(hub: Hub, no_network: None) -> None:
    line = refusal(REPO)
    assert f"the connection to {constants.ENDPOINT} failed (ConnectError)" in line


def test_no_such_model(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    line = refusal("someone/else", capfd)
    assert line.startswith(
        "someone/else - no such folder here and no such model on the hub - check"
    )
    assert "for a private model log in with: hf auth login" in line


def test_a_model_that_has_moved(hub: Hub) -> None:
    assert refusal("runwayml/stable-diffusion-v1-5").endswith("it has moved: use sd15")


@pytest.mark.parametrize(
    ("status", "cause"),
    [(401, "hf auth login"), (500, "the hub may be down"), (429, "too many requests")],
)
def test_other_answers(hub: Hub, status: int, cause: str) -> None:
    hub.failing = status
    line = refusal(REPO)
    assert cause in line


def test_a_login_page_in_the_way(hub: Hub) -> None:
    hub.portal = b"<html>Welcome to the hotel's network"
    line = refusal(REPO)
    assert f"{hub.endpoint} gave an answer that is not a hub's" in line


def test_a_repository_of_another_kind(hub: Hub) -> None:
    hub.files[REPO] = {"README.md": b"", "model.safetensors": b""}
    line = refusal(REPO)
    assert f"{REPO} - has no safetensors weights in text_encoder/" in line
    assert not hub.served()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://huggingface.co/some-one/tiny", "give some-one/tiny"),
        ("https://hf.co/some-one/tiny/", "give some-one/tiny"),
        ("https://huggingface.co/a/b/blob/main/x.safetensors", "download its file"),
        ("https://civitai.com/models/4384", "download its file and give the path"),
    ],
)
def test_an_address_is_told_from_a_path(hub: Hub, address: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"an address, and no path or hub id - {said}"):
        load_components(address)
    assert not hub.requests


def test_a_folder_of_the_client_s_cache_is_named(hub: Hub) -> None:
    snapshot = download(REPO)
    with pytest.raises(ScratchError, match=f"the hub client's cache.* give .*{snapshot.name}"):
        load_components(snapshot.parents[1])
    assert load_components(snapshot)


@pytest.mark.parametrize("name", ["a/b/c", "some one/else", "../x", "x/..", "a" * 200 + "/b"])
def test_what_is_no_id_is_not_asked_for(hub: Hub, name: str) -> None:
    with pytest.raises(ScratchError, match="no such model; looked for"):
        load_components(name)
    assert not hub.requests


# A network alone --------------------------------------------------------------------------------


def test_a_vae_of_its_own(hub: Hub, tiny_folder: Path, components: Components) -> None:
    """As stabilityai/sd-vae-ft-mse has it: at the root, in every variant."""
    files = {n[4:]: data for n, data in hub.files[REPO].items() if n.startswith("vae/")}
    extra = ("README.md", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors")
    hub.files["someone/vae"] = files | dict.fromkeys(extra, b"not needed")
    for offline in (False, True):
        made = load_components(tiny_folder, vae="someone/vae", offline=offline)
        found, wanted = made.vae.state_dict(), components.vae.state_dict()
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
        assert "VAE of someone/vae" in made.summary
    assert sorted(hub.served()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_the_vae_of_a_whole_model_and_nothing_else_of_it(hub: Hub, tiny_folder: Path) -> None:
    load_components(tiny_folder, vae=REPO)
    files = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert sorted(hub.served()) == files
    assert "only partly in the cache" in refusal(REPO, offline=True)


def test_the_text_encoder_of_a_whole_model_and_nothing_else_of_it(
    hub: Hub, tiny_folder: Path, components: Components
) -> None:
    made = load_components(tiny_folder, text_encoder=REPO)
    found, wanted = made.text.state_dict(), components.text.state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert sorted(hub.served()) == [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
    ]


def test_what_a_tokenizer_says_beside_its_vocabulary_comes_along(hub: Hub) -> None:
    """Tokens of the model's own, and what Stable Diffusion 2.x fills prompts up with."""
    hub.files[REPO]["tokenizer/added_tokens.json"] = b'{"<cat-toy>": 500}'
    del hub.files[REPO]["tokenizer/tokenizer_config.json"]
    hub.files[REPO]["tokenizer/special_tokens_map.json"] = b'{"pad_token": "!"}'
    tokenizer = load_components(REPO).tokenizer
    assert "<cat-toy>" in tokenizer.added
    assert tokenizer.padding == "!"


def test_no_vae_at_all(hub: Hub, tiny_folder: Path) -> None:
    hub.files["someone/text"] = {"config.json": b"{}", "model.safetensors": b""}
    with pytest.raises(ScratchError, match=r"someone/text - holds no VAE: no config.json with"):
        load_components(tiny_folder, vae="someone/text")
    assert not hub.served()
    with pytest.raises(ScratchError, match="not in the cache"):
        load_components(tiny_folder, vae="someone/else", offline=True)


# The pinned model -------------------------------------------------------------------------------


def test_a_pinned_model(hub: Hub, pinned: client.Pinned, components: Components) -> None:
    assert_same_weights(load_components("sd15"), components)
    assert all(name in hub.served() for name in pinned.sha256)
    assert "unet/diffusion_pytorch_model.bin" not in hub.served()
    hub.requests.clear()
    load_components("sd15", offline=True)
    assert not hub.requests


def test_the_vae_of_the_pinned_model_is_verified(
    hub: Hub, pinned: client.Pinned, tiny_folder: Path
) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    load_components(tiny_folder, vae="sd15")
    assert sorted(hub.served()) == ["vae/config.json", name]
    hub.files[REPO][name] = hub.files[REPO][name][:-4] + b"abcd"
    for file in Path(constants.HF_HUB_CACHE).rglob("*.safetensors"):
        file.resolve().unlink()
        file.unlink()
    with pytest.raises(ScratchError, match=f"{name} - its sha256 is "):
        load_components(tiny_folder, vae="sd15")


def test_the_pin_is_well_formed() -> None:
    pin = client.PINNED["sd15"]
    assert len(pin.revision) == 40
    assert all(len(value) == 64 for value in pin.sha256.values())
    assert set(pin.sha256) == {f"{part.folder}/{part.stem}.safetensors" for part in PARTS.values()}


# The cache and the environment ------------------------------------------------------------------


def test_the_cache_is_listed(hub: Hub) -> None:
    assert list_cached() == []
    folder = download(REPO)
    (model,) = list_cached()
    assert (model.repo, model.revision) == (REPO, COMMIT)
    assert model.size > 10_000_000
    assert model.path == folder


def test_the_environment_is_honoured(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, which the client reads when it is imported."""
    code = f"""
import sys
import time
from sd_scratch.checkpoints import download
from sd_scratch.errors import ScratchError, UsageError
try:
    print(download("{REPO}"))
except ScratchError as error:
    sys.exit(str(error))
"""
    variables = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "",
    }

    def run(**changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | variables | changes,
            capture_output=True,
            text=True,
        )

    offline = run(HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert "not in the cache" in offline.stderr
    assert not hub.requests
    online = run()
    assert online.stdout.strip().startswith(str(tmp_path / "home" / "hub"))
    assert hub.served()
    assert run(HF_HUB_OFFLINE="1").stdout == online.stdout
