"""Attempts and steps as DataFrames, made from the events of the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Unpack, overload

import numpy as np
import pandas as pd

from trellis.db import reading
from trellis.db.reading import OneOrMany
from trellis.errors import BadInput
from trellis.insight.frames import OUTCOMES, Source, TryFilters, _read
from trellis.insight.whole import whole_attempts
from trellis.outages import HOW

_OUTCOMES = {"ATTEMPT_FAILED": "failed", "ATTEMPT_TIMED_OUT": "timed out", "ATTEMPT_ABANDONED": "abandoned"}
_SKEW = pd.Timedelta(seconds=1)
LOST = "left no trace"


@overload
def attempts(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame: ...
@overload
def attempts(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[TryFilters]
) -> Iterator[pd.DataFrame]: ...
def attempts(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """One row per try of an outside step, by order and start. Filters: since, until, state, step, type.

    `source` may also be a frame that `events` returned. Then no filter may be given.

    Columns: order_id [string], step [category], attempt, round, execution, try, lane [Int32], outcome [category: as
    in OUTCOMES], started_at, ended_at [UTC], duration_ms [float], error [string], worker [category], skewed [bool],
    outage [category: error or hang, as the provider's outage failed the call; NA: there was none], queued [float:
    seconds that the call had to wait in its provider's queue, also if its caller gave up before; NaN: there is no
    queue, or the event was written before queues were recorded].

    A try can leave no event, for example because its worker died. It shows as a gap in the numbers of its step's other
    tries, and becomes a row with outcome `lost`, without times and without an attempt number. A filter (`since`,
    `until`, `type`) may have removed some of these other tries. Then no loss is inferred.
    `skewed`: the worker's clock must be wrong, because the try took less than 0 s, or ended over a second after the
    database recorded it.
    """
    if isinstance(source, pd.DataFrame):
        _only_a_frame(order, batches, filters)
        return _attempts(source)
    if "tries" in filters:
        raise BadInput("attempts holds only tries: leave out tries=.")
    by_order = replace(reading.EVENTS, sort="order_id, id")
    table = reading.EVENTS if batches is None else by_order
    found = _read(table, source, batches, order, {**filters, "tries": True}, whole=True)
    return _attempts(found) if isinstance(found, pd.DataFrame) else map(_attempts, found)


def _only_a_frame(order: OneOrMany, batches: int | None, filters: Any) -> None:
    if order is not None or batches is not None or filters:
        raise BadInput("A frame cannot be filtered here: filter it with pandas, or give a source to read from.")


def _attempts(log: pd.DataFrame) -> pd.DataFrame:
    if missing := sorted({"attempt", "payload_json", "started_at", "ts"} - set(log.columns)):
        raise BadInput(f"This frame has no {', '.join(missing)}: give a frame that insight.events returned.")
    if not all(isinstance(log[name].dtype, pd.DatetimeTZDtype) for name in ("started_at", "ts")):
        raise BadInput("This frame's times are text (a .csv keeps no dtypes): export to .parquet, which keeps them.")
    tries = log[log["attempt"].notna()]
    types = tries["type"].astype("category")
    outcome = np.array([_OUTCOMES.get(str(kind), "succeeded") for kind in types.cat.categories], dtype=object)
    lane, error, outage, queued = _payloads(tries["payload_json"])
    duration = tries["duration_ms"].to_numpy(dtype=float, na_value=np.nan)
    ended = tries["started_at"] + pd.to_timedelta(tries["duration_ms"], unit="ms")
    ended = ended.astype("datetime64[us, UTC]")
    made = pd.DataFrame(
        {
            "order_id": tries["order_id"],
            "step": tries["step"],
            "attempt": tries["attempt"],
            "round": tries["round"],
            "execution": tries["execution"],
            "try": tries["try"],
            "lane": lane,
            "outcome": pd.Categorical(outcome[types.cat.codes], categories=OUTCOMES) if len(tries) else
                       pd.Categorical([], categories=OUTCOMES),
            "started_at": tries["started_at"],
            "ended_at": ended,
            "duration_ms": duration,
            "error": error,
            "worker": tries["worker"],
            "skewed": (duration < 0) | ((ended - tries["ts"]) > _SKEW).to_numpy(),
            "outage": outage,
            "queued": queued,
        }
    )  # fmt: skip
    lost = _lost(made)
    if len(lost):
        made = pd.concat([made, lost.astype(made.dtypes.to_dict())], ignore_index=True)
    by = ["order_id", "started_at", "execution", "attempt"]
    return made.sort_values(by, kind="stable", ignore_index=True)


def _payloads(column: pd.Series[Any]) -> tuple[Any, Any, Any, Any]:
    """(lane, error, outage, queued) of each payload, as arrays."""
    # Many payloads are equal: each different one is parsed once.
    codes, kinds = pd.factorize(column, use_na_sentinel=False)
    found = [json.loads(kind) for kind in kinds]
    lane = np.array([one.get("lane", 0) for one in found], dtype="int32")
    error = pd.array([one.get("error") for one in found], dtype=pd.StringDtype("pyarrow"))
    outage = pd.Categorical([one.get("outage") for one in found], categories=list(HOW))
    queued = np.array([one.get("queued", np.nan) for one in found], dtype=float)
    return pd.array(lane[codes], dtype="Int32"), error.take(codes), outage.take(codes), queued[codes]


def _lost(tries: pd.DataFrame) -> pd.DataFrame:
    """Rows for tries that began but left no event. There are two kinds: an execution that Temporal counted and that no
    event names, and the last try of an execution that was cut off in the middle of its loop.
    """
    key = ["order_id", "step", "round"]
    steps = tries.groupby(["order_id", "step"], observed=True)
    # An attempt gets its number when it is recorded. A missing number was therefore filtered out, not lost.
    whole = steps["attempt"].transform("max") == steps["attempt"].transform("size")
    again = tries.groupby(key, observed=True)["execution"].transform("max") > 1
    mine = tries.loc[(whole & again).to_numpy(dtype=bool, na_value=False), [*key, "execution", "try", "outcome"]]
    mine = mine.assign(ended=mine.pop("outcome").isin(["succeeded", "abandoned"]))
    each = (
        mine.groupby([*key, "execution"], observed=True)
        .agg(tries=("try", "size"), last=("try", "max"), ended=("ended", "any"))
        .reset_index()
    )
    same = each.groupby(key, observed=True)["execution"]
    # Retried by Temporal, an execution has one try. A loop of several tries ends with a success or is abandoned.
    cut_off = each[(each["tries"] > 1) & ~each["ended"] & (each["execution"] < same.transform("max"))]
    hole = (each["execution"] - same.shift(fill_value=0) - 1).to_numpy(dtype=int)
    missing = each.loc[each.index.repeat(hole), [*key, "execution"]]
    missing["execution"] -= missing.groupby(level=0).cumcount() + 1
    lost = pd.concat([cut_off.assign(**{"try": cut_off["last"] + 1}), missing.assign(**{"try": 1})], ignore_index=True)
    return lost.assign(outcome="lost", error=LOST, skewed=False).reindex(columns=tries.columns)


@overload
def steps(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame: ...
@overload
def steps(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[TryFilters]
) -> Iterator[pd.DataFrame]: ...
def steps(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """One row per order, step and round. Filters as for `attempts`. `source` may also be a frame that it returned.

    Columns: order_id [string], step [category], round [Int32], attempts, failed, timed_out, abandoned, lost, unknown,
    open [int64], succeeded [bool], started_at, ended_at [UTC; the time of scheduling, where the first start is not
    known], seconds [float, first start to last end], good_s, failed_s, hung_s, wait_s [float: seconds in the try that
    worked, in tries that failed, in tries that hung, and in the rest: between tries, or in tries without known times].
    Steps of histories also have queue [category].
    """
    if isinstance(source, pd.DataFrame) and "outcome" in source:
        _only_a_frame(order, batches, filters)
        return _steps(whole_attempts(source, "order_id", "step", "round", "started_at", "ended_at", "duration_ms"))
    if batches is not None:
        return map(_steps, attempts(source, order, batches=batches, **filters))
    return _steps(attempts(source, order, **filters))


def _steps(tries: pd.DataFrame) -> pd.DataFrame:
    seconds = (tries["duration_ms"] / 1000).clip(lower=0).fillna(0.0)
    outcome = tries["outcome"]
    rows = tries[["order_id", "step", "round", "started_at", "ended_at"]].assign(
        attempts=1, unknown=outcome == "unknown", open=outcome == "open",
        failed=outcome == "failed", timed_out=outcome == "timed out", abandoned=outcome == "abandoned",
        lost=outcome == "lost", succeeded=outcome == "succeeded",
        good_s=seconds.where(outcome == "succeeded", 0.0),
        failed_s=seconds.where(outcome == "failed", 0.0), hung_s=seconds.where(outcome == "timed out", 0.0),
    )  # fmt: skip
    if "scheduled_at" in tries:
        rows["started_at"] = rows["started_at"].fillna(tries["scheduled_at"])
    # A frame with task queues was made from histories. Its steps keep the column, so that charts can tell (`words_of`).
    queue = {"queue": ("queue", "first")} if "queue" in tries else {}
    if queue:
        rows["queue"] = tries["queue"]
    counts = ["attempts", "failed", "timed_out", "abandoned", "lost", "unknown", "open", "good_s", "failed_s", "hung_s"]
    frame = (
        rows.groupby(["order_id", "step", "round"], observed=True, sort=False)
        .agg(
            succeeded=("succeeded", "any"),
            started_at=("started_at", "min"),
            ended_at=("ended_at", "max"),
            **{name: (name, "sum") for name in counts},
            **queue,
        )
        .reset_index()
    )
    frame["seconds"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds()
    # Hedge lanes overlap: their sum can exceed the time that passed.
    spent = frame["good_s"] + frame["failed_s"] + frame["hung_s"]
    frame["wait_s"] = (frame["seconds"] - spent).clip(lower=0)
    return frame[
        ["order_id", "step", "round", "attempts", "failed", "timed_out", "abandoned", "lost", "unknown", "open",
         "succeeded", "started_at", "ended_at", "seconds", "good_s", "failed_s", "hung_s", "wait_s", *queue]
    ]  # fmt: skip
