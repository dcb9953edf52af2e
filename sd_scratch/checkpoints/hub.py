"""Models of the hub, through `huggingface_hub`: only the needed files, and one clear line for every fault.

The client reads HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and the user's token from the environment, caches
downloads, and resumes broken transfers. It is imported only here and only for a hub id, because importing it
takes a noticeable part of a second.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sd_scratch.checkpoints.folder_files import choose_weights
from sd_scratch.checkpoints.hashes import cached_sha256
from sd_scratch.checkpoints.parts import PARTS, Part
from sd_scratch.errors import ScratchError, UsageError

CLIP_S_OWN = ("vocab.json", "merges.txt")
TOKENIZER = (  # added tokens and the padding are in any of the others
    *CLIP_S_OWN,
    *("tokenizer.json", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"),
)
OPTIONAL_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
)
REVISION = re.compile(r"[A-Za-z0-9_][\w.+-]*(?<![.])")  # each part of its name
TIMEOUT = 10.0  # seconds for the list of a model's files


@dataclass(frozen=True)
class Pinned:
    """A hub model at one commit, with the sha256 of its weights: names on a hub can change hands."""

    repo: str
    revision: str
    sha256: Mapping[str, str]  # of its weight files; all else that is loaded is configuration


PINNED = {
    "sd15": Pinned(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        {
            "text_encoder/model.safetensors": (
                "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334"
            ),
            "unet/diffusion_pytorch_model.safetensors": (
                "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1"
            ),
            "vae/diffusion_pytorch_model.safetensors": (
                "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c"
            ),
        },
    )
}
MOVED = {"runwayml/stable-diffusion-v1-5": "sd15"}  # gone from the hub; the same weights elsewhere


@dataclass(frozen=True)
class CachedModel:
    """A hub model in the local cache: its id, commit, size in bytes and path."""

    repo: str
    revision: str
    size: int
    path: Path


def download(
    source: str, *, revision: str | None = None, offline: bool = False, part: Part | None = None
) -> Path:
    """The local folder of a hub model, downloaded where it is not in the cache yet.

    `source` is ``owner/name`` or a name in `PINNED`; `revision` a branch, tag or commit. With `part` it is the
    folder of that network, and nothing else is downloaded but a text encoder's tokenizer: a whole model's, or a
    repository that is that network alone. Raises ScratchError for a model that does not exist, is private or gated, has no such revision, holds no
    diffusers folder, cannot be reached, or (when pinned) has other weights than expected.
    """
    from huggingface_hub import snapshot_download

    check_revision(revision)
    pin = PINNED.get(source)
    repo = pin.repo if pin else source
    pinned_here = pin is not None and revision in (None, pin.revision)
    revision = revision or (pin.revision if pin else None)
    with _explained(source, repo, revision):
        if pin is not None and pinned_here:
            names, local = _pinned_names(pin), offline
        else:
            names, local = _listing(repo, revision, offline)
        needed = _needed(repo, names, local) if part is None else _alone(repo, names, local, part)
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=needed, local_files_only=local
            )
        )
        if not all((folder / name).is_file() for name in needed if name not in OPTIONAL_FILES):
            raise _partly_cached(repo)
    if pin is not None and pinned_here:
        _verify(folder, {name: pin.sha256[name] for name in needed if name in pin.sha256})
    return folder if part is None else (folder / needed[0]).parent


def check_revision(revision: str | None) -> None:
    """Raise UsageError for what is no name of a branch, a tag or a commit, as git has them: the client
    makes paths of it."""
    if revision is None:
        return
    parts = revision.split("/")
    fits = all(REVISION.fullmatch(part) and ".." not in part for part in parts)
    if not fits or len(revision) > 200:
        raise UsageError(f"{revision[:60]!r} is no name of a branch, a tag or a commit")


def list_cached() -> list[CachedModel]:
    """The hub models in the local cache that have a U-Net, by id and commit."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    models = [
        CachedModel(
            repo.repo_id, revision.commit_hash, revision.size_on_disk, revision.snapshot_path
        )
        for repo in repos
        for revision in repo.revisions
        if repo.repo_type == "model" and (revision.snapshot_path / "unet" / "config.json").is_file()
    ]
    return sorted(models, key=lambda model: (model.repo, model.revision))


def _needed(repo: str, names: set[str], local: bool) -> list[str]:
    """Of a model's files, those that loading reads."""
    needed = [name for name in OPTIONAL_FILES if name in names]
    for part in PARTS.values():
        folder, weights = part.folder, choose_weights(names, part)
        if not weights and not part.needed:
            continue
        if not weights and local:
            raise _partly_cached(repo)
        if not weights:
            raise ScratchError(
                f"{repo} - has no safetensors weights in {folder}/ - it is not a Stable Diffusion 1.x"
                " model as a diffusers folder; for a single file: hf download, then give the file's path"
            )
        needed += [f"{folder}/config.json", *weights]
    return needed


def _alone(repo: str, names: set[str], local: bool, part: Part) -> list[str]:
    """Of a repository's files, those of one network: its configuration, then its weights, and its tokenizer."""
    for prefix in (f"{part.folder}/", ""):
        inside = {n.removeprefix(prefix) for n in names if n.startswith(prefix)}
        weights = choose_weights({f"{part.folder}/{name}" for name in inside}, part)
        if weights and "config.json" in inside:
            files = ["config.json", *(name.removeprefix(f"{part.folder}/") for name in weights)]
            beside = "tokenizer/" if prefix else ""
            tokenizer = TOKENIZER if part.name == "text" else ()
            found = (f"{beside}{name}" for name in tokenizer if f"{beside}{name}" in names)
            return [*(f"{prefix}{name}" for name in files), *found]
    if local:
        raise _partly_cached(repo)
    raise ScratchError(
        f"{repo} - holds no {part.title}: no config.json with safetensors weights, in {part.folder}/ or at its"
        " root - for a single file: hf download, then give the file's path"
    )


def _partly_cached(repo: str) -> ScratchError:
    return ScratchError(
        f"{repo} - only partly in the cache, and the hub is out of reach - run once with a network"
    )


def _listing(repo: str, revision: str | None, offline: bool) -> tuple[set[str], bool]:
    """The names of a model's files, and whether they are those of the local cache: offline, or when the
    hub cannot be asked and there is a copy."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    failure: Exception | None = None
    if not offline:
        try:
            info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
            return {file.rfilename for file in info.siblings or []}, False
        except RevisionNotFoundError:
            raise
        except (transport_error(), OfflineModeIsEnabled) as error:
            failure = error
    try:
        # The pattern matches nothing: this only asks where the copy is.
        folder = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=["-"]
        )
    except LocalEntryNotFoundError as error:
        raise (failure or error) from None
    root = Path(folder)
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}, True


def _pinned_names(pin: Pinned) -> set[str]:
    configs = {f"{part.folder}/config.json" for part in PARTS.values() if part.needed}
    others = {f"tokenizer/{name}" for name in TOKENIZER if name not in CLIP_S_OWN}
    return configs | set(pin.sha256) | (set(OPTIONAL_FILES) - others)


def _verify(folder: Path, sums: Mapping[str, str]) -> None:
    for name, expected in sums.items():
        found = cached_sha256([folder / name])
        if found != expected:
            raise ScratchError(
                f"{folder / name} - its sha256 is {found[:10]}..., {expected[:10]}... was expected -"
                f" the file is damaged or was replaced; delete it and download again"
            )


def transport_error() -> type[Exception]:
    """What the client's HTTP library raises when a connection fails: the base of the client's own error.
    Which library that is differs between the client's versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


@contextlib.contextmanager
def _explained(source: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn the client's errors into one sentence each. Their own texts are not passed on: they may hold
    addresses and headers."""
    from huggingface_hub import constants, errors

    at = f"{repo} at {revision}" if revision else repo
    again = f"sd-scratch weights download {source}"
    host = constants.ENDPOINT
    try:
        yield
    except ScratchError:
        raise
    except errors.GatedRepoError:
        raise ScratchError(
            f"{repo} - gated: its owner wants a licence accepted - open {host}/{repo}, accept, then log"
            " in with: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        hint = f"it has moved: use {MOVED[repo]}" if repo in MOVED else (
            "check the spelling; for a private model log in with: hf auth login"
        )  # fmt: skip
        raise ScratchError(
            f"{repo} - no such folder here and no such model on the hub - {hint}"
        ) from None
    except errors.RevisionNotFoundError:
        raise ScratchError(
            f"{repo} - has no revision {revision} - check its list of commits"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise ScratchError(
            f"{at} - not in the cache ({constants.HF_HUB_CACHE}), and offline or {host} out of reach -"
            f" run once with a network: {again}"
        ) from None
    except errors.HFValidationError:
        raise ScratchError(f"{repo} - not a model's id - it looks like owner/name") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        cause = {401: "the token is not valid: hf auth login", 429: "too many requests: wait"}.get(
            status, "the hub may be down: try again later"
        )
        raise ScratchError(f"{at} - {host} answered {status} - {cause}") from None
    except transport_error() as error:
        raise ScratchError(
            f"{at} - the connection to {host} failed ({type(error).__name__}) - check the network and"
            f" run again; finished files stay in {constants.HF_HUB_CACHE}"
        ) from None
    except OSError as error:
        reason = error.strerror or "the download broke off"
        raise ScratchError(
            f"{at} - cannot be kept in {constants.HF_HUB_CACHE}: {reason} - run again; finished files"
            " are kept"
        ) from None
    except Exception as error:  # a page of a login to the network, or a proxy's
        raise ScratchError(
            f"{at} - {host} gave an answer that is not a hub's ({type(error).__name__}) - check the"
            " network, and HF_ENDPOINT"
        ) from error
