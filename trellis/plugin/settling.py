"""What the server counts and no worker wrote: rows of the book are completed from Temporal's own record.

A worker that is killed writes no end, and may not even have written the begin. The server counts the attempt all the
same. For each run that nobody has settled, its history and Describe are read (nothing is ever written to Temporal):

- An attempt that the server counted and that no worker began becomes a row: `lost`, without a begin. Where the history
  says how it ended (a worker without the plugin ran it), it gets that end instead.
- A row that is `open` although the attempt is over gets its end. If the server knows it (succeeded, failed, cancelled),
  that is the end. If it was cut off by a timeout, or by nothing that is recorded: `timed out` where its worker wrote
  something later, so that it lived; else `lost`. Of a worker that lived but had nothing else to do, nothing is known
  until the activity returns; then the worker's own word takes the place of `lost`.
- A row that is `open` in a run that has ended is `abandoned`: the run's end cut it off.
- The tries of a loop inside an attempt end with it.

An activity without a workflow has no history: its rows stay as its workers wrote them.

A run that has ended is settled once. A run whose history is gone stays as it is, and that is remembered too. One that
cannot be read is reported and tried again the next time; it never stops the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from trellis.db.flights import FlightBook
from trellis.db.pool import Pool
from trellis.db.settled import ALL, Asked, SettledRuns, Unsettled
from trellis.errors import DatabaseUnavailable, SchemaMismatch
from trellis.flights import ABANDONED, LOST, OPEN, TIMED_OUT, FlightRow
from trellis.plugin.counted import Counted, End, Run, read

AT_ONCE = 2000
"""How many runs are settled at most in one go, the newest first."""

GRACE = 2.0
"""How long a worker's own word is waited for after an attempt's end [s]. Rows reach the book within a tenth of that."""

HEARD = GRACE / 2
"""How long an answer about the workers' last words is used [s]."""

_SAME = timedelta(milliseconds=1)
_CUT_OFF = "the workflow ended first"
_OPTIONS = (
    "start_to_close_timeout", "schedule_to_close_timeout", "schedule_to_start_timeout", "heartbeat_timeout",
    "initial_interval", "backoff_coefficient", "maximum_interval", "maximum_attempts",
)  # fmt: skip


@dataclass
class Settled:
    """What was done. `runs`: how many were compared. `filled`: rows for attempts that no worker began. `ended`: open
    rows that got an end. `gone`: runs whose history is not there any more. `left`: whether there are more runs.
    `trouble`: why runs could not be read, by the sentence, with how many."""

    runs: int = 0
    filled: int = 0
    ended: int = 0
    gone: int = 0
    left: bool = False
    trouble: dict[str, int] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What was not done, in sentences."""
        found = [f"{count:,} workflow run(s) could not be compared with the server: {why}." for why, count in
                 self.trouble.items()]  # fmt: skip
        if self.gone:
            found.append(
                f"The server no longer has the history of {self.gone:,} run(s): what is open there stays open."
            )
        if self.left:
            found.append(
                f"Only the newest {self.runs + self.gone:,} runs were compared with the server. Ask for the others by "
                f"workflow, workflow_type, since or until."
            )
        return found


async def settle(
    pool: Pool,
    client: Client,
    asked: Asked = ALL,
    *,
    limit: int = AT_ONCE,
    concurrency: int = 16,
) -> Settled:
    """Settle the book's runs in the client's namespace: all, or those that are asked for.

    Raises DatabaseUnavailable and SchemaMismatch. Trouble with single runs is in the answer.
    """
    known, found = SettledRuns(pool), Settled()
    runs = await known.missing(client.namespace, asked, limit=limit + 1)
    found.left = len(runs) > limit
    gate = asyncio.Semaphore(max(1, concurrency))
    one = _Settling(FlightBook(pool), known, client, found)

    async def each(run: Unsettled) -> None:
        async with gate:
            await one.settle(run)

    await asyncio.gather(*(each(run) for run in runs[:limit]))
    return found


class _Settling:
    def __init__(self, book: FlightBook, known: SettledRuns, client: Client, found: Settled) -> None:
        self._book, self._known, self._client, self._found = book, known, client, found
        self._last_words: dict[str, datetime | None] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def settle(self, run: Unsettled) -> None:
        """One run. Trouble with it is counted, apart from trouble with the database."""
        namespace = self._client.namespace
        try:
            while True:
                # The rows first: what the server counted until then is in the history that is read afterwards.
                rows = await self._book.of_workflow(namespace, run.workflow_id, run.run_id)
                counted = await self._counted(run, rows)
                if counted is None:
                    self._found.runs += 1
                    return
                changed = settled(rows, counted, await self._heard(rows))
                fresh = _fresh(counted, datetime.now(UTC))
                if counted.closed_at is None or not fresh or not changed:
                    break
                await asyncio.sleep(GRACE / 4)
            changed = [row for row in changed if row.activity_id not in fresh]
            if changed:
                await self._book.write(changed)
            self._found.runs += 1
            self._found.filled += sum(one.attempt_scheduled_at is None for one in changed)
            self._found.ended += sum(one.attempt_scheduled_at is not None for one in changed)
            if counted.closed_at is not None:
                await self._known.remember(namespace, run)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND and "amespace" not in error.message:
                self._found.gone += 1
                await self._known.remember(namespace, run, gone=True)
            else:
                self._trouble(" ".join(error.message.split())[:200] or error.status.name)
        except (DatabaseUnavailable, SchemaMismatch):
            raise
        except Exception as error:
            self._trouble(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")

    async def _heard(self, rows: Iterable[FlightRow]) -> dict[str, datetime]:
        """When the workers of open rows last wrote. The answer reads most of the book, so the runs share it a while."""
        workers = {row.worker for row in rows if row.worker and row.outcome == OPEN}
        async with self._asking:
            if time.monotonic() - self._asked_at > HEARD:
                self._last_words, self._asked_at = {}, time.monotonic()
            if missing := sorted(workers - set(self._last_words)):
                found = await self._known.heard(self._client.namespace, missing)
                self._last_words |= {worker: found.get(worker) for worker in missing}
            known = self._last_words
        return {worker: at for worker in workers if (at := known[worker]) is not None}

    async def _counted(self, run: Unsettled, rows: Sequence[FlightRow]) -> Run | None:
        """What the server counts. None for a run that goes on and of which the book lacks nothing."""
        handle = self._client.get_workflow_handle(run.workflow_id, run_id=run.run_id)
        described = (await handle.describe()).raw_description
        if not described.workflow_execution_info.HasField("close_time"):
            pending = {one.activity_id: one.attempt for one in described.pending_activities}
            if not _lacks(rows, pending):
                return None
        return read((await handle.fetch_history()).events, described.pending_activities)

    def _trouble(self, why: str) -> None:
        why = why.rstrip(".")
        self._found.trouble[why] = self._found.trouble.get(why, 0) + 1


def _lacks(rows: Iterable[FlightRow], pending: Mapping[str, int]) -> bool:
    """Whether a row that is open may be over, or an attempt that was counted may be missing. `pending`: the attempt
    that each running activity is at, or waits for."""
    attempts: dict[tuple[str, datetime], dict[int, str]] = {}
    for row in rows:
        if row.try_ == 0 and not row.local:
            attempts.setdefault((row.activity_id, row.scheduled_at), {})[row.attempt] = row.outcome
    for (activity_id, _), outcomes in attempts.items():
        at = pending.get(activity_id, 0)
        if set(range(1, max(*outcomes, at - 1, 1) + 1)) - set(outcomes):
            return True
        if any(outcome == OPEN and attempt != at for attempt, outcome in outcomes.items()):
            return True
    seen = {activity_id for activity_id, _ in attempts}
    return any(at > 1 and activity_id not in seen for activity_id, at in pending.items())


def _fresh(counted: Run, now: datetime) -> set[str]:
    """The activities that ended a moment ago. Their workers' own rows may be on the way."""
    # The clocks of two machines may differ. A time in the future is not waited for.
    return {
        one.activity_id
        for one in counted.activities
        if one.closed_at is not None and 0 <= (now - one.closed_at).total_seconds() < GRACE
    }


def settled(rows: Sequence[FlightRow], counted: Run, heard: Mapping[str, datetime]) -> list[FlightRow]:
    """The rows to write: the missing ones, and those that were open and are over.

    `rows`: all rows of the run. `heard`: when each worker last wrote of another attempt, by its name.
    """
    found: list[FlightRow] = []
    if not rows:
        return found  # dropped meanwhile, because they were older than rows are kept
    attempts = [row for row in rows if row.try_ == 0]
    groups: dict[tuple[str, datetime], list[FlightRow]] = {}
    for row in attempts:
        groups.setdefault((row.activity_id, row.scheduled_at), []).append(row)
    done: dict[tuple[object, ...], FlightRow] = {}
    uses = Counter(one.activity_id for one in counted.activities)
    for activity in counted.activities:
        mine = _rows_of(activity, groups, once=uses[activity.activity_id] == 1)
        for row in mine:
            if row.outcome == OPEN and (end := _end(row, activity, mine, heard)):
                done[_key(row)] = end
        found += _filled(activity, mine, rows[0], counted)
    for row in attempts:
        # No activity of the history is this one: its workflow task was lost with its worker, and it began anew.
        if row.outcome == OPEN and _key(row) not in done and _unknown(row, counted):
            done[_key(row)] = row.with_end(LOST, None)
    found += done.values()
    over = {_key(row): row for row in attempts if row.outcome != OPEN} | done
    for row in rows:
        attempt = over.get(_key(row)) if row.try_ and row.outcome == OPEN else None
        if attempt is not None:
            word = attempt.outcome if attempt.outcome in (LOST, TIMED_OUT) else ABANDONED
            found.append(row.with_end(word, attempt.ended_at))
    return found


def _key(row: FlightRow) -> tuple[object, ...]:
    """The attempt that a row belongs to."""
    return row.activity_id, row.scheduled_at, row.attempt, row.attempt_scheduled_at


def _rows_of(
    activity: Counted, groups: Mapping[tuple[str, datetime], list[FlightRow]], *, once: bool
) -> list[FlightRow]:
    """The rows of an activity. A workflow may use an activity's id again: then the time of its scheduling decides.
    `once`: it does not."""
    same = [rows for (id_, _), rows in groups.items() if id_ == activity.activity_id]
    if len(same) == 1 and once and not activity.local:
        # After a reset the server tells workers another time than the event has that was copied.
        return same[0]
    return next((rows for rows in same if _is_of(rows[0], activity)), [])


def _unknown(row: FlightRow, counted: Run) -> bool:
    """Whether an open row is of an activity that the history does not have, and its run has ended or gone on since."""
    if any(_is_of(row, one) for one in counted.activities):
        return False
    later = any(one.scheduled_at > row.scheduled_at + _SAME for one in counted.activities)
    return counted.closed_at is not None or (row.local and later)


def _is_of(row: FlightRow, activity: Counted) -> bool:
    return row.activity_id == activity.activity_id and abs(row.scheduled_at - activity.scheduled_at) <= _SAME


def _end(
    row: FlightRow, activity: Counted, rows: Sequence[FlightRow], heard: Mapping[str, datetime]
) -> FlightRow | None:
    """The row with its end. None while the attempt runs."""
    newest = not any(one.attempt > row.attempt for one in rows)
    end = activity.end_of(row.attempt)
    # A row with a higher number than the server's began since the server was asked.
    if activity.closed_at is None and newest and end is None and row.attempt >= (activity.last or 0):
        return None
    if activity.last is None and newest:
        # The activity ended in the pause after this attempt, or its run ended while it ran.
        end = activity.end or End(ABANDONED, activity.closed_at, None, _CUT_OFF)
    if end is not None and end.outcome != TIMED_OUT:
        return row.with_end(end.outcome, end.at or row.started_at, failure_type=end.failure_type, error=end.error)
    at = (end and end.at) or _deadline(row)
    since = at or row.started_at
    said = heard.get(row.worker or "")
    error = None if end is None else end.error
    if since is None or said is None or said <= since:
        return row.with_end(LOST, None, error=error)
    return row.with_end(TIMED_OUT, at, failure_type="timeout", error=error)


def _deadline(row: FlightRow) -> datetime | None:
    """When an attempt is cut off at the latest, as far as its own timeouts say."""
    if row.started_at is None or row.start_to_close_timeout is None:
        return None
    return row.started_at + timedelta(seconds=row.start_to_close_timeout)


def _filled(activity: Counted, mine: Sequence[FlightRow], some: FlightRow, counted: Run) -> list[FlightRow]:
    """Rows for the attempts that were counted and that no worker began. `some`: any row of the run."""
    known = {row.attempt for row in mine}
    if activity.last == 0 and activity.end is not None and not known:
        return [replace(_blank(activity, mine, some, counted, 1), failure_type=activity.end.failure_type)]
    found = []
    for attempt in range(activity.first, (activity.last or max(known, default=0)) + 1):
        # The last one may be running, and its row be on the way.
        if attempt not in known and not (attempt == activity.last and activity.end is None):
            found.append(_told(_blank(activity, mine, some, counted, attempt), activity))
    return found


def _told(row: FlightRow, activity: Counted) -> FlightRow:
    """A row that no worker began, with what the server says of it."""
    end = activity.end_of(row.attempt)
    if end is None or end.outcome == TIMED_OUT:
        return replace(row, error=None if end is None else end.error)
    last = row.attempt == activity.last
    return replace(
        row, outcome=end.outcome, failure_type=end.failure_type, error=end.error, ended_at=end.at,
        started_at=activity.started_at if last else None, worker=activity.worker if last else None,
    )  # fmt: skip


def _blank(activity: Counted, mine: Sequence[FlightRow], some: FlightRow, counted: Run, attempt: int) -> FlightRow:
    """A lost attempt of this activity."""
    same = mine[0] if mine else some
    known: dict[str, Any] = {name: getattr(same, name) for name in _OPTIONS} if mine else {}
    return FlightRow(
        namespace=some.namespace, workflow_id=some.workflow_id, run_id=some.run_id,
        workflow_type=counted.workflow_type or some.workflow_type, activity_id=activity.activity_id,
        activity_type=activity.activity_type, attempt=attempt, queue=activity.queue, local=activity.local,
        scheduled_at=same.scheduled_at if mine else activity.scheduled_at, outcome=LOST,
        **known | {name: value for name, value in activity.options.items() if value is not None},
    )  # fmt: skip
