"""The checks before every request: its token, the origin of the page that sent it, size and time of its body, how many
at once."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trellis.api.bodies import busy, error

LARGEST_BODY = 64 * 1024
BODY_SECONDS = 5.0
ANSWER_SECONDS = 10.0
INSIDE = 100
"""How many requests are served at once. Others get a 503 and may try again: a queue would make all of them wait."""
OPEN = frozenset({"/docs", "/openapi.json"})
"""These need no token. The schema is no secret, and a browser cannot send a token for a page that it opens."""


class Gate:
    """Plain ASGI. `/health` always passes: an overloaded server is still alive."""

    def __init__(self, app: ASGIApp, *, token: str | None = None, inside: int = INSIDE) -> None:
        self._app = app
        self._token = token
        self._places = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope["path"], dict(scope["headers"]))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except ClientDisconnect:
            # A truncated body can parse as a valid cancel without its reason, so it is not served at all.
            return
        except TimeoutError:
            await error(408, "timeout", f"The body did not arrive within {BODY_SECONDS:.0f} seconds.")(
                scope, receive, send
            )
            return
        if body is None:
            await _too_large()(scope, receive, send)
            return
        # Count only after the body has come, or clients that announce a body and send none would take every place.
        if self._places <= 0:
            await busy("Too many requests at once. Try again in a second.")(scope, receive, send)
            return
        self._places -= 1
        try:
            await self._serve(body, scope, receive, send)
        finally:
            self._places += 1

    def _refuse(self, path: str, headers: dict[bytes, bytes]) -> Response | None:
        if self._token is None:
            # A page of any site can make its reader's browser send simple requests to loopback. It does not have a
            # token.
            if not _by_a_safe_name(headers):
                return error(
                    403,
                    "forbidden",
                    "Without a token the API answers to an IP address, localhost and names without a dot only. "
                    "Use one of these, or set TRELLIS_API_TOKEN.",
                )
            if not _of_this_origin(headers):
                return error(403, "forbidden", "Without a token the API takes no requests from pages of other origins.")
        elif path not in OPEN and not self._knows_token(headers.get(b"authorization", b"")):
            return error(
                401,
                "unauthorized",
                "Send the token of TRELLIS_API_TOKEN as `Authorization: Bearer <token>`.",
                {"WWW-Authenticate": "Bearer"},
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            return _too_large()
        return None

    def _knows_token(self, given: bytes) -> bool:
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), (self._token or "").encode())

    async def _serve(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
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
            late = f"There was no answer within {ANSWER_SECONDS:.0f} seconds; the request may still be carried out."
            await busy(late)(scope, receive, send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None as soon as it is too large, whatever its header said. Raises ClientDisconnect."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _by_a_safe_name(headers: dict[bytes, bytes]) -> bool:
    """Whether the Host header holds a name that an attacker's DNS cannot point to this machine."""
    try:
        name = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname or ""
        if "." in name or ":" in name:
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _of_this_origin(headers: dict[bytes, bytes]) -> bool:
    """Whether the request comes from a page of our own, or from no page."""
    origin = headers.get(b"origin")
    return origin is None or origin.lower().partition(b"://")[2] == headers.get(b"host", b"").lower()


def _too_large() -> Response:
    return error(413, "too_large", f"The body must be at most {LARGEST_BODY // 1024} KiB.")
