"""One round of shipping: prepare the package, hand it to the carrier."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # The payload converter looks up the types of ShippingInput's fields among the modules that the sandbox has
    # imported: without this line it could not read the input.
    import trellis.policies  # noqa: F401
    from trellis.messages import SHIPPING_WORKFLOW, Dispatched, ShippingInput, StepInput
    from trellis.model import Step
    from trellis.rules import root_cause

# Not passed through: the sandbox restricts only what it imports itself.
from trellis.workflows.calls import outside


@workflow.defn(name=SHIPPING_WORKFLOW)
class ShippingWorkflow:
    """Prepares and dispatches once. On failure it sends its parent the reason, and fails.

    The parent counts a round when this workflow closes. The signal only adds the reason. So a child that was terminated
    or timed out is counted too, although it could not send a signal.
    """

    @workflow.run
    async def run(self, given: ShippingInput) -> Dispatched:
        prepare, dispatch = (
            StepInput(given.order, given.retry_of(step), given.round) for step in (Step.PREPARE, Step.DISPATCH)
        )
        try:
            await outside(Step.PREPARE, prepare, prepare.retry)
            dispatched: Dispatched = await outside(Step.DISPATCH, dispatch, dispatch.retry, Dispatched)
            return dispatched
        except FailureError as failure:
            if not is_cancelled_exception(failure):
                parent = workflow.get_external_workflow_handle(given.parent_workflow_id)
                await parent.signal("dispatch_failed", root_cause(failure))
            raise
