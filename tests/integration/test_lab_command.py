"""`trellis lab`, the first command of a stranger, and the sockets of what it starts."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from trellis import stack
from trellis.config import Settings
from trellis.db.migrate import migrate

pytestmark = pytest.mark.timeout(120)


@dataclass
class Lab:
    """A `trellis lab` that serves."""

    process: subprocess.Popen[bytes]
    settings: Settings
    environment: dict[str, str]


@pytest.fixture(scope="module")
async def lab(settings: Settings) -> AsyncIterator[Lab]:
    """`trellis lab` in a workspace of its own."""
    home = Path(tempfile.mkdtemp(prefix="trellis-"))  # short, as the path of a socket has to be
    home.chmod(0o755)
    own = settings.with_own_servers(home)
    environment = {
        **os.environ, "TRELLIS_HOME": str(home), "BROWSER": shutil.which("true") or "true",
        **{f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")},
    }  # fmt: skip
    log = home / "lab.log"
    process = trellis(environment, log, "lab")
    try:
        await printed(log, "is running at", process)
        yield Lab(process, own, environment)
    finally:
        process.kill()
        stack.down(own)
        shutil.rmtree(home, ignore_errors=True)


def trellis(environment: dict[str, str], log: Path, *words: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, "-m", "trellis", *words], env=environment, stdout=out, stderr=out)


async def printed(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(60):
        while text not in log.read_text("utf-8"):
            assert process.poll() is None, log.read_text("utf-8")[-2000:]
            await asyncio.sleep(0.2)


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """(address, port) of each TCP socket that listens, and of each UDP socket that takes from anybody."""
    return {
        (one.laddr.ip, one.laddr.port)
        for one in process.net_connections("inet")
        if one.laddr and (one.status == psutil.CONN_LISTEN or (one.type == socket.SOCK_DGRAM and not one.raddr))
    }


async def test_nothing_of_a_running_lab_listens_beyond_loopback(lab: Lab) -> None:
    """Servers, JupyterLab, worker and API: every listening socket is on loopback, or a Unix socket that only its owner
    can reach."""
    beside = []
    await migrate(stack.require(lab.settings).database_url)
    try:
        for words, ready in ((("worker",), "Working on"), (("api", "--port", "0"), "API at")):
            log = lab.settings.home / f"{words[0]}.log"
            beside.append(trellis(lab.environment, log, *words))
            await printed(log, ready, beside[-1])
        ours = [psutil.Process(lab.process.pid), *(psutil.Process(one.pid) for one in beside)]
        found: dict[str, set[tuple[str, int]]] = {}
        for process in [one for parent in ours for one in (parent, *parent.children(recursive=True))]:
            with suppress(psutil.NoSuchProcess):  # a backend of Postgres may just have ended
                line = " ".join(process.cmdline())
                kind = next((one for one in ("temporal", "jupyter", "postgres", "trellis api") if one in line), "other")
                found[kind] = found.get(kind, set()) | listening(process)
    finally:
        for one in beside:
            one.terminate()
            await asyncio.to_thread(one.wait, 30)
    sockets = {address for kind in found.values() for address in kind}
    assert {address for address in sockets if not ipaddress.ip_address(address[0]).is_loopback} == set()
    # The list is no proof unless it holds what must be there.
    at = stack.require(lab.settings)
    ports = {int(address.rsplit(":", 1)[1]) for address in (at.temporal.address, at.temporal.ui or ":0")}
    assert ports <= {port for _, port in found["temporal"]}
    assert found["jupyter"]
    assert found["trellis api"]
    assert found["postgres"] == set()
    folder = Path(unquote(at.database_url.partition("?host=")[2]))
    assert folder.stat().st_mode & 0o077 == 0


async def test_the_first_command_serves_notebooks_and_takes_its_servers_along(lab: Lab) -> None:
    """JupyterLab answers, as root too, on the workspace's servers; when it ends, they end."""
    assert stack.find(lab.settings) is not None
    lab.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(lab.process.wait, 30)
    assert stack.find(lab.settings) is None
