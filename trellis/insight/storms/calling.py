"""How many calls a policy makes while a provider is out."""

from __future__ import annotations

from collections.abc import Mapping

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Faults, Overhead
from trellis.insight.chain import ORDER, in_a_row, steps_of
from trellis.insight.simulate.world import Setting, World
from trellis.outages import RAISES, Outage
from trellis.policies import Policy, Retry

_CALM_ORDERS = 200
_ORDERS = 10


def calls_while_out(
    policy: Policy, faults: Faults = None, *, seconds: float = 10.0, how: str = RAISES, rate: float | None = None
) -> float:
    """The calls that a step's provider gets in an outage of so many seconds, as a multiple of its usual calls.

    Of all steps, the one with the largest multiple. `rate`: orders a second; None: ten arrive during the outage. The
    multiple depends on the rate only through a retry budget, because each order waits and tries for itself. `how`:
    "error" or "hang". Steps are played alone, so orders reach them evenly. Raises BadInput as `simulate` does.
    """
    if not seconds > 0:
        raise BadInput("An outage lasts more than 0 s.")
    if isinstance(faults, Mapping):
        names: list[str] = list(faults)
    else:
        names = list(dict.fromkeys(step.name for step in steps_of(ORDER)))
    plan = faults if isinstance(faults, FaultPlan) else FaultPlan.canonical()
    calls = {one: faults[one] if isinstance(faults, Mapping) else Calls.planned(plan, one) for one in names}
    # Under one rule, the step whose calls fail least has the fewest usual calls, and so the largest multiple.
    worst: dict[Retry, str] = {}
    for name in sorted(names, key=lambda one: -_good(calls[one], policy.retry_of(one))):
        worst.setdefault(policy.retry_of(name), name)
    return max(_multiple(policy, name, calls[name], seconds, how, rate or _ORDERS / seconds) for name in worst.values())


def _good(calls: Calls, rule: Retry) -> float:
    works, _, _ = calls.under(rule.try_timeout)
    return sum(share for share, _ in works)


def _multiple(policy: Policy, step: str, calls: Calls, seconds: float, how: str, rate: float) -> float:
    setting = Setting(Overhead(0.0, 0.0, 0.0), budget=True)
    out = FaultPlan(outages=(Outage(0.0, seconds, how, step),))

    def world(under: FaultPlan | None) -> World:
        return World(policy, {step: calls}, in_a_row([step]), 0, setting, under)

    calm = world(None)
    calm.play(_CALM_ORDERS, _CALM_ORDERS)
    stormy = world(out)
    stormy.open(stormy.gaps(rate, even=True))
    stormy.run_to(seconds)
    stormy.close()
    usual = len(calm.tries.begun[step]) / _CALM_ORDERS * len(stormy.runs)
    return len(stormy.tries.begun.get(step, ())) / usual if usual else 1.0
