"""Enough: are there so many attempts of each step that its share of good calls is known?

The test is the width of the interval (Clopper and Pearson, Biometrika 26, 1934), which `fit` computes. A step is known
well enough if its good calls can be at most 15 points fewer than estimated, and it has at least 30 attempts of its own.
With no failure in n attempts the share of failures can still be about 4/n at the level that `fit` uses, which is 13 %
for 30. What lies inside the interval needs no check: the headline of a recommendation is the worst case that the
intervals allow.
"""

from __future__ import annotations

from trellis.insight.checks.check import Check
from trellis.insight.checks.measured import Missed, per_cent
from trellis.insight.fit import Learned

_FEWEST = 30
_WIDEST = 0.15


def check(learned: Learned, measured: Missed, deadline: float) -> Check:
    """Whether each step has enough attempts. The words also say what the durations alone prove for `deadline` [s]."""
    own = learned.attempts["step"].astype(str).value_counts()
    few = []
    for step, fit in learned.steps.items():
        number = int(own.get(step, 0))
        good, (least, _) = fit.shares["ok"], fit.intervals["ok"]
        if number < _FEWEST or good - least > _WIDEST:
            tries = f"{number} attempts, which allow" if number != 1 else "1 attempt, which allows"
            few.append(f"{step} has {tries} {least:.0%} to {fit.intervals['ok'][1]:.0%} good calls")
    if few:
        more = f" and {len(few) - 3} more steps" if len(few) > 3 else ""
        return Check("enough", False, f"There are not enough attempts: {'; '.join(few[:3])}{more}.")
    numbers = [int(own.get(step, 0)) for step in learned.steps]
    each = f"{min(numbers):,} to {max(numbers):,}" if min(numbers) < max(numbers) else f"{min(numbers):,}"
    return Check("enough", True, f"Each step has {each} attempts. {proves(measured, deadline, learned.noun)}")


def proves(measured: Missed, deadline: float, noun: str) -> str:
    """What the measured durations prove without a model."""
    if not measured.runs:
        return f"No {noun}'s duration was measured."
    return (
        f"{measured.missed:,} of {measured.runs:,} {noun}s missed {deadline:g} s, which alone proves a share below "
        f"{per_cent(measured.limit)}."
    )
