"""Checks of honest data that once raised a false alarm."""

from __future__ import annotations

import pytest

from tests.traps.calls import Mix, constant, exactly, mixed
from tests.traps.frames import ledger, order
from tests.traps.world import PATIENT, SWIFT, World
from trellis.insight.checks import checked
from trellis.insight.fit import learn

pytestmark = pytest.mark.slow


def test_a_long_tail_of_durations_is_compared_with_all_of_the_model() -> None:
    """Orders take up to 150 s, ten times the deadline: the model's times reach as far, and agree."""
    calls = mixed(Mix(1 / 3, 1 / 3, constant(0.1)), {"dispatch": Mix(0.58, 1 / 3, constant(0.1))})
    seen = ledger(World(order, calls, PATIENT, seed=38).simulate(1000, at_once=20))
    found = {check.name: check for check in checked(learn(seen.attempts, runs=seen.orders), 15.0)}
    assert found["durations"].ok, found["durations"].words


def test_calls_that_take_no_time_do_not_seem_to_succeed_under_less_load() -> None:
    """Good calls of 0 s beside hung ones, 40 orders at a time: each try is independent, and the check finds that."""
    calls = mixed(Mix(1 / 3, 1 / 3, exactly(0.0), error_s=0.0))
    seen = ledger(World(order, calls, SWIFT, seed=1).simulate(1500, at_once=40))
    found = {check.name: check for check in checked(learn(seen.attempts, runs=seen.orders), 15.0)}
    assert found["independent"].ok, found["independent"].words
