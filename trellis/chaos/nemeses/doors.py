"""The HTTP API, a process of its own, killed between a request's arrival and the start of its order."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import random
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from typing import Any

from trellis.chaos.house import Door, House
from trellis.chaos.nemeses.servers import foreign
from trellis.chaos.nemesis import Nemesis, insist
from trellis.chaos.wire import PASS, Wire, slow
from trellis.chaos.wiring import through
from trellis.desk import Receipt, Started
from trellis.errors import BadInput, OrderConflict, OrderNotFound, RequestRefused, StackError
from trellis.model import Order
from trellis.policies import Policy, preset

STARTS_WITHIN = 60.0
BETWEEN = 0.15
"""How much later each message between the API and Temporal arrives [s]. So a start is under way long enough to be
hit."""

_ERRORS = {404: OrderNotFound, 409: RequestRefused, 422: BadInput}


class HttpDoor:
    """The requests of clients, over HTTP. Raises what the desk raises; StackError where the API does not answer."""

    def __init__(self, inner: Door) -> None:
        self.inner = inner
        self.address: tuple[str, int] | None = None
        self.under_way = 0
        self.cut = 0
        """Starts that the API had taken, and whose answer never came, because it was killed."""

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        body: dict[str, Any] = {
            "payment_id": order.payment_id,
            "items": [
                {"sku": item.sku, "quantity": item.quantity, "price": f"{item.price_cents / 100:.2f}"}
                for item in order.items
            ],
        }
        if order.address is not None:
            body["address"] = asdict(order.address)
        if policy is not None:
            if preset(policy.name) != policy:
                raise BadInput("Over HTTP a policy is named, so chaos takes a preset here.")
            body["policy"] = policy.name
        status, answer = await self._post(f"/orders/{order.order_id}/start", body)
        if status == 409:
            raise OrderConflict(str(answer["message"]))
        return Started(str(answer["workflow_id"]), str(answer["run_id"]), created=status == 201)

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt:
        return await self._steer(f"/orders/{order_id}/signals/approve", {})

    async def cancel(self, order_id: str, reason: str = "", *, request_id: str | None = None) -> Receipt:
        return await self._steer(f"/orders/{order_id}/signals/cancel", {"reason": reason})

    async def update_address(self, order_id: str, address: object, *, request_id: str | None = None) -> Receipt:
        return await self._steer(f"/orders/{order_id}/address", {"address": address})

    async def _steer(self, path: str, body: dict[str, Any]) -> Receipt:
        status, answer = await self._post(path, body)
        if status == 409:
            raise RequestRefused(str(answer["message"]))
        return Receipt(str(answer["verdict"]), str(answer["reason"]))

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of one request on a connection of its own. Raises for every other status than 2xx and 409."""
        if self.address is None:
            raise StackError("The API does not run.")
        try:
            reader, writer = await asyncio.open_connection(*self.address)
        except OSError:
            raise StackError("The API takes no connection.") from None
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(sent)}\r\n\r\n"
        self.under_way += 1
        try:
            writer.write(head.encode() + sent)
            await writer.drain()
            whole = await reader.read()
        except OSError:
            whole = b""
        finally:
            self.under_way -= 1
            writer.close()
        head_, _, text = whole.partition(b"\r\n\r\n")
        try:
            status, answer = int(head_.split()[1]), json.loads(text)
        except (IndexError, ValueError):
            self.cut += path.endswith("/start")
            raise StackError("The API ended before it answered.") from None
        if status < 300 or status == 409:
            return status, answer
        raise _ERRORS.get(status, StackError)(str(answer["message"]))


class ApiKilled(Nemesis):
    """Clients use a real API. It is killed whenever it has taken the start of an order and not yet answered.

    Its wire to Temporal is slow, so that a kill meets starts before, at and after the moment at which Temporal has
    them.
    """

    name = "api-killed"
    says = "Clients start orders over HTTP, and the API is killed between a request and its answer, again and again."
    seconds = 12.0

    def __init__(self) -> None:
        self._opened = AsyncExitStack()
        self._wire: Wire | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._door: HttpDoor | None = None
        self._killing: asyncio.Task[None] | None = None

    def why_not(self, house: House) -> str | None:
        return foreign(house)

    async def break_(self, house: House) -> None:
        atexit.register(self._kill)
        self._wire = await self._opened.enter_async_context(Wire(house.runtime.stack.temporal.address))
        self._door = HttpDoor(house.door)
        await self._start(house, self._door)
        house.door = self._door
        self._killing = asyncio.create_task(self._kill_again_and_again(house, self._door))

    async def _kill_again_and_again(self, house: House, door: HttpDoor) -> None:
        draw = random.Random(f"api {self.seed}")
        while True:
            while not door.under_way:
                await asyncio.sleep(0.01)
            # From a moment after the request's arrival to a moment after Temporal's answer.
            await asyncio.sleep(draw.uniform(0.02, 4 * BETWEEN))
            if not door.under_way:
                continue
            self._kill()
            door.address = None
            await self._start(house, door)

    async def _start(self, house: House, door: HttpDoor) -> None:
        """Start an API and wait until it answers. Raises StackError if none can be started for a minute: another
        nemesis may hold a server that an API needs when it starts."""

        async def one() -> None:
            self._kill()
            await self._start_once(house, door)

        await insist(one, StackError)

    async def _start_once(self, house: House, door: HttpDoor) -> None:
        assert self._wire is not None
        self._wire.mode = PASS
        environment = house.settings.environment() | through(house.runtime, {"temporal": self._wire})
        log = house.settings.home / "api.log"
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: ASYNC220 -- it returns at once
                [sys.executable, "-m", "trellis", "api", "--port", "0"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                env=os.environ | environment | {"LOG_LEVEL": "ERROR"},
                # A Ctrl-C in our terminal must not reach it: this nemesis ends it.
                process_group=0,
            )  # fmt: skip
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(STARTS_WITHIN):
                line = (await asyncio.to_thread(self._process.stdout.readline)).decode()
        except TimeoutError:
            raise StackError(f"The API did not start within {STARTS_WITHIN:.0f} s. See {log}.") from None
        if not line.startswith("API at http://"):
            raise StackError(f"The API did not start. See {log}.")
        host, _, port = line.split()[2].rstrip(",").removeprefix("http://").rpartition(":")
        self._wire.mode = slow(BETWEEN)
        door.address = (host, int(port))

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    async def heal(self, house: House) -> None:
        if self._killing is not None:
            self._killing.cancel()
            await asyncio.gather(self._killing, return_exceptions=True)
        if self._door is not None and house.door is self._door:
            house.door = self._door.inner
            # Let the requests finish that are under way. A client whose request is cut asks the next door.
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while self._door.under_way:
                        await asyncio.sleep(0.02)
            self._door.address = None
        self._kill()
        atexit.unregister(self._kill)
        await self._opened.aclose()

    async def landed(self, house: House) -> int:
        return self._door.cut if self._door is not None else 0


ALL: tuple[type[Nemesis], ...] = (ApiKilled,)
