"""How an attempt of somebody else's activity ended, and where faults may be injected."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.exceptions import CancelledError as TemporalCancelled
from temporalio.testing import ActivityEnvironment

from trellis.plugin.endings import deadline, ending, hangs_at_most
from trellis.plugin.plugin import is_loopback
from trellis.plugin.rows import Attempt, line

Details = activity.ActivityCancellationDetails


def info(**changes: Any) -> activity.Info:
    none = {"start_to_close_timeout": None, "schedule_to_close_timeout": None, "heartbeat_timeout": None}
    return replace(ActivityEnvironment().info, **none | changes)


def ended(error: BaseException | None, details: Details | None = None, after: float = 0, **changes: Any) -> str:
    """The outcome of an attempt that has run for `after` seconds."""
    known = info(**changes)
    attempt = Attempt(known, "w", None)
    attempt.began = time.monotonic() - after
    attempt._beat_at = attempt.began
    return ending(attempt, known, error, details).outcome


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("error", "details", "outcome"),
    [
        (None, None, "succeeded"),
        (ValueError("no"), None, "failed"),
        (KeyboardInterrupt(), None, "failed"),
        (asyncio.CancelledError(), Details(cancel_requested=True), "abandoned"),
        (TemporalCancelled("Cancelled"), Details(cancel_requested=True), "abandoned"),
        (asyncio.CancelledError(), Details(worker_shutdown=True), "abandoned"),
        (asyncio.CancelledError(), Details(not_found=True), "abandoned"),
        (asyncio.CancelledError(), Details(paused=True), "failed"),
        (asyncio.CancelledError(), Details(timed_out=True), "timed out"),
        # The activity noticed that it was cancelled, and raised something of its own.
        (ValueError("no"), Details(timed_out=True), "timed out"),
        # Nobody cancelled it: it raised this itself, and Temporal counts it as a failure.
        (asyncio.CancelledError(), None, "failed"),
    ],
)
def test_an_attempt_in_time_ends_as_temporal_counts(
    error: BaseException | None, details: Details | None, outcome: str
) -> None:
    """By its error, and by why the SDK cancelled it."""
    assert ended(error, details, start_to_close_timeout=MINUTE) == outcome


@pytest.mark.parametrize("error", [None, ValueError("no"), asyncio.CancelledError()])
def test_an_attempt_that_ended_after_its_deadline_timed_out(error: BaseException | None) -> None:
    """Its answer comes too late, whatever it says. Within the second of the server's timers only the server knows."""
    assert ended(error, after=62, start_to_close_timeout=MINUTE) == "timed out"
    assert ended(error, after=62, schedule_to_close_timeout=MINUTE) == "timed out"
    assert ended(error, after=62, start_to_close_timeout=2 * MINUTE, heartbeat_timeout=MINUTE) == "timed out"
    assert ended(error, after=60.3, start_to_close_timeout=MINUTE) == "open"
    assert ended(error, after=60.3, start_to_close_timeout=MINUTE, is_local=True) == "timed out"
    assert ended(error, Details(not_found=True), after=60.3, start_to_close_timeout=MINUTE) == "timed out"
    # The server began to count before the task reached the worker.
    assert ended(error, Details(not_found=True), after=59.5, start_to_close_timeout=MINUTE) == "open"


def test_the_deadline_is_the_earliest_of_all() -> None:
    """A schedule-to-close timeout counts from the first schedule, by the server's clock."""
    known = info(start_to_close_timeout=MINUTE, schedule_to_close_timeout=2 * MINUTE)
    assert deadline(known) == 60
    late = replace(known, started_time=known.scheduled_time + timedelta(seconds=90))
    assert deadline(late) == 30
    assert hangs_at_most(replace(late, heartbeat_timeout=timedelta(seconds=5))) == 5
    assert deadline(info()) is None


def test_an_error_is_kept_by_its_type_and_the_beginning_of_its_message() -> None:
    """An ApplicationError's own type, else the class; a message of any length and without words too."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    known = info()
    attempt = Attempt(known, "w", None)
    found = ending(attempt, known, ApplicationError("x" * 5000, type="Declined"), None)
    assert (found.failure_type, len(found.error or "")) == ("Declined", 1000)
    assert ending(attempt, known, ApplicationError("x"), None).failure_type == "ApplicationError"
    assert ending(attempt, known, Mute(), None).error == "a Mute without words"


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d of a pair", "a whole \U0001f600"])
def test_a_row_holds_only_what_postgres_can(text: str) -> None:
    """NUL and halves of characters are replaced. The rest stays."""
    written = line({"n": 1, "error": text, "input": [{"deep": text}], "worker": None})
    assert b"\\u0000" not in written
    assert written.decode().encode("utf-8")
    assert (b"\\ud83d\\ude00" in written) is ("\U0001f600" in text)
    assert b"\\ud83d " not in written
    assert b"worker" not in written


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:7233", True), ("127.0.0.1:7233", True), ("127.9.9.9:1", True), ("[::1]:7233", True),
        ("LOCALHOST.:7233", True), ("localhost", True), ("::1", True),
        ("localhost.example.com:7233", False), ("10.0.0.1:7233", False), ("name.tmprl.cloud:7233", False),
        ("[2001:db8::1]:7233", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_told_from_everything_else(host: str, here: bool) -> None:
    """A name that merely begins like this machine's is another machine."""
    assert is_loopback(host) is here
