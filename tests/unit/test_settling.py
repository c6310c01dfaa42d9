"""Settling: what the server counts, and no worker wrote, becomes part of the book."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo

from tests.unit.test_history_frames import BEGAN, Story, application, timeout
from trellis.event_fields import RESET
from trellis.flights import FlightRow
from trellis.plugin.counted import read
from trellis.plugin.settling import settled

TIMEOUT = timeout("TIMEOUT_TYPE_HEARTBEAT")
BUSY = application("Busy")


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def row(attempt: int, outcome: str = "open", *, scheduled: float = 5, worker: str = "w", **more: Any) -> FlightRow:
    """An attempt of `ship`, which Story schedules as its fifth event. It begins a tenth after its schedule."""
    began = at(scheduled + attempt)
    known: dict[str, Any] = {
        "namespace": "default", "workflow_id": "t", "run_id": "r", "workflow_type": "Trip", "activity_id": "ship",
        "activity_type": "ship", "queue": "trips", "worker": worker, "start_to_close_timeout": 0.5,
        "scheduled_at": at(scheduled), "attempt_scheduled_at": began, "started_at": began + timedelta(seconds=0.1),
        "ended_at": None if outcome == "open" else began + timedelta(seconds=0.2),
    }  # fmt: skip
    return FlightRow(**{**known, "attempt": attempt, "outcome": outcome, **more})


def story(attempt: int, failure: Failure | None = None, end: str = "ACTIVITY_TASK_COMPLETED", **more: Any) -> Story:
    """A run with one activity, of which so many attempts began."""
    found = Story()
    found.begin()
    found.schedule("ship", found.task())
    found.add("ACTIVITY_TASK_STARTED", scheduled_event_id=5, attempt=attempt, last_failure=failure, identity="other")
    found.add(end, 20, scheduled_event_id=5, started_event_id=6, **more)
    return found


def outcomes(rows: list[FlightRow]) -> dict[tuple[int, int], str]:
    return {(one.attempt, one.try_): one.outcome for one in rows}


def test_attempts_that_no_worker_began_are_lost() -> None:
    """The server counted five; the book has the third and the fifth. The rest has no begin, and is found only once."""
    counted = read(story(5, TIMEOUT).events)
    book = [row(3, "failed"), row(5, "succeeded")]
    found = settled(book, counted, {})
    assert outcomes(found) == {(1, 0): "lost", (2, 0): "lost", (4, 0): "lost"}
    assert {one.attempt_scheduled_at for one in found} == {None}
    assert {one.scheduled_at for one in found} == {at(5)}
    assert {one.start_to_close_timeout for one in found} == {0.5}
    assert settled([*book, *found], counted, {}) == []


def test_what_a_worker_without_the_plugin_did_is_told_by_the_history() -> None:
    """It began no row, but its success and its last failure are known."""
    found = settled([row(1, "failed")], read(story(3, BUSY).events), {})
    second, third = sorted(found, key=lambda one: one.attempt)
    assert (second.outcome, second.failure_type, second.error) == ("failed", "Busy", "no")
    assert (third.outcome, third.ended_at, third.worker) == ("succeeded", at(20), "other")


def test_an_open_row_gets_the_servers_word() -> None:
    """The last attempt ended as the history says, the one before as its failure says."""
    found = settled([row(1, "failed"), row(2), row(3)], read(story(3, BUSY).events), {})
    assert outcomes(found) == {(2, 0): "failed", (3, 0): "succeeded"}
    assert [one.ended_at for one in found if one.attempt == 3] == [at(20)]


def test_a_worker_that_wrote_later_lived_and_its_attempt_timed_out() -> None:
    """Of the other worker nothing was heard again: its attempt is lost."""
    book = [row(1, worker="alive"), row(2, worker="dead"), row(3, "succeeded", worker="alive")]
    found = settled(book, read(story(3, TIMEOUT).events), {"alive": at(8.2), "dead": at(7.1)})
    assert outcomes(found) == {(1, 0): "timed out", (2, 0): "lost"}
    assert {one.attempt: one.ended_at for one in found} == {1: at(6.6), 2: None}


def test_an_attempt_that_runs_stays_open() -> None:
    """The server says that the second attempt runs; the first one is over."""
    running = story(2)
    running.events = running.events[:5]
    pending = PendingActivityInfo(
        activity_id="ship", attempt=2, state=PendingActivityState.PENDING_ACTIVITY_STATE_STARTED, last_failure=BUSY
    )
    found = settled([row(1), row(2)], read(running.events, [pending]), {})
    assert outcomes(found) == {(1, 0): "failed"}
    # Between two attempts the server has the next one's number, and the failure is that of the last.
    pending.state = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    pending.attempt = 3
    stamp = Timestamp()
    stamp.FromDatetime(at(9))
    pending.last_attempt_complete_time.CopyFrom(stamp)
    found = settled([row(1, "lost"), row(2)], read(running.events, [pending]), {})
    assert [(one.attempt, one.outcome, one.ended_at) for one in found] == [(2, "failed", at(9))]


def test_the_end_of_the_run_abandons_what_is_open() -> None:
    """Terminated while the second attempt ran: nobody counts it any more."""
    ended = story(2)
    ended.events = ended.events[:5]
    ended.add("WORKFLOW_EXECUTION_TERMINATED", 30)
    found = settled([row(1), row(2)], read(ended.events), {})
    assert {one.attempt: (one.outcome, one.ended_at) for one in found} == {1: ("lost", None), 2: ("abandoned", at(30))}


def test_an_activity_that_no_worker_took_is_one_lost_attempt() -> None:
    """It waited for a worker until its time was up."""
    none = story(1)
    none.events = none.events[:5]
    none.add("ACTIVITY_TASK_TIMED_OUT", 20, scheduled_event_id=5, failure=TIMEOUT)
    none.schedule("pack", 4, at=21)
    found = settled(
        [row(1, "succeeded", scheduled=21, activity_id="pack", activity_type="pack")], read(none.events), {}
    )
    assert [(one.activity_id, one.attempt, one.outcome, one.failure_type) for one in found] == [
        ("ship", 1, "lost", "never started")
    ]


def test_an_activity_that_ended_in_a_pause_has_the_attempts_of_the_book() -> None:
    """The history does not say how many there were. The last one ended with the failure that it names."""
    paused = story(1)
    paused.events = paused.events[:5]
    paused.add("ACTIVITY_TASK_TIMED_OUT", 20, scheduled_event_id=5, failure=timeout(cause=BUSY))
    found = settled([row(1, "failed"), row(3)], read(paused.events), {})
    assert outcomes(found) == {(2, 0): "lost", (3, 0): "failed"}
    assert [one.failure_type for one in found if one.attempt == 3] == ["Busy"]


def test_the_tries_of_a_loop_end_with_their_attempt() -> None:
    """A killed worker leaves the attempt and the try open; both are lost."""
    rows = [row(1), row(1, "failed", try_=1), row(1, try_=2), row(2, "succeeded")]
    found = settled(rows, read(story(2, TIMEOUT).events), {})
    assert outcomes(found) == {(1, 0): "lost", (1, 2): "lost"}


def test_a_reset_activity_is_found_by_its_id() -> None:
    """The server gives it another time of schedule than the event that was copied has."""
    found = settled([row(1, scheduled=22)], read(story(1).events), {})
    assert [(one.attempt, one.outcome, one.scheduled_at) for one in found] == [(1, "succeeded", at(22))]


def marker(attempt: int, scheduled: float, failure: Failure | None = None, **more: Any) -> dict[str, Any]:
    said = {
        "activity_id": "ship", "activity_type": "ship", "attempt": attempt,
        "original_schedule_time": at(scheduled).isoformat(), "complete_time": at(scheduled + 9).isoformat(), **more,
    }  # fmt: skip
    details = {"data": Payloads(payloads=[Payload(data=json.dumps(said).encode())])}
    return {"marker_name": "core_local_activity", "details": details, "failure": failure}


def test_a_local_activity_that_began_anew_leaves_its_first_life_lost() -> None:
    """Its worker died before the workflow task was reported, so the server counts only the second life."""
    local = Story()
    local.begin()
    local.task()
    local.add("MARKER_RECORDED", 40, **marker(2, 12))
    rows = [
        row(1, local=True, worker="dead"), row(1, "failed", local=True, scheduled=12),
        row(2, "succeeded", local=True, scheduled=12),
    ]  # fmt: skip
    found = settled(rows, read(local.events), {})
    assert [(one.scheduled_at, one.outcome) for one in found] == [(at(5), "lost")]


def test_a_local_activity_that_paused_long_is_counted_once() -> None:
    """The SDK records a marker before the pause, and goes on under another id: attempts 1 and 2, then 3."""
    local = Story()
    local.begin()
    local.task()
    local.add("MARKER_RECORDED", 40, **marker(2, 5, BUSY, backoff={"seconds": 90}))
    local.add("MARKER_RECORDED", 140, **marker(3, 5, activity_id="7"))
    counted = read(local.events)
    assert [(one.activity_id, one.first, one.last) for one in counted.activities] == [("ship", 1, 2), ("7", 3, 3)]
    found = settled([row(2, "failed", local=True)], counted, {})
    assert sorted((one.activity_id, one.attempt, one.outcome) for one in found) == [
        ("7", 3, "succeeded"), ("ship", 1, "lost"),
    ]  # fmt: skip


def test_what_a_reset_copied_is_counted_in_the_run_that_was_reset() -> None:
    """Only what is open at the reset runs anew."""
    again = story(2, BUSY)
    again.schedule("pack", 4, at=21)
    again.add("WORKFLOW_TASK_FAILED", 22, cause=RESET, base_run_id="before")
    counted = read(again.events)
    assert [one.activity_id for one in counted.activities] == ["pack"]
