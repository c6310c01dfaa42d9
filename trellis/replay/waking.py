"""What woke a workflow: the SDK's activation jobs in words, each with the event that told of it."""

from __future__ import annotations

from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob

from trellis.replay.commands import Seqs
from trellis.replay.events import Index
from trellis.replay.payloads import failure_words
from trellis.replay.steps import Woken


def woken_by(act: WorkflowActivation, seqs: Seqs, index: Index) -> tuple[Woken, ...]:
    """All jobs of one activation, in their order, the random seed's left out: it wakes nothing."""
    until = act.history_length
    return tuple(_woken(job, seqs, index, until) for job in act.jobs if not job.HasField("update_random_seed"))


def _woken(job: WorkflowActivationJob, seqs: Seqs, index: Index, until: int) -> Woken:
    which = job.WhichOneof("variant")
    if which is None:
        return Woken("nothing", "nothing", None)
    held = getattr(job, which)
    if which == "initialize_workflow":
        return Woken("start", "the workflow's start", 1)
    if which == "fire_timer":
        lasts, id_ = seqs["timer", held.seq]
        return Woken("timer fired", f"the timer of {lasts} s", index.woke("timer", id_ or str(held.seq), until))
    if which == "signal_workflow":
        event = index.woke("signal", held.signal_name)
        return Woken("signal", f"the signal `{held.signal_name}`", held.originating_event_id or event)
    if which == "do_update":
        seqs.learn("update", held.protocol_instance_id, held.name, held.id)
        return Woken("update", f"the update `{held.name}`", index.woke("update", held.protocol_instance_id))
    if which == "query_workflow":
        return Woken("query", f"the query `{held.query_type}`", None)
    if which == "cancel_workflow":
        return Woken("cancel requested", "a request to cancel the workflow", index.woke("cancel"))
    if which == "notify_has_patch":
        words = f"the mark of the patch `{held.patch_id}` in the history"
        return Woken("patch", words, index.woke("patch", held.patch_id))
    return _resolved(which, held, seqs, index, until)


def _resolved(which: str, held: Any, seqs: Seqs, index: Index, until: int) -> Woken:
    if which == "resolve_activity":
        name, id_ = seqs["activity", held.seq]
        how = _outcome(held.result.WhichOneof("status"), name, held.result)
        if held.is_local:
            return Woken("local activity resolved", how, index.woke("local activity", held.seq))
        return Woken("activity resolved", how, index.woke("activity", id_, until))
    if which == "resolve_child_workflow_execution_start":
        name, id_ = seqs["child workflow", held.seq]
        event = index.woke("child start", id_, until)
        if held.WhichOneof("status") == "succeeded":
            return Woken("child workflow started", f"the start of the child `{id_}`", event)
        return Woken("child workflow start failed", f"the refusal to start the child `{id_}`", event)
    if which == "resolve_child_workflow_execution":
        name, id_ = seqs["child workflow", held.seq]
        how = _outcome(held.result.WhichOneof("status"), id_, held.result, of="the child ")
        return Woken("child workflow resolved", how, index.woke("child", id_, until))
    if which == "resolve_signal_external_workflow":
        name, id_ = seqs["signal", held.seq]
        words = _delivery(held, f"the signal `{name}` to `{id_}`")
        return Woken("signal sent", words, index.woke("signal sent", id_, until))
    if which == "resolve_request_cancel_external_workflow":
        _, id_ = seqs["cancel external workflow", held.seq]
        words = _delivery(held, f"the request to cancel `{id_}`")
        return Woken("cancel sent", words, index.woke("cancel sent", id_, until))
    if which.startswith("resolve_nexus"):
        name, _ = seqs["nexus operation", held.seq]
        return Woken("nexus operation resolved", f"the answer of the Nexus operation `{name}`", None)
    return Woken(which.replace("_", " "), which.replace("_", " "), None)


def _delivery(held: Any, what: str) -> str:
    how = f"failure ({failure_words(held.failure)})" if held.HasField("failure") else "delivery"
    return f"the {how} of {what}"


def _outcome(status: str | None, name: str, result: Any, of: str = "") -> str:
    if status == "completed":
        return f"the answer of {of}`{name}`"
    if status == "failed":
        return f"the failure of {of}`{name}` ({failure_words(result.failed.failure)})"
    if status == "cancelled":
        return f"the cancellation of {of}`{name}`"
    # A local activity whose next try is far away: the SDK waits with a timer and asks for it again.
    return f"the backoff of {of}`{name}`"
