"""How long `status` takes over HTTP while orders run, and how the API answers more requests than it can serve.

API and workers run as separate processes. Requests are due at fixed times, whether or not earlier ones were answered.
The clock of a request starts when it is due, so its time includes waiting.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from trellis.config import Settings
from trellis.desk import Desk
from trellis.driving import sample_order
from trellis.faults import FaultPlan
from trellis.policies import preset
from trellis.runtime import opened, workspace

THREADS = 200
AT_ONCE = 10
START_EVERY = 25
"""One request of so many is a start. The others ask for a status."""


async def run(
    settings: Settings, rate: float, seconds: float, flood: float, tick: Callable[[], None]
) -> dict[str, Any]:
    """{requests, rate, p50_ms, p99_ms, max_ms, errors, rejected, start_answers_ms, orders_completed, flood: {...}}.

    Statuses and starts at `rate` a second for `seconds`, beside ten orders at a time under the canonical faults;
    then statuses at `flood` a second for a fifth of the time.
    """
    with workspace(settings, own_servers=False) as own:
        async with opened(own, start=True) as runtime:
            await runtime.desk.set_faults(FaultPlan.canonical())
            with _process(own, "worker"), _process(own, "api", "--port", "0") as api:
                assert api.stdout is not None
                address = (await asyncio.to_thread(api.stdout.readline)).split()[2].rstrip(b",").decode()
                async with _traffic(runtime.desk) as traffic:
                    await traffic.warm()
                    load = _Load(address.removeprefix("http://"), traffic.recent)
                    figures = await asyncio.to_thread(load.run, rate, seconds, tick)
                    completed = traffic.completed
                    flooded = await asyncio.to_thread(load.run, flood, seconds / 5, tick, starts=False)
    kept = ("requests", "rate", "p50_ms", "p99_ms", "max_ms", "errors", "rejected")
    return figures | {"orders_completed": completed, "flood": {name: flooded[name] for name in kept}}


@contextmanager
def _process(settings: Settings, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "TRELLIS_HOME": str(settings.home), "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trellis", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


class _Traffic:
    """Orders that run meanwhile; `recent` are the ids to ask for."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.recent: deque[str] = deque(maxlen=20)
        self.completed = 0

    async def lane(self) -> None:
        while True:
            order = sample_order("traffic")
            await self._desk.start(order, preset("swift"))
            self.recent.append(order.order_id)
            await self._desk.approve(order.order_id)
            ended = await self._desk.wait(order.order_id)
            self.completed += ended["state"] == "COMPLETED"

    async def warm(self) -> None:
        while self.completed < AT_ONCE:
            await asyncio.sleep(0.1)
        self.completed = 0


@asynccontextmanager
async def _traffic(desk: Desk) -> AsyncIterator[_Traffic]:
    traffic = _Traffic(desk)
    # A lane that fails must end the benchmark. Without it, the load would be less than the benchmark says.
    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(traffic.lane()) for _ in range(AT_ONCE)]
        yield traffic
        for lane in lanes:
            lane.cancel()


class _Load:
    def __init__(self, netloc: str, recent: deque[str]) -> None:
        self._netloc = netloc
        self._recent = recent
        self._mine = threading.local()

    def run(self, rate: float, seconds: float, tick: Callable[[], None], *, starts: bool = True) -> dict[str, Any]:
        times: dict[str, list[float]] = {"status": [], "start": []}
        codes: Counter[int] = Counter()
        total = int(rate * seconds)
        begin = time.perf_counter()

        def one(number: int, due: float) -> None:
            kind = "start" if starts and number % START_EVERY == 0 else "status"
            code = self._start() if kind == "start" else self._status(number)
            codes[code] += 1
            if code in (200, 201):
                times[kind].append((time.perf_counter() - due) * 1000)
            tick()

        with ThreadPoolExecutor(THREADS) as pool:
            for number in range(total):
                due = begin + number / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                pool.submit(one, number, due)
        p50, p99 = _cuts(times["status"])
        return {
            "requests": total,
            "rate": round(total / (time.perf_counter() - begin), 1),
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": round(max(times["status"], default=0.0), 1),
            "errors": total - codes[200] - codes[201] - codes[503],
            "rejected": codes[503],
            "start_answers_ms": dict(zip(("p50", "p99"), _cuts(times["start"]), strict=True)),
        }

    def _status(self, number: int) -> int:
        return self._ask("GET", f"/orders/{self._recent[number % len(self._recent)]}/status")

    def _start(self) -> int:
        order = sample_order("load")
        return self._ask("POST", f"/orders/{order.order_id}/start", json.dumps({"payment_id": order.payment_id}))

    def _ask(self, method: str, path: str, body: str | None = None) -> int:
        """The answer's status code; 0 without an answer within 30 s."""
        try:
            if not hasattr(self._mine, "connection"):
                self._mine.connection = http.client.HTTPConnection(self._netloc, timeout=30)
            self._mine.connection.request(method, path, body)
            answer = self._mine.connection.getresponse()
            answer.read()
            return int(answer.status)
        except OSError:
            with suppress(AttributeError):
                self._mine.connection.close()
            return 0


def _cuts(milliseconds: list[float]) -> tuple[float, float]:
    if len(milliseconds) < 2:
        return 0.0, 0.0
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return round(cuts[49], 1), round(cuts[98], 1)
