"""The API as a process: it binds its port, checks its servers and settings, serves, and shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from trellis.api.app import create
from trellis.api.request_log import RequestLog
from trellis.config import Settings
from trellis.desk import check_default_policy
from trellis.errors import ConfigError, StackError
from trellis.faults import plan_in_force
from trellis.runtime import opened

GRACE_SECONDS = 5
"""How long requests under way may take after the API was asked to end [s]."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # After its shutdown Uvicorn would send itself the signal again, and so never exit with 0.
        yield


async def serve(settings: Settings, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is given the address once the API answers. Port 0 takes a free one.

    Raises ConfigError for an open address without a token and for a policy or fault plan that cannot be used,
    StackError for a port in use, and what `opened` raises.
    """
    check_default_policy(settings)
    plan_in_force(None, settings.faults)
    listener = _bind(host, port, settings)
    with listener:
        async with opened(settings, checked=True) as runtime:
            app = create(runtime.desk, token=settings.api_token)
            server = _Server(
                uvicorn.Config(
                    RequestLog(app),
                    log_config=None,
                    access_log=False,
                    lifespan="off",
                    server_header=False,
                    timeout_graceful_shutdown=GRACE_SECONDS,
                )
            )
            loop = asyncio.get_running_loop()
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(name, server.handle_exit, name, None)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            shown = f"[{host}]" if ":" in host else host
            announce(f"http://{shown}:{listener.getsockname()[1]}")
            await serving


def _bind(host: str, port: int, settings: Settings) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"There is no address {host!r} to listen on. Try 127.0.0.1.") from None
    family, kind, protocol, _, address = found[0]
    if not ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback and not (
        settings.api_token or settings.api_published_on_loopback
    ):
        raise ConfigError(
            f"{host} can be reached from outside, and no token protects the API. Set TRELLIS_API_TOKEN, or listen on "
            f"127.0.0.1."
        )
    listener = socket.socket(family, kind, protocol)
    try:
        # Old connections of an earlier run must not block the port at a restart.
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StackError(
            f"The API cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}. Choose another --port."
        ) from None
    return listener
