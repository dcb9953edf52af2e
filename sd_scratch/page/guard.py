"""Who may talk to the page's server: a browser on an address that was allowed, from a page of this server."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Of the page whose engine is in the tab: wasm is compiled, in a worker.
TAB_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Guard:
    """Refuses what does not come from the page itself, and adds the headers that bind a browser.

    Another page can send requests to this machine. It cannot choose the headers ``Host``,
    ``Origin`` and ``Sec-Fetch-Site``: they tell that it is another page.

    Args:
        hosts: values of ``Host`` that are answered, each a name and a port.
        policy: what the page may load.
    """

    def __init__(
        self, application: Application, hosts: frozenset[str], policy: str = POLICY
    ) -> None:
        self.application = application
        self.hosts = hosts
        self.headers = {**HEADERS, "content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        reason = self.refusal(scope)
        if reason is not None:
            await refuse(scope, receive, send, 403, reason)
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].decode() not in HEADERS]
                bound = [(name.encode(), value.encode()) for name, value in self.headers.items()]
                message = {**message, "headers": [*kept, *bound]}
            await send(message)

        await self.application(scope, receive, send_bound)

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is refused, or None."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return "this address is not one of the page's - open the one that was printed"
        origins = headers.get("origin", [])
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return "another page asked for this"
        if scope["type"] == "websocket" and not origins:
            return "only the page may ask for this"
        sites = headers.get("sec-fetch-site", [])
        if any(site not in ("same-origin", "none") for site in sites):
            return "another page asked for this"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return "nothing is taken here but GET and HEAD"
        return None


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    """Answer with a status and a sentence, and nothing else; a socket is not opened."""
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await receive()
        kind = "websocket.http.response"
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in HEADERS.items()),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
