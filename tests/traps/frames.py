"""What Trellis sees of a world: the frames of a ledger (`attempts`, `orders`), or of Temporal's histories."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tests.traps.world import GaveUp, Item, Rule, Run, Try, Wait, World
from trellis.insight.frames import OUTCOMES

BEGAN = pd.Timestamp("2026-03-01T09:00:00Z")
ORDER_STEPS = ("receive", "validate", "charge", "prepare", "dispatch", "ship")


def order(run: Run) -> Wait:
    """The program of a Trellis order, approved at once: three steps, then up to three rounds of shipping."""
    for step in ORDER_STEPS[:3]:
        yield from run.activity(step)
    for number in range(1, 4):
        run.traits["round"] = number
        try:
            for step in ORDER_STEPS[3:]:
                yield from run.activity(step)
            return
        except GaveUp:
            if number == 3:
                raise


@dataclass(frozen=True)
class Ledger:
    """The frames that `insight.attempts` and `insight.orders` return. Tries that have not ended are not in it."""

    attempts: pd.DataFrame
    orders: pd.DataFrame


def ledger(world: World, *, until: float = math.inf) -> Ledger:
    """The ledger of a world of orders, as it is `until` seconds after the start."""
    until = min(until, world.now)
    tries = sorted(
        (one for run in world.runs for one in run.tries if one.ended <= until),
        key=lambda one: (one.run.number, one.started),
    )
    counts: dict[tuple[int, str], int] = {}
    rows: list[tuple[Any, ...]] = []
    for one in tries:
        key = (one.run.number, one.step)
        counts[key] = counts.get(key, 0) + 1
        by_server = one.item.rule is not None and one.item.rule.by_server
        execution, number = (one.number, 1) if by_server else (1, one.number)
        rows.append((
            _id(one.run), one.step, counts[key], _round(one), execution, number, one.lane, one.outcome, one.started,
            one.ended, None if one.outcome == "succeeded" else f"{one.step} {one.outcome}", one.worker,
        ))  # fmt: skip
    columns = ["order_id", "step", "attempt", "round", "execution", "try", "lane", "outcome", "started_at", "ended_at",
               "error", "worker"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    for name in ("started_at", "ended_at"):
        frame[name] = _times(frame[name])
    frame["duration_ms"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds() * 1000
    text = pd.StringDtype("pyarrow")
    frame = frame.astype({
        "order_id": text, "error": text, "step": "category", "worker": "category", "attempt": "Int32",
        "round": "Int32", "execution": "Int32", "try": "Int32", "lane": "Int32",
    }).assign(outcome=pd.Categorical(frame["outcome"], categories=OUTCOMES), skewed=False)  # fmt: skip
    return Ledger(frame, _orders(world, until))


def _orders(world: World, until: float) -> pd.DataFrame:
    policy = json.dumps(policy_of(world))
    rows = []
    for run in world.runs:
        if run.started > until:
            continue
        closed = run.ended <= until
        state = {"succeeded": "COMPLETED", "failed": "FAILED"}[run.outcome] if closed else "SHIPPING"
        rows.append((_id(run), state, run.started, run.ended if closed else math.nan))
    frame = pd.DataFrame(rows, columns=["order_id", "state", "began_at", "ended_at"])
    for name in ("began_at", "ended_at"):
        frame[name] = _times(frame[name])
    none = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us, UTC]")
    text = pd.StringDtype("pyarrow")
    frame = frame.assign(
        policy=pd.Categorical(["world"] * len(frame)), total=25.0, last_error=pd.array([None] * len(frame), dtype=text),
        reconciled=pd.array([False] * len(frame), dtype="boolean"), created_at=frame["began_at"], claimed_at=none,
        closing_at=none, seconds=(frame["ended_at"] - frame["began_at"]).dt.total_seconds(), items_json="[]",
        address_json="{}", policy_json=policy,
    )  # fmt: skip
    return frame.astype({"order_id": text, "state": "category", "items_json": text, "address_json": text,
                         "policy_json": text})  # fmt: skip


def policy_of(world: World) -> dict[str, Any]:
    """The policy in force, as a ledger stores it."""
    return {
        "name": "world", "review_window": 30.0, "at_window_end": "time_out", "budget": 3600.0,
        "budget_counts_review": False, "run_timeout": None, "child_run_timeout": None, "dispatch_retries": 2,
        "parent_close": "request_cancel", "retry": _retry(world.rule),
        "steps": {step: _retry(rule) for step, rule in world.rules.items()},
    }  # fmt: skip


def _retry(rule: Rule) -> dict[str, Any]:
    return {
        "try_timeout": rule.timeout, "first_backoff": rule.first, "max_backoff": rule.most,
        "multiplier": rule.multiplier, "jitter": "full" if rule.jitter else "none", "max_tries": rule.max_tries,
        "placement": "server" if rule.by_server else "activity", "hedge": rule.lanes,
    }  # fmt: skip


HISTORY = [
    "workflow_id", "run_id", "workflow_type", "event", "kind", "name", "attempt", "outcome", "queue", "worker",
    "scheduled_at", "started_at", "ended_at", "schedule_to_start", "start_to_close", "failure_type", "error", "task",
    "start_to_close_timeout", "schedule_to_close_timeout", "initial_interval", "backoff_coefficient",
    "maximum_interval", "maximum_attempts", "namespace", "build_id", "parent",
]  # fmt: skip


def history(world: World, *, until: float = math.inf) -> pd.DataFrame:
    """The frame that `insight.history` returns, as it is `until` seconds after the start.

    Of an activity's attempts it holds times for the last one, the kind of failure for the one before, and of all
    earlier ones only that they took place. What lies in the future of `until` is open or missing.
    """
    until = min(until, world.now)
    rows: list[dict[str, Any]] = []
    for run in world.runs:
        if run.started > until:
            continue
        base = {
            "workflow_id": _id(run), "run_id": f"0198c0de-0000-7000-8000-{run.number:012x}", "workflow_type": run.kind,
            "namespace": "default", "build_id": None, "parent": None if run.parent is None else _id(run.parent),
            "queue": "strangers", "worker": None, "attempt": pd.NA, "task": pd.NA, "error": None, "failure_type": None,
        }  # fmt: skip
        closed = run.ended <= until
        rows.append(base | {
            "event": 1, "kind": "workflow", "name": run.kind, "outcome": run.outcome if closed else "open",
            "scheduled_at": run.started, "started_at": run.started, "ended_at": run.ended if closed else math.nan,
        })  # fmt: skip
        for item in run.items:
            if item.scheduled <= until:
                rows += _rows(base, item, until)
    frame = pd.DataFrame(rows, columns=HISTORY)
    for name in ("scheduled_at", "started_at", "ended_at"):
        frame[name] = _times(frame[name])
    frame["schedule_to_start"] = (frame["started_at"] - frame["scheduled_at"]).dt.total_seconds()
    frame["start_to_close"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds()
    text = pd.StringDtype("pyarrow")
    types: dict[str, Any] = dict.fromkeys(["workflow_id", "run_id", "error", "namespace", "build_id", "parent"], text)
    types |= dict.fromkeys(["workflow_type", "kind", "name", "queue", "worker", "failure_type"], "category")
    types |= {"event": "Int64", "task": "Int64", "attempt": "Int32", "maximum_attempts": "Int32"}
    floats = ["start_to_close_timeout", "schedule_to_close_timeout", "initial_interval", "backoff_coefficient",
              "maximum_interval"]  # fmt: skip
    types |= dict.fromkeys(floats, "float64")
    frame["outcome"] = pd.Categorical(frame["outcome"], categories=OUTCOMES)
    return frame.astype(types)


def _rows(base: dict[str, Any], item: Item, until: float) -> list[dict[str, Any]]:
    done = item.ended <= until
    ended = item.ended if done else math.nan
    task = pd.NA if item.task is None else item.task
    row = base | {"event": item.event, "kind": item.kind, "name": item.name, "task": task,
                  "outcome": item.outcome if done else "open"}  # fmt: skip
    if item.kind == "activity":
        return _activity(row, item, until)
    if item.kind == "local activity":
        if not done:
            return []  # its marker is written when it ends
        last = item.tries[-1]
        known = row | {"scheduled_at": item.scheduled, "started_at": math.nan, "ended_at": ended,
                       "attempt": last.number}  # fmt: skip
        before = [row | {"scheduled_at": math.nan, "started_at": math.nan, "ended_at": math.nan, "attempt": number,
                         "outcome": "unknown"} for number in range(1, last.number)]  # fmt: skip
        return [*before, known]
    if item.kind == "signal":
        row["scheduled_at"] = item.scheduled
    return [row | {"scheduled_at": item.scheduled, "started_at": item.scheduled, "ended_at": ended}]


def _activity(row: dict[str, Any], item: Item, until: float) -> list[dict[str, Any]]:
    rule = item.rule
    assert rule is not None
    row |= {
        "start_to_close_timeout": rule.timeout, "initial_interval": rule.first, "maximum_interval": rule.most,
        "backoff_coefficient": rule.multiplier, "maximum_attempts": rule.max_tries,
    }  # fmt: skip
    begun = [one for one in item.tries if one.started <= until and one.lane == 0]
    rows = []
    for one in begun:
        latest = one is begun[-1]
        over = one.ended <= until
        outcome = one.outcome if over else "open"
        if not latest and one is not begun[-2]:
            outcome = "unknown"
        failed = outcome in ("failed", "timed out")
        rows.append(row | {
            "attempt": one.number, "outcome": outcome,
            "scheduled_at": item.scheduled if one.number == 1 else math.nan,
            "started_at": one.started if latest else math.nan,
            "ended_at": one.ended if latest and over else math.nan,
            "worker": one.worker if latest else None,
            "failure_type": ("timeout" if outcome == "timed out" else "Broken") if failed else None,
            "error": "it broke" if failed else None,
        })  # fmt: skip
    return rows or [row | {"outcome": "open", "scheduled_at": item.scheduled, "started_at": math.nan,
                           "ended_at": math.nan}]  # fmt: skip


def _id(run: Run) -> str:
    return f"order-{run.number:06d}"


def _round(one: Try) -> int:
    """Rounds of shipping count from 1; the steps before it have round 0."""
    if one.step not in ORDER_STEPS[3:]:
        return 0
    same = [item for item in one.run.items if item.name == one.step]
    return same.index(one.item) + 1


def _times(seconds: Any) -> Any:
    offset = pd.to_timedelta(np.asarray(seconds, dtype="float64"), unit="s")
    return pd.Series(BEGAN + offset, index=getattr(seconds, "index", None)).astype("datetime64[us, UTC]")
