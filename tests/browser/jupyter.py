"""Starts a separate JupyterLab for a test, and opens pages on it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from playwright.async_api import Page, expect

expect.set_options(timeout=30_000)  # generous, because a busy machine is slow without being wrong

KERNELS = "@jupyterlab/apputils-extension/kernels-settings.jupyterlab-settings"
THEMES = "@jupyterlab/apputils-extension/themes.jupyterlab-settings"
TRELLIS = Path(__file__).resolve().parents[2] / "trellis"

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


def chromium() -> str:
    """The path in CHROMIUM_PATH, or a Chromium on PATH. Without one the test is skipped; in CI it fails."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        why = "no Chromium: set CHROMIUM_PATH, or put chromium or google-chrome on PATH"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return program


@dataclass(frozen=True)
class Jupyter:
    """A running server: its address, its token, and the folder of its notebooks."""

    url: str
    token: str
    root: Path

    def write(self, name: str, *cells: str) -> None:
        """Write a notebook of code cells. It names its kernel: else JupyterLab asks for one, and the test hangs."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.root / name)

    async def run_all(self, page: Page, name: str) -> None:
        """Open the notebook and run all its cells, without waiting for their end."""
        await page.goto(f"{self.url}/lab/tree/{name}?token={self.token}&reset", wait_until="domcontentloaded")
        await page.wait_for_function(
            """() => {
                const shell = window.jupyterapp?.shell;
                const session = shell?.currentWidget?.sessionContext;
                return window.jupyterapp?.commands.hasCommand('notebook:run-all-cells')
                    && session?.session?.kernel?.status === 'idle' && document.querySelector('.jp-CodeCell');
            }""",
            timeout=60_000,
        )
        # Not awaited: the command ends with the last cell, and an order's review window would end before that.
        await page.evaluate("(() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); })()")

    async def reload(self, page: Page) -> None:
        """Reload the page as F5 does, after saving the notebook. Its kernel goes on."""
        await self.save(page)
        # The address resets the workspace, so the notebook's tab is missing. A second reset would open it twice.
        await page.evaluate("() => { window.onbeforeunload = null; }")
        await page.reload(wait_until="domcontentloaded")
        await self._idle(page)

    async def save(self, page: Page) -> None:
        await page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    async def open(self, page: Page, name: str) -> None:
        """Open the saved notebook, with the kernel that it already has."""
        await page.goto(f"{self.url}/lab/tree/{name}?token={self.token}", wait_until="domcontentloaded")
        await self._idle(page)

    async def _idle(self, page: Page) -> None:
        await page.wait_for_function(
            """() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'""",
            timeout=60_000,
        )

    async def close_all(self, page: Page) -> None:
        await page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")


@asynccontextmanager
async def serving(folder: Path, home: Path, settings: dict[str, dict[str, object]]) -> AsyncIterator[Jupyter]:
    """JupyterLab with its own settings and with kernels on the workspace `home`. All its kernels end with it."""
    own = {
        name: folder / name for name in ("config", "data", "runtime", "settings", "workspaces", "notebooks", "ipython")
    }
    for path in own.values():
        path.mkdir(parents=True)
    for name, value in settings.items():
        target = own["settings"] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(value), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(own["config"]), "JUPYTER_CONFIG_PATH": str(TRELLIS / "lab" / "jupyter"),
        "JUPYTER_DATA_DIR": str(own["data"]), "JUPYTER_RUNTIME_DIR": str(own["runtime"]),
        "JUPYTERLAB_SETTINGS_DIR": str(own["settings"]), "JUPYTERLAB_WORKSPACES_DIR": str(own["workspaces"]),
        "IPYTHONDIR": str(own["ipython"]), "TRELLIS_HOME": str(home), "TRELLIS_FAULTS": "calm",
    }  # fmt: skip
    for outside in ("DATABASE_URL", "TEMPORAL_ADDRESS", "TEMPORAL_TARGET", "TEMPORAL_PROFILE"):
        environment.pop(outside, None)
    with (folder / "jupyter.log").open("wb") as log:
        # The start does not wait. The end is awaited in a thread.
        process = subprocess.Popen(  # noqa: ASYNC220
            [
                sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
                "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
                f"--ServerApp.root_dir={own['notebooks']}",
            ],
            env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    jupyter = Jupyter(f"http://127.0.0.1:{port}", token, own["notebooks"])
    try:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(_answers, f"{jupyter.url}/api/status?token={token}"):
                if process.poll() is not None:
                    raise RuntimeError((folder / "jupyter.log").read_text("utf-8")[-2000:])
                await asyncio.sleep(0.2)
        yield jupyter
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
