"""Advice under stress: policies that do not recover from an outage are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.insight.calls import Calls
from trellis.insight.fit import learn
from trellis.insight.recommend import recommend
from trellis.insight.simulate import simulate
from trellis.insight.storms import calls_while_out
from trellis.insight.stress import Stress, arrival_rate
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import preset, tuned

SOME = FaultPlan(Mix(error=0.1, hang=0.02, latency=0.2))
HARD = Stress(outage=10.0, capacity=2, rate=6.0)
"""Two calls at once of 0.2 s are ten a second: a load of two thirds."""


def test_every_recommendation_says_what_it_costs_in_an_outage() -> None:
    """Canonical faults: a waiting order makes many calls in ten seconds, and the figure is in the words, too."""
    found = recommend(15, 1e-4)
    assert found.outage_calls > 5
    assert f"about {found.outage_calls:.3g} times its usual calls" in found.words()
    assert found.outage_calls == pytest.approx(calls_while_out(found.policy), rel=0.2)
    assert found.stressed is None


def test_a_policy_that_does_not_recover_is_refused_for_one_that_does() -> None:
    """Without stress the cheapest policy wins. Under it, that one is refused, and the one advised recovers."""
    alone = recommend(15, 1e-4, SOME)
    found = recommend(15, 1e-4, SOME, stress=HARD)
    assert found.policy != alone.policy
    assert found.p_miss <= 1e-4
    assert found.stressed is not None
    assert found.stressed.storm.recovers
    assert found.stressed.refused
    assert "Refused" in found.words()
    assert "recover" in found.stressed.words()
    assert "leaves out the wait" in found.words()
    assert found.policy.name in set(found.frontier["name"])
    assert found.outage_calls < alone.outage_calls


def test_a_policy_that_recovers_is_taken_as_it_is() -> None:
    """Half a second of outage at a tenth of the load: nothing is refused, and nothing is added."""
    alone = recommend(15, 1e-4, SOME)
    found = recommend(15, 1e-4, SOME, stress=Stress(outage=0.5, capacity=2, rate=1.0))
    assert found.policy == alone.policy
    assert found.stressed is not None
    assert found.stressed.refused == ()


def test_a_provider_without_a_limit_is_always_caught_up_with() -> None:
    """An outage alone leaves a backlog that drains at once; a capacity alone must carry the load."""
    out = recommend(15, 1e-4, SOME, stress=Stress(outage=5.0, rate=2.0)).stressed
    assert out is not None
    assert out.storm.drained_s is not None
    assert out.storm.drained_s < 10
    kept = recommend(15, 1e-4, SOME, stress=Stress(capacity=3, rate=2.0)).stressed
    assert kept is not None
    assert "keep up" in kept.words()


def test_rate_and_service_are_learned() -> None:
    """Orders at two a second with calls of 0.2 s teach both; what is learned is then simulated."""
    calls = Calls(0.1, 0.02, latency=tuple(np.linspace(0.1, 0.3, 200)))
    faults = {str(step): calls for step in FORWARD_OUTSIDE_STEPS}
    made = simulate(tuned(preset("swift"), try_timeout=1.0), faults, orders=300, rate=2.0, seed=5)
    assert arrival_rate(made.attempts) == pytest.approx(2.0, rel=0.2)
    learned = learn(made.attempts, runs=made.runs)
    found = recommend(15, 1e-3, learned, stress=Stress(outage=3.0, capacity=3)).stressed
    assert found is not None
    assert found.storm.rate == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(
    ("stress", "says"),
    [({"capacity": 0, "rate": 1.0}, "at least one call"), ({"outage": 90_000.0, "rate": 1.0}, "a day"),
     ({"outage": 0.0, "rate": 1.0}, "a day"), ({"capacity": 2, "rate": 11.0}, "No policy can"),
     ({"outage": 5.0}, "--rate"), ({"outage": 5.0, "rate": 1.0, "step": "fly"}, "no step 'fly'"),
     ({"capacity": 2, "service": 0.0, "rate": 1.0}, "--service")],
)  # fmt: skip
def test_stress_that_makes_no_sense_is_one_sentence(stress: dict[str, Any], says: str) -> None:
    """No capacity, an outage of more than a day, a load above the capacity, no rate, an unknown step, no service."""
    with pytest.raises(BadInput, match=says):
        recommend(15, 1e-4, SOME, stress=Stress(**stress))


def test_calls_that_take_no_time_need_a_service_time() -> None:
    """Canonical calls return at once, so how long a provider works on them must be given."""
    with pytest.raises(BadInput, match="--service"):
        recommend(15, 1e-4, stress=Stress(outage=5.0, capacity=2, rate=1.0))
