"""Rules about workers: tasks that wait for one, and queues that none polls."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.doctor.evidence import Evidence
from trellis.insight.doctor.finding import Finding, Predicted
from trellis.insight.doctor.numbers import erlang_wait, limits
from trellis.insight.doctor.rules.rule import Rule, per_cent, several

Numbers = np.ndarray[Any, np.dtype[np.float64]]

_PATIENCE = 5.0
"""A task that waits for less [s] may have a worker that is just starting."""

_LATELY = 3600.0


class NobodyPolls(Rule):
    """Tasks wait in a queue that no worker polls.

    Needs the frame of queues: no poller was seen lately, and a task has waited for five seconds: in the queue's own
    count, or an activity that no worker began. One finding for a queue, however many types wait in it.
    """

    name = "nobody polls the queue"
    cause = "waiting"

    def judge(self, evidence: Evidence) -> Iterator[Finding]:
        polled = sorted(set(evidence.queues.loc[evidence.queues["pollers"] > 0, "queue"]))
        waits = _never_began(evidence)
        for name, kinds in evidence.queues.groupby("queue", sort=True):
            empty = kinds[kinds["pollers"] == 0]
            mine = waits[waits["queue"] == name] if "activity" in set(empty["kind"]) else waits.iloc[:0]
            behind = empty[(empty["backlog"] > 0) & (empty["backlog_age"] >= _PATIENCE)]
            if behind.empty and mine.empty:
                continue
            workflow = "workflow" in set(behind["kind"])
            types = sorted(set(mine["activity_type"]))
            own = mine["workflow_type"] if not workflow else _types_on(evidence, str(name))
            oldest = max([float(one) for one in (*behind["backlog_age"], *mine["waited"]) if np.isfinite(one)] or [0.0])
            # The queue's count holds the activities, too.
            tasks = max(int(behind["backlog"].sum()), len(mine))
            alike = difflib.get_close_matches(str(name), polled, 1, 0.6)
            hint = f", or task_queue={alike[0]!r} if that was meant" if alike else ""
            hurt = max(mine["run_id"].nunique(), int(behind.loc[behind["kind"] == "workflow", "backlog"].sum()))
            yield Finding(
                rule=self.name, activity_type=types[0] if types else None,
                workflow_type=next(iter(sorted(set(own.dropna().astype(str)))), None), option="task_queue",
                set=f"a Worker(task_queue={str(name)!r}){hint}",
                evidence={
                    "says": (
                        f"{several(tasks, 'task')} wait in the queue {name!r}, the oldest for {oldest:.3g} s, and no "
                        f"worker polls it"
                        + (f" (waiting: {', '.join(types)})." if types else ".")
                    ),
                    "queue": str(name), "pollers": 0, "waiting": tasks, "oldest": round(oldest, 3),
                    "activity_types": types,
                },
                predicted=Predicted("workflows that stand still", float(hurt), 0.0),
                hurt=min(1.0, hurt / evidence.runs),
            )  # fmt: skip


def _never_began(evidence: Evidence) -> pd.DataFrame:
    """Activities that no worker began: they wait, or they timed out in the queue. `waited` [s]."""
    rows = evidence.attempts[~evidence.attempts["local"] & evidence.attempts["started_at"].isna()]
    error = rows["error"].astype(object).where(rows["error"].notna(), "").astype(str)
    gone = (rows["outcome"] == "lost") | (
        (rows["outcome"] == "timed out") & (rows["failure_type"].eq("never started") | error.str.contains("ToStart"))
    )
    # What a workflow's end cut off waits no longer, and what timed out long ago says nothing about today's workers.
    closed = evidence.workflows.loc[evidence.workflows["outcome"] != "open", "run_id"]
    waits = (rows["outcome"] == "open") & (rows["attempt"].isna() | (rows["attempt"] == 1))
    waits &= ~rows["run_id"].isin(closed)
    gone &= (pd.Timestamp(evidence.now) - rows["ended_at"]).dt.total_seconds() < _LATELY
    rows = rows[waits | gone]
    until = rows["ended_at"].where(rows["ended_at"].notna(), pd.Timestamp(evidence.now))
    waited = (until - rows["scheduled_at"]).dt.total_seconds()
    found: pd.DataFrame = rows.assign(waited=waited)[(waited >= _PATIENCE) | gone.reindex(rows.index)]
    return found


def _types_on(evidence: Evidence, queue: str) -> pd.Series[Any]:
    runs = evidence.workflows
    return runs.loc[(runs["queue"] == queue) & (runs["outcome"] == "open"), "workflow_type"].astype(object)


class TasksWait(Rule):
    """Activities wait for a worker that is there, because its slots are full, or because it may not begin more.

    It looks at first attempts. Needs 20 of them on a queue. One in ten or more (lower limit) waited for a second and
    for half as long as an attempt takes. In seven of ten of these waits other attempts of the queue began within the
    first two thirds: a worker that is starting, or away, begins none. One finding for a queue, about the type that
    waited longest.
    """

    name = "tasks wait for a worker"
    cause = "waiting"

    def judge(self, evidence: Evidence) -> Iterator[Finding]:
        rows = evidence.attempts
        rows = rows[~rows["local"] & rows["started_at"].notna() & rows["queue"].notna()]
        for name, mine in rows.groupby("queue", sort=True):
            if len(mine) >= 20 and (found := self._of(evidence, str(name), mine)) is not None:
                yield found

    def _of(self, evidence: Evidence, queue: str, rows: pd.DataFrame) -> Finding | None:
        first = rows[(rows["attempt"] == 1) & rows["scheduled_at"].notna()]
        if len(first) < 20:
            return None
        scheduled, started = _seconds(first["scheduled_at"]), _seconds(first["started_at"])
        waited = np.maximum(started - scheduled, 0.0)
        took = rows["seconds"].dropna().clip(lower=0)
        service = float(took.mean()) if len(took) else 0.0
        long = waited >= max(1.0, 0.5 * service)
        low, high = limits(int(long.sum()), len(first))
        if low < 0.1:
            return None
        begun = np.sort(_seconds(rows["started_at"]))
        others = np.searchsorted(begun, scheduled + 2 / 3 * waited) - np.searchsorted(begun, scheduled)
        if (others[long] > 0).mean() < 0.7:
            return None
        at_once, full = _at_once(rows, scheduled[long] + waited[long] / 2)
        workers = max(1, rows["worker"].nunique())
        busiest = first.assign(waited=waited).groupby("activity_type")["waited"].sum().idxmax()
        mean = float(waited.mean())
        rate = len(first) / max(1e-3, float(scheduled.max() - scheduled.min()))
        slots = self._slots(at_once, rate, service, mean)
        capacity = full > 0.7
        option, now = "max_concurrent_activities", math.ceil(at_once / workers)
        value = f"{math.ceil(slots / workers)} (a worker; {now} ran at once), or {math.ceil(slots / now)} workers"
        if not capacity:
            option = "max_activities_per_second"
            value = f"{1.5 * rate:.3g} or more, or none: the slots were not full ({now} ran at once)"
        then = erlang_wait(rate, service, slots)
        then = min(mean, then if math.isfinite(then) else mean) if capacity else 0.0
        return Finding(
            rule=self.name, activity_type=str(busiest),
            workflow_type=next(iter(first.loc[first["activity_type"] == busiest, "workflow_type"].dropna()), None),
            option=option, set=value,
            evidence={
                "says": (
                    f"{per_cent(float(long.mean()))} of {several(len(first), 'task')} in the queue {queue!r} "
                    f"({per_cent(low)} to {per_cent(high)}) waited a second or more for a worker, {mean:.3g} s on "
                    f"average, while others began; an attempt takes {service:.3g} s, and at most {at_once} ran at once."
                ),
                "queue": queue, "tasks": len(first), "share": round(float(long.mean()), 4), "share_low": round(low, 4),
                "share_high": round(high, 4), "mean_wait": round(mean, 3), "p90_wait": round(_p90(waited), 3),
                "service": round(service, 4), "at_once": at_once, "workers": workers, "full": round(full, 3),
            },
            predicted=Predicted("seconds that a task waits, on average", mean, round(then, 3)),
            seconds=float(waited.sum()) / evidence.runs,
        )  # fmt: skip

    def _slots(self, at_once: int, rate: float, service: float, wait: float) -> int:
        """The fewest slots with which the mean wait is a tenth of an attempt, if tasks arrive as they did; at least as
        many as would have let those run that waited."""
        slots = max(at_once + 1, math.ceil(at_once * min(20.0, 1 + wait / max(service, 1e-3))))
        while slots < 100 * at_once and erlang_wait(rate, service, slots) > 0.1 * service:
            slots += 1
        return slots


def _at_once(rows: pd.DataFrame, when: Numbers) -> tuple[int, float]:
    """(the most attempts that ran at once, the share of these moments at which nearly as many ran)."""
    ran = rows[rows["ended_at"].notna()]
    begin, end = np.sort(_seconds(ran["started_at"])), np.sort(_seconds(ran["ended_at"]))
    running = np.searchsorted(begin, begin, side="right") - np.searchsorted(end, begin, side="right")
    # Server and worker note a task's end and the next one's begin at nearly the same time.
    most = int(np.quantile(running, 0.95, method="lower")) if len(running) else 1
    then = np.searchsorted(begin, when, side="right") - np.searchsorted(end, when, side="right")
    return max(1, most), float((then >= 0.7 * max(1, most)).mean()) if len(when) else 0.0


def _seconds(times: pd.Series[Any]) -> Numbers:
    return times.astype("int64").to_numpy(dtype=float) / 1e6


def _p90(values: Numbers) -> float:
    return float(np.quantile(values, 0.9))
