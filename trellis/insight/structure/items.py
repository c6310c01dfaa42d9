"""What each workflow run did, as a table: one item for each activity, timer, child and Nexus operation.

An item has a beginning and an end in the order of its history. The numbers of history events give this order: the
commands of a workflow task begin when the task completed, and a task knows every event with a smaller number. Where
the frame has no such numbers (`task` and `end_event`), times give the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

ACTIVITY, LOCAL, TIMER, CHILD, NEXUS, GAVE_UP, RACE = (
    "activity", "local activity", "timer", "child", "nexus", "gave up", "race",
)  # fmt: skip
_KINDS = (ACTIVITY, LOCAL, TIMER, CHILD, NEXUS)
TIMEOUT = "a timeout"
"""What ends a wait if nothing else does."""

_OUTSIDE = ("signal", "update")

_NOTHING = pd.DataFrame({"run": [], "order": [], "at": [], "name": []}).astype(
    {"run": int, "order": float, "at": float}
)


@dataclass(frozen=True)
class Token:
    """What an item is, apart from its times. `names`: the type of the activity or child; of a race, of all that raced.

    Items with equal tokens are rounds of the same thing.
    """

    kind: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True)
class Items:
    """`table`: one row for each item that the run waited for. Columns: run [int, position in `runs`], token [int,
    position in `tokens`], begin, end [order within the run], at, until [s since the run's start], value [s: what the
    item takes apart from scheduling], good [s: the same without failed tries].

    `runs`: one row for each run. Columns: run_id, workflow_id, workflow_type, parent, outcome, seconds.
    `outside`: signals and updates that arrived, and timeouts of waits. Columns: run, order, at [s], name.
    """

    table: pd.DataFrame
    tokens: list[Token]
    runs: pd.DataFrame
    outside: pd.DataFrame


def from_history(frame: pd.DataFrame) -> Items:
    """The items of a frame that `insight.history` returned."""
    kind = frame["kind"].astype(object)
    runs = _runs(frame[(kind == "workflow").to_numpy()])
    if "copied" in frame:
        # A run after a reset lacks what it copied from the run before it, so it is no whole run.
        partly = runs["run_id"].isin(set(frame.loc[frame["copied"].fillna(False).to_numpy(dtype=bool), "run_id"]))
        runs["outcome"] = runs["outcome"].mask(partly, "open")
    frame = frame.assign(
        kind=kind, run=pd.Index(runs["run_id"]).get_indexer(pd.Index(frame["run_id"].astype(object)))
    ).loc[lambda found: found["run"] >= 0]
    for name in ("task", "end_event", "target"):
        if name not in frame:
            frame[name] = pd.NA
    began = runs["began"].array[frame["run"].to_numpy()]
    for name, column in (("at", "scheduled_at"), ("since", "started_at"), ("until", "ended_at")):
        frame[name] = _seconds(frame[column], began)
    each = _together(frame[frame["kind"].isin(_KINDS)])
    outside = frame[frame["kind"].isin(_OUTSIDE) & np.isfinite(frame["since"])]
    numbered = bool(each["task"].notna().all() and each.loc[each["ended"], "end_event"].notna().all())
    each = _ordered(each, numbered)
    each, tokens, timeouts = _tokens(each, runs)
    signals = pd.DataFrame(
        {
            "run": outside["run"],
            "order": outside["event"].astype("float64") if numbered else outside["since"],
            "at": outside["since"],
            "name": outside["name"].astype(object),
        }
    )
    return Items(each, tokens, runs, pd.concat([signals, timeouts], ignore_index=True) if len(timeouts) else signals)


def from_attempts(attempts: pd.DataFrame, durations: pd.DataFrame | None) -> Items:
    """The items of a frame that `history_attempts` returned: activities only, in the order of their times."""
    began = attempts["scheduled_at"] if "scheduled_at" in attempts else attempts["started_at"]
    began = began.fillna(attempts["started_at"])
    ids = attempts["order_id"].astype(object)
    runs = _runs_of_attempts(attempts.assign(order_id=ids, began=began), durations)
    rows = pd.DataFrame(
        {
            "run": pd.Index(runs["run_id"]).get_indexer(pd.Index(ids)),
            "event": attempts["round"].astype("float64"),
            "kind": ACTIVITY,
            "name": attempts["step"].astype(object),
            "outcome": attempts["outcome"].astype(object),
            "attempt": attempts["execution"],
            "task": pd.NA,
            "end_event": pd.NA,
            "target": pd.NA,
            "start_to_close": attempts["duration_ms"] / 1000,
            "began": began,
            "started_at": attempts["started_at"],
            "ended_at": attempts["ended_at"],
        }
    )
    rows = rows[rows["run"] >= 0]
    zero = runs["began"].array[rows["run"].to_numpy()]
    for name, column in (("at", "began"), ("since", "started_at"), ("until", "ended_at")):
        rows[name] = _seconds(rows[column], zero)
    # An activity is told from the next one of its type by its round.
    rows["event"] = rows["event"] + pd.factorize(rows["name"])[0] * 1e6
    return Items(*_tokens(_ordered(_together(rows), numbered=False), runs)[:2], runs, _NOTHING)


def _runs_of_attempts(attempts: pd.DataFrame, durations: pd.DataFrame | None) -> pd.DataFrame:
    """The runs of these attempts, with the measured `durations` of those that have one."""
    each = attempts.groupby("order_id", sort=False)
    runs = pd.DataFrame({"began": each["began"].min(), "last": each["ended_at"].max()}).reset_index(names="run_id")
    runs["seconds"] = (runs["last"] - runs["began"]).dt.total_seconds()
    still = pd.Series(attempts["outcome"].astype(object) == "open").groupby(attempts["order_id"].to_numpy()).any()
    runs["outcome"] = np.where(runs["run_id"].map(still).astype(bool), "open", "succeeded")
    if durations is not None:
        known = durations.drop_duplicates("order_id").set_index(durations["order_id"].drop_duplicates().astype(object))
        runs = runs[runs["run_id"].isin(known.index)].reset_index(drop=True)
        found = known.loc[runs["run_id"]]
        runs["seconds"] = found["seconds"].to_numpy(dtype="float64", na_value=np.nan)
        done = (found["state"].astype(object) == "COMPLETED").to_numpy()
        runs["outcome"] = np.where(done, "succeeded", "failed")
        if "began_at" in found:
            first = found["began_at"].reset_index(drop=True)
            runs["began"] = first.where(first.notna() & (first <= runs["began"]), runs["began"])
    return runs.assign(workflow_id=runs["run_id"], workflow_type="workflow", parent=None)


def _runs(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of a history, from their own rows."""
    made = pd.DataFrame(
        {
            "run_id": rows["run_id"].astype(object),
            "workflow_id": rows["workflow_id"].astype(object),
            "workflow_type": rows["workflow_type"].astype(object),
            "parent": rows["parent"].astype(object) if "parent" in rows else None,
            "outcome": rows["outcome"].astype(object),
            "began": rows["started_at"],
            "seconds": (rows["ended_at"] - rows["started_at"]).dt.total_seconds(),
        }
    )
    return made.drop_duplicates("run_id").reset_index(drop=True)


def _seconds(times: pd.Series[Any], began: Any) -> Any:
    """Times as seconds since each run began."""
    return (times - pd.Series(began, index=times.index)).dt.total_seconds().to_numpy(dtype="float64")


def _together(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each item: the attempts of an activity are one item."""
    key = [rows["run"], rows["event"]]
    groups = rows.groupby(key, sort=False)
    last = rows.loc[~rows.duplicated(["run", "event"], keep="last")].set_index(["run", "event"])
    made = last[["kind", "name", "outcome", "task", "end_event", "target", "start_to_close", "since", "until"]].copy()
    first = groups.agg(at=("at", "min"), since=("since", "min"), tries=("attempt", "max"), until=("until", "max"))
    made["at"] = first["at"].fillna(first["since"]).fillna(first["until"])
    made["tries"] = first["tries"].astype("float64").fillna(1.0)
    made["until"] = first["until"]
    made["ended"] = made["outcome"].isin(["succeeded", "failed", "timed out"]) & made["until"].notna()
    return made.reset_index()


def _ordered(each: pd.DataFrame, numbered: bool) -> pd.DataFrame:
    """With `begin` and `end`: by the numbers of history events where the rows are `numbered`, else by times."""
    if not numbered:
        return each.assign(begin=each["at"], end=each["until"])
    begin = each["task"].to_numpy(dtype="float64") + 0.5
    end = each["end_event"].to_numpy(dtype="float64", na_value=np.nan)
    # A local activity runs inside the workflow task that records it, before this task's commands. Several in one task
    # are ordered by their own times.
    local = (each["kind"] == LOCAL).to_numpy()
    if local.any():
        mine = each[local]
        times = np.concatenate([mine["at"].to_numpy(), mine["until"].to_numpy()])
        owner = np.tile(np.flatnonzero(local), 2)
        is_begin = np.repeat([1, 0], local.sum())
        order = np.lexsort(
            (is_begin, times, each["task"].to_numpy(dtype="float64")[owner], each["run"].to_numpy()[owner])
        )
        place = np.empty(len(order))
        place[order] = np.arange(len(order)) / (2.1 * len(order))
        begin[local] += place[: local.sum()] - 0.5
        end[local] = each["task"].to_numpy(dtype="float64")[local] + place[local.sum() :]
    return each.assign(begin=begin, end=end)


def _tokens(each: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[Token], pd.DataFrame]:
    """(items that a run waited for, with their tokens and values; the tokens; ends of waits by their timeouts)."""
    kind = each["kind"].to_numpy(dtype=object)
    name = each["name"].astype(object).to_numpy(dtype=object)
    name = np.where(kind == TIMER, "timer", name)  # a timer's name is a number that the SDK gave it
    ended = each["ended"].to_numpy(dtype=bool)
    outcome = each["outcome"].to_numpy(dtype=object)
    gave_up = ended & (outcome != "succeeded")
    codes, kinds = pd.factorize(pd.MultiIndex.from_arrays([np.where(gave_up, GAVE_UP, kind), name]))
    tokens = [Token(str(one), (str(called),)) for one, called in kinds]
    _races(each, codes, tokens)
    each = each.assign(token=codes, **_values(each, codes, [one.kind == RACE for one in tokens]))
    timeouts = _timeouts_of_waits(each, runs)
    fired = each[timeouts & ended]
    waits = pd.DataFrame({"run": fired["run"], "order": fired["end"], "at": fired["until"], "name": TIMEOUT})
    known = ended & ~timeouts & (each["end"] > each["begin"]).to_numpy()
    return each[known].reset_index(drop=True), tokens, waits


def _values(each: pd.DataFrame, codes: Any, races: list[bool]) -> dict[str, Any]:
    """What each item takes apart from scheduling, with failed tries and without them."""
    span = (each["until"] - each["at"]).clip(lower=0).to_numpy(dtype="float64")
    kind = each["kind"].to_numpy(dtype=object)
    activity = (kind == ACTIVITY) & ~np.array([*races, False])[codes]
    once = each["tries"].to_numpy() <= 1
    took = each["start_to_close"].clip(lower=0).to_numpy(dtype="float64")
    # A local activity has no queue. Its whole time is its own.
    took = np.where(activity & np.isfinite(took), took, np.where(activity, span, np.nan))
    queue = pd.Series(np.where(activity & once, np.maximum(span - took, 0.0), np.nan))
    usual = queue.groupby(codes).transform("median").fillna(queue.median()).fillna(0.0).to_numpy()
    value = np.where(activity, np.where(once, took, np.maximum(span - usual, took)), span)
    first_time = pd.Series(np.where((kind == LOCAL) & once, span, np.nan)).groupby(codes).transform("median").to_numpy()
    local_good = np.where(once, span, np.fmin(span, first_time))
    good = np.where(activity, took, np.where(kind == LOCAL, local_good, span))
    return {"value": value, "good": np.where(np.isfinite(good), good, value), "span": span}


def _races(each: pd.DataFrame, codes: Any, tokens: list[Token]) -> None:
    """Give a token of their own to activities that ended while another one of the same workflow task was given up for
    them: which one wins, and when, is measured, not computed. Writes into `codes`."""
    raced = each["kind"].isin([ACTIVITY, CHILD, NEXUS]).to_numpy()
    # A child that is still open may have been left to run on by itself.
    lost = raced & ~each["ended"].to_numpy(dtype=bool)
    lost &= ~((each["kind"] == CHILD) & (each["outcome"] == "open")).to_numpy()
    if not lost.any():
        return
    begin = pd.MultiIndex.from_arrays([each["run"], each["begin"]])
    with_loser = raced & begin.isin(begin[lost])
    known: dict[tuple[str, ...], int] = {}
    for _, rows in pd.Series(np.flatnonzero(with_loser)).groupby(pd.factorize(begin[with_loser])[0]):
        names = tuple(sorted({tokens[codes[row]].name for row in rows}))
        if names not in known:
            known[names] = len(tokens)
            tokens.append(Token(RACE, names))
        codes[rows.to_numpy()] = known[names]


def _timeouts_of_waits(each: pd.DataFrame, runs: pd.DataFrame) -> Any:
    """Which timers are the timeouts of waits: in their workflow type, others were cancelled while nothing else ran.
    Their time is measured as a wait, whatever ended it."""
    timer = (each["kind"] == TIMER).to_numpy()
    if not timer.any():
        return timer
    begin, end = each["begin"].to_numpy(), each["end"].fillna(np.inf).to_numpy()
    stride = 2.0 + np.nanmax(np.where(np.isfinite(end), end, begin))
    offset = each["run"].to_numpy() * stride
    last = offset + np.minimum(end, stride - 1.0)
    begins, ends = np.sort((offset + begin)[~timer]), np.sort(last[~timer])
    during = np.searchsorted(begins, last) - np.searchsorted(ends, offset + begin, side="right")
    alone = timer & (during == 0)
    types = runs["workflow_type"].to_numpy(dtype=object)[each["run"].to_numpy()]
    cancelled = alone & (each["outcome"] == "abandoned").to_numpy()
    return alone & np.isin(types, list(set(types[cancelled])))
