"""What an option does to one activity: the package's own prediction, for an activity that Temporal retries."""

from __future__ import annotations

import math
from dataclasses import replace

from trellis.errors import TrellisError
from trellis.insight.calls import Calls, Overhead
from trellis.insight.doctor.evidence import Options
from trellis.insight.retries import predict
from trellis.policies import preset
from trellis.retry import Placement, Retry

_LONGEST = 2_500_000.0


def expected(calls: Calls, options: Options) -> tuple[float, float] | None:
    """Seconds of an activity that succeeds, from its schedule to its end: (on average, within which 99 % do so).

    For these calls under these options, retried by Temporal. None where there is nothing to compute. The
    `schedule_to_close_timeout` is not in it.
    """
    timeout = min(options.start_to_close_timeout or _LONGEST / 4, _LONGEST / 4)
    first = options.initial_interval or 1.0
    rule = Retry(
        try_timeout=timeout, first_backoff=first,
        max_backoff=max(first, min(options.maximum_interval or 100 * first, _LONGEST / 4)),
        multiplier=max(1.0, options.backoff_coefficient or 2.0), max_tries=int(options.maximum_attempts or 0),
        placement=Placement.SERVER,
    )  # fmt: skip
    policy = replace(preset("patient"), name="asked", retry=rule, budget=_LONGEST)
    try:
        found = predict(policy, {"activity": calls}, overhead=Overhead(order=0.0))
        mass = float(found.pmf.sum())
        if mass <= 0:
            return None
        mean, p99 = float(found.times @ found.pmf) / mass, found.percentile(0.99 * mass)
    except (TrellisError, ValueError, ArithmeticError):
        return None
    return (mean, p99) if math.isfinite(mean) else None
