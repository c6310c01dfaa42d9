"""Honest data are not refused, and what is promised from them comes true.

The environment variable TRAPS_SETS says how many sets are judged.
"""

from __future__ import annotations

import os

import pytest

from tests.traps.honest import honest
from tests.traps.judge import few_candidates, judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETS = int(os.environ.get("TRAPS_SETS", "16"))


def test_honest_data_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the honest sets at most two, or one in twenty, are refused, and no promise is broken."""
    few_candidates(monkeypatch)
    verdicts = {seed: judged(honest(seed), seed) for seed in range(SETS)}
    wrong = [f"{seed}: {one.why}" for seed, one in verdicts.items() if one.kind == "wrong"]
    refused = [f"{seed}: {one.why}" for seed, one in verdicts.items() if one.refused]
    assert not wrong, "\n".join(wrong)
    assert len(refused) <= max(2, SETS // 20), "\n".join(refused)
