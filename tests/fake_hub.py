"""A model hub on this machine, with as much of the real one's protocol as its client uses."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

REPO = "someone/tiny"
TOKEN = "hf_ThisIsASecretThatNobodyMaySee"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<rev>[^/]+))?")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")


@dataclass
class Hub:
    """Repositories as ``{id: {path: content}}``, all with one commit; what was asked is kept."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)  # path: close after so many bytes, once
    failing: int = 0  # answer everything with this status
    portal: bytes = b""  # answer everything with this page
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""

    def served(self) -> list[str]:
        """The files that were sent, in the order of their requests."""
        matches = [RESOLVE.fullmatch(path) for method, path, _ in self.requests if method == "GET"]
        return [match["path"] for match in matches if match]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        if self.hub.failing or self.hub.portal:
            return self.reply(self.hub.failing or 200, body=self.hub.portal)
        match = API.fullmatch(path) or RESOLVE.fullmatch(path)
        if match is None or match["repo"] not in self.hub.files:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"})
        if match["repo"] in self.hub.gated:
            return self.reply(403, {"X-Error-Code": "GatedRepo"})
        if match["rev"] not in (None, "main", COMMIT):
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.files[match["repo"]]
        if match.re is RESOLVE:
            return self.send_file(files, match["path"])
        if match["what"] == "tree":
            return self.reply(200, body=[self.tree_entry(*item) for item in files.items()])
        siblings = [{"rfilename": name} for name in files]
        return self.reply(200, body={"id": match["repo"], "sha": COMMIT, "siblings": siblings})

    def tree_entry(self, path: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(content), "oid": digest(content)}

    def send_file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            return self.reply(404, {"X-Error-Code": "EntryNotFound"})
        content = files[path]
        headers = {
            "ETag": f'"{digest(content)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(start[1]) if start else 0
        if start:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if start else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.hub.broken:
            self.wfile.write(content[begin : begin + self.hub.broken.pop(path)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(content[begin:])

    def reply(self, status: int, headers: dict[str, str] | None = None, body: Any = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body or {"error": status}).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("OfThisHub", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client does with HF_ENDPOINT when it is imported; and let it not wait between tries."""
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(
        constants, "HF_HUB_OFFLINE", False
    )  # as it may be in the tests' environment
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
