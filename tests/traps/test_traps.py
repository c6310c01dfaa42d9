"""Advice in a trap is right, or it is refused."""

from __future__ import annotations

import pytest

from tests.traps.cases import TRAPS
from tests.traps.judge import few_candidates, judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", TRAPS)
def test_advice_in_a_trap_is_right_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trusted comes true in the same world; what is not trusted promises nothing better than was measured."""
    few_candidates(monkeypatch)
    verdict = judged(TRAPS[name])
    assert verdict.kind in ("right", "refused"), verdict.why
