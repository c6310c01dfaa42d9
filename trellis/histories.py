"""What a history tells of an order: its input, what was done, and what was asked. Audit and reconcile read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType as HistoryEventType
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from trellis.messages import SHIPPING_WORKFLOW, OrderInput, ShippingInput, Verdict

KINDS = {
    "approve": "approve",
    "approve_order": "approve",
    "cancel": "cancel",
    "cancel_order": "cancel",
    "update_address": "update_address",
}
"""What each signal and update asks for."""


@dataclass(frozen=True)
class Request:
    """`accepted` is None where no verdict stands in the history: a signal, or an update cut off in the middle.

    `acknowledged`: its sender was told something, yes or no or pending. `id` is empty for a signal sent by hand.
    """

    kind: str
    id: str
    accepted: bool | None
    acknowledged: bool
    reason: str = ""


@dataclass
class Told:
    """Whose history it is, which activities completed (name, round), and what was asked, in order."""

    given: OrderInput | ShippingInput
    completed: list[tuple[str, int | None]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def order_id(self) -> str:
        return self.given.order.order_id

    @staticmethod
    async def read(history: WorkflowHistory, converter: DataConverter) -> Told:
        async def decode(payloads: Any, type_: type) -> Any:
            found: list[Payload] = list(payloads)
            return (await converter.decode(found, [type_]))[0] if found else None

        started = history.events[0].workflow_execution_started_event_attributes
        child = started.workflow_type.name == SHIPPING_WORKFLOW
        given = await decode(started.input.payloads, ShippingInput if child else OrderInput)
        told = Told(given)
        # Only a child's events carry a round of their own; the parent's steps are told apart by their type.
        round_: int | None = given.round if child else None
        names: dict[int, str] = {}
        asked: dict[int, Request] = {}

        async def request(name: str, payloads: Any, *, acknowledged: bool) -> Request:
            body = await decode(payloads, dict) or {}
            id_, reason = str(body.get("request_id") or ""), str(body.get("reason") or "")
            return Request(KINDS[name], id_, None, acknowledged and bool(id_), reason)

        for event in history.events:
            if event.event_type == HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            elif event.event_type == HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                name = names[event.activity_task_completed_event_attributes.scheduled_event_id]
                told.completed.append((name, round_))
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                update = event.workflow_execution_update_accepted_event_attributes.accepted_request.input
                if update.name in KINDS:
                    asked[event.event_id] = await request(update.name, update.args.payloads, acknowledged=False)
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                done = event.workflow_execution_update_completed_event_attributes
                if done.accepted_event_id in asked and done.outcome.HasField("success"):
                    heard = asked.pop(done.accepted_event_id)
                    verdict: Verdict = await decode(done.outcome.success.payloads, Verdict)
                    told.requests.append(Request(heard.kind, heard.id, verdict.accepted, True, heard.reason))
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                signal = event.workflow_execution_signaled_event_attributes
                if signal.signal_name in KINDS:
                    told.requests.append(await request(signal.signal_name, signal.input.payloads, acknowledged=True))
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED and not child:
                # The id under which the workflow itself hears it.
                told.requests.append(
                    Request("cancel", f"temporal-{history.run_id}", None, False, "cancelled in Temporal")
                )
        told.requests += asked.values()
        return told
