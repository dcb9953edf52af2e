"""The server: the page's files, and one socket for each page that is open.

Nothing of a request is ever a path or an address: files are those of a table that is read at the start.
"""

import asyncio
import contextlib
import hmac
import secrets
from collections import deque
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_scratch.errors import UsageError
from sd_scratch.page.engine import Engine
from sd_scratch.page.guard import TAB_POLICY, Application, Guard
from sd_scratch.page.messages import MESSAGE_LIMIT, PICTURE_LIMIT, frame
from sd_scratch.page.session import NoEngine

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
PROTOCOL = "sd-scratch-page"
UNSENT = 64  # answers that wait for a page; more than that of previews are left out
GONE = 512  # a page that lets so many wait is no longer there
FRAME_LIMIT = PICTURE_LIMIT + 2 * MESSAGE_LIMIT  # bytes: what is longer ends the connection unread
TRY_LATER, TOO_SLOW = 1013, 1011

EXTRA = "pip install starlette uvicorn websockets"


def require_packages() -> None:
    """Raise UsageError unless what the server is made of is installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed - {EXTRA}") from None


def new_token() -> str:
    """What a page must know to be answered: 192 bits, as text that an address can hold."""
    return secrets.token_urlsafe(24)


def page_files() -> dict[str, tuple[bytes, str]]:
    """The page's files, their types with them, by the path of an address."""
    files: dict[str, tuple[bytes, str]] = {}
    folders = [("/", resources.files("sd_scratch.page").joinpath("static"))]
    for path, folder in folders:
        for entry in folder.iterdir():
            suffix = entry.name[entry.name.rfind(".") :]
            if entry.is_dir():
                folders.append((f"{path}{entry.name}/", entry))
            elif suffix in TYPES:
                files[path + entry.name] = (entry.read_bytes(), TYPES[suffix])
    files["/"] = files["/index.html"]
    return files


class Outbox:
    """Answers on their way from the engine's thread to one socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.answers: deque[tuple[Mapping[str, Any], bytes | None]] = deque()
        self.filled = asyncio.Event()

    def put(self, head: Mapping[str, Any], body: bytes | None) -> None:
        """From any thread; after the loop has ended it is dropped."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._put, head, body)

    def _put(self, head: Mapping[str, Any], body: bytes | None) -> None:
        if head["say"] == "step" and len(self.answers) >= UNSENT:
            return
        if len(self.answers) < GONE:
            self.answers.append((head, body))
        self.filled.set()

    async def get(self) -> tuple[Mapping[str, Any], bytes | None]:
        while not self.answers:
            self.filled.clear()
            await self.filled.wait()
        return self.answers.popleft()


def make_application(engine: Engine | NoEngine, token: str, hosts: frozenset[str]) -> Application:
    """The server as an ASGI application.

    Args:
        token: what a page says to be answered; see `new_token`.
        hosts: the values of ``Host`` that are answered, such as ``127.0.0.1:8642``.
    """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.responses import Response as Made
    from starlette.routing import Route, WebSocketRoute

    files = page_files()

    async def serve_file(request: "Request") -> "Response":
        if (found := files.get(request.url.path)) is None:
            return PlainTextResponse("there is no such file", status_code=404)
        return Made(found[0], media_type=found[1])

    async def talk(socket: "WebSocket") -> None:
        await serve_socket(engine, token, socket)

    routes = [WebSocketRoute("/socket", talk), Route("/{path:path}", serve_file)]
    return Guard(Starlette(routes=routes), hosts)


def make_static(folder: Path, hosts: frozenset[str]) -> Application:
    """A server of a folder that scripts/build-page made: the page with its engine in the tab.

    Its files are found at the start; links are left out. Raises UsageError for another folder.
    """
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, PlainTextResponse
    from starlette.routing import Route

    for needed in ("index.html", "model/manifest.json", "runtime/ort.wasm.min.mjs"):
        if not (folder / needed).is_file():
            raise UsageError(f"{folder} - no {needed} in it - make it with scripts/build-page")
    files = {
        f"/{path.relative_to(folder).as_posix()}": path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    files["/"] = folder / "index.html"

    async def serve_file(request: "Request") -> "Response":
        path = files.get(request.url.path)
        if path is None or not path.is_file():
            return PlainTextResponse("there is no such file", status_code=404)
        return FileResponse(path, media_type=TYPES.get(path.suffix, "application/octet-stream"))

    return Guard(Starlette(routes=[Route("/{path:path}", serve_file)]), hosts, TAB_POLICY)


async def serve_socket(engine: Engine | NoEngine, token: str, socket: "WebSocket") -> None:
    """One page, from its first message to its last."""
    from starlette.responses import PlainTextResponse

    offered = socket.scope.get("subprotocols", [])
    given = offered[1] if len(offered) == 2 and offered[0] == PROTOCOL else ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        text = "the token is missing or of another start - open the address that was printed"
        await socket.send_denial_response(PlainTextResponse(text, status_code=401))
        return
    outbox = Outbox(asyncio.get_running_loop())
    try:
        session = engine.open(outbox.put)
    except UsageError as error:
        await socket.send_denial_response(PlainTextResponse(str(error), status_code=429))
        return
    try:
        await socket.accept(subprotocol=PROTOCOL)
        sending = asyncio.create_task(_send_all(socket, outbox))
        try:
            await _receive_all(engine, session, socket, outbox)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    finally:
        engine.close(session)


async def _send_all(socket: "WebSocket", outbox: Outbox) -> None:
    while True:
        head, body = await outbox.get()
        if body is None:
            await socket.send_json(head)
        else:
            await socket.send_bytes(frame(head, body))


async def _receive_all(
    engine: Engine | NoEngine, session: Any, socket: "WebSocket", outbox: Outbox
) -> None:
    while True:
        message = await socket.receive()
        if message["type"] != "websocket.receive":
            return
        if len(outbox.answers) >= GONE:
            await socket.close(TOO_SLOW)
            return
        text = message.get("text")
        engine.receive(session, message.get("bytes") or b"" if text is None else text)
        await asyncio.sleep(0)  # so that a page that sends without end lets others have their turn


def serve(application: Application, sockets: list[Any]) -> None:
    """Answer on sockets that listen already, until the process is interrupted."""
    import uvicorn

    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="websockets-sansio",
        ws_max_size=FRAME_LIMIT,
        ws_max_queue=8,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=16_384,
        limit_concurrency=64,
        timeout_graceful_shutdown=1,
        lifespan="off",
    )
    uvicorn.Server(config).run(sockets=sockets)
