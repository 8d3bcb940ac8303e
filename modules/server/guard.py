"""Guard: who may speak to the server. It stands before all routes, and counts the answers."""

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from modules.listening import host_of, is_local, is_of_another_site
from modules.server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/", "/health", "/page.js", "/openapi.json")  # tell nothing about voices and jobs, so they need no token
_DRAIN_SECONDS = 2.0
# The page of this server loads nothing from elsewhere, and no other page may show it.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; media-src blob:; "
_POLICY += "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """Refuses strangers, whatever they ask for."""

    def __init__(self, app: Any, token: str | None, metrics: Metrics) -> None:
        """`token`: what clients must send as `Authorization: Bearer TOKEN`; None: the server is for this machine."""
        self._app, self._token, self._metrics = app, token, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]}
        body = _Body(receive, waits="expect" in headers)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] != 408:  # that client sends nothing
                    await body.drain()
                own = [(name.encode(), text.encode()) for name, text in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.add("requests_total", route=route, status=message["status"])
            await send(message)

        refused = self._refused(scope, headers)
        app = self._app if refused is None else refused
        await app(scope, body.receive, send_on)

    def _refused(self, scope: Message, headers: dict[str, str]) -> JSONResponse | None:
        """The answer to a stranger."""
        if is_of_another_site(scope["method"], headers):
            return JSONResponse({"error": "this came from a page of another site"}, 403)
        if self._token is None:
            # Else a page of another site could speak to this machine by a name of its own that leads here.
            if is_local(host_of(headers.get("host", ""))):
                return None
            text = "the Host header names another machine; use http://127.0.0.1, or start the server with --token"
            return JSONResponse({"error": text}, 403)
        if scope["path"] in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8"), self._token.encode("utf-8"))
        if kind.lower() == "bearer" and is_right:
            return None
        text = "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
        return JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})


class _Body:
    """A request's body, of which the rest is thrown away before an early answer: many clients read none before they
    have sent all."""

    def __init__(self, receive: Receive, waits: bool) -> None:
        """`waits`: the client sends nothing before it is asked to (Expect: 100-continue)."""
        self._receive, self._waits, self._is_read = receive, waits, False

    async def receive(self) -> Message:
        """The next message."""
        self._waits = False
        message = await self._receive()
        self._is_read = self._is_read or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Throws the rest away, for a while."""

        async def read() -> None:
            while not (self._is_read or self._waits):
                await self.receive()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), _DRAIN_SECONDS)
