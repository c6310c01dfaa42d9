"""Commands that run until they are ended: worker, api, lab. Also `notebooks`, which runs kernels."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trellis.cli.common import Json, open_desk, out, read_settings, run, say, show
from trellis.errors import StackError, TemporalUnavailable

if TYPE_CHECKING:
    from trellis.config import Settings

LAST_SECONDS = 10.0
"""How long a worker may take to end in order after the process that started it has ended."""


def worker(
    queues: Annotated[str, typer.Option(help="Which queues, with commas.")] = "orders,shipping",
    check: Annotated[
        bool, typer.Option("--check", help="Run no worker; exit with 0 if workers on this machine poll, else with 1.")
    ] = False,
    parent: Annotated[
        int | None, typer.Option(help="End when this process, which started the worker, has ended.")
    ] = None,
) -> None:
    """Run workers until Ctrl-C; they finish what they can first."""
    from trellis import workers
    from trellis.desk import check_default_policy
    from trellis.runtime import opened

    settings = read_settings(serves=not check)
    names = tuple(filter(None, queues.split(",")))
    if check:
        run(_check_workers(settings, workers.task_queues(settings, names)))
        return
    check_default_policy(settings)

    async def work() -> None:
        async with opened(settings, pool_wait=30) as runtime:
            stop = asyncio.Event()
            for name in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(name, stop.set)
            async with runtime.workers(names) as watch:
                say(f"Working on {queues}. Ctrl-C ends.")
                waits = [asyncio.ensure_future(event.wait()) for event in (stop, watch.worker_failed)]
                if parent is not None:
                    waits.append(asyncio.ensure_future(_orphaned(parent)))
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            if watch.worker_failed.is_set():
                raise TemporalUnavailable("A worker failed; the log says why. Run `trellis worker` again.")

    run(work())


async def _orphaned(parent: int) -> Literal[True]:
    """Wait until this process has another parent, because the one that started it has ended without a word."""
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    # Nobody is left who could end this process if it did not come to its end by itself.
    last = threading.Timer(LAST_SECONDS, os._exit, (1,))
    last.daemon = True
    last.start()
    return True


async def _check_workers(settings: Settings, queues: list[str]) -> None:
    """Say that a worker on this machine polls each of the queues, or raise StackError."""
    from trellis.desk import POLLED

    async with open_desk(settings) as desk:
        since = datetime.now(UTC) - POLLED
        here = f"@{socket.gethostname()}"
        polled = {
            worker["queue"]
            for worker in await desk.workers()
            if worker["identity"].endswith(here) and worker["polled_at"] > since
        }
    left = [queue for queue in queues if queue not in polled]
    if left:
        raise StackError(
            f"No worker on this machine has polled {' or '.join(left)} in the last {POLLED.seconds} s. "
            f"Start one with `trellis worker`."
        )
    out.print(f"Workers on this machine poll {' and '.join(queues)}.", soft_wrap=True)


def api(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond loopback it needs TRELLIS_API_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve orders over HTTP until Ctrl-C. Runs no workers."""
    from trellis.api.serve import serve

    run(
        serve(
            read_settings(serves=True),
            host,
            port,
            lambda address: print(f"API at {address}, docs at {address}/docs", flush=True),
        )
    )


def lab() -> None:
    """Start the servers and open JupyterLab on the notebooks."""
    from trellis import stack

    settings = read_settings()
    starts_servers = stack.find(settings) is None
    run(stack.up(settings))
    package = Path(__file__).resolve().parents[1]
    notebooks = package.parent / "notebooks"
    # JupyterLab would ask about its news feed, which is on the open internet.
    configuration = str(package / "lab" / "jupyter")
    paths = os.pathsep.join(filter(None, [configuration, os.environ.get("JUPYTER_CONFIG_PATH")]))
    environment = {**os.environ, "TRELLIS_HOME": str(settings.home), "JUPYTER_CONFIG_PATH": paths}
    command = [sys.executable, "-m", "jupyter", "lab", "--LabApp.news_url=None", str(notebooks / "00_start_here.ipynb")]
    if os.geteuid() == 0:
        # In a container everybody is root. JupyterLab refuses root unless it is told to; it listens on loopback only.
        command.append("--allow-root")
    try:
        jupyter = subprocess.Popen(command, cwd=notebooks.parent, env=environment)
        # Ctrl-C reaches JupyterLab as well, which asks before it ends; `kill` reaches this process alone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: jupyter.terminate())
        code = jupyter.wait()
    finally:
        if starts_servers:
            stack.down(settings)
    raise typer.Exit(code)


def notebooks(
    write: Annotated[bool, typer.Option("--write", help="Store the outputs in the notebooks.")] = False,
    as_json: Json = False,
) -> None:
    """Execute all notebooks, each in a kernel and a workspace of its own."""
    from trellis.lab.essays.executing import execute_all

    read_settings()
    done = execute_all(write=write)
    show(dict(done), as_json)
