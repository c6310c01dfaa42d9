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
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from temporalio.client import Client
from temporalio.service import RPCError

from tests.cluster.build import VERSION, CannotBuild, build
from tests.cluster.servers import NAMESPACE, SHARDS, Cluster, ServerFailed
from trellis import logs
from trellis.config import Settings
from trellis.desk import Desk
from trellis.driving import sample_order
from trellis.errors import RequestRefused, TrellisError
from trellis.policies import Policy, preset
from trellis.runtime import opened

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

    def until_polling(self, settings: Settings, seconds: float = 60) -> None:
        """Wait until Temporal has heard of workers on both queues. Raises TrellisError."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            try:
                trellis(settings, "worker", "--check")
                return
            except TrellisError:
                if time.monotonic() > deadline:
                    raise

    def process_ids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

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


def costs(cluster: Cluster, workers: Workers) -> dict[str, dict[str, float]]:
    """What has been used until now: CPU [s] by kind of process, and commits and rows written by database."""
    cpu = {"trellis workers": sum(cpu_seconds(id_) for id_ in workers.process_ids())}
    cpu |= {name: cpu_seconds(id_) for name, id_ in cluster.process_ids().items()}
    found = {"cpu_seconds": cpu}
    with psycopg.connect(cluster.database_url("postgres"), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT datname, xact_commit, tup_inserted, tup_updated + tup_deleted FROM pg_stat_database "
            "WHERE datname IN ('trellis', 'temporal', 'temporal_visibility')"
        ).fetchall()
    for name, commits, inserted, changed in rows:
        found[f"database {name}"] = {"commits": commits, "rows_inserted": inserted, "rows_changed": changed}
    return found


def cpu_seconds(process_id: int) -> float:
    """CPU seconds of the process and its children, ended ones included."""
    total = 0.0
    with suppress(psutil.Error):
        parent = psutil.Process(process_id)
        for process in (parent, *parent.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def each(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], orders: int
) -> dict[str, dict[str, float]]:
    """The difference, by order. What a killed process had used is not in it."""
    return {
        group: {name: round(max(0.0, value - before[group].get(name, 0)) / orders, 4) for name, value in now.items()}
        for group, now in after.items()
    }


async def until_taken(call: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    """Repeat the call while the cluster does not answer. Starting or approving twice is the same as once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await call()
            return
        except RequestRefused:
            # An approval whose answer was lost: the second one answers that the order was approved.
            return
        except (TrellisError, RPCError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.3)


async def start_orders(desk: Desk, flight: Flight, orders: int, at_once: int, policy: Policy) -> None:
    """Keep `at_once` orders under way until `orders` have been started; each is approved as it starts."""
    for _ in range(orders):
        while len(flight.began) - len(flight.states) >= at_once:
            await asyncio.sleep(0.02)
        order = sample_order("cluster")
        flight.began[order.order_id] = time.monotonic()
        await until_taken(partial(desk.start, order, policy))
        await until_taken(partial(desk.approve, order.order_id))


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
    """The whole run. Returns what `--json` prints."""
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
                "TRELLIS_FAULTS": arguments.faults,
            }
        )
        # Sends Temporal's core to stderr: stdout is for the result alone.
        logs.configure(settings.model_copy(update={"log_level": "ERROR"}))
        trellis(settings, "migrate")
        workers = Workers(settings, folder)
        flight = Flight()
        connections = AsyncExitStack()
        try:
            for number in range(arguments.workers):
                workers.start(number)
            # A worker imports for a second or two; the figures begin after that.
            await asyncio.to_thread(workers.until_polling, settings)
            began = time.monotonic()
            before = costs(cluster, workers)
            running = await connections.enter_async_context(opened(settings))
            crashes = () if arguments.no_kills else CRASHES
            starting = asyncio.create_task(
                start_orders(running.desk, flight, arguments.orders, arguments.at_once, preset(arguments.policy))
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
            per_order = each(before, costs(cluster, workers), arguments.orders)
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
        "faults": arguments.faults,
        "killed": flight.killed,
        "states": dict(Counter(flight.states.values())),
        "seconds": round(took, 1),
        "orders_per_second": round(arguments.orders / took, 2),
        "p50": round(statistics.median(seconds), 2),
        "p99": round(seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))], 2),
        "max": round(seconds[-1], 2),
        "per_order": per_order,
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
    parser.add_argument("--faults", default="canonical", help="canonical, calm or a script")
    parser.add_argument("--no-kills", action="store_true", help="kill nothing; the costs per order are then complete")
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
