"""Frames of histories and of attempts in odd states: joined, re-read, empty, open throughout, of two namespaces."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

from tests.frames import drawn
from trellis import insight
from trellis.errors import BadInput
from trellis.insight.charts.theme import labels
from trellis.insight.frames import noun_of
from trellis.insight.history import rows
from trellis.insight.history.frames import made

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


class Story:
    """A history, written event by event. Event n happens n seconds after the beginning, unless `at` says when."""

    def __init__(self) -> None:
        self.events: list[HistoryEvent] = []

    def add(self, what: str, at: float | None = None, **more: Any) -> int:
        number = len(self.events) + 1
        stamp = Timestamp()
        stamp.FromDatetime(BEGAN + timedelta(seconds=number if at is None else at))
        type_ = EventType.Value(f"EVENT_TYPE_{what}")
        attributes: Any = {f"{what.lower()}_event_attributes": more}
        self.events.append(HistoryEvent(event_id=number, event_type=type_, event_time=stamp, **attributes))
        return number

    def begin(self) -> None:
        self.add("WORKFLOW_EXECUTION_STARTED", workflow_type={"name": "Trip"}, task_queue={"name": "trips"})

    def task(self) -> int:
        scheduled = self.add("WORKFLOW_TASK_SCHEDULED", attempt=1)
        started = self.add("WORKFLOW_TASK_STARTED", scheduled_event_id=scheduled)
        return self.add("WORKFLOW_TASK_COMPLETED", scheduled_event_id=scheduled, started_event_id=started)

    def schedule(self, name: str, task: int, at: float | None = None) -> int:
        return self.add(
            "ACTIVITY_TASK_SCHEDULED", at, activity_id=name, activity_type={"name": name}, task_queue={"name": "trips"},
            workflow_task_completed_event_id=task,
        )  # fmt: skip

    def start(self, scheduled: int, attempt: int = 1, failure: Failure | None = None) -> int:
        return self.add(
            "ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=attempt, last_failure=failure, identity="w"
        )

    def activity(self, name: str, task: int, attempt: int = 1, failure: Failure | None = None) -> int:
        scheduled = self.schedule(name, task)
        started = self.start(scheduled, attempt, failure)
        return self.add("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled, started_event_id=started)

    def rows(self, id_: str = "trip", run: str = "run", namespace: str = "default") -> list[dict[str, Any]]:
        return rows(id_, self.events, run_id=run, namespace=namespace)

    def frame(self, id_: str = "trip", run: str = "run", namespace: str = "default") -> pd.DataFrame:
        return made(self.rows(id_, run, namespace))


def application(type_: str) -> Failure:
    failure = Failure(message="no")
    failure.application_failure_info.type = type_
    return failure


def timeout(type_: str = "TIMEOUT_TYPE_START_TO_CLOSE", cause: Failure | None = None) -> Failure:
    failure = Failure(message="late", cause=cause)
    failure.timeout_failure_info.timeout_type = TimeoutType.Value(type_)
    return failure


def trip(attempt: int = 2, failure: Failure | None = None) -> Story:
    """A workflow of two activities, the second of which needed `attempt` attempts."""
    story = Story()
    story.begin()
    story.activity("book", story.task())
    story.activity("pay", story.task(), attempt, failure or application("Declined"))
    story.add("WORKFLOW_EXECUTION_COMPLETED", workflow_task_completed_event_id=story.task())
    return story


def every_chart(history: pd.DataFrame) -> list[Any]:
    tries, runs = insight.history_attempts(history), insight.history_workflows(history)
    return [
        insight.gantt(tries), insight.timelines(runs, tries), insight.completion(runs),
        insight.attempts_per_step(tries), insight.latency(insight.steps(tries)),
        insight.utilisation(tries, by="queue"), insight.state_map(history),
    ]  # fmt: skip


def test_joined_frames_are_frames() -> None:
    """Two frames with other names in their categories, joined with their indexes kept, work in every chart."""
    other = Story()
    other.begin()
    other.activity("fly", other.task())
    other.add("WORKFLOW_EXECUTION_COMPLETED", workflow_task_completed_event_id=other.task())
    both = pd.concat([trip().frame(), other.frame("flight", "run-2")])
    tries = insight.history_attempts(both)
    assert list(tries["step"].cat.categories) == ["book", "fly", "pay"]
    assert len(every_chart(both)) == 7
    joined = pd.concat([insight.history_attempts(trip().frame()), insight.history_attempts(other.frame("flight"))])
    assert insight.gantt(joined).to_dict()
    assert insight.attempts_per_step(joined).to_dict()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_frame_from_a_file_is_a_frame(ending: str, tmp_path: Path) -> None:
    """Written and read again, a history gives the same attempts, dtypes included."""
    frame, path = trip().frame(), tmp_path / f"history.{ending}"
    frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, index=False)
    again = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
    pd.testing.assert_frame_equal(insight.history_attempts(again), insight.history_attempts(frame))
    pd.testing.assert_frame_equal(insight.history_workflows(again), insight.history_workflows(frame))
    assert len(every_chart(again)) == 7
    tries = insight.history_attempts(frame)
    tries.to_csv(path.with_name("tries.csv"), index=False)
    assert insight.steps(pd.read_csv(path.with_name("tries.csv"))).shape == insight.steps(tries).shape


def test_a_run_that_was_loaded_twice_counts_once() -> None:
    """A frame joined with itself, or with a later state of the same run, holds each attempt once."""
    frame = trip().frame()
    assert len(insight.history_attempts(pd.concat([frame, frame]))) == 3
    early = Story()
    early.begin()
    early.schedule("book", early.task())
    both = pd.concat([early.frame(), frame])
    assert list(insight.history_attempts(both)["outcome"]) == ["succeeded", "failed", "succeeded"]
    assert list(insight.history_workflows(both)["state"]) == ["COMPLETED"]


def test_open_attempts_draw() -> None:
    """Two activities scheduled and neither started, beside others or alone: bars up to the last known moment."""
    story = Story()
    story.begin()
    task = story.task()
    story.schedule("book", task)
    story.schedule("pay", task)
    frame = story.frame()
    tries, runs = insight.history_attempts(frame), insight.history_workflows(frame)
    assert set(drawn(insight.gantt(tries))["outcome"]) == {"open"}
    assert list(drawn(insight.gantt(tries))["from"]) == [0, 1]
    assert list(drawn(insight.gantt(tries))["to"]) == [1, 1]
    assert list(drawn(insight.timelines(runs, tries))["to"]) == [5]
    both = pd.concat([frame, trip().frame("done", "run-2")])
    assert insight.timelines(insight.history_workflows(both), insight.history_attempts(both)).to_dict()
    assert insight.gantt(insight.history_attempts(both)).to_dict()


def test_attempts_without_any_time_are_one_sentence() -> None:
    """A chart of time needs one time at least."""
    tries = insight.history_attempts(trip().frame())
    tries[["started_at", "ended_at", "scheduled_at"]] = pd.NaT
    with pytest.raises(BadInput, match=r"no attempts with a known time to draw yet\.$"):
        insight.gantt(tries)


@pytest.mark.parametrize("type_", ["PaymentTimeoutError", "timeout", "TimeoutError"])
def test_an_error_that_is_named_a_timeout_is_a_failure(type_: str) -> None:
    """Only Temporal's own timeout cuts an attempt off."""
    tries = insight.history_attempts(trip(failure=application(type_)).frame())
    assert list(tries["outcome"]) == ["succeeded", "failed", "succeeded"]
    tries = insight.history_attempts(trip(failure=timeout()).frame())
    assert list(tries["outcome"]) == ["succeeded", "timed out", "succeeded"]


def test_an_activity_that_never_began_made_no_call() -> None:
    """It timed out in its queue. One that timed out between two attempts had made some: nobody knows how many."""
    for cause, outcome in ((None, "lost"), (application("Declined"), "unknown")):
        story = Story()
        story.begin()
        scheduled = story.schedule("book", story.task())
        failure = timeout("TIMEOUT_TYPE_SCHEDULE_TO_CLOSE", cause)
        story.add("ACTIVITY_TASK_TIMED_OUT", scheduled_event_id=scheduled, failure=failure)
        assert list(insight.history_attempts(story.frame())["outcome"]) == [outcome]
        assert list(story.frame().query("kind == 'activity'")["outcome"]) == ["timed out"]


def reset_of(base: Story, upto: int) -> Story:
    """The run that a reset of `base` after `upto` events makes. It is 1,000 s later."""
    story = Story()
    story.events = list(base.events[:upto])
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    task = next(e.event_id for e in reversed(story.events) if e.HasField("workflow_task_scheduled_event_attributes"))
    story.add("WORKFLOW_TASK_FAILED", 1000, scheduled_event_id=task, cause=cause, base_run_id="run", new_run_id="run-2")
    return story


def test_a_reset_run_begins_at_its_reset_and_its_copies_count_once() -> None:
    """The first activity was copied, the second ran again. An update that was admitted again keeps its name."""
    base = trip()
    again = reset_of(base, 10)
    admitted = again.add(
        "WORKFLOW_EXECUTION_UPDATE_ADMITTED", 1001, request={"meta": {"update_id": "u"}, "input": {"name": "move"}}
    )
    accepted = again.add(
        "WORKFLOW_EXECUTION_UPDATE_ACCEPTED", 1002, protocol_instance_id="u",
        accepted_request_sequencing_event_id=admitted,
    )  # fmt: skip
    again.add("WORKFLOW_EXECUTION_UPDATE_COMPLETED", 1002.5, accepted_event_id=accepted)
    again.add("WORKFLOW_EXECUTION_COMPLETED", 1003)
    frame = again.frame(run="run-2")
    assert list(frame.loc[frame["kind"] == "update", "name"]) == ["move"]
    assert list(frame["copied"]) == [False, True, False]
    workflow = insight.history_workflows(frame).iloc[0]
    assert workflow["seconds"] == 3
    assert workflow["reset_from"] == "run"
    both = pd.concat([base.frame(), frame])
    tries = insight.history_attempts(both)
    assert dict(tries.groupby("order_id").size()) == {"trip run": 3}
    assert len(insight.history_attempts(frame)) == 1, "alone, the copy is all there is"
    assert insight.timelines(insight.history_workflows(both), tries).to_dict()


def test_failures_of_workflow_tasks_are_rows() -> None:
    """With their cause and message, and the time of the task. The task that follows succeeds and makes none."""
    story = Story()
    story.begin()
    scheduled = story.add("WORKFLOW_TASK_SCHEDULED", attempt=1, task_queue={"name": "trips"})
    story.add("WORKFLOW_TASK_STARTED", scheduled_event_id=scheduled, identity="w")
    story.add(
        "WORKFLOW_TASK_FAILED", scheduled_event_id=scheduled, failure=application("KeyError"),
        cause=WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR,
    )  # fmt: skip
    story.add("WORKFLOW_EXECUTION_COMPLETED", workflow_task_completed_event_id=story.task())
    task = story.frame().query("kind == 'workflow task'").iloc[0]
    assert list(task[["name", "outcome", "failure_type", "error", "worker", "queue", "start_to_close"]]) == [
        "non deterministic error", "failed", "KeyError", "no", "w", "trips", 1.0,
    ]  # fmt: skip


def test_a_nexus_operation_has_its_endpoint_and_service() -> None:
    """And the type of the failure beneath Temporal's own wrapper."""
    story = Story()
    story.begin()
    scheduled = story.add("NEXUS_OPERATION_SCHEDULED", endpoint="bank", service="Accounts", operation="debit")
    failure = Failure(message="wrapped", cause=application("Broke"))
    failure.nexus_operation_execution_failure_info.operation = "debit"
    story.add("NEXUS_OPERATION_FAILED", scheduled_event_id=scheduled, failure=failure)
    row = story.frame().query("kind == 'nexus'").iloc[0]
    assert list(row[["endpoint", "service", "name", "outcome", "failure_type"]]) == [
        "bank", "Accounts", "debit", "failed", "Broke",
    ]  # fmt: skip


def test_process_maps_come_from_histories() -> None:
    """Activities follow one another as they ended, between the workflow's start and its end; attempts are left out."""
    frame = pd.concat([trip().frame(), trip(3).frame("other", "run-2")])
    edges = insight.follows(frame)
    assert list(edges[["from", "to", "count"]].itertuples(index=False, name=None)) == [
        ("book", "pay", 2), ("pay", "completed", 2), ("started", "book", 2),
    ]  # fmt: skip
    paths = insight.variants(frame)
    assert list(paths["path"]) == ["started \u2192 book \u2192 pay \u2192 completed"]
    assert list(paths["workflows"]) == [2]
    assert insight.state_map(frame).to_dict()
    for wrong in (insight.history_attempts(frame), pd.DataFrame()):
        with pytest.raises(BadInput, match=r"give one of insight\.events or of insight\.history"):
            insight.follows(wrong)


def test_a_map_of_too_many_kinds_is_refused() -> None:
    """A map of a hundred boxes cannot be read."""
    story = Story()
    story.begin()
    task = story.task()
    for number in range(100):
        story.activity(f"step {number}", task)
    with pytest.raises(BadInput, match="boxes, over 60"):
        insight.state_map(story.frame())


def test_two_namespaces_keep_their_workflows_apart() -> None:
    """The same id in two namespaces is two workflows."""
    both = pd.concat([trip().frame(namespace="east"), trip().frame(run="run-2", namespace="west")])
    assert sorted(insight.history_workflows(both)["order_id"]) == ["east/trip", "west/trip"]


def test_clocks_that_differ_are_marked_and_drawn() -> None:
    """An activity that ended before it began is skewed; the charts draw what they have."""
    story = Story()
    story.begin()
    scheduled = story.schedule("book", story.task())
    started = story.start(scheduled)
    story.add("ACTIVITY_TASK_COMPLETED", 3, scheduled_event_id=scheduled, started_event_id=started)
    story.add("WORKFLOW_EXECUTION_COMPLETED", workflow_task_completed_event_id=story.task())
    assert list(insight.history_attempts(story.frame())["skewed"]) == [True]
    assert len(every_chart(story.frame())) == 7


def test_empty_frames_are_one_sentence() -> None:
    """A history without rows has all columns, and charts of it say what is missing."""
    empty = made([])
    assert len(insight.history_attempts(empty)) == len(insight.history_workflows(empty)) == 0
    with pytest.raises(BadInput, match=r"^There are no attempts to draw yet\.$"):
        insight.gantt(insight.history_attempts(empty))
    with pytest.raises(BadInput, match=r"^There are no workflows to draw yet\.$"):
        insight.completion(insight.history_workflows(empty))
    with pytest.raises(BadInput, match="give a frame that"):
        insight.history_attempts(pd.DataFrame())
    with pytest.raises(BadInput, match="give a frame that"):
        insight.gantt(trip().frame())


def test_axes_have_the_strangers_words() -> None:
    """Frames of histories speak of workflows and activities, the ledger's of orders and steps; files keep the mark."""
    frame = trip().frame()
    tries, runs = insight.history_attempts(frame), insight.history_workflows(frame)
    assert {noun_of(one) for one in (frame, tries, runs, insight.steps(tries))} == {"workflow"}
    assert noun_of(tries.drop(columns=["queue", "scheduled_at"])) == "order"
    gantt = insight.gantt(tries).to_json()
    assert '"seconds since the first attempt"' in gantt
    assert '"title": "activity"' in gantt
    assert "attempts of an activity (2 activities)" in insight.attempts_per_step(tries).to_json()
    assert '"seconds since the workflow\'s start"' in insight.timelines(runs, tries).to_json()


def test_labels_are_short_where_they_stay_apart() -> None:
    """Run ids made in the same minute begin alike: the end of the id tells them apart."""
    runs = [f"trip 0198a3c4-7f21-7{n:03x}-8000-00000000{n:04x}" for n in range(6)]
    short = labels(runs)
    assert len(set(short)) == 6
    assert all(len(one) <= 24 for one in short)
    alike = [f"{'x' * 40}{n}{'y' * 40}" for n in range(2)]
    assert labels(alike) == alike
    assert labels(["order-1"]) == ["order-1"]
