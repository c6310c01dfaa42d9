"""Orders under canonical faults on a real cluster, while its roles and a worker are killed; then the audit.

`tests/cluster/run --orders 100` from the root of the repository. Exit code 0: every order ended and the audit is clean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from temporalio.client import Client
from temporalio.service import RPCError

from tests.cluster.build import VERSION, CannotBuild, build
from tests.cluster.servers import NAMESPACE, SHARDS, Cluster, ServerFailed
from trellis import stack
from trellis.config import Settings
from trellis.db.pool import open_pool
from trellis.desk import Desk, opened
from trellis.errors import RequestRefused, TrellisError
from trellis.parsing import parse_order
from trellis.policies import Policy, preset

WORKER = "trellis worker"
CRASHES = ("history", "matching", WORKER, "frontend")
"""What is killed on the way, in this order. The server's own role `worker` serves no orders."""

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "APPROVAL_TIMEOUT")


class WorkerEnded(Exception):
    """A worker process ended although nobody killed it."""


@dataclass
class Flight:
    """When each order began, and when and how it ended."""

    began: dict[str, float] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    killed: list[dict[str, Any]] = field(default_factory=list)


class Workers:
    """`trellis worker` processes, as many as asked for."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._environment = os.environ | settings.environment() | {"LOG_LEVEL": "ERROR"}
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        with (self._folder / f"trellis-worker-{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "trellis", "worker"], stdout=log, stderr=log, env=self._environment,
                start_new_session=True,
            )  # fmt: skip

    def kill(self, number: int) -> None:
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    def check(self) -> None:
        """Raises WorkerEnded."""
        for number, process in self._processes.items():
            if process.poll() is not None:
                raise WorkerEnded(f"Worker {number} ended with {process.returncode}. See the logs in {self._folder}.")

    def close(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def until_taken(call: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    """Ask again while the cluster is away. Starting and approving twice is the same as once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await call()
            return
        except RequestRefused:
            # An approval whose answer was lost: the second one is told that the order was approved.
            return
        except (TrellisError, RPCError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.3)


async def start_orders(desk: Desk, flight: Flight, orders: int, at_once: int, policy: Policy) -> None:
    """Keep `at_once` orders under way until `orders` have been started; each is approved as it starts."""
    for number in range(orders):
        while len(flight.began) - len(flight.states) >= at_once:
            await asyncio.sleep(0.02)
        id_ = f"cluster-{number:05}-{uuid.uuid4().hex[:6]}"
        order = parse_order(
            id_, f"pay-{id_}", [{"sku": "book", "quantity": 2, "price": "12.50"}], {"line1": "1 Main Street"}
        )
        flight.began[id_] = time.monotonic()

        async def begin(order_id: str = id_, order: Any = order) -> None:
            await until_taken(lambda: desk.start(order, policy))
            await until_taken(lambda: desk.approve(order_id))

        await begin()


async def watch_orders(url: str, flight: Flight, orders: int, patience: float) -> None:
    """Read the ledger until every order has ended. Raises TimeoutError after `patience` seconds without any end."""
    last = time.monotonic()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while len(flight.states) < orders:
            open_ = [id_ for id_ in list(flight.began) if id_ not in flight.states]
            rows = await connection.execute(
                "SELECT id, state FROM orders WHERE id = ANY(%s) AND state = ANY(%s)", (open_, list(ENDED))
            )
            now = time.monotonic()
            for id_, state in await rows.fetchall():
                flight.states[id_] = state
                flight.seconds[id_] = now - flight.began[id_]
                last = now
            if now - last > patience:
                raise TimeoutError(f"No order ended for {patience:.0f} s; {len(flight.states)} of {orders} have.")
            await asyncio.sleep(0.1)


async def kill_in_turn(
    cluster: Cluster, workers: Workers, flight: Flight, orders: int, away: float, crashes: Sequence[str]
) -> None:
    """Kill each of `crashes` at its share of the orders, and start it again `away` seconds later."""

    def of(name: str) -> tuple[Callable[[], object], Callable[[], object]]:
        if name == WORKER:
            return partial(workers.kill, 0), partial(workers.start, 0)
        return partial(cluster.kill, name), partial(cluster.start, name)

    began = time.monotonic()
    for number, name in enumerate(crashes, 1):
        while len(flight.states) < orders * number / (len(crashes) + 1):
            cluster.check()
            workers.check()
            await asyncio.sleep(0.05)
        kill, start = of(name)
        ended = len(flight.states)
        kill()
        flight.killed.append({"what": name, "seconds": round(time.monotonic() - began, 1), "orders_ended": ended})
        say(f"killed {name} after {ended} orders")
        await asyncio.sleep(away)
        start()
    while True:
        cluster.check()
        workers.check()
        await asyncio.sleep(0.2)


async def until_closed(address: str, seconds: float = 60) -> None:
    """The ledger's last event comes just before the workflow closes; visibility follows a little later."""
    client = await Client.connect(address, namespace=NAMESPACE)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(RPCError):
            if (await client.count_workflows("ExecutionStatus = 'Running'")).count == 0:
                return
        await asyncio.sleep(0.5)


async def fly(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it; what is returned is what `--json` prints."""
    binaries = await asyncio.to_thread(build, arguments.binaries)
    say("starting Postgres and the four roles")
    async with Cluster(binaries, folder) as cluster:
        url = cluster.database_url("trellis")
        settings = Settings.model_validate(
            {
                "TRELLIS_HOME": folder / "home",
                "TEMPORAL_ADDRESS": cluster.address,
                "TEMPORAL_NAMESPACE": NAMESPACE,
                "DATABASE_URL": url,
                "TRELLIS_FAULTS": "canonical",
            }
        )
        trellis(settings, "migrate")
        workers = Workers(settings, folder)
        flight = Flight()
        connections = AsyncExitStack()
        pool = await open_pool(url, size=8)
        connections.push_async_callback(pool.close)
        began = time.monotonic()
        try:
            for number in range(arguments.workers):
                workers.start(number)
            desk = await connections.enter_async_context(opened(stack.require(settings), settings, pool=pool))
            crashes = () if arguments.calm else CRASHES
            starting = asyncio.create_task(
                start_orders(desk, flight, arguments.orders, arguments.at_once, preset(arguments.policy))
            )
            killing = asyncio.create_task(
                kill_in_turn(cluster, workers, flight, arguments.orders, arguments.away, crashes)
            )
            watching = asyncio.create_task(watch_orders(url, flight, arguments.orders, arguments.patience))
            try:
                await asyncio.wait({killing, watching}, return_when=asyncio.FIRST_COMPLETED)
                took = time.monotonic() - began
                if killing.done():
                    killing.result()
                watching.result()
                await starting
            finally:
                for task in (starting, killing, watching):
                    task.cancel()
                await asyncio.gather(starting, killing, watching, return_exceptions=True)
            await until_closed(cluster.address)
            say("all orders have ended; auditing")
            report = json.loads(trellis(settings, "audit", "--json", allowed=(0, 1)))
        finally:
            await connections.aclose()
            workers.close()
    seconds = sorted(flight.seconds.values())
    return {
        "server": VERSION,
        "shards": SHARDS,
        "orders": arguments.orders,
        "workers": arguments.workers,
        "policy": arguments.policy,
        "killed": flight.killed,
        "states": dict(Counter(flight.states.values())),
        "seconds": round(took, 1),
        "orders_per_second": round(arguments.orders / took, 2),
        "p50": round(statistics.median(seconds), 2),
        "p99": round(seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))], 2),
        "max": round(seconds[-1], 2),
        "audit": report,
    }


def trellis(settings: Settings, *command: str, allowed: tuple[int, ...] = (0,)) -> str:
    """Run a command of Trellis on the cluster; returns what it printed. Raises TrellisError."""
    done = subprocess.run(
        [sys.executable, "-m", "trellis", *command], env=os.environ | settings.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in allowed:
        raise TrellisError(f"trellis {' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/cluster/run", description=__doc__, add_help=True)
    parser.add_argument("--orders", type=int, default=100, help="how many orders")
    parser.add_argument("--at-once", type=int, default=10, help="how many at a time")
    parser.add_argument("--workers", type=int, default=3, help="how many worker processes")
    parser.add_argument("--policy", default="swift", help="one of the presets")
    parser.add_argument("--away", type=float, default=2.0, help="seconds before what was killed is started again")
    parser.add_argument("--patience", type=float, default=90.0, help="give up after so many seconds without an end")
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    parser.add_argument(
        "--binaries", type=Path, default=Path.home() / ".cache" / "trellis-cluster" / VERSION,
        help="the folder of Temporal's server and schema tool; they are built there if it lacks them",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    # Under /tmp and readable by all: started by root, Postgres runs as a user of its own.
    folder = Path(tempfile.mkdtemp(prefix="trellis-cluster-"))
    folder.chmod(0o755)
    keep = arguments.keep
    try:
        result = asyncio.run(fly(arguments, folder))
    except (CannotBuild, ServerFailed, WorkerEnded, TrellisError, TimeoutError) as error:
        say(f"{error} The logs are in {folder}.")
        keep = True
        return 1
    except KeyboardInterrupt:
        say("Interrupted; everything that was started has been ended.")
        return 130
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:18} {value}")
    ended = sum(result["states"].values()) == arguments.orders
    return 0 if ended and result["audit"]["verdict"] == "CLEAN" else 1


if __name__ == "__main__":
    sys.exit(main())
