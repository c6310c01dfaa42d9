"""What the attributes of an event hold, as values of a row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import EventType, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

LOCAL_ACTIVITY = "core_local_activity"
"""The name of the marker that records a local activity."""

RESET = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
"""The cause of the failed workflow task with which a run begins that a reset made."""

NEVER_STARTED = "never started"
"""The type of failure of an activity that timed out before any attempt began."""

# These failures only say where another one occurred.
_WRAPPERS = {"activity_failure_info", "child_workflow_execution_failure_info", "nexus_operation_execution_failure_info"}


def name_of(event: HistoryEvent) -> str | None:
    """The type of an event without its prefix: ACTIVITY_TASK_SCHEDULED. None for a type that this SDK does not know."""
    try:
        return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    except ValueError:
        return None


def time(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime(tzinfo=UTC) if stamp.seconds or stamp.nanos else None


def seconds(duration: Duration) -> float | None:
    """None where it is not set: the server stores no limit as zero."""
    return duration.seconds + duration.nanos / 1e9 or None


def limits(start_to_close: Duration, schedule_to_close: Duration | None, retry: RetryPolicy | None) -> dict[str, Any]:
    """The columns of timeouts and retry policy."""
    found: dict[str, Any] = {
        "start_to_close_timeout": seconds(start_to_close),
        "schedule_to_close_timeout": schedule_to_close and seconds(schedule_to_close),
    }
    if retry is not None:
        found |= {
            "initial_interval": seconds(retry.initial_interval),
            "backoff_coefficient": retry.backoff_coefficient or None,
            "maximum_interval": seconds(retry.maximum_interval),
            "maximum_attempts": retry.maximum_attempts,
        }
    return found


def policy(a: Any) -> RetryPolicy | None:
    return a.retry_policy if a.HasField("retry_policy") else None


def of_kind(kind: str, a: Any) -> dict[str, Any]:
    """What only rows of children, Nexus operations, sent signals and sent cancels have."""
    if kind == "child":
        limited = limits(a.workflow_run_timeout, a.workflow_execution_timeout, policy(a))
        return {"queue": a.task_queue.name, "target": a.workflow_id, **limited}
    if kind == "nexus":
        limited = limits(a.start_to_close_timeout, a.schedule_to_close_timeout, None)
        return {"endpoint": a.endpoint, "service": a.service, **limited}
    return {"target": a.workflow_execution.workflow_id}


def build_id(a: Any) -> str | None:
    """The worker's build id, wherever this version of the server keeps it."""
    if hasattr(a, "deployment_version") and a.deployment_version.build_id:
        return str(a.deployment_version.build_id)
    return a.worker_version.build_id or getattr(a, "binary_checksum", "") or None


def failed(failure: Failure) -> tuple[str | None, str | None]:
    """(type, message) of the first cause, without the wrappers of activity, child workflow and Nexus operation."""
    while failure.HasField("cause") and failure.WhichOneof("failure_info") in _WRAPPERS:
        failure = failure.cause
    kind = failure.WhichOneof("failure_info")
    if kind is None:
        return None, failure.message or None
    info = getattr(failure, kind)
    type_ = info.type if kind in ("application_failure_info", "nexus_handler_failure_info") else ""
    return type_ or kind.removesuffix("_failure_info"), failure.message


def is_timeout(failure: Failure) -> bool:
    """Whether Temporal cut the attempt off. An application's own error may be named a timeout too: that is none."""
    return failure.WhichOneof("failure_info") == "timeout_failure_info"


def enum_words(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).replace("_", " ").lower()


def task_failure(name: str, a: Any) -> dict[str, Any]:
    """The values of a workflow task that failed or timed out."""
    if name == "WORKFLOW_TASK_TIMED_OUT":
        which = enum_words(TimeoutType.Name(a.timeout_type), "TIMEOUT_TYPE_")
        return {"name": f"{which} timeout", "outcome": "timed out", "failure_type": "timeout"}
    cause = enum_words(WorkflowTaskFailedCause.Name(a.cause), "WORKFLOW_TASK_FAILED_CAUSE_")
    type_, message = failed(a.failure)
    return {"name": cause, "outcome": "failed", "failure_type": type_ or cause, "error": message}


def local_activity(a: Any) -> dict[str, Any]:
    """What the marker of a local activity holds: activity_type, attempt, original_schedule_time, complete_time."""
    found: dict[str, Any] = {}
    for payload in (p for key in ("data", "Data") if key in a.details for p in a.details[key].payloads):
        try:
            found |= json.loads(payload.data)
        except (ValueError, TypeError):
            continue  # in an encoding of the SDK's own: the row stays, without these details
    return found


def time_in_json(value: Any) -> datetime | None:
    if isinstance(value, dict) and "seconds" in value:
        return datetime.fromtimestamp(value["seconds"], UTC) + timedelta(microseconds=value.get("nanos", 0) // 1000)
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    return None
