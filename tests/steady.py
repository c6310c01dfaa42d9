"""Property tests that a busy machine cannot break."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

STEADY = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""The same examples in each run, however long one takes."""
