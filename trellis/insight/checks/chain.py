"""Chain: is it understood what a run does?

It is, if one chain or a choice of a few explains 95 % of the runs that completed (`trellis.insight.structure`).
Otherwise a prediction is little more than the time that was measured. A chain that the caller gives is not checked.
"""

from __future__ import annotations

from trellis.insight.checks.check import Check
from trellis.insight.fit import Learned


def check(learned: Learned) -> Check:
    """Whether the chain is understood."""
    structure = learned.structure
    if structure is None:
        return Check("chain", True, f"The chain is taken as given: {', '.join(learned.steps)}.")
    if not structure.understood:
        return Check("chain", False, f"The structure of these {learned.noun}s is not understood: {structure.words}")
    return Check("chain", True, structure.words)
