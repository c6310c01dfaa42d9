"""Random commands against a pure model of an order, on the real servers, audited at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.conftest import House
from trellis import stack, workers
from trellis.audit import audit
from trellis.config import Settings
from trellis.db.pool import Pool
from trellis.desk import Receipt, opened
from trellis.errors import RequestRefused
from trellis.faults import FaultPlan
from trellis.model import Order, State
from trellis.policies import preset, tuned

FAULTS = ["calm", "canonical", "charge: reply-lost, hang, ok; dispatch: error | ok", "prepare: hang*"]


@dataclass
class Model:
    """What must be true of one order, from the answers it gave and nothing else."""

    order: Order
    approved: bool = False
    cancelled: bool = False
    addresses: list[str] = field(default_factory=list)

    def may_end(self) -> set[State]:
        if self.cancelled:
            return {State.CANCELLED}
        if not self.approved:
            return {State.APPROVAL_TIMEOUT, State.FAILED}
        return {State.COMPLETED, State.FAILED}


class Orders(RuleBasedStateMachine):
    """Several orders at once; commands come as they like, workers restart under them."""

    # Set once for the run, below.
    do: Callable[[Coroutine[Any, Any, Any]], Any]
    house: House
    restart: Callable[[], Coroutine[Any, Any, None]]
    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Model] = []
        self.do(self.house.faults("calm"))

    @rule(target=orders, approve=st.booleans(), patient=st.booleans())
    def start(self, approve: bool, patient: bool) -> Model:
        policy = tuned(preset("swift"), review_window=2.5 if patient else 0.7, budget=5.0)
        order = self.do(self.house.start(policy))
        model = Model(order)
        self.models.append(model)
        if approve:
            self.approve(model)
        return model

    @rule(model=orders)
    def start_again(self, model: Model) -> None:
        """The same order again is the same run."""
        again = self.do(self.house.desk.start(model.order, preset("swift")))
        assert not again.created

    @rule(model=orders)
    def approve(self, model: Model) -> None:
        model.approved |= self.accepted(self.house.desk.approve(model.order.order_id))

    @rule(model=orders)
    def cancel(self, model: Model) -> None:
        model.cancelled |= self.accepted(self.house.desk.cancel(model.order.order_id, "the machine"))

    @rule(model=orders, number=st.integers(1, 99))
    def change_address(self, model: Model, number: int) -> None:
        line = f"{number} Random Road"
        if self.accepted(self.house.desk.update_address(model.order.order_id, {"line1": line})):
            model.addresses.append(line)

    @rule(plan=st.sampled_from(FAULTS), seed=st.integers(0, 99))
    def change_faults(self, plan: str, seed: int) -> None:
        self.do(self.house.faults(FaultPlan.canonical(seed) if plan == "canonical" else plan))

    @rule()
    def restart_workers(self) -> None:
        self.do(self.restart())

    @rule(seconds=st.floats(0.05, 0.8))
    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def accepted(self, request: Coroutine[Any, Any, Receipt]) -> bool:
        """True for a yes; a `pending` shows later, in the log."""
        try:
            receipt = self.do(request)
        except RequestRefused:
            return False
        assert receipt.verdict in ("accepted", "pending")
        return bool(receipt.verdict == "accepted")

    def teardown(self) -> None:
        """Let everything end, then hold it against the model and have the books audited."""
        self.do(self.house.faults("calm"))
        for model in self.models:
            status = self.do(self.house.desk.wait(model.order.order_id, 60))
            events = self.do(self.house.desk.events(model.order.order_id))
            asked = {event["type"] for event in events}
            if "ORDER_CANCELLED" in asked:
                model.cancelled = True
            if "ORDER_APPROVED" in asked:
                model.approved = True
            assert status["state"] in model.may_end(), (model, status)
            changed = [e["payload_json"]["new"]["line1"] for e in events if e["type"] == "ADDRESS_UPDATED"]
            assert [line for line in model.addresses if line not in changed] == []
            self.do(self.house.ends(model.order, status["state"]))
        report = self.do(audit(self.house.desk.client, self.house.pool, histories=False))
        mine = {model.order.order_id for model in self.models}
        assert [violation for violation in report.violations if violation.order_id in mine] == []


@pytest.mark.timeout(300)
async def test_random_commands_never_break_the_books(running: stack.Stack, settings: Settings, pool: Pool) -> None:
    """Whatever commands come in whatever order, each order ends as its answers said, and the books balance."""
    own = settings.model_copy(update={"orders_queue": "machine-orders", "shipping_queue": "machine-shipping"})
    loop = asyncio.get_running_loop()
    async with opened(running, own, pool=pool) as desk, AsyncExitStack() as outer:
        current = await outer.enter_async_context(AsyncExitStack())
        house = House(desk, pool, await current.enter_async_context(workers.running(desk.client, pool, own)))

        async def restart() -> None:
            await current.aclose()
            house.watch = await current.enter_async_context(workers.running(desk.client, pool, own))

        class OnRealServers(Orders):
            pass

        OnRealServers.do = staticmethod(lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(90))
        OnRealServers.house = house
        OnRealServers.restart = staticmethod(restart)
        # The machine is synchronous and the servers' clients live on this loop: it plays from a thread of its own.
        await asyncio.to_thread(
            run_state_machine_as_test,
            OnRealServers,
            settings=hypothesis.settings(
                max_examples=6,
                stateful_step_count=15,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        await house.faults("calm")
