"""Lines of the board of flights as plain JSON values. Times are milliseconds since 1970, or None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trellis.db.flight_board import BookLine
from trellis.flights import OPEN, SUCCEEDED, FlightRow
from trellis.insight.history.rows import rows as rows_of
from trellis.lab.control_room.rows import millis
from trellis.lab.flights.visibility import RUNNING, Described, Listed, Pending

WITH_PLUGIN = "Run its worker with TrellisPlugin to see every attempt, as it happens (docs/your-own.md)."

NOTHING_NOTED = (
    "No attempts are noted here. Run the workers with TrellisPlugin to see every attempt, as it happens "
    "(docs/your-own.md)."
)

FROM_HISTORY = f"From the workflow's history, which does not hold every attempt. {WITH_PLUGIN}"

_ATTEMPTS = ("activity", "local activity")
_HISTORY_TIMES = ("started_at", "scheduled_at", "ended_at")


@dataclass
class Known:
    """One run, as everybody says it. `why`: why it failed or was terminated, by its last event."""

    listed: Listed
    book: BookLine | None = None
    described: Described | None = None
    why: str | None = None

    def listed_as(self, listed: Listed) -> Known:
        """The same run, listed again."""
        self.listed = listed
        return self

    @property
    def status(self) -> str:
        # Visibility may lag behind; a run that has ended stays ended.
        if self.listed.status == RUNNING and self.described is not None:
            return self.described.status
        return self.listed.status

    @property
    def fresh(self) -> bool:
        """Whether Describe was asked after the last change that the book knows."""
        return self.described is not None and (self.book is None or self.described.at >= self.book.changed_at)


def key(run: tuple[str, str]) -> str:
    """The id of a line. A workflow id alone would not do: each of its runs has a line."""
    return " ".join(run)


def run_of(id_: str) -> tuple[str, str]:
    """(workflow id, run id) of a line's id."""
    workflow_id, _, run_id = id_.rpartition(" ")
    return workflow_id, run_id


def line(known: Known) -> dict[str, Any]:
    """One line of the board: the values that are drawn, and the requests that are still possible."""
    listed, book, described = known.listed, known.book, known.described
    running = known.status == RUNNING
    closed_at = listed.closed_at or (described.closed_at if described and not running else None)
    return {
        "id": key(listed.run),
        "name": listed.workflow_id,
        "more": f"{listed.queue} · run {listed.run_id[:8]}",
        "type": listed.workflow_type,
        "state": known.status,
        **(_doing(known) if running else _nothing()),
        "deadline": None,
        "error": _error(known),
        "created": millis(listed.started_at),
        "ended": None if running else millis(closed_at or listed.started_at),
        "can_cancel": running,
        "can_terminate": running,
        # In microseconds, as Postgres has it: two changes of one millisecond are two.
        "event": 0 if book is None else round(book.changed_at.timestamp() * 1_000_000),
        "event_at": None if book is None else millis(book.changed_at),
    }


def _nothing() -> dict[str, Any]:
    return {"step": None, "attempt": None, "note": "", "due": None}


def _doing(known: Known) -> dict[str, Any]:
    """The pending activity with its attempt: from the book, or else from Describe."""
    book, described = known.book, known.described
    pending = described.pending if described is not None and known.fresh else ()
    # A worker that was killed leaves an open attempt in the book. Describe knows that nobody works on it.
    forsaken = known.fresh and book is not None and not book.local and not any(one.started for one in pending)
    if book is not None and book.open and not forsaken:
        others = f"and {book.open - 1} more" if book.open > 1 else ""
        return {"step": book.activity_type, "attempt": book.attempt, "note": others, "due": None}
    if described is not None and known.fresh:
        if pending:
            return _pending(pending)
        if described.task_attempt > 1:
            return {"step": "workflow task", "attempt": described.task_attempt, "note": "fails", "due": None}
        if described.task_waits:
            return {"step": "workflow task", "attempt": None, "note": "waits for a worker", "due": None}
    elif book is not None and book.outcome not in (SUCCEEDED, OPEN):
        return {"step": book.activity_type, "attempt": book.attempt, "note": book.outcome, "due": None}
    return _nothing()


def _pending(pending: Sequence[Pending]) -> dict[str, Any]:
    first = min(pending, key=lambda one: (not one.started, one.attempt == 1, one.due.timestamp() if one.due else 0.0))
    notes = []
    if first.paused:
        notes.append("paused")
    elif first.waits:
        notes.append("waits for a worker")
    if len(pending) > 1:
        notes.append(f"and {len(pending) - 1} more")
    due = None if first.started or first.paused or first.attempt == 1 else millis(first.due)
    return {"step": first.activity_type, "attempt": first.attempt, "note": ", ".join(notes), "due": due}


def _error(known: Known) -> str | None:
    if known.status == "COMPLETED":
        return None
    if known.status != RUNNING and known.why:
        return known.why
    said = next((one.error for one in known.described.pending if one.error), None) if known.described else None
    return said if known.fresh and said else (known.book.failed_error if known.book else None) or said


def timeline(run: tuple[str, str], bars: Iterable[dict[str, Any]], link: str | None, **more: Any) -> dict[str, Any]:
    """What the page draws of one run: its attempts as bars, oldest first. `note`: what to say about them."""
    return {"id": key(run), "bars": list(bars), "marks": [], "round": 1, "link": link, "cut": False, "note": "", **more}


def bars_of_book(rows: Sequence[FlightRow]) -> list[dict[str, Any]]:
    """Bars for the attempts of a run; the tries of a loop stand in place of their attempt."""
    looped = {_attempt(row) for row in rows if row.try_}
    shown = [row for row in rows if row.try_ or _attempt(row) not in looped]
    spans: dict[tuple[str, tuple[Any, ...]], list[float]] = {}
    for row in rows:
        began, ended = _from(row), row.ended_at.timestamp() if row.ended_at else float("inf")
        span = spans.setdefault((row.activity_type, (row.activity_id, row.scheduled_at)), [began, ended])
        span[:] = min(span[0], began), max(span[1], ended)
    names = side_by_side(spans)
    later: dict[tuple[Any, ...], float] = {}
    bars = []
    for row in reversed(shown):
        activity = row.activity_id, row.scheduled_at
        began, end = _from(row), row.ended_at.timestamp() if row.ended_at else None
        if end is None and row.outcome != OPEN:
            end = began
        # An attempt that its worker never ended was over when the next one began.
        end = later.get((*activity, row.lane)) if end is None else end
        later[(*activity, row.lane)] = began
        injected = f"injected: {row.injected}" if row.injected else None
        said = row.error or row.failure_type
        bars.append(
            {
                "key": " ".join(map(str, (*activity, row.attempt, row.attempt_scheduled_at, row.try_, row.lane))),
                "step": names[row.activity_type, activity], "attempt": row.attempt, "try": row.try_, "round": 0,
                "lane": row.lane, "outcome": row.outcome, "error": ", ".join(filter(None, (said, injected))) or None,
                "from": began * 1000, "to": None if end is None else end * 1000,
            }
        )  # fmt: skip
    return bars[::-1]


def bars_of_history(workflow_id: str, run_id: str, events: Iterable[Any], described: Any) -> tuple[list[Any], int]:
    """(bars, how many attempts the history only counts) from a run's events and, while it runs, from Describe."""
    found = [
        row for row in rows_of(workflow_id, events, run_id=run_id, described=described) if row["kind"] in _ATTEMPTS
    ]
    shown = [row for row in found if any(row.get(name) for name in _HISTORY_TIMES)]
    spans: dict[tuple[str, int], list[float]] = {}
    for row in shown:
        began = _history_from(row)
        ended = row["ended_at"].timestamp() if row.get("ended_at") else float("inf")
        span = spans.setdefault((row["name"], row["event"]), [began, ended])
        span[:] = min(span[0], began), max(span[1], ended)
    names = side_by_side(spans)
    bars = []
    for row in shown:
        from_, to = int(_history_from(row) * 1000), millis(row.get("ended_at"))
        if to is None and row["outcome"] != OPEN:
            to = from_
        bars.append(
            {
                "key": f"{row['event']} {row.get('attempt')}", "step": names[row["name"], row["event"]],
                "attempt": int(row.get("attempt") or 1), "round": 0, "lane": 0, "outcome": row["outcome"],
                "error": row.get("error"), "from": from_, "to": to,
            }
        )  # fmt: skip
    return bars, sum(row["outcome"] != OPEN for row in found) - sum(row["outcome"] != OPEN for row in shown)


def side_by_side(spans: Mapping[tuple[str, Any], Sequence[float]]) -> dict[tuple[str, Any], str]:
    """The line of each activity, named by its type. Activities of one type that overlap get numbered lines."""
    ends: dict[str, list[float]] = {}
    named = {}
    for (type_, activity), (began, ended) in sorted(spans.items(), key=lambda item: item[1][0]):
        lines = ends.setdefault(type_, [])
        place = next((i for i, end in enumerate(lines) if end <= began), len(lines))
        lines[place : place + 1] = [ended]
        named[type_, activity] = type_ if place == 0 else f"{type_} {place + 1}"
    return named


def _attempt(row: FlightRow) -> tuple[Any, ...]:
    return row.activity_id, row.scheduled_at, row.attempt, row.attempt_scheduled_at


def _from(row: FlightRow) -> float:
    return (row.started_at or row.attempt_scheduled_at or row.scheduled_at).timestamp()


def _history_from(row: Mapping[str, Any]) -> float:
    at: datetime = next(row[name] for name in _HISTORY_TIMES if row.get(name))
    return at.timestamp()
