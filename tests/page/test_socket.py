"""What strangers do to a real socket: garbage, and a joystick that never rests."""

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sd_scratch.page.engine import Engine
from sd_scratch.page.server import FRAME_LIMIT
from tests.page.browser import served
from tests.page.pages import RECIPE, open_frame

websockets = pytest.importorskip("websockets", reason="the page's packages are missing")
client = pytest.importorskip("websockets.sync.client", reason="the page's packages are missing")
pytest.importorskip("uvicorn")

SECONDS = float(os.environ.get("SD_SCRATCH_JOYSTICK", "2"))  # of the joystick; a minute is the goal
GROWTH = 30_000_000  # bytes that a process may differ by
PROMPTS = ["a red circle", "a blue circle", "a blue star"]


@pytest.fixture
def socket(engine: Engine) -> Iterator[Any]:
    with served(engine) as address:
        place, token = address.removeprefix("http://").split("/#token=")
        with client.connect(
            f"ws://{place}/socket",
            origin=f"http://{place}",
            subprotocols=["sd-scratch-page", token],
            max_size=None,
        ) as socket:
            assert json.loads(socket.recv())["say"] == "hello"
            yield socket


def heard(socket: Any, number: int, *says: str) -> dict[str, Any]:
    """Read answers up to one to this wish; its head, with the picture if it has one."""
    while True:
        answer = socket.recv(timeout=60)
        head = json.loads(answer) if isinstance(answer, str) else open_frame(answer)[0]
        if head.get("id") == number and head["say"] in says:
            return head


def memory() -> int:
    """Bytes of this process that lie in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def garbage(rng: random.Random, i: int) -> str | bytes:
    if i % 3 == 0:
        return rng.randbytes(rng.randrange(400))
    if i % 3 == 1:
        return "".join(chr(rng.randrange(1, 0xD000)) for _ in range(rng.randrange(400)))
    values = [None, -1, 1e308, "", "../../etc/passwd", [], {}, [[[]]], "\0", RECIPE, True]
    keys = ["recipe", "edits", "place", "name", "step", "prompts", "prompt", "watch", "what"]
    kinds = ["run", "tensor", "words", "plane", "save", "cancel", "nix", 3]
    message = {"do": rng.choice(kinds), "id": rng.choice([i, -1, "x", None])}
    return json.dumps(message | {rng.choice(keys): rng.choice(values) for _ in range(3)})


def test_a_thousand_messages_of_garbage_change_nothing(socket: Any) -> None:
    rng = random.Random(1)
    for i in range(1000):
        socket.send(garbage(rng, i))
    socket.send(json.dumps({"do": "run", "id": 5000, "recipe": RECIPE}))
    first = heard(socket, 5000, "done", "error")
    socket.send(json.dumps({"do": "run", "id": 5001, "recipe": RECIPE}))
    assert first["say"] == "done"
    assert heard(socket, 5001, "done")["sha256"] == first["sha256"]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_fifty_places_a_second_leave_nothing_but_the_last(socket: Any, engine: Engine) -> None:
    recipe = {**RECIPE, "steps": 2}
    wish: dict[str, Any] = {"do": "run", "recipe": recipe, "previews": False, "live": True}
    before, begun, number = 0, time.monotonic(), 0
    answers: dict[str, int] = {}
    while time.monotonic() < begun + SECONDS:
        number += 1
        at = [float(np.cos(number / 9)), float(np.sin(number / 9))]
        socket.send(json.dumps({**wish, "id": number, "place": {"prompts": PROMPTS, "at": at}}))
        while time.monotonic() < begun + number / 50:
            try:
                answer = socket.recv(timeout=0.004)
            except TimeoutError:
                continue
            head = json.loads(answer) if isinstance(answer, str) else open_frame(answer)[0]
            answers[head["say"]] = answers.get(head["say"], 0) + 1
        if number == 50:
            before = memory()
    last = heard(socket, number, "done", "skipped", "error")
    assert last["say"] == "done" and "error" not in answers
    again = {**wish, "id": number + 1, "live": False, "place": {"prompts": PROMPTS, "at": at}}
    socket.send(json.dumps(again))
    assert heard(socket, number + 1, "done")["sha256"] == last["sha256"]
    assert memory() - before < GROWTH, answers
    print(f"{number} places in {SECONDS:g} s: {answers}, {(memory() - before) / 1e6:+.1f} MB")


def test_a_frame_beyond_the_limit_ends_the_connection_and_nothing_else(engine: Engine) -> None:
    """It is not read into memory first: the socket is closed as the standard says, with 1009."""
    with served(engine) as address:
        place, token = address.removeprefix("http://").split("/#token=")
        options = {"origin": f"http://{place}", "subprotocols": ["sd-scratch-page", token]}
        with client.connect(f"ws://{place}/socket", max_size=None, **options) as socket:
            socket.recv()
            before = memory()
            with pytest.raises(websockets.ConnectionClosed) as closed:
                for _ in range(64):  # one message of many megabytes, never finished
                    socket.send(iter([b"x" * (FRAME_LIMIT + 1), b"x"]))
                    socket.recv(timeout=5)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
            assert memory() - before < 3 * FRAME_LIMIT + GROWTH
        with client.connect(f"ws://{place}/socket", max_size=None, **options) as socket:
            assert json.loads(socket.recv())["say"] == "hello"
            socket.send("x" * (FRAME_LIMIT - 1))  # a text is refused long before
            assert "shorter" in json.loads(socket.recv())["text"]
            socket.send(json.dumps({"do": "run", "id": 1, "recipe": RECIPE}))
            assert heard(socket, 1, "done", "error")["say"] == "done"
