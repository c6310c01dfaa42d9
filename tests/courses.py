"""Histories of made-up workflows, written from small programs, and the time of a chain, drawn by chance.

A program is a generator. It yields `act(name, seconds)`, `local(...)`, `timer(seconds)`, `child(type, program)`,
`signal(seconds)` or `together(program, ...)`, and goes on when that has ended. `race(program, ...)` goes on with the
first and cancels the others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.chain import Choice, Measured, Parallel, Part, Repeat, Rounds, Series, Step
from trellis.insight.history.frames import made

Program = Generator[tuple[Any, ...], None, None]
_START = pd.Timestamp("2026-01-01", tz="UTC")
_HOP = 0.02


def act(name: str, seconds: float, failures: int = 0, backoff: float = 0.5) -> tuple[Any, ...]:
    return ("activity", name, seconds, failures, backoff)


def local(name: str, seconds: float) -> tuple[Any, ...]:
    return ("local activity", name, seconds)


def timer(seconds: float) -> tuple[Any, ...]:
    return ("timer", seconds)


def signal(name: str, seconds: float, timeout: float | None = None) -> tuple[Any, ...]:
    return ("signal", name, seconds, timeout)


def child(type_: str, program: Program) -> tuple[Any, ...]:
    return ("child", type_, program)


def together(*programs: Program) -> tuple[Any, ...]:
    return ("all", programs)


def race(*items: tuple[Any, ...]) -> tuple[Any, ...]:
    return ("race", items)


class _Task:
    def __init__(self, program: Program, parent: _Task | None) -> None:
        self.program, self.parent, self.left = program, parent, 0


class _Run:
    """One run of a program. Makes the rows of its history and of its children's."""

    def __init__(self, rng: Any, workflow_id: str, type_: str, began: float, parent: str | None = None) -> None:
        self.rng, self.numbers = rng, itertools.count(4)
        self.base = {
            "workflow_id": workflow_id, "run_id": f"run of {workflow_id}", "workflow_type": type_, "parent": parent,
            "namespace": "default",
        }  # fmt: skip
        self.began, self.ended = began, np.nan
        self.coming: list[Any] = []
        self.order = itertools.count()
        self.made: list[dict[str, Any]] = []

    def run(self, program: Program) -> float:
        self.advance(_Task(program, None), self.began + _HOP, 3)
        while self.coming and np.isnan(self.ended):
            first = self.coming[0][0]
            seen = first + _HOP * self.rng.exponential()
            due = []
            while self.coming and self.coming[0][0] <= seen:
                due.append(heapq.heappop(self.coming))
            live = [(at, row, task) for at, _, row, task in due if row["outcome"] == "open"]
            for at, row, _ in live:
                if row["outcome"] != "open":
                    continue
                number = next(self.numbers)
                row |= {"ended_at": at, "outcome": "succeeded", "end_event": number}
                if row["kind"] == "signal":
                    row |= {"started_at": at, "scheduled_at": at, "event": number}
                for loser in row.pop("against", []):
                    if loser["outcome"] == "open":
                        loser |= {"outcome": "abandoned", "ended_at": seen, "end_event": next(self.numbers)}
            next(self.numbers), next(self.numbers)
            task_event = next(self.numbers)
            for _, row, task in live:
                if row["outcome"] == "succeeded":
                    self.advance(task, seen, task_event)
        whole = {"event": 1, "kind": "workflow", "name": self.base["workflow_type"], "outcome": "succeeded"}
        self.made.insert(0, {**self.base, **whole, "scheduled_at": self.began, "started_at": self.began,
                             "ended_at": self.ended, "end_event": next(self.numbers)})  # fmt: skip
        return self.ended

    def advance(self, task: _Task, now: float, event: int) -> None:
        try:
            item = next(task.program)
        except StopIteration:
            if task.parent is None:
                self.ended = now
                return
            task.parent.left -= 1
            if task.parent.left == 0:
                self.advance(task.parent, now, event)
            return
        if item[0] == "all":
            task.left = len(item[1])
            for program in item[1]:
                self.advance(_Task(program, task), now, event)
            return
        items = item[1] if item[0] == "race" else [item]
        if item[0] == "signal" and item[3] is not None:
            items = [item, timer(item[3])]
        started = [row for one in items for row in self.start(one, now, event, task)]
        for row in started:
            row["against"] = [other for other in started if other is not row]

    def start(self, item: tuple[Any, ...], now: float, event: int, task: _Task) -> list[dict[str, Any]]:
        kind = item[0]
        row = {**self.base, "event": next(self.numbers), "kind": kind, "name": item[1] if kind != "timer" else "7",
               "outcome": "open", "task": event, "scheduled_at": now, "attempt": None}  # fmt: skip
        if kind == "activity":
            _, _, seconds, failures, backoff = item
            began = now + _HOP / 2 * self.rng.exponential() + failures * (backoff + seconds)
            for number in range(1, failures + 1):
                self.made.append({**row, "attempt": number, "outcome": "failed" if number == failures else "unknown",
                                  "scheduled_at": now if number == 1 else None})  # fmt: skip
            row |= {"started_at": began, "attempt": failures + 1, "scheduled_at": None if failures else now}
            end = began + seconds
        elif kind == "local activity":
            end = now + item[2]
            row |= {"attempt": 1}
        elif kind == "timer":
            row |= {"started_at": now}
            end = now + item[1]
        elif kind == "signal":
            row |= {"task": None}
            end = now + item[2]
        else:
            began = now + _HOP
            inner = _Run(
                self.rng, f"{self.base['workflow_id']}/{row['event']}", item[1], began, self.base["workflow_id"]
            )
            end = inner.run(item[2]) + _HOP / 2
            self.made += inner.made
            row |= {"started_at": began, "target": inner.base["workflow_id"]}
        self.made.append(row)
        heapq.heappush(self.coming, (end, next(self.order), row, task))
        return [row]


def history_of(program: Callable[[Any], Program], runs: int = 100, seed: int = 1) -> pd.DataFrame:
    """A frame as `insight.history` returns it, of so many runs of a program."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(runs):
        one = _Run(rng, f"w-{number}", "Made", number * 100.0)
        one.run(program(rng))
        rows += one.made
    rows = [row for row in rows if row["kind"] != "signal" or row["outcome"] == "succeeded"]
    for row in rows:
        row.pop("against", None)
        for name in ("scheduled_at", "started_at", "ended_at"):
            at = row.get(name)
            row[name] = None if at is None else _START + pd.Timedelta(seconds=at)
    return made(rows)


def drawn_seconds(part: Part, steps: Mapping[str, Callable[[Any], tuple[float, float]]], runs: int = 2000) -> Any:
    """The times of a chain [s], drawn by chance. `steps`: for each step, draws (a good call, its retries) [s]."""
    rng = np.random.default_rng(7)

    def draw(part: Part) -> float:
        match part:
            case Step(name, only_retries):
                good, retries = steps[name](rng)
                return retries if only_retries else good + retries
            case Measured(_, seconds):
                return float(rng.choice(seconds))
            case Series(parts):
                return sum(draw(one) for one in parts)
            case Parallel(branches):
                return max(draw(one) for one in branches)
            case Repeat(body, times):
                return sum(draw(body) for _ in range(int(rng.choice(times))))
            case Choice(options, shares):
                return draw(options[int(rng.choice(len(options), p=shares))])
            case Rounds(body):
                return draw(body)

    return np.array([draw(part) for _ in range(runs)])
