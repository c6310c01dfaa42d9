"""One log line for each HTTP request: the request, its status and its duration."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("trellis.api")


class RequestLog:
    """Plain ASGI, around everything else, so that refused requests are logged, too.

    Query strings and headers are not logged: they may hold a token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not log.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        status: int | None = None
        began = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # No status: the client went away, or the answer failed before it began.
            line: dict[str, object] = {
                "event": "request",
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round((time.perf_counter() - began) * 1000, 3),
            }
            parts = scope["path"].split("/")
            if len(parts) > 2 and parts[1] == "orders" and parts[2]:
                line["order_id"] = parts[2]
            log.info(line)
