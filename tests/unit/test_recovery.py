"""Backlog, time to drain, and its prediction: pure functions of when orders were due and when they ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest

from trellis.chaos.arrivals import due_times
from trellis.chaos.recovery import Backlog, Pace, drained, pace_of, predicted, usual
from trellis.chaos.scenario import Options


@dataclass(frozen=True)
class Life:
    due: float
    ended: float | None


def queue(rate: float, capacity: float, outage: tuple[float, float], until: float, alone: float = 0.5) -> list[Life]:
    """Orders of a server that ends them in turn, and none during the outage. One alone takes `alone` seconds."""
    lives, free = [], 0.0
    for number in range(int(until * rate)):
        due = number / rate
        begins = max(due, free)
        if outage[0] <= begins < outage[1]:
            begins = outage[1]
        free = begins + 1 / capacity
        ends = begins + alone
        if outage[0] < ends < outage[1]:
            ends = outage[1] + alone
        lives.append(Life(due, ends))
    return lives


def test_the_backlog_counts_orders_that_were_due_and_have_not_ended() -> None:
    """An order counts from its due time, and one that never ends counts for ever."""
    backlog = Backlog([Life(0, 2), Life(1, 4), Life(3, None)])
    assert [backlog.at(moment) for moment in (-1, 0, 1, 2, 3, 4, 99)] == [0, 1, 2, 1, 2, 1, 1]
    assert backlog.most(0, 99) == 2
    assert backlog.curve(0, 4, points=4) == [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1)]


@pytest.mark.parametrize("seconds", [5, 10, 20])
@pytest.mark.parametrize("rate", [1.0, 2.0, 3.0, 4.0])
def test_a_queue_drains_when_the_fluid_model_says_so(seconds: float, rate: float) -> None:
    """On a server that ends six orders a second in turn, measured and predicted times agree within one second."""
    lives = queue(rate, 6, (10, 10 + seconds), until=120)
    measured = drained(lives, 10, 10 + seconds)
    expected = predicted(rate, seconds, Pace(6, 0, 0), lag_s=0)
    assert measured is not None
    assert expected is not None
    assert measured == pytest.approx(expected, abs=1.0)


def test_a_queue_that_gets_more_than_it_can_do_never_drains() -> None:
    """The prediction is None, and so is the measurement as long as orders arrive."""
    lives = [one for one in queue(7, 6, (2, 6), until=60) if one.due < 59]
    cut = [Life(one.due, one.ended if one.ended is not None and one.ended < 59 else None) for one in lives]
    assert predicted(7, 4, Pace(6, 0, 0), lag_s=0) is None
    assert drained(cut, 2, 6) is None


def test_the_rest_drains_at_full_pace_when_no_more_orders_come() -> None:
    """Ten seconds at 4/s wait, orders come for five more seconds, and six end a second."""
    whole = Pace(6, 0, 0)
    assert predicted(4, 10, whole, lag_s=0) == pytest.approx(20)
    assert predicted(4, 10, whole, lag_s=0, left_s=5) == pytest.approx(5 + 30 / 6)
    assert predicted(7, 4, whole, lag_s=0, left_s=6) == pytest.approx(6 + 34 / 6)
    assert predicted(4, 10, whole, lag_s=0, left_s=0) == pytest.approx(40 / 6)


def test_a_lag_adds_itself_and_the_orders_that_come_meanwhile() -> None:
    """Two seconds of lag at 3/s: six orders more wait."""
    assert predicted(3, 10, Pace(6, 2, 0), lag_s=2) == pytest.approx(2 + 36 / 3)


def test_slow_new_orders_are_not_as_before_even_if_few_wait() -> None:
    """The backlog is small at once, and orders due until 20 take three times as long as before."""
    lives = [Life(n, n + (0.9 if 10 < n < 20 else 0.3)) for n in range(40)]
    assert drained(lives, 10.5, 12.5) == pytest.approx(18 - 12.5, abs=1.0)


def test_nothing_is_usual_before_anything_has_ended() -> None:
    """With fewer than three ended orders before the break, no time to drain can be given."""
    lives = [Life(n, n + 5.5) for n in range(20)]
    assert usual(lives, 6) is None
    assert drained(lives, 6, 8) is None


def test_the_pace_is_the_line_through_two_drains() -> None:
    """Eight orders after 3 s and 32 after 9 s: four a second, after one second of getting going."""
    found = pace_of([(8, 3.0), (32, 9.0)], hire_s=1.5)
    assert (found.orders_per_s, found.lag_s, found.hire_s) == pytest.approx((4, 1, 1.5))
    noisy = pace_of([(8, 3.0), (32, 2.5)], hire_s=1.5)
    assert math.isfinite(noisy.orders_per_s)


def test_arrivals_keep_their_rate_and_repeat_with_their_seed() -> None:
    """One order in each slot of 1/rate seconds, at the same places for the same seed only."""
    due = due_times(60, 3, seed=7)
    assert [int(at * 3) for at in due] == list(range(60))
    assert due == due_times(60, 3, seed=7) != due_times(60, 3, seed=8)
    assert len({round(later - earlier, 6) for earlier, later in pairwise(due)}) > 30


def test_a_slow_machine_gets_fewer_orders_unless_a_rate_was_given() -> None:
    """At 2.6 orders/s, three a second would show an overloaded machine. A rate that a person gave is kept."""
    slow, quick = Pace(2.6, 1.0, 1.0), Pace(9.0, 1.0, 1.0)
    assert Options(rate=3, slows=True).within(slow).rate == pytest.approx(0.6 * 2.6)
    assert Options(rate=3, slows=True).within(quick).rate == 3
    assert Options(rate=3).within(slow).rate == 3
