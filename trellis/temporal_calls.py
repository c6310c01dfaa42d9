"""Calls to Temporal's client API that desk, audit and reconcile share, and Temporal's errors in our own words."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import TemporalUnavailable

CALL_TIMEOUT = timedelta(seconds=5)
"""How long a call to Temporal may take, the SDK's own retries included, before Temporal counts as unavailable."""


def unavailable(error: RPCError) -> TemporalUnavailable:
    """Temporal's error in one sentence."""
    return TemporalUnavailable(f"Temporal does not answer ({' '.join(error.message.split())[:200]}).")


async def describe(client: Client, id_: str) -> WorkflowExecutionDescription | None:
    """What Temporal knows of a workflow; None where it knows no such id. Raises TemporalUnavailable."""
    try:
        return await client.get_workflow_handle(id_).describe(rpc_timeout=CALL_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise unavailable(error) from None


async def fetch_history(client: Client, id_: str, run_id: str | None) -> WorkflowHistory | None:
    """The history of one run; None where Temporal has deleted it. Raises TemporalUnavailable."""
    try:
        return await client.get_workflow_handle(id_, run_id=run_id).fetch_history()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise unavailable(error) from None
