"""Downloads from a server on this machine: resumed, checked, whole or not at all."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from sd_scratch.errors import ScratchError
from sd_scratch.training.pixels import download
from sd_scratch.training.pixels.datasets import (
    BATCHES,
    DATA_SETS,
    TEST_FILE,
    TRAIN_FILES,
    Remote,
    Source,
    load_data,
)
from sd_scratch.training.pixels.download import download_data

BODY = bytes(torch.randint(0, 256, (50_000,), generator=torch.Generator().manual_seed(0)))


class Server(ThreadingHTTPServer):
    """Serves bytes by name; may break off, or ignore what is asked to be left out."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"data.gz": BODY}
        self.break_after: int | None = None
        self.ranges = True
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        body = self.server.files.get(self.path[1:])
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.break_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def source(*servers: str) -> Source:
    return Source(servers, (Remote("data.gz", len(BODY), hashlib.sha256(BODY).hexdigest()),))


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    seen = []
    for _ in range(2):
        download_data(source(server.url), tmp_path, lambda *a: seen.append(a))
    assert (tmp_path / "data.gz").read_bytes() == BODY
    assert seen[-1] == ("data.gz", len(BODY), len(BODY))
    assert server.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["data.gz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path, ranges):
    server.break_after = 20_000
    with pytest.raises(ScratchError, match="cannot fetch data.gz"):
        download_data(source(server.url), tmp_path)
    assert not (tmp_path / "data.gz").exists()
    server.break_after, server.ranges = None, ranges
    download_data(source(server.url), tmp_path)
    assert (tmp_path / "data.gz").read_bytes() == BODY
    assert server.asked == [None, "bytes=20000-"]


def test_another_file_than_was_published_is_refused(server, tmp_path):
    server.files["data.gz"] = BODY[:-1] + b"!"
    with pytest.raises(ScratchError, match="checksum differs"):
        download_data(source(server.url), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_longer_file_is_refused(server, tmp_path):
    server.files["data.gz"] = BODY + bytes(1000)
    with pytest.raises(ScratchError, match="checksum differs"):
        download_data(source(server.url), tmp_path)


def test_a_damaged_file_on_the_disk_is_fetched_again(server, tmp_path):
    (tmp_path / "data.gz").write_bytes(BODY[:-1] + b"!")
    download_data(source(server.url), tmp_path)
    assert (tmp_path / "data.gz").read_bytes() == BODY


def test_the_next_server_is_tried(server, tmp_path):
    servers = (server.url + "gone/", "http://127.0.0.1:9/", server.url)
    download_data(source(*servers), tmp_path)
    assert (tmp_path / "data.gz").read_bytes() == BODY


def test_no_server_at_all_says_what_to_do(tmp_path):
    with pytest.raises(ScratchError, match="no network.*yourself") as error:
        download_data(source("http://127.0.0.1:9/"), tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScratchError, match="cannot write"):
        download_data(source(server.url), tmp_path / "file" / "x")


def test_the_archive_of_cifar10_is_unpacked_and_nothing_else_in_it(server, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in (*TRAIN_FILES, TEST_FILE, "readme.html", "../evil.bin"):
            info = tarfile.TarInfo(f"{BATCHES}/{name}")
            info.size = 3073
            tar.addfile(info, io.BytesIO(bytes(3073)))
    body = archive.getvalue()
    server.files["c.tar.gz"] = body
    remote = replace(
        DATA_SETS["cifar10"].source.files[0],
        name="c.tar.gz",
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    download_data(Source((server.url,), (remote,)), tmp_path)
    assert len(load_data("cifar10", tmp_path).train) == 5
    inside = {path.name for path in (tmp_path / BATCHES).iterdir()}
    assert inside == {*TRAIN_FILES, TEST_FILE}
    assert not list(tmp_path.parent.rglob("evil.bin"))


def test_published_sums_are_those_of_the_real_files(shared_data):
    for name in ("mnist", "fashion-mnist"):
        for remote in DATA_SETS[name].source.files:
            assert download._is_right(shared_data / name / remote.name, remote)
