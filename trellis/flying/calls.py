"""What a person says to somebody's workflows: start, signal, update and query.

Every failure becomes one sentence. Nothing here knows a type of the user's: arguments are values, and results are what
the client's data converter makes of them without a hint.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import BadInput, RequestRefused, TemporalUnavailable, TrellisError

SOON = 5.0
"""How long a person waits for an answer that needs a worker [s]."""

LAST = 60.0
"""How long an update without an answer is followed [s]."""

_SHOWN = 4000
"""So many characters of a result are shown."""

_LATE = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


@dataclass(frozen=True)
class Target:
    """A workflow that is spoken to. `run_id` None: its last run."""

    client: Client
    workflow_id: str
    run_id: str | None = None

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(self.workflow_id, run_id=self.run_id)


def new_id(type_: str) -> str:
    """A new workflow id that begins with its type."""
    return f"{type_.lower()}-{uuid.uuid4().hex[:8]}"


async def encodable(client: Client, args: Sequence[Any], hints: Sequence[type] | None = None) -> None:
    """Check that the client's data converter can encode the arguments, and decode them again as `hints`.

    A workflow whose arguments cannot be decoded fails its first task for ever. Raises BadInput.
    """
    try:
        payloads = await client.data_converter.encode(list(args))
    except Exception as error:
        raise BadInput(f"The data converter cannot encode the arguments ({in_words(error)}).") from None
    if hints is None:
        return
    try:
        await client.data_converter.decode(payloads, list(hints)[: len(args)])
    except Exception as error:
        raise BadInput(f"The workflow could not read these arguments ({in_words(error)}).") from None


async def start(client: Client, type_: str, args: Sequence[Any], id_: str, queue: str) -> str:
    """Start a workflow and return its run's id. Raises BadInput for arguments that cannot be encoded; TrellisError."""
    await encodable(client, args)
    try:
        handle = await client.start_workflow(
            type_, args=list(args), id=id_, task_queue=queue, rpc_timeout=timedelta(seconds=SOON)
        )
    except WorkflowAlreadyStartedError:
        raise RequestRefused(f"A workflow with the id {id_} runs or has run. Choose another id.") from None
    except RPCError as error:
        raise _unreached(f"Start of {type_} {id_}", error, worker=False) from None
    return handle.first_execution_run_id or handle.result_run_id or ""


async def result(target: Target) -> Any:
    """The result of a workflow, once it has ended. Raises TrellisError with its failure in words."""
    try:
        return await target.handle.result()
    except WorkflowFailureError as failed:
        raise TrellisError(f"{target.workflow_id} has no result: {in_words(failed.cause)}.") from None
    except RPCError as error:
        raise _unreached(f"{target.workflow_id} has no result", error) from None


async def signal(target: Target, name: str, args: Sequence[Any]) -> None:
    """Send a signal. Raises BadInput, TrellisError."""
    await encodable(target.client, args)
    try:
        await target.handle.signal(name, args=list(args), rpc_timeout=timedelta(seconds=SOON))
    except RPCError as error:
        raise _unreached(f"Signal {name}", error, worker=False) from None


async def query(target: Target, name: str, args: Sequence[Any]) -> Any:
    """Ask a query. Raises BadInput, RequestRefused with the workflow's reason, TemporalUnavailable, TrellisError."""
    await encodable(target.client, args)
    try:
        return await target.handle.query(name, args=list(args), rpc_timeout=timedelta(seconds=SOON))
    except (WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
        raise RequestRefused(f"Query {name}: {in_words(error)}.") from None
    except RPCError as error:
        raise _unreached(f"Query {name}", error) from None


class Update:
    """One update, from its request to its end. `accepted` and `result` may be awaited again after they were late."""

    def __init__(self, target: Target, name: str, args: Sequence[Any]) -> None:
        self.name = name
        self._target = target
        self._args = list(args)
        self._id = uuid.uuid4().hex
        self._running = asyncio.create_task(self._run())

    async def outcome(self, seconds: float) -> Any:
        """The update's result. Raises TimeoutError after so many seconds; the update goes on, and can be asked again.

        Raises BadInput; RequestRefused: its validator or its handler refused it; TrellisError.
        """
        done, _ = await asyncio.wait({self._running}, timeout=seconds)
        if not done:
            raise TimeoutError
        return self._running.result()

    def drop(self) -> None:
        """Wait no longer. The workflow may still accept the update."""
        self._running.cancel()

    async def _run(self) -> Any:
        await encodable(self._target.client, self._args)
        handle: WorkflowUpdateHandle[Any]
        try:
            handle = await self._target.handle.start_update(
                self.name, args=self._args, id=self._id, wait_for_stage=WorkflowUpdateStage.ACCEPTED
            )
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            raise TemporalUnavailable(f"Update {self.name} got no answer: no worker took it.") from None
        except RPCError as error:
            raise _unreached(f"Update {self.name}", error) from None
        try:
            return await handle.result()
        except WorkflowUpdateFailedError as failed:
            # The server does not tell whether the validator or the handler raised it.
            raise RequestRefused(f"{self.name} was refused: {in_words(failed.cause)}.") from None
        except RPCError as error:
            raise _unreached(f"Update {self.name}", error) from None


def _unreached(what: str, error: RPCError, *, worker: bool = True) -> TrellisError:
    """`worker`: whether a worker must answer. The server alone takes a start and a signal."""
    if error.status in _LATE and not worker:
        return TemporalUnavailable(f"{what}: Temporal did not answer in time. It may have taken it all the same.")
    if error.status in _LATE:
        return TemporalUnavailable(f"{what}: no worker answered in time. Does one poll the workflow's queue?")
    if error.status is RPCStatusCode.UNAVAILABLE:
        return TemporalUnavailable(f"{what}: Temporal does not answer.")
    return TrellisError(f"{what}: {' '.join(error.message.split()).rstrip('.')}.")


def in_words(error: BaseException | None) -> str:
    """An error by its root cause, without a full stop: its type where it has one, and its message."""
    if error is None:
        return "no reason was given"
    # A child's failure has an activity's failure as its cause, which has the application's.
    for _ in range(20):
        if error.__cause__ is None:
            break
        error = error.__cause__
    kind = getattr(error, "type", None)
    message = " ".join(str(getattr(error, "message", None) or error).split())
    if isinstance(kind, str) and kind and kind != "ApplicationError" and not message.startswith(kind):
        message = f"{kind}: {message}"
    return (message or type(error).__name__).rstrip(".")[:500]


def as_text(value: Any) -> str:
    """A result as JSON over several lines, shortened."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
