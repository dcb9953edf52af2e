"""A page's end of the line, for tests: an engine on a tiny model, and answers waited for."""

import json
import struct
import threading
from collections.abc import Mapping
from typing import Any

from sd_scratch.page.engine import Engine
from sd_scratch.page.session import Session

RECIPE = {"prompt": "a red circle", "seed": 7, "steps": 3, "width": 32, "height": 32}


class Line:
    """One session of an engine: what it sends, and every answer that came."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: list[tuple[Mapping[str, Any], bytes | None]] = []
        self.came = threading.Condition()
        self.session: Session = engine.open(self._take)
        self.number = 0

    def _take(self, head: Mapping[str, Any], body: bytes | None) -> None:
        with self.came:
            self.answers.append((head, body))
            self.came.notify_all()

    def send(self, **message: Any) -> int:
        self.number += 1
        self.engine.receive(self.session, json.dumps({"id": self.number, **message}))
        return self.number

    def wait(self, number: int | None, *says: str) -> tuple[Mapping[str, Any], bytes | None]:
        """The first answer to a message that says one of these."""
        with self.came:
            found = self.came.wait_for(lambda: self._find(number, says), timeout=60)
        assert found, f"none of {says} came for {number}: {[h for h, _ in self.answers][-5:]}"
        return found

    def _find(
        self, number: int | None, says: tuple[str, ...]
    ) -> tuple[Mapping[str, Any], bytes | None] | None:
        return next(
            (a for a in self.answers if a[0].get("id") == number and a[0]["say"] in says), None
        )

    def ask(self, **message: Any) -> tuple[Mapping[str, Any], bytes | None]:
        """A message's last answer."""
        number = self.send(**message)
        return self.wait(
            number,
            "done",
            "tensor",
            "plane",
            "saved",
            "words",
            "score",
            "error",
            "stopped",
            "skipped",
            "cancelled",
        )


def open_frame(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `sd_scratch.page.messages.frame`."""
    (length,) = struct.unpack("<I", data[:4])
    return json.loads(data[4 : 4 + length]), data[4 + length :]
