"""What people may ask of an order: approve, cancel and update_address, as signals and as updates; and its status."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError

with workflow.unsafe.imports_passed_through():
    from trellis.errors import BadInput
    from trellis.incoming import (
        APPROVE,
        CANCEL,
        KINDS,
        UPDATE_ADDRESS,
        Given,
        NotOne,
        Request,
        read_request,
        read_request_as_before,
        read_start,
        read_start_as_before,
        read_text,
    )
    from trellis.messages import Approve, Cancel, OrderInput, Refusal, UpdateAddress, Verdict
    from trellis.rules import Progress

# Not passed through: the sandbox restricts only what it imports itself.
from trellis.workflows.calls import ledger

T = TypeVar("T")

READ_BY_HAND = "requests-sent-by-hand"
"""The patch for today's way of reading requests. Older histories hold requests that were dropped when they came."""


def undecoded(handler: Callable[[Any, Given], T]) -> Callable[..., T]:
    """Give `handler` the arguments as they were sent, however many there are. The handler reads them itself.

    The SDK decodes arguments by the handler's signature. It drops a signal that it cannot decode, and a handler that
    is called with too few or too many arguments fails the workflow task, again and again.
    """

    def read(self: Any, *arguments: Any) -> T:
        one = [argument.payload for argument in arguments] if len(arguments) < 2 else NotOne(len(arguments))
        return handler(self, one)

    async def read_async(self: Any, *arguments: Any) -> Any:
        awaited: Any = read(self, *arguments)
        return await awaited

    wrapper: Any = functools.wraps(handler)(read_async if inspect.iscoroutinefunction(handler) else read)
    # The SDK looks at these: at most one argument, and it is not decoded.
    wrapper.__annotations__ = {"given": RawValue, "return": handler.__annotations__["return"]}
    wrapper.__signature__ = _ONE_ARGUMENT
    return wrapper  # type: ignore[no-any-return]


_ONE_ARGUMENT = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("given", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=RawValue),
    ]
)


class Requests:
    """The handlers of an order's requests. The order workflow decides what a request does to the order.

    Each request is handled once, however often it comes, as a signal or as an update. A signal that cannot be read, or
    that comes too late, is refused in the ledger. Such an update is rejected by its validator and leaves nothing in the
    history.
    """

    _order_id: str
    _progress: Progress
    _unreadable: str | None
    _elsewhere: str | None

    def __init__(self) -> None:
        self._exists_elsewhere = False
        self._handling: dict[str, asyncio.Future[Verdict]] = {}
        self._dispatch_error: str | None = None

    @workflow.update(name="approve")
    @undecoded
    async def approve_update(self, given: Given) -> Verdict:
        return await self._once(APPROVE, self._read(APPROVE, given))

    @approve_update.validator
    @undecoded
    def _check_approve(self, given: Given) -> None:
        self._check(APPROVE, given, lambda _: self._progress.refuse_approve())

    @workflow.signal(name="approve")
    @undecoded
    async def approve_signal(self, given: Given) -> None:
        await self._hear("approve", given)

    @workflow.signal
    @undecoded
    async def approve_order(self, given: Given) -> None:
        await self._hear("approve_order", given)

    @workflow.update(name="cancel")
    @undecoded
    async def cancel_update(self, given: Given) -> Verdict:
        return await self._once(CANCEL, self._read(CANCEL, given))

    @cancel_update.validator
    @undecoded
    def _check_cancel(self, given: Given) -> None:
        self._check(CANCEL, given, lambda _: self._progress.refuse_cancel())

    @workflow.signal(name="cancel")
    @undecoded
    async def cancel_signal(self, given: Given) -> None:
        await self._hear("cancel", given)

    @workflow.signal
    @undecoded
    async def cancel_order(self, given: Given) -> None:
        await self._hear("cancel_order", given)

    @workflow.update(name="update_address")
    @undecoded
    async def address_update(self, given: Given) -> Verdict:
        return await self._once(UPDATE_ADDRESS, self._read(UPDATE_ADDRESS, given))

    @address_update.validator
    @undecoded
    def _check_address(self, given: Given) -> None:
        self._check(UPDATE_ADDRESS, given, lambda request: self._progress.refuse_address(request.address))

    @workflow.signal(name="update_address")
    @undecoded
    async def address_signal(self, given: Given) -> None:
        await self._hear("update_address", given)

    @workflow.signal
    @undecoded
    async def dispatch_failed(self, given: Given) -> None:
        """Sent by the child. It only adds the reason: the round is counted when the child closes."""
        try:
            self._dispatch_error = read_text(given)
        except BadInput as unreadable:
            await self._refuse_unread("dispatch_failed", str(unreadable))

    @workflow.signal(dynamic=True)
    async def other_signal(self, name: str, given: Sequence[RawValue]) -> None:
        """A signal with an unknown name, such as a misspelt one."""
        known = ", ".join(sorted(KINDS))
        await self._refuse_unread(name[:40], f"There is no signal {name[:40]!r}. Known are {known}.")

    # --- how they are handled --------------------------------------------------------------------------------

    async def _hear(self, signal: str, given: Given) -> None:
        if self._unreadable:
            # The start itself could not be read. There is no order, and the workflow fails in this same task.
            return
        kind = KINDS[signal]
        try:
            request = self._read(kind, given)
        except BadInput as unreadable:
            await self._refuse_unread(kind, str(unreadable))
            return
        if request is None:
            workflow.logger.warning("a signal that an earlier version could not read stays without effect")
        elif self._elsewhere:
            await self._pass_on(self._elsewhere, kind, request)
        else:
            await self._once(kind, request)

    async def _pass_on(self, id_: str, kind: str, request: Request) -> None:
        """Send a signal on to the workflow that the order runs as; it is refused where that one has ended."""
        # A signal to a workflow that is not there yet is lost, and its failure would fail this workflow.
        await workflow.wait_condition(lambda: self._exists_elsewhere)
        try:
            await workflow.get_external_workflow_handle(id_).signal(kind, request)
        except FailureError:
            await self._refused(kind, request.request_id or str(workflow.uuid4()), f"workflow {id_} has ended")

    def _check(self, kind: str, given: Given, why_not: Callable[[Any], str | None]) -> None:
        """Refuse an update that cannot be read, or that comes too late. It leaves nothing in the history."""
        try:
            request = read_request(kind, given)
            why = self._unreadable or why_not(request)
        except BadInput as unreadable:
            raise _refused(str(unreadable)) from None
        if self._elsewhere:
            raise _refused(f"The order runs as workflow {self._elsewhere}: send updates to that one.")
        # A request that comes again gets the verdict of the first time, whatever happened since.
        if why and request.request_id not in self._handling:
            raise _refused(why)

    def _read_start(self, given: Given) -> OrderInput:
        """The start as it reads today, unless an earlier version ran this history with another reading. See `_read`."""
        before = read_start_as_before(given)
        try:
            today, unreadable = read_start(given, workflow.info().workflow_id), None
        except BadInput as error:
            today, unreadable = None, error
        if before is not None and today != before and not workflow.patched(READ_BY_HAND):
            return before
        if today is None:
            raise unreadable or BadInput("The input cannot be read.")
        return today

    def _read(self, kind: str, given: Given) -> Request | None:
        """The request as today's code reads it; None for one that an earlier version dropped. Raises BadInput.

        The history of an earlier version replays as that version read its requests. The patch marks histories of this
        version, and only where the two versions read a request differently. Both read the desk's requests alike.
        """
        before = read_request_as_before(kind, given)
        try:
            today, unreadable = read_request(kind, given), None
        except BadInput as error:
            today, unreadable = None, error
        if today == before and unreadable is None:
            return today
        if not workflow.patched(READ_BY_HAND):
            return before
        if unreadable is not None:
            raise unreadable
        return today

    async def _once(self, kind: str, request: Request | None) -> Verdict:
        """Handle each request id once. A request that comes again, as a signal or an update, gets the first verdict."""
        if request is None:
            # The validator rejects such an update before it comes here.
            raise ApplicationError("The request cannot be read.", type="BadInput")
        if not request.request_id:
            # Sent by hand without an id; a refusal of it still needs one.
            request = replace(request, request_id=str(workflow.uuid4()))
        if request.request_id not in self._handling:
            self._handling[request.request_id] = asyncio.ensure_future(self._answer(kind, request))
        return await asyncio.shield(self._handling[request.request_id])

    def _answer(self, kind: str, request: Any) -> Awaitable[Verdict]:
        if kind == APPROVE:
            return self._approve(request)
        if kind == CANCEL:
            return self._cancel(request)
        return self._change_address(request)

    async def _approve(self, request: Approve) -> Verdict:
        raise NotImplementedError

    async def _cancel(self, request: Cancel) -> Verdict:
        raise NotImplementedError

    async def _change_address(self, request: UpdateAddress) -> Verdict:
        raise NotImplementedError

    async def _refuse_unread(self, name: str, why: str) -> None:
        if not self._unreadable and workflow.patched(READ_BY_HAND):
            await self._refused(name, str(workflow.uuid4()), why)

    async def _refused(self, name: str, request_id: str, reason: str) -> Verdict:
        """Write a refusal down."""
        await ledger("refuse", Refusal(self._order_id, request_id, name, reason))
        return Verdict(False, reason)


def _refused(why: str) -> ApplicationError:
    return ApplicationError(why, type="Refused", category=ApplicationErrorCategory.BENIGN)
