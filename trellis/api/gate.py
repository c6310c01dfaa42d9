"""What stands before every request: the token, how many may be inside, how large and how slow one may be."""

from __future__ import annotations

import asyncio
import hmac

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trellis.api.bodies import busy, error

LARGEST_BODY = 64 * 1024
BODY_SECONDS = 5.0
ANSWER_SECONDS = 10.0
INSIDE = 100
"""Requests that are worked on at once. What comes beyond is told to come back: a queue would only make all wait."""


class Gate:
    """Plain ASGI. `/health` passes always: an overloaded server is not a dead one."""

    def __init__(self, app: ASGIApp, *, token: str | None = None, inside: int = INSIDE) -> None:
        self._app = app
        self._token = token
        self._places = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._places -= 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._places += 1

    def _refuse(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if self._token is not None:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token.encode()):
                return error(
                    401,
                    "unauthorized",
                    "Send the token of TRELLIS_API_TOKEN as `Authorization: Bearer <token>`.",
                    {"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            return _too_large()
        if self._places <= 0:
            return busy("Too many requests at once. Try again in a second.")
        return None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            await error(408, "timeout", f"The body did not arrive within {BODY_SECONDS:.0f} seconds.")(
                scope, receive, send
            )
            return
        if body is None:
            await _too_large()(scope, receive, send)
            return
        begun = False
        first = True

        async def replay() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._app(scope, replay, watched)
        except TimeoutError:
            if begun:
                raise
            await busy(f"No answer was to be had within {ANSWER_SECONDS:.0f} seconds.")(scope, receive, send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None as soon as it is too large, whatever its header said."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> Response:
    return error(413, "too_large", f"The body must be at most {LARGEST_BODY // 1024} KiB.")
