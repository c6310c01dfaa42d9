"""What `predict` needs to know of what was learned, besides the calls and the policy."""

from __future__ import annotations

from typing import Any

from trellis.insight.calls import Overhead
from trellis.insight.fit import Learned


def setting(learned: Learned) -> dict[str, Any]:
    """Arguments of `predict`: the chain, and the overhead where it was measured."""
    structure = getattr(learned, "structure", None)
    if structure is None:
        return {}
    # The chain's last part is the measured remainder, so nothing else comes on top.
    return {"steps": learned.chain, "overhead": Overhead(order=0.0)}
