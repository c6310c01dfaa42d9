"""Requests that come twice, too early, too late, or all at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from trellis.chaos.house import Door, House
from trellis.chaos.nemesis import Nemesis
from trellis.desk import Receipt, Started, new_request_id
from trellis.driving import sample_order
from trellis.errors import OrderNotFound, RequestRefused, TrellisError
from trellis.model import Order
from trellis.policies import Policy, preset

T = TypeVar("T")

ELSEWHERE = {"line1": "2 Other Street", "city": "Springfield"}
ENDS_WITHIN = 120.0
"""How long a nemesis waits for the end of an order that it started itself [s]."""


async def _twice(first: Awaitable[T], second: Awaitable[T]) -> T:
    """Both at once; the answer of the one that was answered, the first of the two if both were."""
    answers = await asyncio.gather(first, second, return_exceptions=True)
    for answer in answers:
        if not isinstance(answer, BaseException):
            return answer
    assert isinstance(answers[0], BaseException)
    raise answers[0]


class Through:
    """A door that passes everything on. A nemesis of requests overrides what it changes."""

    def __init__(self, inner: Door) -> None:
        self.inner = inner
        self.changed = 0
        """How many requests came in another way than their client sent them, and were answered."""

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        return await self.inner.start(order, policy)

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt:
        return await self.inner.approve(order_id, request_id=request_id)

    async def cancel(self, order_id: str, reason: str = "", *, request_id: str | None = None) -> Receipt:
        return await self.inner.cancel(order_id, reason, request_id=request_id)

    async def update_address(self, order_id: str, address: object, *, request_id: str | None = None) -> Receipt:
        return await self.inner.update_address(order_id, address, request_id=request_id)

    async def last(self) -> None:
        """Finish what is still to be sent. Called when the orders have ended."""


class _AtTheDoor(Nemesis):
    """Puts a door of its own before the one that clients use."""

    kind: ClassVar[type[Through]]

    def __init__(self) -> None:
        self._before: Door | None = None
        self.door: Through | None = None

    async def break_(self, house: House) -> None:
        self._before = house.door
        self.door = house.door = self.kind(house.door)

    async def heal(self, house: House) -> None:
        if self._before is not None and house.door is self.door:
            house.door = self._before

    async def landed(self, house: House) -> int:
        if self.door is None:
            return 0
        await self.door.last()
        return self.door.changed


class _Doubled(Through):
    async def _both(self, first: Awaitable[T], second: Awaitable[T]) -> T:
        answer = await _twice(first, second)
        self.changed += 1
        return answer

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        return await self._both(self.inner.start(order, policy), self.inner.start(order, policy))

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt:
        id_ = request_id or new_request_id()
        # An address comes with it, twice and under one id as well, so that each kind of request is doubled.
        address = new_request_id()
        with suppress(RequestRefused):
            await self._both(*(self.inner.update_address(order_id, ELSEWHERE, request_id=address) for _ in range(2)))
        return await self._both(*(self.inner.approve(order_id, request_id=id_) for _ in range(2)))

    async def cancel(self, order_id: str, reason: str = "", *, request_id: str | None = None) -> Receipt:
        id_ = request_id or new_request_id()
        return await self._both(*(self.inner.cancel(order_id, reason, request_id=id_) for _ in range(2)))


class RequestsDoubled(_AtTheDoor):
    name = "requests-doubled"
    says = "Each start, approval, cancellation and change of address is sent twice at the same time."
    kind = _Doubled


class _Early(Through):
    """Sends an approval before the order exists, and again the moment it does, before any worker has received it."""

    def __init__(self, inner: Door) -> None:
        super().__init__(inner)
        self._answered: dict[str, Receipt] = {}

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        id_ = new_request_id()
        early = asyncio.create_task(self._approve(order.order_id, id_))
        try:
            started = await self.inner.start(order, policy)
        except BaseException:
            early.cancel()
            raise
        finally:
            await asyncio.gather(early, return_exceptions=True)
        return started

    async def _approve(self, order_id: str, request_id: str) -> None:
        with suppress(TrellisError):
            while order_id not in self._answered:
                with suppress(OrderNotFound):
                    self._answered[order_id] = await self.inner.approve(order_id, request_id=request_id)
                    self.changed += 1

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt:
        """The client's own approval is the second one, and changes nothing: an order is approved once."""
        if order_id in self._answered:
            with suppress(RequestRefused):
                await self.inner.approve(order_id, request_id=request_id)
            return self._answered[order_id]
        return await self.inner.approve(order_id, request_id=request_id)


class RequestsEarly(_AtTheDoor):
    name = "requests-early"
    says = "Each approval is sent before its order exists, until it is taken, and again when it is due."
    kind = _Early


class _Late(Through):
    """Sends everything once more when the order has ended: nothing may come of it."""

    def __init__(self, inner: Door) -> None:
        super().__init__(inner)
        self.sent: list[tuple[Order, Policy | None, str]] = []
        self._approvals: dict[str, str] = {}

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        started = await self.inner.start(order, policy)
        self.sent.append((order, policy, started.run_id))
        return started

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt:
        id_ = self._approvals.setdefault(order_id, request_id or new_request_id())
        return await self.inner.approve(order_id, request_id=id_)

    async def last(self) -> None:
        for order, policy, run_id in self.sent:
            id_ = order.order_id
            again = await self.inner.start(order, policy)
            if again.created or again.run_id not in ("", run_id):
                raise TrellisError(f"Order {id_} was started twice: its runs are {run_id} and {again.run_id}.")
            with suppress(RequestRefused):
                await self.inner.approve(id_, request_id=self._approvals.get(id_))
            for refused in (self.inner.cancel(id_, "too late"), self.inner.update_address(id_, ELSEWHERE)):
                try:
                    await refused
                except RequestRefused:
                    self.changed += 1
                else:
                    raise TrellisError(f"Order {id_} accepted a request although it had ended.")
        self.sent.clear()


class RequestsLate(_AtTheDoor):
    name = "requests-late"
    says = "Each start, approval, cancellation and change of address comes again when its order has ended."
    kind = _Late


class CancelStorm(Nemesis):
    """50 starts and 50 cancellations of five orders, in a random order, all at the same time."""

    name = "cancel-storm"
    says = "50 starts and 50 cancellations of the same five orders arrive at the same time."
    seconds = 2.0

    ORDERS = 5
    CALLS = 50

    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._answers = 0

    async def break_(self, house: House) -> None:
        self._orders = [sample_order("storm") for _ in range(self.ORDERS)]
        policy = preset("swift")
        calls: list[Coroutine[Any, Any, object]] = []
        for number in range(self.CALLS):
            order = self._orders[number % self.ORDERS]
            calls += [house.door.start(order, policy), house.door.cancel(order.order_id, "a storm")]
        random.Random(f"storm {self.seed}").shuffle(calls)
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, Started | Receipt | RequestRefused):
                self._answers += 1
            elif not isinstance(answer, TrellisError):
                # A refusal by the servers, such as a cancellation before the start, is what a storm brings. Any other
                # error is a mistake.
                assert isinstance(answer, BaseException)
                raise answer

    async def heal(self, house: House) -> None:
        """The storm is over when its calls are answered."""

    async def landed(self, house: House) -> int:
        for order in self._orders:
            # All cancellations may have come before all starts. Then the order waits for an approval, so cancel it.
            with suppress(RequestRefused, OrderNotFound):
                await house.door.cancel(order.order_id, "the storm is over")
            with suppress(OrderNotFound, TimeoutError):
                await house.runtime.desk.wait(order.order_id, ENDS_WITHIN)
        return self._answers


ALL: tuple[type[Nemesis], ...] = (RequestsDoubled, RequestsEarly, RequestsLate, CancelStorm)
