"""A real browser for tests: the system's Chromium, driven by Playwright, and a page's server in a thread."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sd_scratch.page.engine import Engine
from sd_scratch.page.server import FRAME_LIMIT, make_application, new_token
from sd_scratch.page.session import NoEngine

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium on the path - Debian and Ubuntu: apt-get install chromium"


def find_browser() -> str | None:
    """The system's browser; none is ever downloaded."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def served(engine: Engine | NoEngine, again: str = "") -> Iterator[str]:
    """A server on a free port of this machine, or at an address that was served before; the page's address
    with its token."""
    import uvicorn

    place, _, token = again.removeprefix("http://").partition("/#token=")
    listening = socket.create_server(("127.0.0.1", int(place.partition(":")[2] or 0)))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    token = token or new_token()
    config = uvicorn.Config(
        make_application(engine, token, frozenset({host})),
        log_level="warning",
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=FRAME_LIMIT,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://{host}/#token={token}"
    server.should_exit = True
    thread.join(timeout=10)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser. Skips the test where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find_browser()
    if path is None:
        pytest.skip(MISSING)
    # Chromium's sandbox does not start as root, which is what a container mostly is.
    root = getattr(os, "geteuid", lambda: 1)() == 0
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if root else [], chromium_sandbox=not root
        )
        yield browser
        browser.close()
