"""The timer queue of the server: what follows from its rules, and how early retries come under a load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from trellis.errors import BadInput
from trellis.insight.load import Load
from trellis.insight.retries import predict
from trellis.insight.server_timers import ALONE, Shard, TimerQueue, Tries, waits
from trellis.insight.simulate import simulate
from trellis.insight.simulate.loop import Loop
from trellis.policies import PRESETS, preset

PATIENT = Tries(2.0, 0.005, 2.0, 0.2, 0.33, 0.33, after=0.005, works=0.005, way=0.005, between=0.02, shard=ALONE)


class Clock:
    """A timer queue, and when its timers fired."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.queue = TimerQueue(self.loop.call_at)
        self.fired: dict[str, float] = {}

    def ask(self, name: str, now: float, at: float) -> None:
        def fire() -> None:
            self.fired[name] = self.loop.now

        self.loop.call_at(now, lambda: self.queue.add(at, fire))

    def read(self, now: float) -> None:
        self.loop.call_at(now, lambda: self.queue.read(self.loop.now))


def test_a_short_timer_fires_a_second_after_the_latest_read() -> None:
    """Asked for 5 ms at 0.3 s, after a read at 0.1 s: it fires at 1.1 s, a gap of 0.8 s."""
    clock = Clock()
    clock.read(0.1)
    clock.ask("retry", 0.3, 0.305)
    clock.loop.run()
    assert clock.fired["retry"] == pytest.approx(1.102, abs=0.002)


def test_a_timer_longer_than_a_second_fires_when_it_was_asked_for() -> None:
    """No read of the shard can delay it."""
    clock = Clock()
    clock.read(0.0)
    clock.ask("timeout", 0.0, 2.0)
    clock.loop.run()
    assert clock.fired["timeout"] == pytest.approx(2.002, abs=0.002)


def test_a_timer_that_fires_within_a_range_that_was_read_lets_its_retry_come_early() -> None:
    """A timer at 1.5 s opens the gate, so the one at 2 s causes no read. A retry asked for then fires at 2.5 s."""
    clock = Clock()
    clock.ask("other", 0.0, 1.5)
    clock.ask("timeout", 0.0, 2.0)
    clock.ask("retry", 2.01, 2.015)
    clock.loop.run()
    assert clock.fired["retry"] == pytest.approx(2.503, abs=0.003)
    alone = Clock()
    alone.ask("timeout", 0.0, 2.0)
    alone.ask("retry", 2.01, 2.015)
    alone.loop.run()
    assert alone.fired["retry"] == pytest.approx(3.003, abs=0.003)


def mean(tries: Tries, kind: str, number: int) -> float:
    """The mean gap after the n-th failed try."""
    found = waits(tries)
    return float(np.mean(np.maximum((found.raised if kind == "raised" else found.cut)[number - 1], 0.005)))


def test_how_early_a_retry_comes_depends_on_the_load() -> None:
    """The first retry after a raise takes a second on any shard. After a timeout, a few others on the shard make it
    earliest; many others read the shard so often that it takes nearly a second again."""
    few, many = replace(PATIENT, shard=Shard(2, 8)), replace(PATIENT, shard=Shard(50, 300))
    for tries in (PATIENT, few, many):
        assert mean(tries, "raised", 1) == pytest.approx(0.99, abs=0.02)
    assert mean(few, "cut", 1) < mean(PATIENT, "cut", 1)
    assert mean(few, "cut", 1) < 0.93
    assert mean(many, "cut", 1) > 0.97
    assert waits(PATIENT) == waits(replace(PATIENT))


@pytest.mark.parametrize(("at_once", "near"), [(1, 0.06), (5, 0.12), (40, 0.06)])
def test_gaps_are_those_of_the_simulated_queue(at_once: int, near: float) -> None:
    """Mean gaps after raises and timeouts: `waits`, where others come at random, against all orders on one clock."""
    played = simulate(preset("patient"), orders=200, at_once=at_once, seed=2).attempts
    steps = played.groupby(["order_id", "step"], observed=True)
    gap = (steps["started_at"].shift(-1) - played["ended_at"]).dt.total_seconds()
    shard = predict(preset("patient"), load=Load(at_once)).overhead.shard
    tries = replace(PATIENT, way=0.005, between=0.017, shard=shard)
    for outcome, kind in (("failed", "raised"), ("timed out", "cut")):
        chosen = (played["outcome"] == outcome) & gap.notna()
        number = (steps.cumcount()[chosen].clip(upper=2) + 1).tolist()
        # The way to the worker and back, and for a timeout the time until the server notices it.
        expected = float(np.mean([mean(tries, kind, n) for n in number])) + 0.01
        assert gap[chosen].mean() == pytest.approx(expected, abs=near)


def test_a_load_makes_a_prediction_differ_and_is_checked() -> None:
    """Five orders at a time are a little faster than one alone, because the server's timers come earlier."""
    alone, five = (predict(preset("patient"), load=Load(n)) for n in (1, 5))
    assert predict(preset("patient")).p_miss(15) == alone.p_miss(15)
    assert five.percentile(0.5) < alone.percentile(0.5)
    assert predict(preset("patient"), load=Load(40, shards=4000)).percentile(0.5) == pytest.approx(
        alone.percentile(0.5), rel=0.01
    )
    for load in (Load(0), Load(1, 0)):
        with pytest.raises(BadInput, match="shard"):
            predict(preset("patient"), load=load)


@pytest.mark.parametrize("name", PRESETS)
def test_predictions_under_a_load_agree_with_the_simulation(name: str) -> None:
    """1,000 orders, 40 at a time: the share within 15 s, and the median, by the mathematics and played on one clock."""
    found = predict(preset(name), load=Load(40))
    played = simulate(preset(name), orders=1000, at_once=40, seed=3).runs
    seconds = played["seconds"].where(played["state"] == "COMPLETED", np.inf)
    share = float((seconds > 15).mean())
    slack = 4 * (0.25 / len(seconds)) ** 0.5 if share > 0.01 else 0.01
    assert found.p_miss(15) == pytest.approx(share, abs=slack)
    assert found.percentile(0.5) == pytest.approx(float(pd.Series(seconds).quantile(0.5)), rel=0.08)
