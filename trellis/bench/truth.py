"""Is a recording true? Live orders are asked for their status, and their recordings must say the same.

The orders run under the canonical faults and get requests. An answer belongs to a point of the history only if the
history had the same length before and after the query. It is compared with the variables at the last workflow task that
was completed by then: that is the state which a worker answers from.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from temporalio.client import WorkflowExecutionStatus, WorkflowHistory, WorkflowQueryFailedError
from temporalio.service import RPCError

from trellis.bench import replay
from trellis.bench.bench_stack import bench_stack
from trellis.config import Settings
from trellis.desk import Desk
from trellis.driving import many, sample_order
from trellis.errors import RequestRefused, TrellisError
from trellis.faults import FaultPlan
from trellis.messages import Status
from trellis.model import State, workflow_id
from trellis.policies import Policy, preset
from trellis.replay import replay_async
from trellis.rules import Progress

_PAUSE = 0.02


@dataclass(frozen=True)
class Answer:
    """What a live query said when the history had so many events."""

    length: int
    status: dict[str, Any]


@dataclass
class Truth:
    """How many orders were compared, and how many answers; `differences` holds {order_id, event, live, recorded}.

    `unreplayable` holds {order_id, why} for orders whose history the SDK's own Replayer refuses too. Their recordings
    end where it does, so that there is nothing to compare.
    """

    orders: int = 0
    answers: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)
    unreplayable: list[dict[str, str]] = field(default_factory=list)

    @property
    def equal(self) -> int:
        """How many orders were compared and had no difference."""
        return self.orders - len({each["order_id"] for each in self.differences}) - len(self.unreplayable)

    def to_json(self) -> dict[str, Any]:
        return {
            "orders": self.orders,
            "equal": self.equal,
            "answers": self.answers,
            "differences": self.differences[:5],
            "unreplayable": self.unreplayable,
        }


async def run(settings: Settings, orders: int, rounds: int, seed: int, tick: Callable[[], None]) -> dict[str, Any]:
    """`Truth.to_json` for orders on a stack of its own, and what it costs to record their histories (`cost`)."""
    histories: list[WorkflowHistory] = []
    async with bench_stack(settings, own_servers=True) as bench:
        await bench.set_faults(FaultPlan.canonical(seed))
        policy = preset("swift")
        truth = await compare(bench.desk, policy, orders, seed=seed, tick=tick, keep=histories.append)
    cost = await asyncio.to_thread(replay.compare, histories[:40], rounds, lambda: None)
    return {**truth.to_json(), "cost": cost}


async def compare(
    desk: Desk,
    policy: Policy,
    orders: int,
    *,
    at_once: int = 5,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
    keep: Callable[[WorkflowHistory], None] = lambda _: None,
) -> Truth:
    """Run orders with requests, under the faults in force, and compare each with its recording. `keep` gets their
    histories."""
    truth, luck = Truth(), random.Random(seed)

    async def one() -> None:
        order_id, answers = await _asked(desk, policy, random.Random(luck.random()))
        history = await desk.client.get_workflow_handle(workflow_id(order_id)).fetch_history()
        keep(history)
        recording = await replay_async(history, lines=False, family=False)
        truth.orders += 1
        tick()
        if recording.trouble and not await asyncio.to_thread(replays, history):
            truth.unreplayable.append({"order_id": order_id, "why": recording.trouble})
            return
        if recording.trouble or not answers:
            said = recording.trouble or "no query was answered between two events"
            truth.differences.append({"order_id": order_id, "event": None, "live": None, "recorded": said})
        for answer in answers:
            event = last_task(history, answer.length)
            if event is None:
                continue
            truth.answers += 1
            recorded = status_of(recording.variables(recording.at(event)))
            if recorded != answer.status:
                truth.differences.append(
                    {"order_id": order_id, "event": event, "live": answer.status, "recorded": recorded}
                )

    await many(orders, at_once, one)
    return truth


def replays(history: WorkflowHistory) -> bool:
    """Whether the SDK's own Replayer accepts it."""
    try:
        replay.bare([history])
    except TrellisError:
        return False
    return True


def last_task(history: WorkflowHistory, length: int) -> int | None:
    """The last event that the last workflow task completed within the first `length` events had taken in."""
    found = None
    for event in history.events[:length]:
        if event.HasField("workflow_task_completed_event_attributes"):
            found = event.workflow_task_completed_event_attributes.started_event_id
    return found


def status_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The status that the order workflow answers with, worked out from its recorded variables."""
    known: Mapping[str, Any] = variables["_progress"]
    ending = known["ending"]
    progress = Progress(
        State(known["state"]), known["review_over"], known["shipped"], None if ending is None else State(ending)
    )
    may = progress.permissions(variables["_step"])
    return asdict(
        Status(
            variables["_order_id"],
            str(progress.state),
            variables["_step"],
            variables["_review_deadline"],
            variables["_last_error"],
            can_cancel=may.cancel,
            can_update_address=may.update_address,
        )
    )


async def _asked(desk: Desk, policy: Policy, luck: random.Random) -> tuple[str, list[Answer]]:
    """Run one order to its end, and ask for its status all the time."""
    order = sample_order("truth")
    await desk.start(order, policy)
    steering = asyncio.create_task(_steered(desk, order.order_id, luck))
    handle = desk.client.get_workflow_handle(workflow_id(order.order_id))
    found: list[Answer] = []
    # A few tries at the end: its final state is an answer too.
    tries = 10
    while tries:
        before = await handle.describe()
        if before.status is not WorkflowExecutionStatus.RUNNING:
            tries -= 1
        try:
            status = await handle.query("status", result_type=Status)
        except (RPCError, WorkflowQueryFailedError):
            # No worker answered in time: this machine is busy, or the order has not begun. Or the SDK could not answer:
            # asked while it rebuilds a workflow that just took an update, it may stumble over the update's events.
            await asyncio.sleep(_PAUSE)
            continue
        if (await handle.describe()).history_length == before.history_length:
            found.append(Answer(before.history_length, asdict(status)))
            if before.status is not WorkflowExecutionStatus.RUNNING:
                break
        await asyncio.sleep(_PAUSE)
    await steering
    return order.order_id, found


async def _steered(desk: Desk, order_id: str, luck: random.Random) -> None:
    """Requests as people make them: an address, an approval, and for some a cancellation."""
    with suppress(RequestRefused):
        if luck.random() < 0.4:
            await desk.update_address(order_id, {"line1": "2 New Road"})
        await asyncio.sleep(luck.random() * 0.3)
        await desk.approve(order_id)
        if luck.random() < 0.4:
            await asyncio.sleep(luck.random())
            await desk.cancel(order_id, "changed my mind")
