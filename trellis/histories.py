"""Reads from a history its order's input, which activities completed, and the requests. Audit and reconcile use it.

Whoever can reach Temporal can start a workflow of ours with any input and send it any signal. Nothing here trusts
what a history holds: what cannot be read raises UnreadableHistory, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType as HistoryEventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from trellis.errors import BadInput
from trellis.incoming import KINDS, is_our_own, read_request, read_start, read_start_as_before
from trellis.messages import SHIPPING_WORKFLOW, Cancel, OrderInput, ShippingInput, Verdict
from trellis.model import workflow_id
from trellis.parsing import ID_PATTERN

TAKEN_OVER = 60.0
"""A lost worker's step must reach another worker within this time [s]. Trellis asks for a heartbeat every 5 s."""


class UnreadableHistory(Exception):
    """The history cannot be read. The message says why, on one line."""


class NoOrder(UnreadableHistory):
    """The workflow's input is not an order. The workflow fails with the same sentence."""


@dataclass(frozen=True)
class Request:
    """`accepted` is None where the history holds no verdict: a signal, or an update cut off in the middle.

    `acknowledged`: its sender got an answer: yes, no or pending. `id` is empty for a signal sent by hand.
    """

    kind: str
    id: str
    accepted: bool | None
    acknowledged: bool
    reason: str = ""


@dataclass
class OrderHistory:
    """The input of the workflow, which activities completed (name, round), and the requests, in their order.

    `unwatched`: the activities whose lost worker Temporal would not notice within TAKEN_OVER, and after which time [s]
    it would.
    `passes_on`: somebody started the order by hand under another workflow id. This workflow only passes signals on to
    `order-{id}`, which it started.
    """

    input: OrderInput | ShippingInput
    completed: list[tuple[str, int | None]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    passes_on: bool = False
    unwatched: list[tuple[str, float]] = field(default_factory=list)

    @property
    def order_id(self) -> str:
        return self.input.order.order_id

    @staticmethod
    async def read(history: WorkflowHistory, converter: DataConverter) -> OrderHistory:
        """Raises UnreadableHistory, whatever is wrong with the history."""
        try:
            return await _Reader(history, converter).read()
        except UnreadableHistory:
            raise
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UnreadableHistory(why) from error


class _Reader:
    """Goes once through the events of one history."""

    def __init__(self, history: WorkflowHistory, converter: DataConverter) -> None:
        self._history = history
        self._converter = converter
        self._activities: dict[int, str] = {}
        self._open_updates: dict[int, Request] = {}

    async def read(self) -> OrderHistory:
        if not self._history.events:
            raise ValueError("the history has no events")
        started = self._history.events[0].workflow_execution_started_event_attributes
        self._child = started.workflow_type.name == SHIPPING_WORKFLOW
        input_: OrderInput | ShippingInput
        if self._child:
            input_ = await self._decode(started.input.payloads, ShippingInput)
        else:
            given = await self._plain(started.input.payloads)
            try:
                input_ = read_start(given, self._history.workflow_id)
            except BadInput as error:
                before = read_start_as_before(given)
                if before is None or not self._called_out():
                    raise NoOrder(str(error)) from error
                # Taken by an earlier version, which checked nothing.
                input_ = before
        self._found = OrderHistory(input_)
        if not self._child and not is_our_own(given):
            self._found.passes_on = self._history.workflow_id != workflow_id(self._found.order_id)
        # The id goes into queries and sentences.
        if not ID_PATTERN.fullmatch(self._found.order_id):
            raise ValueError(f"{self._found.order_id[:70]!r} is no order id")
        for event in self._history.events:
            await self._note(event)
        self._found.requests += self._open_updates.values()
        return self._found

    def _called_out(self) -> bool:
        scheduled = HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        return any(event.event_type == scheduled for event in self._history.events)

    async def _note(self, event: HistoryEvent) -> None:
        kind = event.event_type
        if kind == HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            name = scheduled.activity_type.name
            self._activities[event.event_id] = name
            # Temporal gives the task to another worker when the first of these has passed.
            limits = (
                scheduled.heartbeat_timeout,
                scheduled.start_to_close_timeout,
                scheduled.schedule_to_close_timeout,
            )
            noticed = min((limit.ToSeconds() for limit in limits if limit.ToMilliseconds()), default=inf)
            if noticed > TAKEN_OVER:
                self._found.unwatched.append((name, noticed))
        elif kind == HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            name = self._activities[event.activity_task_completed_event_attributes.scheduled_event_id]
            # Only a child's events have a round. In the parent, the type alone identifies the step.
            round_ = self._found.input.round if isinstance(self._found.input, ShippingInput) else None
            self._found.completed.append((name, round_))
        elif kind == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            update = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
            request = await self._request(update.name, update.args.payloads, acknowledged=False)
            if request:
                self._open_updates[event.event_id] = request
        elif kind == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
            done = event.workflow_execution_update_completed_event_attributes
            if done.accepted_event_id in self._open_updates and done.outcome.HasField("success"):
                asked = self._open_updates.pop(done.accepted_event_id)
                verdict: Verdict = await self._decode(done.outcome.success.payloads, Verdict)
                self._found.requests.append(Request(asked.kind, asked.id, verdict.accepted, True, asked.reason))
        elif kind == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            signal = event.workflow_execution_signaled_event_attributes
            request = await self._request(signal.signal_name, signal.input.payloads, acknowledged=True)
            if request:
                self._found.requests.append(request)
        elif kind == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED and not self._child:
            # The workflow handles the cancellation under this id.
            id_ = f"temporal-{self._history.run_id}"
            self._found.requests.append(Request("cancel", id_, None, False, "cancelled in Temporal"))

    async def _request(self, name: str, payloads: Iterable[Payload], *, acknowledged: bool) -> Request | None:
        """The request in a signal or update; None if it is not one of ours, or cannot be read.

        A request that cannot be read has no request id either, so its sender waits for no outcome.
        """
        if name not in KINDS:
            return None
        try:
            asked = read_request(KINDS[name], await self._plain(payloads))
        except BadInput:
            return None
        reason = asked.reason if isinstance(asked, Cancel) else ""
        return Request(KINDS[name], asked.request_id, None, acknowledged and bool(asked.request_id), reason)

    async def _plain(self, payloads: Iterable[Payload]) -> list[Payload]:
        """Payloads as the workflow gets them: decoded by the codec, if there is one."""
        codec = self._converter.payload_codec
        return await codec.decode(list(payloads)) if codec else list(payloads)

    async def _decode(self, payloads: Iterable[Payload], type_: type | None = None) -> Any:
        found = list(payloads)
        return (await self._converter.decode(found, [type_] if type_ else None))[0] if found else None
