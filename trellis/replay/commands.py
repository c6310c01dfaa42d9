"""What a workflow asked for, from the SDK's commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from trellis.replay.payloads import Payloads, failure_words
from trellis.replay.steps import Command, Line
from trellis.replay.values import Tree

_Parts = tuple[str, str | None, Tree, dict[str, Any]]
"""kind, name, input, options"""


def seconds(duration: Duration) -> float:
    return float(duration.ToNanoseconds() / 1e9)


def command_of(command: WorkflowCommand, payloads: Payloads, seqs: Seqs, asked_at: Line | None) -> Command:
    """One command, its payloads decoded. `seqs` learns the numbers that later jobs and commands refer to."""
    which = command.WhichOneof("variant")
    if which is None:
        return Command("nothing", None, None, {}, asked_at)
    held = getattr(command, which)
    read = _READERS.get(which)
    kind, name, given, options = read(held, payloads, seqs) if read else (which.replace("_", " "), None, None, {})
    if command.HasField("user_metadata") and command.user_metadata.HasField("summary"):
        options = {**options, "summary": payloads.tree(command.user_metadata.summary)}
    return Command(kind, name, given, options, asked_at)


class Seqs:
    """What the SDK's numbers stand for: (kind, number) -> (name, id). Each kind is numbered by itself.

    Updates have the id of their protocol instance in place of a number.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | str], tuple[str, str]] = {}

    def learn(self, kind: str, seq: int | str, name: str, id_: str) -> None:
        self._known[kind, seq] = name, id_

    def __getitem__(self, which: tuple[str, int | str]) -> tuple[str, str]:
        return self._known.get(which, ("?", ""))


def _queue(held: Any) -> dict[str, Any]:
    """The task queue, if it is not the workflow's own: in a replay that one has a name of the Replayer's."""
    own = not held.task_queue or held.task_queue.startswith("replay-")
    return {} if own else {"task queue": held.task_queue}


def _timeouts(held: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        name.replace("_", " "): seconds(getattr(held, name))
        for name in (
            "schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout",
            "workflow_execution_timeout", "workflow_run_timeout", "workflow_task_timeout",
        )
        if name in held.DESCRIPTOR.fields_by_name and held.HasField(name)
    }  # fmt: skip
    if "retry_policy" in held.DESCRIPTOR.fields_by_name and held.HasField("retry_policy"):
        retry = held.retry_policy
        found["retry"] = {
            "first backoff": seconds(retry.initial_interval),
            "multiplier": retry.backoff_coefficient,
            "largest backoff": seconds(retry.maximum_interval),
            "most attempts": retry.maximum_attempts or None,
        }
    return found


def _activity(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    seqs.learn("activity", held.seq, held.activity_type, held.activity_id)
    options = {"id": held.activity_id, **_queue(held), **_timeouts(held)}
    return "activity", held.activity_type, payloads.trees(held.arguments), options


def _local_activity(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    seqs.learn("activity", held.seq, held.activity_type, held.activity_id)
    options = {"id": held.activity_id, **_timeouts(held)}
    return "local activity", held.activity_type, payloads.trees(held.arguments), options


def _timer(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    lasts = seconds(held.start_to_fire_timeout)
    seqs.learn("timer", held.seq, f"{lasts:g}", str(held.seq))
    return "timer", f"{lasts:g}", None, {"id": str(held.seq), "seconds": lasts}


def _child(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    seqs.learn("child workflow", held.seq, held.workflow_type, held.workflow_id)
    options = {"id": held.workflow_id, **_queue(held), **_timeouts(held)}
    return "child workflow", held.workflow_type, payloads.trees(held.input), options


def _signal(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    to = held.child_workflow_id or held.workflow_execution.workflow_id
    seqs.learn("signal", held.seq, held.signal_name, to)
    return "signal", held.signal_name, payloads.trees(held.args), {"to": to}


def _cancel_external(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    id_ = held.workflow_execution.workflow_id
    seqs.learn("cancel external workflow", held.seq, id_, id_)
    return "cancel external workflow", id_, None, {"reason": held.reason or None}


def _cancels(kind: str, of: str) -> Callable[[Any, Payloads, Seqs], _Parts]:
    def read(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
        seq = held.child_workflow_seq if of == "child workflow" else held.seq
        name, id_ = seqs[of, seq]
        return kind, name, None, {"id": id_}

    return read


def _complete(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    return "complete", None, payloads.tree(held.result) if held.HasField("result") else None, {}


def _fail(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    return "fail", None, failure_words(held.failure), {}


def _continue(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    options = {**_queue(held), **_timeouts(held)}
    return "continue as new", held.workflow_type or None, payloads.trees(held.arguments), options


def _update(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    how = held.WhichOneof("response") or "answered"
    given: Tree = None
    if how == "completed":
        given = payloads.tree(held.completed)
    elif how == "rejected":
        given = failure_words(held.rejected)
    name = seqs["update", held.protocol_instance_id][0]
    return f"update {how}", name, given, {"id": held.protocol_instance_id}


def _query(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    given = payloads.tree(held.succeeded.response) if held.HasField("succeeded") else failure_words(held.failed)
    return "query answered", None, given, {"id": held.query_id}


def _patch(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    return "patch", held.patch_id, None, {"deprecated": True} if held.deprecated else {}


def _nexus(held: Any, payloads: Payloads, seqs: Seqs) -> _Parts:
    seqs.learn("nexus operation", held.seq, held.operation, held.service)
    given = payloads.tree(held.input) if held.HasField("input") else None
    options = {"endpoint": held.endpoint, "service": held.service, **_timeouts(held)}
    return "nexus operation", held.operation, given, options


_READERS: dict[str, Callable[[Any, Payloads, Seqs], _Parts]] = {
    "start_timer": _timer,
    "schedule_activity": _activity,
    "schedule_local_activity": _local_activity,
    "start_child_workflow_execution": _child,
    "signal_external_workflow_execution": _signal,
    "request_cancel_external_workflow_execution": _cancel_external,
    "request_cancel_activity": _cancels("cancel activity", "activity"),
    "request_cancel_local_activity": _cancels("cancel local activity", "activity"),
    "cancel_timer": _cancels("cancel timer", "timer"),
    "cancel_child_workflow_execution": _cancels("cancel child workflow", "child workflow"),
    "cancel_signal_workflow": _cancels("cancel signal", "signal"),
    "request_cancel_nexus_operation": _cancels("cancel nexus operation", "nexus operation"),
    "complete_workflow_execution": _complete,
    "fail_workflow_execution": _fail,
    "cancel_workflow_execution": lambda held, payloads, seqs: ("cancelled", None, None, {}),
    "continue_as_new_workflow_execution": _continue,
    "update_response": _update,
    "respond_to_query": _query,
    "set_patch_marker": _patch,
    "upsert_workflow_search_attributes": lambda held, payloads, seqs: (
        "search attributes", None, payloads.named(held.search_attributes.indexed_fields), {},
    ),
    "modify_workflow_properties": lambda held, payloads, seqs: (
        "memo", None, payloads.named(held.upserted_memo.fields), {},
    ),
    "schedule_nexus_operation": _nexus,
}  # fmt: skip


def command_words(command: Command) -> str:
    """A command as a reader would name it, such as "timer of 5 s" or "activity `charge`"."""
    if command.kind == "timer":
        return f"timer of {command.name} s"
    if command.kind == "cancel timer":
        return f"the cancellation of the timer of {command.name} s"
    if command.kind == "child workflow":
        return f"child `{command.options.get('id')}` of type `{command.name}`"
    if command.kind == "complete":
        return "the workflow's completion"
    if command.kind == "fail":
        return f"the workflow's failure ({command.input})"
    return command.kind if command.name is None else f"{command.kind} `{command.name}`"
