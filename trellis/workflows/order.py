"""An order: receive, validate, review, charge, ship in rounds, complete; or compensate."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import (
    ApplicationError,
    ApplicationErrorCategory,
    ChildWorkflowError,
    FailureError,
)

with workflow.unsafe.imports_passed_through():
    from trellis.errors import BadInput
    from trellis.incoming import Given, is_our_own
    from trellis.messages import (
        ORDER_WORKFLOW,
        SHIPPING_WORKFLOW,
        TASK_TIMEOUT,
        AddressChange,
        Approval,
        Approve,
        Cancel,
        Dispatched,
        DispatchFailure,
        Ending,
        Fence,
        FenceAnswer,
        OrderInput,
        OrderResult,
        ShippingInput,
        Status,
        StepInput,
        Unwind,
        Unwound,
        UpdateAddress,
        Verdict,
    )
    from trellis.model import Order, State, Step, shipping_workflow_id, workflow_id
    from trellis.policies import AtWindowEnd, Policy, WhenParentCloses
    from trellis.rules import Budget, Progress, root_cause

# Not passed through: the sandbox restricts only what it imports itself.
from trellis.workflows.calls import ledger, outside, start_order, uninterrupted
from trellis.workflows.requests import Requests, undecoded

ORDER_STATE = SearchAttributeKey.for_keyword("OrderState")

_PARENT_CLOSE = {
    WhenParentCloses.REQUEST_CANCEL: workflow.ParentClosePolicy.REQUEST_CANCEL,
    WhenParentCloses.ABANDON: workflow.ParentClosePolicy.ABANDON,
    WhenParentCloses.TERMINATE: workflow.ParentClosePolicy.TERMINATE,
}


class OrderFailed(Exception):
    """The business process cannot go on. The order is compensated and ends."""


class ReviewTimedOut(OrderFailed):
    """Nobody approved the order in time."""


class DispatchGaveUp(OrderFailed):
    """Every round of shipping failed."""


FAILURES = (FailureError, OrderFailed)
"""The exceptions that make an order fail. Any other one is a mistake in this code, such as a call that the sandbox
refuses.

A mistake fails the workflow task, and Temporal repeats the task until the code is corrected. If a mistake failed the
order instead, one bad edit would undo every order that runs it.
"""


@workflow.defn(name=ORDER_WORKFLOW)
class OrderWorkflow(Requests):
    """The life of one order.

    `_fulfil` is the business process. `run` starts it, watches the budget and takes cancellations. When the order must
    end early, `run` first raises the fence (it closes the order's row) and then compensates. The process runs in a task
    of its own, so that a cancellation from Temporal reaches `run` alone. The fence decides whether an order can still
    be cancelled.
    """

    @workflow.init
    @undecoded
    def __init__(self, given: Given) -> None:
        super().__init__()
        id_ = workflow.info().workflow_id
        self._unreadable = None
        try:
            self._given = self._read_start(given)
        except BadInput as error:
            self._unreadable = str(error)
            self._given = OrderInput(Order("", ""), Policy())
        self._order = self._given.order
        self._order_id = self._order.order_id
        self._policy = self._given.policy
        # Only an order that was started by hand can have another workflow id. For the others the id is not checked,
        # because a replay may give a history any id.
        by_hand = not self._unreadable and not is_our_own(given)
        self._elsewhere = workflow_id(self._order_id) if by_hand and id_ != workflow_id(self._order_id) else None
        self._progress = Progress()
        self._budget = Budget(self._policy.budget)
        self._step: str | None = Step.RECEIVE
        self._round = 0
        self._approval: Approve | None = None
        self._review_deadline: str | None = None
        self._last_error: str | None = None
        self._reason = ""
        self._received = False
        self._charging = False
        self._timers_changed = False
        # Without it, two requests at the fence at once would both believe that they closed the order.
        self._fence_lock = asyncio.Lock()

    @workflow.run
    @undecoded
    async def run(self, given: Given) -> OrderResult:
        if self._unreadable:
            raise ApplicationError(self._unreadable, type="BadInput", non_retryable=True)
        if self._elsewhere:
            return await self._run_elsewhere(self._elsewhere)
        self._budget.start(self._now())
        work = asyncio.create_task(self._fulfil())
        while not work.done() and self._progress.ending is None:
            try:
                await workflow.wait_condition(
                    lambda: work.done() or self._progress.ending is not None or self._take_timer_change(),
                    timeout=self._budget.left(self._now()),
                )
            except TimeoutError:
                if not await uninterrupted(self._raise_fence(State.FAILED, self._budget_text())):
                    # A dispatch claimed the order first. A claimed order is finished, however long that takes.
                    self._budget.end()
            except asyncio.CancelledError:
                await uninterrupted(self._cancel(Cancel(f"temporal-{workflow.info().run_id}", "cancelled in Temporal")))
        result: OrderResult = await uninterrupted(self._conclude(work))
        await uninterrupted(workflow.wait_condition(workflow.all_handlers_finished))
        if result.state in (State.FAILED, State.APPROVAL_TIMEOUT):
            raise ApplicationError(
                self._reason, type=result.state, non_retryable=True, category=ApplicationErrorCategory.BENIGN
            )
        return result

    async def _run_elsewhere(self, id_: str) -> OrderResult:
        """For an order started by hand under another id. It runs as the child `order-{id}`, where everybody looks for
        it."""
        order = await start_order(self._given, id_)
        self._exists_elsewhere = True
        result = None if order is None else (await asyncio.gather(order, return_exceptions=True))[0]
        await workflow.wait_condition(workflow.all_handlers_finished)
        if result is None:
            why = f"Order {self._order_id} was started before, as workflow {id_}. Choose a new id."
            raise ApplicationError(why, type="OrderConflict", non_retryable=True)
        if isinstance(result, BaseException):
            raise result
        return result

    # --- the business process ------------------------------------------------------------------------------

    async def _fulfil(self) -> str:
        await self._outside(Step.RECEIVE, self._given)
        self._received = True
        await self._outside(Step.VALIDATE)
        self._progress.state = State.AWAITING_APPROVAL
        await self._review()
        await self._charge()
        tracking = await self._ship_in_rounds()
        return await self._arrive(tracking)

    async def _review(self) -> None:
        """Wait for approval, which may have come before the wait begins."""
        if self._approval is None:
            self._step = "review"
            window = self._policy.review_window
            self._review_deadline = (workflow.now() + timedelta(seconds=window)).isoformat()
            self._show(State.AWAITING_APPROVAL)
            if not self._policy.budget_counts_review:
                self._budget.pause(self._now())
                self._timers_changed = True
            try:
                await workflow.wait_condition(lambda: self._approval is not None, timeout=window)
            except TimeoutError:
                self._progress.review_over = True
                if self._policy.at_window_end is AtWindowEnd.TIME_OUT:
                    raise ReviewTimedOut("nobody approved the order in time") from None
                self._approval = Approve("policy", "policy")
            self._review_deadline = None
            if not self._policy.budget_counts_review:
                self._budget.start(self._now())
                self._timers_changed = True
        assert self._approval is not None
        await ledger(Step.APPROVE, Approval(self._order.order_id, self._approval.request_id, self._approval.by))

    async def _charge(self) -> None:
        self._charging = True
        await self._outside(Step.CHARGE)
        self._progress.state = State.PAYMENT_CHARGED

    async def _ship_in_rounds(self) -> str:
        """A new child workflow per round, until one delivers or the policy's dispatch retries are used up."""
        self._show(State.SHIPPING)
        self._step = Step.DISPATCH
        while True:
            self._round += 1
            self._dispatch_error = None
            try:
                dispatched: Dispatched = await workflow.execute_child_workflow(
                    SHIPPING_WORKFLOW,
                    self._round_input(),
                    id=shipping_workflow_id(self._order.order_id, self._round),
                    task_queue=self._given.shipping_queue,
                    result_type=Dispatched,
                    run_timeout=_seconds(self._policy.child_run_timeout),
                    task_timeout=TASK_TIMEOUT,
                    parent_close_policy=_PARENT_CLOSE[self._policy.parent_close],
                    # Do not wait for the child's end: a hung child would delay the refund. The fence decides alone.
                    cancellation_type=workflow.ChildWorkflowCancellationType.TRY_CANCEL,
                    static_summary=f"Round {self._round} of order {self._order.order_id}",
                )
                return dispatched.tracking
            except ChildWorkflowError as failure:
                if self._progress.ending is not None:
                    # The round was cancelled with the order. It did not fail.
                    raise
                reason = self._dispatch_error or root_cause(failure)
                self._last_error = reason
                await ledger("dispatch_failed", DispatchFailure(self._order.order_id, self._round, reason))
                if self._round > self._policy.dispatch_retries:
                    raise DispatchGaveUp(f"dispatch failed {self._round} times, last: {reason}") from None

    async def _arrive(self, tracking: str) -> str:
        """The parcel exists, so the order must complete: from here on without a budget and without a limit of tries."""
        self._progress.shipped = True
        self._progress.state = State.SHIPPING
        self._budget.end()
        self._timers_changed = True
        await self._outside(Step.SHIP)
        self._progress.state = State.SHIPPED
        self._step = Step.COMPLETE
        await ledger("finish", Ending(self._order.order_id, State.COMPLETED))
        return tracking

    # --- ending early --------------------------------------------------------------------------------------

    async def _conclude(self, work: asyncio.Task[str]) -> OrderResult:
        """End the order: complete it, or compensate it and close it."""
        tracking: str | None = None
        if self._progress.ending is None:
            try:
                tracking = await work
            except FAILURES as failure:
                state = State.APPROVAL_TIMEOUT if isinstance(failure, ReviewTimedOut) else State.FAILED
                reason = root_cause(failure)
                if not await self._raise_fence(state, reason):
                    tracking = await self._forward_or_release(state, reason)
        else:
            # One turn of the loop, so that `work` takes an answer that came in this same workflow task. After the
            # cancel it would be lost.
            await asyncio.sleep(0)
            work.cancel()
            (mistake,) = await asyncio.gather(work, return_exceptions=True)
            if isinstance(mistake, Exception) and not isinstance(mistake, FAILURES):
                raise mistake
        ending = self._progress.ending
        if ending is not None:
            if self._charging and tracking is None:
                await self._unwind(ending, claimed=False)
            self._step = Step.CANCEL if ending is State.CANCELLED else Step.FAIL
            await ledger("finish", Ending(self._order.order_id, ending, self._reason))
        self._progress.state = ending or State.COMPLETED
        self._step = None
        self._show(self._progress.state)
        return OrderResult(self._order.order_id, self._progress.state, tracking)

    async def _raise_fence(self, ending: State, reason: str, request_id: str = "") -> bool:
        """Close the order's row to any later claim. False: a dispatch has claimed it already."""
        async with self._fence_lock:
            if self._progress.ending is not None:
                # Another request closed it while this one waited. The caller sees from `ending` how.
                return True
            answer: FenceAnswer = await ledger("fence", Fence(self._given, request_id, ending, reason), FenceAnswer)
            if answer.closed:
                # A workflow task that was lost may have closed it already, for another reason. The ledger's answer
                # counts.
                self._progress.ending = State(answer.ending or ending)
                self._reason = answer.reason or reason
                if self._progress.ending is not State.CANCELLED:
                    self._last_error = self._reason
            return answer.closed

    async def _forward_or_release(self, ending: State, reason: str) -> str | None:
        """A dispatch claimed the order and then failed: ask the carrier. If a parcel exists, the order completes."""
        self._reason = reason
        self._last_error = reason
        # Hold the lock throughout. Otherwise a cancel could be accepted at the fence after the claim was given back,
        # and the order would end in another way than the cancel's verdict said.
        async with self._fence_lock:
            unwound = await self._unwind(ending, claimed=True)
            if unwound.tracking is None:
                self._charging = False
                self._progress.ending = ending
                return None
        return await self._arrive(unwound.tracking)

    async def _unwind(self, ending: State, *, claimed: bool) -> Unwound:
        """Compensations retry without limit and outside the budget."""
        self._step = Step.REFUND
        retry = self._policy.retry_of(Step.REFUND)
        given = Unwind(self._order, retry, self._reason, claimed, self._round, ending)
        unwound: Unwound = await outside(Step.REFUND, given, retry, Unwound)
        return unwound

    # --- what people ask for (the handlers are in `Requests`) ------------------------------------------------

    async def _approve(self, request: Approve) -> Verdict:
        why = self._progress.refuse_approve()
        if why:
            return await self._refused("approve", request.request_id, why)
        if self._approval is None:
            self._approval = request
            return Verdict(True)
        return Verdict(True, "it was approved already")

    async def _cancel(self, request: Cancel) -> Verdict:
        why = self._progress.refuse_cancel()
        if why:
            return await self._refused("cancel", request.request_id, why)
        reason = request.reason or "cancelled on request"
        closed = await self._raise_fence(State.CANCELLED, reason, request.request_id)
        if not closed:
            return Verdict(False, "the carrier already has the parcel")
        if self._progress.ending is not State.CANCELLED:
            return await self._refused("cancel", request.request_id, f"the order is ending as {self._progress.ending}")
        return Verdict(True)

    async def _change_address(self, request: UpdateAddress) -> Verdict:
        # Before the row exists there is no address to change. The request waits for the row, at most until the budget
        # ends.
        await workflow.wait_condition(lambda: self._received or self._progress.ending is not None)
        why = self._progress.refuse_address(request.address)
        if why:
            return await self._refused("update_address", request.request_id, why)
        verdict: Verdict = await ledger(
            Step.UPDATE_ADDRESS, AddressChange(self._order.order_id, request.request_id, request.address), Verdict
        )
        return verdict

    @workflow.query
    def status(self) -> Status:
        may = self._progress.permissions(self._step)
        return Status(
            self._order.order_id,
            self._progress.state,
            self._step,
            self._review_deadline,
            self._last_error,
            can_cancel=may.cancel,
            can_update_address=may.update_address,
        )

    # --- helpers -------------------------------------------------------------------------------------------

    async def _outside(self, step: Step, given: object = None) -> None:
        self._step = step
        retry = self._policy.retry_of(step)
        await outside(step, given or StepInput(self._order, retry), retry)

    def _round_input(self) -> ShippingInput:
        policy, me = self._policy, workflow.info().workflow_id
        return ShippingInput(self._order, self._round, policy.retry, me, policy.steps)

    def _take_timer_change(self) -> bool:
        changed, self._timers_changed = self._timers_changed, False
        return changed

    def _show(self, state: State) -> None:
        """Show the order's state in Temporal's UI and in its lists."""
        workflow.set_current_details(f"**{state}**" + (f": {self._last_error}" if self._last_error else ""))
        if self._given.search_attributes:
            workflow.upsert_search_attributes([ORDER_STATE.value_set(state)])

    def _budget_text(self) -> str:
        return f"the budget of {self._policy.budget:g} s was used up during {self._step}"

    def _now(self) -> float:
        return workflow.now().timestamp()


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)
