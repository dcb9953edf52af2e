"""What the server lets through, and what it refuses: each line of the list in docs/page.md."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sd_scratch.cli.page import listen, make_engine
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.page.engine import SESSIONS_LIMIT, Engine
from sd_scratch.page.messages import MESSAGE_LIMIT
from sd_scratch.page.server import PROTOCOL, make_application, new_token, page_files
from sd_scratch.page.session import NoEngine
from tests.page.pages import RECIPE, open_frame

testclient = pytest.importorskip("starlette.testclient", reason="the page's packages are missing")

HOST = "127.0.0.1:8642"
TOKEN = new_token()
ORIGIN = {"host": HOST, "origin": f"http://{HOST}"}
PAGE_LIMIT = 300_000  # bytes of all files


@pytest.fixture
def client(engine: Engine) -> Any:
    application = make_application(engine, TOKEN, frozenset({HOST}))
    return testclient.TestClient(application, base_url=f"http://{HOST}")


def connect(client: Any, token: str = TOKEN, **headers: str) -> Any:
    return client.websocket_connect(
        "/socket", subprotocols=[PROTOCOL, token], headers={**ORIGIN, **headers}
    )


def refused(client: Any, token: str = TOKEN, **headers: str) -> int:
    denied = pytest.raises(testclient.WebSocketDenialResponse)
    with denied as caught, connect(client, token, **headers):
        pass
    return caught.value.status_code


def test_the_page_comes_with_what_binds_a_browser(client: Any) -> None:
    for path in page_files():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy and "unsafe-eval" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_page_is_small_and_loads_nothing_from_elsewhere() -> None:
    files = page_files()
    assert sum(len(data) for path, (data, _) in files.items() if path != "/") < PAGE_LIMIT
    for path, (data, _) in files.items():
        text = data.decode()
        away = re.findall(r"""(?:src|href)=["'](?:https?:)?//|@import|import\(["']https?:""", text)
        assert not away, path
        if path.endswith(".html"):
            assert "style=" not in text and not re.search(
                r"\son\w+=", text
            )  # the policy forbids them


@pytest.mark.parametrize(
    "path",
    ["/..%2f..%2fetc%2fpasswd", "/%2e%2e/answers.py", "/static/page.js", "//etc/passwd", "/socket/x"],
)  # fmt: skip
def test_no_request_is_a_path(client: Any, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8642.evil.example", ""])  # fmt: skip
def test_another_host_is_refused(client: Any, host: str) -> None:
    """So that a name that somebody lets point to this machine (DNS rebinding) reaches nothing."""
    assert client.get("/", headers={"host": host}).status_code == 403
    assert refused(client, host=host, origin=f"http://{host}") == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8642", "http://127.0.0.1:8643"])  # fmt: skip
def test_another_origin_is_refused(client: Any, origin: str) -> None:
    assert client.get("/", headers={"origin": origin}).status_code == 403
    assert refused(client, origin=origin) == 403


def test_a_socket_without_an_origin_is_refused(client: Any) -> None:
    with (
        pytest.raises(testclient.WebSocketDenialResponse) as caught,
        client.websocket_connect("/socket", subprotocols=[PROTOCOL, TOKEN], headers={"host": HOST}),
    ):
        pass
    assert caught.value.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_fetch_from_another_site_is_refused(client: Any, site: str) -> None:
    assert client.get("/", headers={"sec-fetch-site": site}).status_code == 403
    assert refused(client, **{"sec-fetch-site": site}) == 403
    assert client.get("/", headers={"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch", "options"])
def test_nothing_is_taken_but_get(client: Any, method: str) -> None:
    assert getattr(client, method)("/").status_code == 403


@pytest.mark.parametrize(
    "token",
    ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.swapcase()],
    ids=["none", "another", "shorter", "longer", "other case"],
)
def test_a_wrong_token_opens_nothing(client: Any, engine: Engine, token: str) -> None:
    assert refused(client, token) == 401
    denied = pytest.raises(testclient.WebSocketDenialResponse)
    with denied, client.websocket_connect("/socket", headers=ORIGIN):
        pass


def test_every_start_has_a_token_of_its_own() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(TOKEN) >= 32


def test_a_picture_through_the_socket(client: Any) -> None:
    with connect(client) as socket:
        hello = socket.receive_json()
        assert hello["say"] == "hello"
        socket.send_json({"do": "run", "id": 1, "recipe": RECIPE})
        assert socket.receive_json() == {"say": "running", "id": 1}
        while (answer := open_frame(socket.receive_bytes()))[0]["say"] == "step":
            pass
        head, body = answer
        assert head["say"] == "done" and len(body) == 3 * head["width"] * head["height"]


def test_what_is_no_message_is_answered_and_the_socket_stays_open(client: Any) -> None:
    with connect(client) as socket:
        socket.receive_json()
        socket.send_bytes(b"\x80\x04gASV")  # the start of a pickle
        assert "head" in socket.receive_json()["text"]
        socket.send_text("x" * (MESSAGE_LIMIT + 1))
        assert "shorter" in socket.receive_json()["text"]
        socket.send_text(
            '{"do": "run", "id": 1, "recipe": {"prompt": "<script>alert(1)</script>", "steps": 9999}}'
        )
        assert socket.receive_json()["say"] == "error"
        socket.send_json({"do": "words", "id": 2, "prompt": "<b>bold</b>"})
        assert socket.receive_json()["say"] == "words"


def test_more_pages_than_there_is_room_for_are_told_to_wait(client: Any, engine: Engine) -> None:
    others = [engine.open(lambda head, body: None) for _ in range(SESSIONS_LIMIT)]
    assert refused(client) == 429
    for other in others:
        engine.close(other)
    with connect(client) as socket:
        assert socket.receive_json()["say"] == "hello"


def test_it_listens_on_this_machine_alone_and_says_where_it_cannot() -> None:
    from sd_scratch.cli import _parser

    args = _parser(["page"]).parse_args(["page"])
    assert args.host == "127.0.0.1"
    with listen(args.host, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ScratchError, match="cannot listen"):
            listen(args.host, port)


def test_a_model_without_a_text_encoder_is_a_sentence_on_the_page(tmp_path: Path) -> None:
    """The page stands, and says why; it goes on answering."""
    from sd_scratch.cli import _parser

    file = tmp_path / "half.safetensors"
    tensors = {"model.diffusion_model.out.2.weight": torch.zeros(4, 320, 3, 3)}
    save_file({**tensors, "first_stage_model.quant_conv.bias": torch.zeros(8)}, file)
    engine = make_engine(_parser(["page"]).parse_args(["page", "-m", str(file)]))
    assert isinstance(engine, NoEngine)
    client = testclient.TestClient(
        make_application(engine, TOKEN, frozenset({HOST})), base_url=f"http://{HOST}"
    )
    assert client.get("/").status_code == 200
    with connect(client) as socket:
        for _ in range(2):
            answer = socket.receive_json()
            assert answer["say"] == "error" and "text encoder" in answer["text"]
            socket.send_json({"do": "run", "id": 1, "recipe": RECIPE})
    with pytest.raises(UsageError):  # a name that means nothing ends the command at once
        make_engine(_parser(["page"]).parse_args(["page", "-m", "scenes", "--lora-dir", str(file)]))


def test_a_small_model_leaves_a_core_to_the_browser(monkeypatch) -> None:
    from sd_scratch.cli import _parser

    told: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    for flags, expected in ((["-m", "scenes"], 3), (["-m", "scenes", "-t", "2"], 2)):
        engine = make_engine(_parser(["page"]).parse_args(["page", *flags]))
        assert isinstance(engine, Engine)
        engine.stop()
        assert told.pop() == expected and not told
