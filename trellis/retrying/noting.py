"""The tries of a loop where the worker has TrellisPlugin: rows of the book of attempts, and faults on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TypeVar

from trellis.flaky import Marks
from trellis.flights import FAILED, OPEN, SUCCEEDED
from trellis.plugin import current
from trellis.retry import Retry
from trellis.retrying.loop import Attempt, Miss, Stop

T = TypeVar("T")

_numbers: ContextVar[Counter[int]] = ContextVar("trellis_tries")
"""How many tries each lane of the running attempt has made. An attempt may run several loops, one after the other."""


class Notes:
    """The tries of one loop with this rule. Without the plugin nothing is noted, and no call fails on purpose."""

    def __init__(self, rule: Retry) -> None:
        made = _numbers.get(None)
        if made is None:
            made = Counter()
            _numbers.set(made)
        self._made = made
        self._open: dict[Attempt, tuple[int, Marks]] = {}
        self._limits: dict[str, float] = {
            "start_to_close_timeout": rule.try_timeout, "initial_interval": rule.first_backoff,
            "backoff_coefficient": rule.multiplier, "maximum_interval": rule.max_backoff,
            "maximum_attempts": rule.max_tries,
        }  # fmt: skip

    async def call(self, attempt: Attempt, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call of a try. Its begin is noted at once, so that a try whose worker dies is in the book too."""
        self._made[attempt.lane] += 1
        number, marks = self._made[attempt.lane], Marks()
        self._open[attempt] = number, marks
        current.note_try(number, attempt.lane, attempt.started_at, None, OPEN, limits=self._limits)
        try:
            faults = current.FAULTS.get()
            lost = None if faults is None else await faults(number, attempt.lane, marks)
            value = await call()
            if lost is not None:
                raise lost
        except Stop as stop:
            # Stopped for good: that is no miss of the loop's.
            self.missed(attempt, Miss(FAILED, str(stop), "Stopped"))
            raise
        self._ended(attempt, SUCCEEDED)
        return value

    def missed(self, attempt: Attempt, miss: Miss) -> None:
        self._ended(attempt, miss.outcome, miss.type, miss.error)

    def _ended(self, attempt: Attempt, outcome: str, failure_type: str | None = None, error: str | None = None) -> None:
        if attempt in self._open:
            number, marks = self._open.pop(attempt)
            current.note_try(
                number, attempt.lane, attempt.started_at, datetime.now(UTC), outcome, failure_type=failure_type,
                error=error, marks=marks, limits=self._limits,
            )  # fmt: skip
