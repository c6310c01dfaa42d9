"""What the rules judge: attempts, activities, workflows, workflow tasks and queues, from a history, a book, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.frames import OUTCOMES, restored
from trellis.insight.history.frames import made, once, whole

QUEUES = ["queue", "kind", "pollers", "backlog", "backlog_age"]
"""Columns of the frame of queues: kind (activity or workflow), pollers (how many asked for tasks lately), backlog
(tasks that wait), backlog_age [s, of the oldest]."""

_OPTIONS = [
    "start_to_close_timeout", "schedule_to_close_timeout", "schedule_to_start_timeout", "heartbeat_timeout",
    "initial_interval", "backoff_coefficient", "maximum_interval", "maximum_attempts",
]  # fmt: skip

_COLUMNS = [
    "run_id", "workflow_id", "workflow_type", "activity_type", "activity", "attempt", "outcome", "scheduled_at",
    "started_at", "ended_at", "seconds", "failure_type", "error", "local", "queue", "worker", "heartbeats", *_OPTIONS,
]  # fmt: skip

_TIMES = ["scheduled_at", "started_at", "ended_at"]


@dataclass(frozen=True)
class Options:
    """The timeouts [s] and the retry policy that an activity was scheduled with. None: not set, or not known."""

    start_to_close_timeout: float | None
    schedule_to_close_timeout: float | None
    schedule_to_start_timeout: float | None
    heartbeat_timeout: float | None
    initial_interval: float | None
    backoff_coefficient: float | None
    maximum_interval: float | None
    maximum_attempts: float | None

    @property
    def limited(self) -> bool:
        """Whether retries end by themselves: by a number of attempts, or by a deadline."""
        return bool(self.maximum_attempts) or self.schedule_to_close_timeout is not None

    def pause(self, failures: int) -> float:
        """The pause that is asked for after so many failures in a row [s]. Temporal's defaults where not known."""
        first, factor = self.initial_interval or 1.0, self.backoff_coefficient or 2.0
        longest = self.maximum_interval or 100 * first
        return float(min(longest, first * factor ** min(failures - 1, 64)))

    def keeps_trying(self) -> float:
        """How long the policy goes on while every attempt fails at once [s]. Infinite without a limit."""
        deadline = np.inf if self.schedule_to_close_timeout is None else self.schedule_to_close_timeout
        if not self.maximum_attempts:
            return float(deadline)
        return float(min(deadline, sum(self.pause(n) for n in range(1, min(int(self.maximum_attempts), 10_000)))))


@dataclass(frozen=True)
class Group:
    """The activities of one type that were scheduled with the same options.

    `attempts`: one row per attempt with the columns of `Evidence.attempts`. `activities`: one row per activity:
    attempts [number of the last], outcome, failure_type, error [of its last attempt that failed], failed_first [bool],
    scheduled_at, ended_at, run_id, queue. `workflows`: the number of runs that were read, of all types. `from_book`:
    there is no history of these runs, so nobody knows whether an activity that failed goes on.
    """

    name: str
    workflow_type: str | None
    local: bool
    options: Options
    attempts: pd.DataFrame
    activities: pd.DataFrame
    workflows: int
    now: datetime
    from_book: bool = False

    @cached_property
    def good(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Seconds of the attempts that worked."""
        took = self.attempts.loc[self.attempts["outcome"] == "succeeded", "seconds"].to_numpy(dtype=float)
        known: np.ndarray[Any, np.dtype[np.float64]] = np.maximum(took[np.isfinite(took)], 1e-4)
        return known

    @property
    def by_workers(self) -> bool:
        """Whether the times are those of the workers' clocks: from the book, which counts heartbeats."""
        return bool(self.attempts["heartbeats"].notna().any())

    @cached_property
    def timeouts(self) -> pd.Series[Any]:
        """Which timeout ended each attempt: start, close, heartbeat or queue; NA for other ends."""
        rows = self.attempts
        error = rows["error"].astype(object).where(rows["error"].notna(), "").astype(str).str.lower()
        kind = pd.Series("start", index=rows.index)
        own = self.options
        if own.heartbeat_timeout is not None and own.start_to_close_timeout is not None:
            short = rows["seconds"].astype(float) < 0.9 * own.start_to_close_timeout
            kind = kind.mask(short, "heartbeat")
        words = {
            "starttoclose": "start",
            "scheduletoclose": "close",
            "heartbeat": "heartbeat",
            "scheduletostart": "queue",
        }
        for word, name in words.items():
            kind = kind.mask(error.str.replace("_", "").str.contains(word), name)
        return kind.where((rows["outcome"] == "timed out").to_numpy())

    def timed_out(self, *kinds: str) -> int:
        return int(self.timeouts.isin(kinds).sum())

    @property
    def runs(self) -> int:
        return int(self.attempts["run_id"].nunique())


@dataclass(frozen=True)
class Evidence:
    """Frames that the rules judge. `attempts`: one row per attempt of an activity that is known, with run_id,
    workflow_id, workflow_type, activity_type, activity [key], attempt, outcome, scheduled_at, started_at, ended_at,
    seconds, failure_type, error, local, queue, worker, heartbeats, and the options.

    `tasks`: rows of the history for workflow tasks that failed. `workflows`: the history's rows of runs. `queues`: as
    QUEUES says, empty where nobody asked. `now`: when the evidence was read [UTC].
    """

    attempts: pd.DataFrame
    tasks: pd.DataFrame
    workflows: pd.DataFrame
    queues: pd.DataFrame
    now: datetime
    notes: tuple[str, ...] = field(default=())

    @property
    def runs(self) -> int:
        ids = set(self.workflows["run_id"].dropna()) | set(self.attempts["run_id"].dropna())
        return max(1, len(ids))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The activities by type and options. Each type's largest group comes first."""
        return tuple(self._groups())

    def _groups(self) -> Iterator[Group]:
        by = ["activity_type", "local", *_OPTIONS]
        keyed = self.attempts.assign(
            **{name: self.attempts[name].astype(float).round(3).fillna(-1.0) for name in _OPTIONS}
        )
        where: dict[Any, Any] = dict(keyed.groupby(by, observed=True, sort=False).indices)
        activities = _activities(self.attempts)
        for key in sorted(where, key=lambda one: (str(one[0]), -len(where[one]))):
            rows = self.attempts.iloc[where[key]]
            values = [None if value < 0 else float(value) for value in key[2:]]
            types = rows["workflow_type"].dropna()
            yield Group(
                name=str(key[0]), workflow_type=None if types.empty else str(types.mode().iloc[0]), local=bool(key[1]),
                options=Options(**dict(zip([one.name for one in fields(Options)], values, strict=True))),
                attempts=rows, activities=activities.loc[rows["activity"].unique()], workflows=self.runs, now=self.now,
                from_book=not rows["run_id"].isin(self.workflows["run_id"]).any(),
            )  # fmt: skip


def evidence(
    history: pd.DataFrame | None, book: pd.DataFrame | None, queues: pd.DataFrame | None, now: datetime | None = None
) -> Evidence:
    """The evidence of these frames. A run's activities of one type come from the book where the book has them, because
    the book has every attempt. Raises BadInput for frames of another kind, and where there is no frame."""
    if history is None and book is None:
        raise BadInput("The doctor needs a frame to judge: give what insight.history or insight.flights returned.")
    for name, frame in (("history", history), ("book", book), ("queues", queues)):
        if frame is not None and not isinstance(frame, pd.DataFrame):
            raise BadInput(f"{name}= is a DataFrame, not {type(frame).__name__}.")
    all_ = whole(history) if history is not None else made([])
    parts = [_of_history(all_)]
    if book is not None:
        parts = _joined(parts[0], _of_book(book))
    if queues is not None and (missing := sorted(set(QUEUES) - set(queues.columns))):
        raise BadInput(f"This frame of queues has no {', '.join(missing)}.")
    frames = [part for part in parts if len(part)]
    attempts = pd.concat(frames, ignore_index=True) if frames else parts[0]
    return Evidence(
        attempts=attempts,
        tasks=once(all_[all_["kind"] == "workflow task"]),
        workflows=all_[all_["kind"] == "workflow"],
        queues=queues if queues is not None else pd.DataFrame(columns=QUEUES),
        now=now or datetime.now(UTC),
    )


def _joined(history: pd.DataFrame, book: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of both, without those of a history that the book has. What waits for an attempt is in no book."""
    by = ["run_id", "activity_type"]
    has = pd.MultiIndex.from_frame(history[by].astype(str)).isin(pd.MultiIndex.from_frame(book[by].astype(str)))
    waits = (history["outcome"] == "open") & history["started_at"].isna()
    pending = history[has & waits.to_numpy()]
    # The server's time of scheduling is in both; the book keeps fewer digits of it.
    keys = pd.Series(book["activity"].to_numpy(), index=_told_apart(book))
    known = keys[~keys.index.duplicated()].reindex(_told_apart(pending)).to_numpy()
    pending = pending.assign(activity=np.where(pd.isna(known), pending["activity"], known))
    # The book is read after the history: meanwhile there may have been more attempts, and the activity may have ended.
    last = book.sort_values("attempt", kind="stable").groupby("activity")[["attempt", "outcome"]].last()
    last = last.reindex(pending["activity"]).set_axis(pending.index)
    pending["attempt"] = np.fmax(pending["attempt"], last["attempt"] + 1)
    first = pending["attempt"].isna() | (pending["attempt"] == 1)
    goes_on = pd.notna(known) & (last["outcome"] != "succeeded").to_numpy()
    return [history[~has], pending[first | goes_on], book]


def _told_apart(rows: pd.DataFrame) -> pd.MultiIndex:
    at = rows["scheduled_at"].dt.floor("ms").astype(str)
    return pd.MultiIndex.from_arrays([rows["run_id"].astype(str), rows["activity_type"].astype(str), at])


def _of_history(frame: pd.DataFrame) -> pd.DataFrame:
    acts = once(frame[frame["kind"].isin(["activity", "local activity"])])
    key = acts["run_id"].astype(str) + "/" + acts["event"].astype(str)
    # Only an activity's first row has the time at which it was scheduled.
    scheduled = acts["scheduled_at"].groupby(key).transform("min")
    return _shaped(
        acts.assign(
            activity_type=acts["name"], activity=key, scheduled_at=scheduled, seconds=acts["start_to_close"],
            local=acts["kind"] == "local activity", heartbeats=np.nan,
        )
    )  # fmt: skip


def _of_book(book: pd.DataFrame) -> pd.DataFrame:
    needed = {"workflow_id", "run_id", "activity_type", "attempt", "outcome", *_TIMES}
    if missing := sorted(needed - set(book.columns)):
        raise BadInput(f"This frame has no {', '.join(missing)}: give a frame that insight.flights returned.")
    if "try" in book:
        # A loop inside an attempt has tries of its own. The server's timeouts are about the attempt.
        book = book[book["try"].fillna(0) == 0]
    book = restored(book, times=_TIMES)
    ids = book["activity_id"].astype(str) if "activity_id" in book else book["activity_type"].astype(str)
    key = book["run_id"].astype(str) + "/" + ids + "/" + book["scheduled_at"].astype(str)
    last = book["attempt"].groupby(key).transform("max")
    outcome = book["outcome"].astype(object)
    seconds = (book["ended_at"] - book["started_at"]).dt.total_seconds()
    # The worker saw an end, and the server had taken the attempt away before.
    late = (outcome == "open") & seconds.notna()
    late &= _column(book, "start_to_close_timeout").le(seconds) | _column(book, "heartbeat_timeout").notna()
    superseded = book["attempt"] < last
    # Without an end, and with a later attempt: this one's worker died. It worked, and there is a later attempt all the
    # same: its answer came too late.
    lost = (outcome == "open") & ~late & superseded
    outcome = outcome.mask(late | ((outcome == "succeeded") & superseded), "timed out").mask(lost, "lost")
    return _shaped(book.assign(activity=key, outcome=outcome, seconds=seconds))


def _column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    return frame[name].astype("float64") if name in frame else pd.Series(np.nan, index=frame.index)


def _shaped(rows: pd.DataFrame) -> pd.DataFrame:
    shaped = rows.reset_index(drop=True).reindex(columns=_COLUMNS)
    for name in [*_OPTIONS, "heartbeats", "seconds"]:
        shaped[name] = shaped[name].astype("float64")
    for name in ("activity_type", "workflow_type", "queue", "worker", "failure_type", "error", "run_id", "workflow_id"):
        shaped[name] = shaped[name].astype(object).where(shaped[name].notna(), None)
    for name in _TIMES:
        shaped[name] = shaped[name].astype("datetime64[us, UTC]")
    shaped["attempt"] = shaped["attempt"].astype("float64")
    shaped["local"] = shaped["local"].astype(object).where(shaped["local"].notna(), False).astype(bool)
    shaped["outcome"] = pd.Categorical(shaped["outcome"].astype(object), categories=OUTCOMES)
    shaped["activity"] = shaped["activity"].astype(object)
    return shaped[shaped["activity_type"].notna()].reset_index(drop=True)


def _activities(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per activity, from its attempts."""
    rows = rows.sort_values(["activity", "attempt"], kind="stable", na_position="last")
    failed = rows["outcome"].isin(["failed", "timed out", "lost"])
    by = rows.groupby("activity", sort=False)
    found = by.agg(
        attempts=("attempt", "max"), outcome=("outcome", "last"), scheduled_at=("scheduled_at", "min"),
        started_at=("started_at", "last"), ended_at=("ended_at", "max"), run_id=("run_id", "first"),
        queue=("queue", "first"),
    )  # fmt: skip
    found["attempts"] = found["attempts"].fillna(1.0)
    last = rows[failed].groupby("activity", sort=False)[["failure_type", "error", "outcome"]].last()
    found["failure_type"] = last["failure_type"].reindex(found.index)
    found["error"] = last["error"].reindex(found.index)
    found["cut"] = (last["outcome"] == "timed out").reindex(found.index).fillna(False).astype(bool)
    found["failed_first"] = (found["attempts"] > 1) | found["outcome"].isin(["failed", "timed out", "lost"])
    return found
