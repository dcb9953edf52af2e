"""Fetches the published data sets. A transfer that was cut goes on where it stopped, and a file
gets its name when its checksum is right."""

import http.client
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from sd_scratch.checkpoints.hashes import sha256
from sd_scratch.errors import ScratchError
from sd_scratch.files import explained, write_file
from sd_scratch.training.pixels.datasets import Remote, Source

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 18
USER_AGENT = "sd_scratch"
UNREACHABLE = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)

Progress = Callable[[str, int, int], None]
"""Told the file's name, the bytes that are there, and the bytes that there will be."""


def download_data(source: Source, folder: Path, progress: Progress | None = None) -> None:
    """Bring a data set's files into `folder`; those that are there and right are left alone.

    Raises `ScratchError` when a file cannot be had from any server, has another checksum than was
    published, or cannot be written. What has arrived stays, and the next call goes on from there.
    """
    for remote in source.files:
        path = folder / remote.name
        if not _is_right(path, remote):
            _fetch_from_any(source.servers, remote, path, progress)
        if remote.members:
            _unpack(folder / remote.name, folder / remote.folder, set(remote.members))


def _fetch_from_any(
    servers: tuple[str, ...], remote: Remote, path: Path, progress: Progress | None
) -> None:
    problems = []
    for server in servers:
        try:
            _fetch(server + remote.name, remote, path, progress)
            return
        except UNREACHABLE as error:
            problems.append(f"{server}: {getattr(error, 'reason', error)}")
        except OSError as error:
            raise explained(path, error) from None
    raise ScratchError(
        f"cannot fetch {remote.name} ({'; '.join(problems)}) - no network, or the server is down"
        f" - try again, or put the file into {path.parent} yourself"
    )


def _fetch(url: str, remote: Remote, path: Path, progress: Progress | None) -> None:
    """Bytes go to a file beside `path`, which gets its name when size and checksum are right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    if have >= remote.size:
        part.unlink()  # too long, or complete and found wrong by a run that was then cut
        have = 0
    with _open(url, have) as response:
        if response.status != 206:
            have = 0  # this server starts again from the first byte
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(CHUNK):
                have += file.write(chunk)
                if have > remote.size:
                    break
                if progress is not None:
                    progress(remote.name, have, remote.size)
    if have < remote.size:
        raise ConnectionError(f"only {have:,} of {remote.size:,} bytes arrived")
    if not _is_right(part, remote):
        part.unlink()
        raise ScratchError(
            f"{url} - not the published file: its checksum differs - the server was changed, or"
            " something between rewrites downloads"
        )
    os.replace(part, path)


def _open(url: str, start: int) -> Any:
    headers = {"User-Agent": USER_AGENT}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _is_right(path: Path, remote: Remote) -> bool:
    same_size = path.is_file() and path.stat().st_size == remote.size
    return same_size and sha256([path]) == remote.sha256


def _unpack(archive: Path, folder: Path, wanted: set[str]) -> None:
    """Take the files that are wanted out of the archive; nothing else in it is looked at."""
    if all((folder / name).is_file() for name in wanted):
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            data = tar.extractfile(member) if member.isfile() and name in wanted else None
            if data is not None:
                folder.mkdir(parents=True, exist_ok=True)
                write_file(folder / name, data.read(), overwrite=True)
                wanted.remove(name)
    if wanted:
        raise ScratchError(f"{archive} - lacks {', '.join(sorted(wanted))} - get it again")
