"""One open page, as an engine knows it; and what stands where there is no engine."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from sd_scratch.page.messages import Wish
from sd_scratch.page.pictures import Album
from sd_scratch.page.runs import Result

Send = Callable[[Mapping[str, Any], bytes | None], None]
"""Takes an answer's head, and its body if it has one. It may be called from any thread."""


class Session:
    """One open page."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.waiting: dict[object, tuple[int, Wish]] = {}
        self.running: tuple[int, Wish] | None = None
        self.stopping = threading.Event()
        self.last: Result | None = None
        self.album = Album()
        self.closed = False


class NoEngine:
    """Stands where there is no model: says why to every page, and goes on saying it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def open(self, send: Send) -> Session:
        session = Session(send)
        self.receive(session, "")
        return session

    def receive(self, session: Session, message: str | bytes) -> None:
        text = f"there is no model: {self.reason} - start the page with another"
        session.send({"say": "error", "id": None, "text": text}, None)

    def close(self, session: Session) -> None:
        session.closed = True

    def stop(self) -> None:
        pass
