"""Retry budgets and longer pauses: what a worker does while a provider is out, and after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest

from trellis.governor import BUCKET, PROBE, Governor, Turn
from trellis.insight.simulate.loop import Event, Loop, Process
from trellis.retry import Jitter, Placement, Retry

EAGER = Retry(0.25, 0.005, 0.05, jitter=Jitter.FULL, placement=Placement.ACTIVITY)
FULL = int(BUCKET)


class Line:
    """Retries of one governor: which were let go, in their order."""

    def __init__(self, share: float) -> None:
        self.governor = Governor(replace(EAGER, retry_share=share))
        self.gone: list[str] = []

    def ask(self, name: str, now: float = 0.0) -> Turn | None:
        return self.governor.ask(now, lambda: self.gone.append(name))

    def drained(self) -> Line:
        for number in range(FULL):
            assert self.ask(f"free {number}") is None
        return self


def test_a_retry_takes_a_token_and_waits_without_one() -> None:
    """The bucket lets ten retries go; the next ones wait until somebody pays, and go in their order."""
    line = Line(0.5).drained()
    assert None not in [line.ask(name) for name in "abc"]
    assert line.governor.waiting == 3
    line.governor.first(0.1)
    assert line.gone == []
    line.governor.first(0.2)
    assert line.gone == ["a"]
    line.governor.succeeded(0.3)
    assert line.gone == ["a", "b"]
    assert line.ask("d", 0.4) is not None
    line.governor.succeeded(0.5)
    assert line.gone == ["a", "b", "c", "d"]


def test_first_calls_never_wait_and_pay_their_share() -> None:
    """While nothing succeeds, a share of 0.1 lets one retry go for ten first calls."""
    line = Line(0.1).drained()
    for number in range(20):
        line.ask(str(number))
    for _ in range(100):
        line.governor.first(0.0)
    assert len(line.gone) == 10


def test_a_first_call_that_succeeds_pays_its_share_and_no_token() -> None:
    """It took none. Ten first calls that succeed let one retry go, and one retry that succeeds lets another go."""
    line = Line(0.05).drained()
    for number in range(20):
        line.ask(str(number))
    for _ in range(10):
        line.governor.first(0.0)
        line.governor.succeeded(0.0, retried=False)
    assert len(line.gone) == 1
    line.governor.succeeded(0.0, retried=True)
    assert len(line.gone) == 2


def test_a_bucket_does_not_save_up() -> None:
    """However long all was well, no more than ten retries go together."""
    line = Line(1.0)
    for _ in range(1000):
        line.governor.first(0.0)
        line.governor.succeeded(0.0)
    line.drained()
    assert line.ask("more") is not None


def test_a_line_that_does_not_move_lets_one_retry_go_each_second() -> None:
    """Without tokens and without new orders the line still moves, or it would stand still for ever."""
    line = Line(0.0).drained()
    assert line.governor.probe_at is None
    line.ask("a", 5.0)
    line.ask("b", 5.5)
    assert line.governor.probe_at == 5.0 + PROBE
    line.governor.probe(5.9)
    assert line.gone == []
    line.governor.probe(6.0)
    assert line.gone == ["a"]
    assert line.governor.probe_at == 6.0 + PROBE
    line.governor.probe(7.0)
    assert line.gone == ["a", "b"]
    assert line.governor.probe_at is None


def test_a_caller_that_gives_up_leaves_its_turn_to_the_others() -> None:
    """Whether its turn had come or not, nobody waits longer because of it."""
    line = Line(1.0).drained()
    a, b, c = (line.ask(name) for name in "abc")
    assert a is not None
    assert b is not None
    assert c is not None
    line.governor.leave(b, 0.0)
    assert line.governor.waiting == 2
    line.governor.first(0.0)
    assert line.gone == ["a"]
    line.governor.leave(a, 0.0)
    assert line.gone == ["a", "c"]
    line.governor.leave(a, 0.0)
    assert (line.gone, line.governor.waiting) == (["a", "c"], 0)


def test_pauses_become_longer_after_failures_in_a_row_of_all_orders() -> None:
    """After the fifth failure each pause is the long one, with its jitter, until a call succeeds."""
    rule = replace(EAGER, slow_after=5, slow_backoff=2.0)
    governor = Governor(rule)
    for _ in range(4):
        governor.failed(0.0)
    assert governor.pause(rule, 1, 0.5) == rule.backoff(1, 0.5)
    governor.failed(0.0)
    assert governor.pause(rule, 1, 0.5) == 1.0
    assert governor.pause(replace(rule, jitter=Jitter.NONE), 1, 0.5) == 2.0
    governor.succeeded(0.0)
    assert governor.pause(rule, 1, 0.5) == rule.backoff(1, 0.5)
    assert governor.ask(0.0, lambda: None) is None


@dataclass
class Run:
    """Orders of one step at a rate, and a provider that raises until `out` [s]."""

    rule: Retry
    rate: float
    out: float
    orders: int
    latency: float = 0.1
    calls: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def play(self) -> Run:
        self._loop, self._governor, self._armed = Loop(), Governor(self.rule), False
        for number in range(self.orders):
            self._loop.start(self._order(number / self.rate))
        self._loop.run()
        return self

    def _order(self, begin: float) -> Process:
        yield begin
        failures = 0
        while True:
            if failures:
                ready = Event()
                if self._governor.ask(self._loop.now, ready.set) is not None:
                    self._arm()
                    yield ready
            else:
                self._governor.first(self._loop.now)
            self.calls.append(self._loop.now)
            if self._loop.now >= self.out:
                yield self.latency
                self._governor.succeeded(self._loop.now)
                self.ended.append(self._loop.now)
                return
            failures += 1
            self._governor.failed(self._loop.now)
            yield self._governor.pause(self.rule, failures, 0.5)

    def _arm(self) -> None:
        at = self._governor.probe_at
        if at is not None and not self._armed:
            self._armed = True
            self._loop.call_at(at, self._probe)

    def _probe(self) -> None:
        self._armed = False
        self._governor.probe(self._loop.now)
        self._arm()

    @property
    def calls_while_out(self) -> int:
        return sum(at < self.out for at in self.calls)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_budget_bounds_the_calls_while_nothing_succeeds(share: float) -> None:
    """An eager rule makes more than fifty times the normal calls; a budget little more than its share."""
    normal = 100
    assert Run(EAGER, 10, 10.0, 120).play().calls_while_out > 50 * normal
    limited = Run(replace(EAGER, retry_share=share), 10, 10.0, 120).play()
    assert normal <= limited.calls_while_out <= normal * (1 + share) + BUCKET + 10 / PROBE + 1
    assert len(limited.ended) == 120


def test_the_backlog_drains_at_a_growing_rate() -> None:
    """After the outage each fifth of a second ends more orders than the one before, and all end within seconds."""
    run = Run(replace(EAGER, retry_share=0.2), 20, 20.0, 440).play()
    assert len(run.ended) == 440
    ends = [math.floor((at - 20.0) * 5) for at in run.ended]
    counts = [ends.count(number) for number in range(1, 5)]
    assert counts == sorted(counts)
    assert counts[-1] > 2 * counts[0]
    backlog_gone = sorted(run.ended)[400]
    assert backlog_gone < 25.0


def test_orders_end_although_no_new_order_comes() -> None:
    """Forty orders begin in the outage and none after it; probes find that the provider is back."""
    run = Run(replace(EAGER, retry_share=0.1), 40, 10.0, 40).play()
    assert len(run.ended) == 40
    assert max(run.ended) < 20.0
