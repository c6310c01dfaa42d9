"""What `predict` needs to know of what was learned, besides the calls and the policy."""

from __future__ import annotations

from typing import Any

from trellis.insight.fit import Learned


def setting(learned: Learned) -> dict[str, Any]:
    """Arguments of `predict`: the chain, and the overhead where it was measured."""
    return {"steps": learned.chain} | ({} if learned.overhead is None else {"overhead": learned.overhead})
