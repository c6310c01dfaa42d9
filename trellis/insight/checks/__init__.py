"""What a recommendation assumes, checked against the data that it was learned from.

enough        are there enough attempts of each step?
independent   is each try a draw of its own?
durations     does the fitted model give the durations that were measured?
chain         is it understood what a run does?

`load` asks one question more, of the policy that is to be advised: would it make more calls at once than the data show?
Each check is a module, whose docstring names its test and the source of the test. On data for which everything that is
assumed holds, all checks together raise a false alarm in at most 2 % of the cases.
"""

from __future__ import annotations

from trellis.insight.checks import chain, durations, enough, independent
from trellis.insight.checks.check import Check
from trellis.insight.checks.draws import draws
from trellis.insight.checks.measured import counted, missed
from trellis.insight.fit import Learned

__all__ = ["Check", "checked"]


def checked(learned: Learned, deadline: float) -> tuple[Check, ...]:
    """The four checks, for a deadline [s]."""
    runs = counted(learned.runs)
    return (
        enough.check(learned, missed(runs, deadline), deadline),
        independent.check(draws(learned.attempts), deadline, learned.noun),
        durations.check(learned, runs, deadline),
        chain.check(learned),
    )
