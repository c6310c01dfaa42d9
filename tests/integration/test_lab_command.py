"""`trellis lab`, the first command of a stranger."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trellis import stack
from trellis.config import Settings


@pytest.mark.timeout(120)
async def test_the_first_command_serves_notebooks_and_takes_its_servers_along(settings: Settings) -> None:
    """JupyterLab answers, as root too, on the workspace's servers; when it ends, they end."""
    home = Path(tempfile.mkdtemp(prefix="trellis-"))  # short, as the path of a socket has to be
    home.chmod(0o755)
    own = settings.with_own_servers(home)
    environment = {
        **os.environ, "TRELLIS_HOME": str(home), "BROWSER": shutil.which("true") or "true",
        **{f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")},
    }  # fmt: skip
    log = home / "lab.log"
    with log.open("wb") as out:
        # Started without waiting, and its end is waited for in a thread.
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "trellis", "lab"], env=environment, stdout=out, stderr=out
        )
    try:
        async with asyncio.timeout(60):
            while "is running at" not in log.read_text("utf-8"):
                assert process.poll() is None, log.read_text("utf-8")[-2000:]
                await asyncio.sleep(0.2)
        assert stack.find(own) is not None
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 30)
        assert stack.find(own) is None
    finally:
        process.kill()
        stack.down(own)
        shutil.rmtree(home, ignore_errors=True)
