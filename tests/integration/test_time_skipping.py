"""Windows of minutes, in virtual time, on Temporal's time-skipping test server and the real Postgres."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from tests.conftest import House
from trellis import workers
from trellis.config import Settings
from trellis.db.pool import Pool
from trellis.desk import Desk
from trellis.model import Order, workflow_id
from trellis.policies import preset

pytestmark = pytest.mark.timeskipping


@pytest.fixture
async def skipping(settings: Settings, house: House, pool: Pool) -> AsyncIterator[tuple[WorkflowEnvironment, Desk]]:
    program = os.environ.get("TEST_SERVER_PATH")
    if program is None:
        reason = "no time-skipping server: name one in TEST_SERVER_PATH (.ci/run shows how to get it)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=program) as environment:
        async with workers.running(environment.client, pool, settings):
            yield environment, Desk(environment.client, house.desk.ledger, settings, search_attributes=False)


async def in_review(desk: Desk, house: House) -> tuple[Order, WorkflowHandle[Any, Any]]:
    """A patient order that waits for its approval."""
    order = house.order()
    await desk.start(order, preset("patient"))
    await house.until(order, "AWAITING_APPROVAL")
    return order, desk.client.get_workflow_handle(workflow_id(order.order_id))


async def test_the_patient_window_of_five_minutes_times_out(
    skipping: tuple[WorkflowEnvironment, Desk], house: House
) -> None:
    """Nobody approves for 300 s: the order is APPROVAL_TIMEOUT, and no earlier."""
    environment, desk = skipping
    order, handle = await in_review(desk, house)
    await environment.sleep(290)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await environment.sleep(15)
    await house.until(order, "APPROVAL_TIMEOUT")
    async with asyncio.timeout(30):
        while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            await asyncio.sleep(0.05)
    assert (await handle.describe()).status is WorkflowExecutionStatus.FAILED


async def test_an_approval_after_four_minutes_is_in_time(
    skipping: tuple[WorkflowEnvironment, Desk], house: House
) -> None:
    """The review does not eat the budget of 120 s: approved after 240 s, the order completes."""
    environment, desk = skipping
    order, handle = await in_review(desk, house)
    await environment.sleep(240)
    await handle.signal("approve_order")
    await house.until(order, "ORDER_COMPLETED", timeout=60)
