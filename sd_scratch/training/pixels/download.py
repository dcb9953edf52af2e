"""Fetches the published data sets: checksums first, resumed where it was cut, whole or not at all."""

import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sd_scratch.errors import ScratchError
from sd_scratch.files import CAUSES, write_file
from sd_scratch.training.pixels.cifar import INNER_FOLDER, TEST_FILES, TRAIN_FILES

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 18
USER_AGENT = "sd_scratch"
UNREACHABLE = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
)

Progress = Callable[[str, int, int], None]
"""Told the file's name, the bytes that are there, and the bytes that there will be."""


@dataclass(frozen=True)
class Remote:
    """A published file: its size in bytes and its sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """The files of a data set and the servers that have them, tried in turn."""

    servers: tuple[str, ...]
    files: tuple[Remote, ...]


SOURCES = {
    "mnist": Source(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion-mnist": Source(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    "cifar10": Source(
        ("https://www.cs.toronto.edu/~kriz/",),
        (
            Remote(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
}


def download_data(
    name: str,
    folder: Path,
    *,
    sources: dict[str, Source] = SOURCES,
    progress: Progress | None = None,
) -> None:
    """Bring a data set's files into `folder`; those that are there and right are left alone.

    Raises `ScratchError` when a file cannot be had from any server, has another checksum than was
    published, or cannot be written. What has arrived stays, and the next call goes on from there.
    """
    source = sources[name]
    for remote in source.files:
        path = folder / remote.name
        if not _is_right(path, remote):
            _fetch_from_any(source.servers, remote, path, progress)
    if name == "cifar10":
        for remote in source.files:
            _unpack_batches(folder / remote.name, folder / INNER_FOLDER)


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
            cause = CAUSES.get(error.errno or 0) or str(error.strerror or error)
            raise ScratchError(f"cannot write {path} - {cause}") from None
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
    if not path.is_file() or path.stat().st_size != remote.size:
        return False
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == remote.sha256


def _unpack_batches(archive: Path, folder: Path) -> None:
    """Take the six batch files out of the archive; nothing else in it is looked at."""
    wanted = set(TRAIN_FILES + TEST_FILES)
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
