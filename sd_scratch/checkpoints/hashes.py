"""sha256 of weight files, remembered between runs: hashing 4 GB takes seconds."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from sd_scratch.errors import ScratchError
from sd_scratch.files import open_file

BLOCK = 1 << 22  # bytes
REMEMBERED = 1000  # entries


def sha256(paths: Sequence[Path]) -> str:
    """The sha256, in hex, of the bytes of `paths` one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def cached_sha256(paths: Sequence[Path]) -> str:
    """`sha256`, looked up by path, size and modification time where it was computed before.

    The cache is a convenience: where it cannot be read or written, the hash is computed.
    """
    key = "|".join(_identity(path) for path in paths)
    known = _read_cache()
    if key not in known:
        known[key] = sha256(paths)
        _write_cache(known)
    return known[key]


def cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "sd_scratch" / "sha256.json"


def _identity(path: Path) -> str:
    path = path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise ScratchError(f"{path} - cannot be read: {error.strerror}") from None
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


def _read_cache() -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the last: no home folder
        data = json.loads(cache_file().read_text())
        if isinstance(data, dict):
            return {str(k): v for k, v in data.items() if isinstance(v, str) and len(v) == 64}
    return {}


def _write_cache(known: dict[str, str]) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        file = cache_file()
        part = file.with_suffix(f".{os.getpid()}.part")
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(dict(list(known.items())[-REMEMBERED:]), indent=1))
        os.replace(part, file)
