"""Running many jobs at once."""

from __future__ import annotations

import asyncio

import pytest

from trellis.driving import many
from trellis.errors import TemporalUnavailable


async def test_an_error_of_one_job_ends_all_and_is_raised_as_it_is() -> None:
    """Commands print one sentence for a TrellisError; a group of errors would end them with a traceback."""
    seen: list[str] = []

    async def job() -> None:
        if not seen:
            seen.append("raised")
            raise TemporalUnavailable("Temporal does not answer.")
        await asyncio.sleep(60)
        seen.append("went on")

    with pytest.raises(TemporalUnavailable, match="does not answer"):
        await many(10, 3, job)
    assert seen == ["raised"]
