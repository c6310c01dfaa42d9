"""Rows of histories as DataFrames: all of them, the activity attempts, the workflow runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from trellis.insight.frames import OUTCOMES

POLICY = [
    "start_to_close_timeout", "schedule_to_close_timeout", "initial_interval", "backoff_coefficient",
    "maximum_interval", "maximum_attempts",
]  # fmt: skip
"""The columns that hold an activity's timeouts and its retry policy."""

_STRINGS = ["workflow_id", "run_id", "error", "parent", "target"]

_CATEGORIES = [
    "workflow_type", "kind", "name", "queue", "worker", "failure_type", "namespace", "build_id", "endpoint", "service",
]  # fmt: skip

_TIMES = ["scheduled_at", "started_at", "ended_at"]

_COLUMNS = [
    "workflow_id", "run_id", "workflow_type", "event", "kind", "name", "attempt", "outcome", "queue", "worker",
    "scheduled_at", "started_at", "ended_at", "schedule_to_start", "start_to_close", "failure_type", "error",
    "task", "end_event", "namespace", "build_id", "parent", "target", "endpoint", "service", *POLICY,
]  # fmt: skip

_STATES = {
    "succeeded": "COMPLETED", "failed": "FAILED", "timed out": "TIMED_OUT", "abandoned": "CANCELLED", "open": "RUNNING",
}  # fmt: skip


def _frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(found, columns=_COLUMNS)
    for name in _TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    frame["schedule_to_start"] = (frame["started_at"] - frame["scheduled_at"]).dt.total_seconds()
    frame["start_to_close"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds()
    types = dict.fromkeys(_STRINGS, pd.StringDtype("pyarrow")) | dict.fromkeys(_CATEGORIES, "category")
    frame["outcome"] = pd.Categorical(frame["outcome"], categories=OUTCOMES)
    numbers = {"event": "Int64", "attempt": "Int32", "task": "Int64", "end_event": "Int64"}
    limits = {**dict.fromkeys(POLICY, "float64"), "maximum_attempts": "Int32"}
    return frame.astype({**types, **numbers, **limits})


def _orders(frame: pd.DataFrame) -> pd.Series[Any]:
    """The order's id of each row: the workflow's id, and the run's id too where the frame holds several runs of it."""
    ids = frame["workflow_id"]
    several = frame.groupby("workflow_id")["run_id"].transform("nunique") > 1
    return ids.where(~several.astype(bool), ids + " " + frame["run_id"])


def history_attempts(frame: pd.DataFrame) -> pd.DataFrame:
    """The activities of a `history` frame, with the columns of `insight.attempts`. Charts and fits accept both.

    order_id: the workflow's id (and the run's id, where the frame holds several runs of that workflow). step: the
    activity's type. round: 0 for the run's first activity of that type, 1 for its second, and so on. try: 1. lane: 0.
    execution: the attempt that Temporal counted. attempt: counts over all rounds. More columns: queue [category],
    scheduled_at [UTC, of the first attempt of each activity], and the activity's timeouts and retry policy, as in
    `history`. The outcome is `unknown` for an attempt that is missing from the history, and `open` for one that has not
    ended.
    """
    acts = frame.assign(order_id=_orders(frame))[frame["kind"].isin(["activity", "local activity"])]
    n = len(acts)
    step = acts["name"].cat.remove_unused_categories()
    same = acts.assign(step=step).groupby(["order_id", "step"], observed=True)
    # The attempts of one activity are neighbours, and all carry the number of the event that scheduled it.
    first = (acts["event"] != same["event"].shift()).fillna(True)
    made = pd.DataFrame(
        {
            "order_id": acts["order_id"],
            "step": step,
            "attempt": (same.cumcount() + 1).astype("Int32"),
            "round": (first.groupby([acts["order_id"], step], observed=True).cumsum() - 1).astype("Int32"),
            "execution": acts["attempt"],
            "try": pd.array([1] * n, dtype="Int32"),
            "lane": pd.array([0] * n, dtype="Int32"),
            "outcome": acts["outcome"],
            "started_at": acts["started_at"],
            "ended_at": acts["ended_at"],
            "duration_ms": acts["start_to_close"] * 1000,
            "error": acts["error"],
            "worker": acts["worker"],
            "skewed": (acts["start_to_close"] < 0) | (acts["schedule_to_start"] < 0),
            "queue": acts["queue"],
            "scheduled_at": acts["scheduled_at"],
            **{name: acts[name] for name in POLICY},
        }
    )
    return made.reset_index(drop=True)


def history_workflows(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a `history` frame, with the columns of `insight.orders` that `timelines` and `completion` need.

    Columns: order_id [string, as in `history_attempts`], state [category: COMPLETED, FAILED, TIMED_OUT, CANCELLED
    (also for terminated), RUNNING; a run that continued as new is COMPLETED], workflow_type [category], last_error
    [string], created_at, began_at, ended_at [UTC], seconds [float].
    """
    runs = frame.assign(order_id=_orders(frame))[frame["kind"] == "workflow"].sort_values("started_at")
    made = pd.DataFrame(
        {
            "order_id": runs["order_id"],
            "state": pd.Categorical(runs["outcome"].astype(object).map(_STATES), categories=list(_STATES.values())),
            "workflow_type": runs["workflow_type"],
            "last_error": runs["error"],
            "created_at": runs["started_at"],
            "began_at": runs["started_at"],
            "ended_at": runs["ended_at"],
            "seconds": runs["start_to_close"],
        }
    )
    return made.reset_index(drop=True)
