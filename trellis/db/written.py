"""One log line for each event that a call added to the ledger: an attempt, a change of state, or both."""

from __future__ import annotations

import logging

from trellis.db.tries import Tried
from trellis.model import ATTEMPTS, STATE_AFTER, EventType, shipping_workflow_id, workflow_id

log = logging.getLogger("trellis.ledger")


def log_written(order_id: str, written: str | None, tried: Tried | None, worker: str | None, reason: str) -> None:
    """Log the events that one transaction added; `written` is the list of sql/007. Events that existed before are not
    in it.

    All lines have the same keys, so that a machine may rely on them; what does not apply is None.
    """
    if not written or not log.isEnabledFor(logging.INFO):
        return
    for entry in written.split(" "):
        type_, step, attempt = entry.split(":")
        line: dict[str, object] = {
            "event": type_,
            "order_id": order_id,
            "workflow_id": workflow_id(order_id),
            "step": step or (tried.id.step if tried else None),
            "attempt": int(attempt) if attempt else None,
            "outcome": None,
            "duration_ms": None,
            "worker": tried.worker if tried else worker,
        }
        if tried and tried.id.round:
            line["workflow_id"] = shipping_workflow_id(order_id, tried.id.round)
        if attempt and tried:
            line["outcome"] = ATTEMPTS.get(EventType(type_), "succeeded")
            line["duration_ms"] = round(tried.duration_ms, 3)
            line["round"], line["execution"], line["try"] = tried.id.round, tried.id.execution, tried.id.try_
        if type_ in STATE_AFTER:
            line["state"] = STATE_AFTER[EventType(type_)]
        if reason:
            line["error" if type_ in ATTEMPTS else "reason"] = reason
        log.info(line)
