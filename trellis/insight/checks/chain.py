"""Chain: does the structure that was learned explain the time that the runs took?

What neither the steps nor the measured waits explain is kept as a measured remainder, which no policy changes. If the
remainder is most of the time, a prediction says little about the policy.
"""

from __future__ import annotations

from trellis.insight.checks.check import Check
from trellis.insight.fit import Learned

_LEAST = 0.5
"""The structure must explain at least this share of the time of the runs, beyond what is measured anyway."""


def check(learned: Learned) -> Check:
    """Whether the chain is understood."""
    structure = learned.structure
    if structure is None:
        return Check("chain", True, f"The chain is taken as given: {', '.join(learned.steps)}.")
    if not structure.understood:
        return Check("chain", False, f"The structure of these {learned.noun}s is not understood: {structure.words}")
    return Check("chain", True, f"{structure.words}")
