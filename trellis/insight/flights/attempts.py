"""The book's attempts in the form of `insight.attempts`, alone or joined with a history."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trellis.insight.flights.columns import whole_flights
from trellis.insight.frames import OUTCOMES
from trellis.insight.history.frames import POLICY, activities, order_ids
from trellis.outages import HOW
from trellis.retry import Placement

_COMMON = [
    "namespace", "workflow_id", "run_id", "activity_id", "step", "execution", "try", "lane", "outcome", "started_at",
    "ended_at", "error", "worker", "outage", "queued", "queue", "scheduled_at", "first_at", "placement", *POLICY,
]  # fmt: skip
"""What both sources say of an attempt. `first_at`: when the activity was scheduled. `scheduled_at`: the attempt."""

_ATTEMPT = ["namespace", "workflow_id", "run_id", "activity_id", "first_at", "execution", "scheduled_at"]


def flight_attempts(frame: pd.DataFrame, history: pd.DataFrame | None = None) -> pd.DataFrame:
    """The book's attempts with the columns of `insight.history_attempts`. Charts and fits accept both.

    `frame`: what `insight.flights` returned. Where it holds tries of loops (`tries=True`), they take the place of their
    attempt, as they do for orders: `execution` is the attempt that Temporal counted, `try` and `lane` are the loop's.
    `history`: a frame of `insight.history`. For an activity that is in both, the book's rows are taken: it holds every
    attempt, where the history has gaps. Activities that only one of them knows are taken from there.

    As in `history_attempts`, order_id is the workflow's id (and the run's id, where the frame holds several runs of
    that workflow), step the activity's type, and round its number among the run's activities of that type, from 0. One
    more column: placement [category: server; activity for the tries of a loop]. `scheduled_at` is that of each attempt.
    Timeouts and retry policy of a loop's tries are those of its rule. Raises BadInput for another kind of frame.
    """
    rows = _unrolled(whole_flights(frame))
    if history is not None:
        rows = _joined(rows, _of_history(history))
    return _numbered(rows)


def _unrolled(book: pd.DataFrame) -> pd.DataFrame:
    """The book's rows in the common form, with the tries of loops in place of their attempts."""
    mine = book["attempt_scheduled_at"]
    rows = book.assign(
        step=book["activity_type"], execution=book["attempt"], first_at=book["scheduled_at"],
        # An attempt that no worker began has no time of its own, unless it was the first.
        scheduled_at=mine.fillna(book["scheduled_at"].where(book["attempt"] == 1)),
        placement=np.where(book["try"] > 0, Placement.ACTIVITY, Placement.SERVER),
    )  # fmt: skip
    # A local activity that began anew, because its worker died, is the same activity.
    again = rows.groupby(["namespace", "run_id", "activity_id"], observed=True)["first_at"].transform("min")
    rows["first_at"] = rows["first_at"].mask(rows["local"].fillna(False).astype(bool), again)
    is_try = (rows["try"] > 0).to_numpy(dtype=bool)
    if is_try.any():
        tried = pd.MultiIndex.from_frame(rows.loc[is_try, _ATTEMPT])
        rows = rows[is_try | ~pd.MultiIndex.from_frame(rows[_ATTEMPT]).isin(tried)]
    return rows.assign(**{"try": rows["try"].clip(lower=1)})[_COMMON]


def _of_history(history: pd.DataFrame) -> pd.DataFrame:
    """A history's attempts in the common form."""
    acts = activities(history)
    first = acts["scheduled_at"].groupby([acts["run_id"], acts["event"]]).transform("min")
    return acts.assign(
        step=acts["name"], execution=acts["attempt"], lane=0, outage=None, queued=np.nan,
        first_at=first.fillna(acts["started_at"]), placement=str(Placement.SERVER), **{"try": 1},
    )[_COMMON]  # fmt: skip


def _joined(book: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """All rows of the book, and those of the activities that only the history knows."""
    use = ["run_id", "activity_id", "number"]
    known = pd.MultiIndex.from_frame(_uses(book)[use].drop_duplicates())
    theirs = _uses(history)
    missing = ~pd.MultiIndex.from_frame(theirs[use]).isin(known) | theirs["activity_id"].isna().to_numpy()
    parts = [one.astype({"outcome": object}) for one in (book, history[missing]) if len(one)]
    return pd.concat(parts, ignore_index=True) if parts else book


def _uses(rows: pd.DataFrame) -> pd.DataFrame:
    """With `number`: which use of its activity id in its run this is. A workflow may use an id again."""
    return rows.assign(number=rows.groupby(["run_id", "activity_id"])["first_at"].rank(method="dense"))


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """The attempts in order, with order_id, round and attempt."""
    # A workflow task may schedule several activities at one moment. The SDK gives them rising ids.
    rows = rows.assign(
        order_id=order_ids(rows), started=rows["started_at"].fillna(rows["scheduled_at"]),
        place=pd.to_numeric(rows["activity_id"], errors="coerce").fillna(0).astype("float64"),
    )  # fmt: skip
    rows = rows.sort_values(["order_id", "first_at", "place", "execution", "started", "try", "lane"], ignore_index=True)
    step = rows["step"].astype("category").cat.remove_unused_categories()
    by = [rows["order_id"], step]
    first = ~rows[["order_id", "activity_id", "first_at"]].assign(step=step).duplicated()
    seconds = (rows["ended_at"] - rows["started_at"]).dt.total_seconds()
    n = len(rows)
    return pd.DataFrame(
        {
            "order_id": rows["order_id"],
            "step": step,
            "attempt": (rows.groupby(by, observed=True).cumcount() + 1).astype("Int32"),
            "round": (first.groupby(by, observed=True).cumsum() - 1).astype("Int32"),
            "execution": rows["execution"].astype("Int32"),
            "try": rows["try"].astype("Int32"),
            "lane": rows["lane"].astype("Int32"),
            "outcome": pd.Categorical(rows["outcome"].astype(object), categories=OUTCOMES),
            "started_at": rows["started_at"],
            "ended_at": rows["ended_at"],
            "duration_ms": seconds * 1000,
            "error": rows["error"].astype(pd.StringDtype("pyarrow")),
            "worker": rows["worker"].astype(object).astype("category"),
            "skewed": (seconds < 0).to_numpy() if n else np.zeros(0, dtype=bool),
            "outage": pd.Categorical(rows["outage"].astype(object), categories=list(HOW)),
            "queued": rows["queued"].astype("float64"),
            "queue": rows["queue"].astype(object).astype("category"),
            "scheduled_at": rows["scheduled_at"],
            "namespace": rows["namespace"].astype(object).astype("category"),
            "placement": pd.Categorical(rows["placement"].astype(str), categories=[str(one) for one in Placement]),
            **{name: rows[name] for name in POLICY},
        }
    )
