"""Random commands against a pure model of an order, on the real servers, audited at the end.

The workers are a process of their own, which is killed and started anew among the commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
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
from trellis.crew import Crew
from trellis.db.ledger import Ledger
from trellis.db.pool import Pool
from trellis.desk import Receipt
from trellis.errors import RequestRefused
from trellis.faults import FaultPlan
from trellis.model import Order, State, shipping_workflow_id, workflow_id
from trellis.policies import preset, tuned
from trellis.runtime import open_desk

pytestmark = pytest.mark.slow

FAULTS = ["calm", "canonical", "charge: reply-lost, hang, ok; dispatch: error | ok", "prepare: hang*"]


@dataclass
class Asked:
    """A request and its answer: accepted, refused or pending."""

    kind: str
    id: str
    answer: str
    line: str = ""


@dataclass
class Model:
    """What must be true of one order, given its requests and its answers."""

    order: Order
    asked: list[Asked] = field(default_factory=list)
    address: str = "1 Main St"

    def answered(self, kind: str, *answers: str) -> bool:
        return any(one.kind == kind and one.answer in answers for one in self.asked)

    def may_end(self, state: State, reason: str) -> bool:
        """The policy tries without limit, so only a used budget fails an order; nobody but a request approves it."""
        if self.answered("cancel", "accepted"):
            return state is State.CANCELLED
        return {
            State.CANCELLED: self.answered("cancel", "pending"),
            State.COMPLETED: self.answered("approve", "accepted", "pending"),
            State.APPROVAL_TIMEOUT: not self.answered("approve", "accepted"),
            State.FAILED: "the budget of" in reason,
        }[state]

    def check(self, state: State, events: list[dict[str, Any]]) -> None:
        """Each answer has its event, under its own id, and no event belongs to a request that nobody sent."""
        types = {event["type"] for event in events}
        seen: dict[str, dict[str, Any]] = {}
        for event in events:
            if id_ := event["payload_json"].get("request_id"):
                assert id_ not in seen, ("answered twice", event)
                seen[id_] = event
        assert set(seen) <= {one.id for one in self.asked}
        for one in self.asked:
            event = seen.get(one.id, {"type": None})
            granted = {"approve": "ORDER_APPROVED", "cancel": "ORDER_CANCELLED", "update_address": "ADDRESS_UPDATED"}
            assert event["type"] in (None, granted[one.kind], "REQUEST_REFUSED"), (one, event)
            if one.answer == "refused":
                assert event["type"] == "REQUEST_REFUSED", one
            elif one.kind == "update_address":
                # A pending one may go either way, but not without a word.
                assert event["type"] == "ADDRESS_UPDATED" or (one.answer == "pending" and event["type"]), one
                if event["type"] == "ADDRESS_UPDATED":
                    assert event["payload_json"]["new"]["line1"] == one.line
            elif one.answer == "accepted":
                assert event["type"] != "REQUEST_REFUSED", one
                # One that finds the order cancelled, or approved, leaves no event of its own; nor does an approval
                # that an ending overtook.
                assert event["type"] or granted[one.kind] in types or (one.kind, state) != ("approve", "COMPLETED"), one
            else:
                overtaken = one.kind == "approve" and state is not State.COMPLETED
                assert event["type"] or granted[one.kind] in types or overtaken, one
        lines = [event["payload_json"]["new"]["line1"] for event in events if event["type"] == "ADDRESS_UPDATED"]
        self.address = (lines or [self.address])[-1]


class Orders(RuleBasedStateMachine):
    """Several orders at once. Commands come in any order, and workers die and are restarted meanwhile."""

    # Set once for the run, below.
    do: Callable[[Coroutine[Any, Any, Any]], Any]
    house: House
    restart: Callable[[bool], Coroutine[Any, Any, None]]
    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Model] = []
        self.do(self.house.faults("calm"))

    @rule(target=orders, approve=st.booleans(), patient=st.booleans())
    def start(self, approve: bool, patient: bool) -> Model:
        policy = tuned(preset("swift"), review_window=2.5 if patient else 0.7, budget=5.0)
        model = Model(self.do(self.house.start(policy)))
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
        self.ask(model, "approve")

    @rule(model=orders)
    def cancel(self, model: Model) -> None:
        self.ask(model, "cancel", "the machine")

    @rule(model=orders, number=st.integers(1, 99))
    def change_address(self, model: Model, number: int) -> None:
        self.ask(model, "update_address", {"line1": f"{number} Random Road"}, line=f"{number} Random Road")

    @rule(plan=st.sampled_from(FAULTS), seed=st.integers(0, 99))
    def change_faults(self, plan: str, seed: int) -> None:
        self.do(self.house.faults(FaultPlan.canonical(seed) if plan == "canonical" else plan))

    @rule(kill=st.booleans())
    def restart_workers(self, kill: bool) -> None:
        """Stop the workers: gracefully, or by abandoning what they do."""
        self.do(self.restart(kill))

    @rule(seconds=st.floats(0.05, 0.8))
    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def ask(self, model: Model, kind: str, *words: object, line: str = "") -> None:
        id_ = f"{kind}-{len(model.asked)}"
        try:
            receipt: Receipt = self.do(getattr(self.house.desk, kind)(model.order.order_id, *words, request_id=id_))
            answer = receipt.verdict
        except RequestRefused:
            answer = "refused"
        assert answer in ("accepted", "pending", "refused")
        model.asked.append(Asked(kind, id_, answer, line))

    def teardown(self) -> None:
        """Let everything end, compare it with the model, and audit books and histories."""
        self.do(self.house.faults("calm"))
        for model in self.models:
            status = self.do(self.house.desk.wait(model.order.order_id, 60))
            events = self.do(self.house.desk.events(model.order.order_id))
            state = State(status["state"])
            assert model.may_end(state, status["last_error"] or ""), (model, status)
            model.check(state, events)
            assert status["address"]["line1"] == model.address
            self.do(self.house.ends(model.order, state))
        if self.models:
            ids = [model.order.order_id for model in self.models]
            known = [
                id_ for one in ids for id_ in (workflow_id(one), *(shipping_workflow_id(one, n) for n in (1, 2, 3)))
            ]
            query = f"WorkflowId IN ({', '.join(repr(id_) for id_ in known)})"
            report = self.do(audit(self.house.desk.client, self.house.pool, query=query))
            assert report.looked_at == len(ids)
            assert [violation for violation in report.violations if violation.order_id in ids] == []


@pytest.mark.timeout(300)
async def test_random_commands_never_break_the_books(running: stack.Stack, settings: Settings, pool: Pool) -> None:
    """Whatever commands come in whatever order, each order ends as its answers said, and the books balance."""
    own = settings.model_copy(update={"orders_queue": "machine-orders", "shipping_queue": "machine-shipping"})
    loop = asyncio.get_running_loop()
    desk = await open_desk(running, own, pool)
    async with workers.FaultWatch(Ledger(pool), own) as watch:
        house = House(desk, pool, watch)
        crew = Crew(own, own.home / "machine.log", 1)
        await crew.hire(wait=False)

        async def restart(kill: bool) -> None:
            [worker] = crew.members
            await (crew.kill(worker) if kill else crew.dismiss(worker))
            await crew.hire(wait=False)

        class OnRealServers(Orders):
            pass

        OnRealServers.do = staticmethod(lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(90))
        OnRealServers.house = house
        OnRealServers.restart = staticmethod(restart)
        try:
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
        finally:
            await crew.stop_all()
            await house.faults("calm")
