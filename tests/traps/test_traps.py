"""Advice in a trap is right, or it is refused."""

from __future__ import annotations

from dataclasses import replace

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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [20.0, 28.0, 36.0])
def test_a_busy_provider_gets_no_second_lane(rate: float, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten places at 40, 55 and 70 % load, where no test sees the queue: every order misses with two lanes."""
    few_candidates(monkeypatch)
    verdict = judged(replace(TRAPS["ten places at 70 % load, slow calls vary"], rate=rate), seed)
    assert verdict.kind in ("right", "refused"), verdict.why
