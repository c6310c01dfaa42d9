"""What the ledger must show for what a history holds: pure decisions of the audit."""

from __future__ import annotations

from trellis.db.rows import AuditedRow
from trellis.histories import Request
from trellis.model import OUTSIDE_STEPS, STEPS, EventType, State, Step

_IN_REVIEW = {State.ORDER_RECEIVED, State.ORDER_VALIDATED, State.AWAITING_APPROVAL}


def left_its_event(activity: str, round_: int | None, events: set[tuple[str, int | None]]) -> bool:
    """Whether a completed activity has its event. Activities that call out leave exactly one of their events."""
    if activity not in OUTSIDE_STEPS:
        return True
    info = STEPS[Step(activity)]
    if info.per_round:
        return any((type_, round_) in events for type_ in info.leaves)
    return bool({type_ for type_, _ in events} & info.leaves.keys())


def has_outcome(request: Request, row: AuditedRow) -> bool:
    """Whether the events or the row show the outcome of a request."""
    leaves = STEPS[Step(request.kind)].leaves
    granted = any(event["type"] in leaves for event in row.events)
    seen = {event["type"] for event in row.events if event["request_id"] == request.id}
    if not request.id:
        # Sent by hand. The workflow gave it an id of its own, which the history does not hold.
        seen = {event["type"] for event in row.events} & {*leaves, EventType.REQUEST_REFUSED}
    state = State(row.state)
    if request.accepted is False:
        return EventType.REQUEST_REFUSED in seen
    if request.accepted is None and not state.terminal:
        return True
    if request.kind == "approve":
        # An early approval is written when the review begins. A second one finds the event of the first. One that came
        # after the order's ending changes nothing.
        return bool(seen) or granted or row.ending is not None or state in _IN_REVIEW
    if request.kind == "cancel":
        # Its event is written when everything is undone.
        return bool(seen) or granted or (row.ending is not None and not state.terminal)
    return bool(seen)
