"""What limits retries while an outside system is in trouble: a retry budget, and a longer pause after many failures.

A worker has one governor for each step. All orders of the worker share it, because one order cannot know whether its
provider is out. The governor has no clock, no timer and no randomness of its own: the worker and the simulator pass in
the time [s], and both run the same rule.

The retry budget (`retry_share`) is a token bucket of at most BUCKET tokens, full at the beginning:

- A first call always goes. It adds `retry_share` tokens.
- A retry takes one token. Without a whole token it waits in line; the line is served in order.
- A retry that succeeds adds 1 + `retry_share` tokens: its own token again, and a little more. A first call that
  succeeds adds `retry_share` alone: it took no token. If it gave one, retries would grow with the new orders, and a
  provider of finite capacity would be overrun by the waiting ones as soon as it is back.
- When the line has not moved for PROBE seconds, its first retry goes without a token.

While a provider is out, nothing succeeds, so a worker makes at most (1 + `retry_share`) calls for each new order, and
one a second. When the provider is back, each retry that succeeds lets more than one waiting retry go. So the backlog
drains at a rate that grows by `retry_share` with each answer, and stops growing when answers become slow or calls fail.
The probe keeps the line from standing still for ever if no new order comes.

The longer pause (`slow_after`, `slow_backoff`): when that many calls of the step have failed in a row, whichever orders
made them, each retry pauses for `slow_backoff`, with the rule's jitter, until a call succeeds.

Sources: Brooker, "Fixing retries with token buckets and circuit breakers" (2022). There each success pays a share of a
token, and a call that finds no token fails. A durable step does not fail: its retry waits. That is why first calls pay
too, as in Finagle's RetryBudget, which also has a least rate of retries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from trellis.retry import Jitter, Retry

BUCKET = 10.0
"""The most tokens that a bucket holds. It lets a few calls fail together without a wait."""

PROBE = 1.0
"""Seconds after which a line that has not moved lets one retry go."""

_ENOUGH = 1 - 1e-9


class Turn:
    """The place of one retry in the line. `go` is called once, when the retry may begin."""

    __slots__ = ("go", "gone", "left")

    def __init__(self, go: Callable[[], None]) -> None:
        self.go = go
        self.gone = False
        self.left = False


class Governor:
    """The governor of one step in one worker. `rule` says how large the budget is, and when pauses become longer."""

    def __init__(self, rule: Retry) -> None:
        self._share = rule.retry_share
        self._slow_after = rule.slow_after
        self._slow_backoff = rule.slow_backoff
        self._tokens = BUCKET
        self._line: deque[Turn] = deque()
        self._waiting = 0
        self._moved = 0.0
        self._failures = 0

    @property
    def waiting(self) -> int:
        """How many retries wait in line."""
        return self._waiting

    @property
    def slow(self) -> bool:
        """Whether so many calls failed in a row that pauses are longer."""
        return 0 < self._slow_after <= self._failures

    def pause(self, rule: Retry, failures: int, draw: float) -> float:
        """Seconds to wait after the `failures`-th failure in a row of one order; `draw` is uniform in [0, 1)."""
        usual = rule.backoff(failures, draw)
        if not self.slow:
            return usual
        return max(usual, self._slow_backoff * draw if rule.jitter is Jitter.FULL else self._slow_backoff)

    def first(self, now: float) -> None:
        """A first call begins."""
        if self._share is not None:
            self._pay(self._share, now)

    def ask(self, now: float, go: Callable[[], None]) -> Turn | None:
        """A retry wants to begin. None: it may, and its token is taken. Otherwise `go` is called when it may."""
        if self._share is None:
            return None
        if not self._waiting and self._tokens >= _ENOUGH:
            self._tokens -= 1
            return None
        if not self._waiting:
            self._moved = now
        turn = Turn(go)
        self._line.append(turn)
        self._waiting += 1
        return turn

    def leave(self, turn: Turn, now: float) -> None:
        """The caller of this retry gave up before it began. If its turn had come already, the next in line gets it."""
        if turn.left:
            return
        turn.left = True
        if turn.gone:
            self._pay(1.0, now)
            return
        self._waiting -= 1
        if not self._waiting:
            self._line.clear()

    def failed(self, now: float) -> None:
        """A call failed or timed out."""
        self._failures += 1

    def succeeded(self, now: float, *, retried: bool = True) -> None:
        """A call succeeded. `retried`: it was a retry, so it took a token."""
        self._failures = 0
        if self._share is not None:
            self._pay(self._share + (1 if retried else 0), now)

    @property
    def probe_at(self) -> float | None:
        """When to call `probe`; None while nobody waits."""
        return self._moved + PROBE if self._waiting else None

    def probe(self, now: float) -> None:
        """Let the first in line go if the line has not moved for PROBE seconds."""
        if self._waiting and now >= self._moved + PROBE:
            self._release(now)

    def _pay(self, tokens: float, now: float) -> None:
        self._tokens = min(BUCKET, self._tokens + tokens)
        while self._waiting and self._tokens >= _ENOUGH:
            self._tokens -= 1
            self._release(now)

    def _release(self, now: float) -> None:
        turn = self._line.popleft()
        while turn.left:
            turn = self._line.popleft()
        self._waiting -= 1
        self._moved = now
        turn.gone = True
        turn.go()
