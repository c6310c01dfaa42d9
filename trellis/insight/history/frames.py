"""Rows of histories as DataFrames: all of them, the activity attempts, the workflow runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.event_fields import NEVER_STARTED
from trellis.insight.frames import restored
from trellis.outages import HOW

POLICY = [
    "start_to_close_timeout", "schedule_to_close_timeout", "initial_interval", "backoff_coefficient",
    "maximum_interval", "maximum_attempts",
]  # fmt: skip
"""The columns that hold an activity's timeouts and its retry policy."""

_ONLY_ACTIVITIES = ["schedule_to_start_timeout", "heartbeat_timeout"]

_STRINGS = ["workflow_id", "run_id", "error", "parent", "target", "reset_from", "activity_id"]

_CATEGORIES = [
    "workflow_type", "kind", "name", "queue", "worker", "failure_type", "namespace", "build_id", "endpoint", "service",
]  # fmt: skip

_TIMES = ["scheduled_at", "started_at", "ended_at"]

_COLUMNS = [
    "workflow_id", "run_id", "workflow_type", "event", "kind", "name", "attempt", "outcome", "queue", "worker",
    "scheduled_at", "started_at", "ended_at", "schedule_to_start", "start_to_close", "failure_type", "error",
    "task", "end_event", "namespace", "build_id", "parent", "target", "endpoint", "service", *POLICY,
    *_ONLY_ACTIVITIES, "reset_from", "copied", "activity_id",
]  # fmt: skip

_STATES = {
    "succeeded": "COMPLETED", "failed": "FAILED", "timed out": "TIMED_OUT", "abandoned": "CANCELLED", "open": "RUNNING",
}  # fmt: skip


_KEY = ["workflow_id", "run_id", "kind", "event", "attempt"]

_NEEDED = {"workflow_id", "run_id", "kind", "name", "event", "attempt", "outcome", *_TIMES}


def made(found: list[dict[str, Any]]) -> pd.DataFrame:
    """The frame of these rows."""
    frame = _typed(pd.DataFrame(found, columns=_COLUMNS))
    frame["schedule_to_start"] = (frame["started_at"] - frame["scheduled_at"]).dt.total_seconds()
    frame["start_to_close"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds()
    return frame


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    return restored(
        frame, times=_TIMES, categories=_CATEGORIES, strings=_STRINGS, flags=["copied"],
        integers={"event": "Int64", "attempt": "Int32", "task": "Int64", "end_event": "Int64",
                  "maximum_attempts": "Int32"},
        numbers=["schedule_to_start", "start_to_close", *POLICY[:-1], *_ONLY_ACTIVITIES],
    )  # fmt: skip


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """A `history` frame with its columns and dtypes, after `pd.concat` or from a file.

    A run that was loaded twice is in it once, as it was loaded last. Raises BadInput for another kind of frame.
    """
    if missing := sorted(_NEEDED - set(frame.columns)):
        raise BadInput(f"This frame has no {', '.join(missing)}: give a frame that insight.history returned.")
    order = [*_COLUMNS, *(name for name in frame.columns if name not in _COLUMNS)]
    whole = _typed(frame.reset_index(drop=True).reindex(columns=order))
    # A run's rows begin with the workflow's own. Where it comes again, the run was loaded again.
    loads = whole["kind"].eq("workflow").groupby(whole["run_id"])
    stale = (loads.transform("sum") > 1) & (loads.cumsum() < loads.transform("sum"))
    return whole[~stale & ~whole.duplicated(_KEY, keep="last")].reset_index(drop=True)


def once(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the rows that a reset copied from a run that is in the frame too: each attempt counts once."""
    copies = frame["copied"].fillna(False).astype(bool) & frame["reset_from"].isin(frame["run_id"].dropna().unique())
    return frame[~copies]


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a history, sorted by event and attempt within each run. The runs keep their order. A frame that people
    hand in may be sorted by something else."""
    runs = pd.factorize(rows["run_id"])[0]
    event, attempt = (rows[name].to_numpy(dtype="float64", na_value=np.inf) for name in ("event", "attempt"))
    return rows.iloc[np.lexsort((attempt, event, runs))]


def order_ids(frame: pd.DataFrame) -> pd.Series[Any]:
    """The order's id of each row: the workflow's id, and the run's id too where the frame holds several runs of it.

    The same id in two namespaces names two workflows: the namespace comes first then.
    """
    ids = frame["workflow_id"]
    if frame["namespace"].nunique() > 1:
        ids = frame["namespace"].astype("string").fillna("?") + "/" + ids
    several = frame.groupby(ids)["run_id"].transform("nunique") > 1
    return ids.where(~several.astype(bool), ids + " " + frame["run_id"]).astype(pd.StringDtype("pyarrow"))


def activities(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a history's activity attempts, in order and each once, with their order_id.

    The outcome of an attempt that never began is `unknown`, or `lost` where the activity timed out before any began.
    """
    frame = whole(frame)
    acts = frame.assign(order_id=order_ids(frame))
    acts = in_order(once(acts[acts["kind"].isin(["activity", "local activity"])])) if len(acts) else acts
    never = acts["outcome"].eq("timed out") & acts["started_at"].isna() & acts["attempt"].isna()
    outcome = acts["outcome"].mask(never, "unknown").mask(never & acts["failure_type"].eq(NEVER_STARTED), "lost")
    return acts.assign(outcome=outcome)


def history_attempts(frame: pd.DataFrame) -> pd.DataFrame:
    """The activities of a `history` frame, with the columns of `insight.attempts`. Charts and fits accept both.

    order_id: the workflow's id (and the run's id, where the frame holds several runs of that workflow; and first the
    namespace, where it holds several). step: the activity's type. round: 0 for the run's first activity of that type, 1
    for its second, and so on. try: 1. lane: 0. execution: the attempt that Temporal counted. attempt: counts over all
    rounds. outage, queued: empty, a history does not say. More columns: queue, namespace [category], scheduled_at [UTC,
    of the first attempt of each activity], and the activity's timeouts and retry policy, as in `history`.

    The outcome is `unknown` for an attempt that is missing from the history, `open` for one that has not ended, and
    `lost` where the activity timed out before any attempt began. What a reset copied from another run of the frame is
    left out here: that run has it.
    """
    acts = activities(frame)
    n = len(acts)
    step = acts["name"].cat.remove_unused_categories()
    # The attempts of one activity are neighbours, and all carry the number of the event that scheduled it.
    by = [acts["order_id"], step]
    first = (acts["event"] != acts["event"].groupby(by, observed=True).shift()).fillna(True)
    made = pd.DataFrame(
        {
            "order_id": acts["order_id"],
            "step": step,
            "attempt": (acts.groupby(by, observed=True).cumcount() + 1).astype("Int32"),
            "round": (first.groupby(by, observed=True).cumsum() - 1).astype("Int32"),
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
            "outage": pd.Categorical([None] * n, categories=list(HOW)),
            "queued": np.full(n, np.nan),
            "queue": acts["queue"],
            "scheduled_at": acts["scheduled_at"],
            "namespace": acts["namespace"],
            **{name: acts[name] for name in POLICY},
        }
    )
    return made.reset_index(drop=True)


def history_workflows(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a `history` frame, with the columns of `insight.orders` that `timelines` and `completion` need.

    Columns: order_id [string, as in `history_attempts`], state [category: COMPLETED, FAILED, TIMED_OUT, CANCELLED
    (also for terminated), RUNNING; a run that continued as new is COMPLETED], workflow_type [category], last_error
    [string], created_at, began_at, ended_at [UTC], seconds [float], reset_from [string: the id of the run that was
    reset to make this one]. A run that a reset made begins at the reset.
    """
    frame = whole(frame)
    runs = frame.assign(order_id=order_ids(frame))[frame["kind"] == "workflow"].sort_values("started_at")
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
            "reset_from": runs["reset_from"],
        }
    )
    return made.reset_index(drop=True)
