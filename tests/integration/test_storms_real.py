"""Two cells of `trellis bench storms` on real servers, in a short form: one recovers, one never does."""

from __future__ import annotations

from pathlib import Path

import pytest

from trellis.bench.bench_stack import bench_stack
from trellis.bench.storms import Cell, eager, measure, predicted
from trellis.config import Settings
from trellis.policies import tuned

EAGER = eager(0.8)


@pytest.mark.slow
async def test_real_orders_recover_or_never_do_as_simulated(tmp_path: Path) -> None:
    """An outage of the charge's provider under a retry budget and a long timeout, and one of the validation's under an
    eager policy: the simulator and the servers agree on both."""
    # Ten seconds: a busy machine may be slow, but then an answer must not come too late.
    saved = tuned(EAGER, try_timeout=10.0, retry_share=0.1)
    light = Cell(saved, rate=2.0, outage_s=1.5, before=2.0, followed=40.0)
    heavy = Cell(EAGER, rate=4.0, outage_s=3.5, before=1.5, followed=3.5, step="validate")
    assert predicted(light) is not None
    assert predicted(heavy) is None
    async with bench_stack(Settings.model_validate({"TRELLIS_HOME": tmp_path}), own_servers=True) as bench:
        recovered = await measure(bench, light)
        never = await measure(bench, heavy)
    assert recovered.drained_s is not None
    assert recovered.hit > 0
    assert never.drained_s is None
    assert never.hit > 0
    assert never.completed < never.arrived
