"""Record the histories that test_replay replays: one of each way that an order can go.

Not renewed: `signals_dropped`. The first version recorded it; it dropped signals that are understood today.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from temporalio.service import RPCError

from trellis import config
from trellis.bench.bench_stack import BenchStack, bench_stack
from trellis.driving import sample_order
from trellis.faults import FaultPlan
from trellis.messages import ORDER_WORKFLOW
from trellis.model import shipping_workflow_id, workflow_id
from trellis.policies import Policy, preset, tuned

FOLDER = Path(__file__).parent / "histories"
QUICK = tuned(preset("swift"), max_tries=2)

Act = Callable[[BenchStack, str], Awaitable[object]]


async def approve(bench: BenchStack, order_id: str) -> None:
    await bench.desk.approve(order_id)


async def approve_then_cancel(bench: BenchStack, order_id: str) -> None:
    await bench.desk.approve(order_id)
    await asyncio.sleep(1)
    await bench.desk.cancel(order_id, "recorded")


async def change_then_approve(bench: BenchStack, order_id: str) -> None:
    await asyncio.sleep(0.5)
    await bench.desk.update_address(order_id, {"line1": "2 New Road"})
    await bench.desk.approve(order_id)


async def cancel_in_temporal(bench: BenchStack, order_id: str) -> None:
    await asyncio.sleep(0.5)
    await bench.desk.client.get_workflow_handle(workflow_id(order_id)).cancel()


async def nothing(bench: BenchStack, order_id: str) -> None: ...


async def by_hand(bench: BenchStack, order_id: str) -> None:
    """Requests as people type them into Temporal's UI, among them some that cannot be understood."""
    await asyncio.sleep(0.5)
    handle = bench.desk.client.get_workflow_handle(workflow_id(order_id))
    await handle.signal("cancel", ["no", "reason"])
    await handle.signal("aprove")
    await handle.signal("update_address", {"street": "2 New Road"})
    # Both in one workflow task are handled in an order that Python 3.11 and 3.12 do not share.
    await asyncio.sleep(0.5)
    await handle.execute_update("approve", "Ada")


async def cancel_elsewhere(bench: BenchStack, order_id: str) -> None:
    await asyncio.sleep(0.5)
    await bench.desk.client.get_workflow_handle(order_id).signal("cancel_order", "changed my mind")


BY_HAND: dict[str, Act] = {"order-sent-by-hand": by_hand, "started-elsewhere": cancel_elsewhere}
"""Orders started without the desk, under these workflow ids. Such a start reads its id, so the file is named by it."""

CASES: dict[str, tuple[str, Policy, Act]] = {
    "calm": ("calm", preset("swift"), approve),
    "cancelled_after_charge": ("prepare: hang*", preset("swift"), approve_then_cancel),
    "cancelled_in_temporal": ("calm", preset("swift"), cancel_in_temporal),
    "address_changed": ("calm", preset("swift"), change_then_approve),
    "dispatch_retried": ("dispatch: error* | ok", QUICK, approve),
    "dispatch_gave_up": ("dispatch: error*", QUICK, approve),
    "parcel_found": ("dispatch: reply-lost*", QUICK, approve),
    "approval_timed_out": ("calm", tuned(preset("swift"), review_window=1.0), nothing),
    "approved_by_policy": ("calm", tuned(preset("compact"), review_window=1.0), nothing),
    "budget_used_up": ("charge: hang*", tuned(preset("swift"), budget=2.0), approve),
    "server_retries": ("receive: error, ok; charge: hang, ok", tuned(preset("compact"), budget=60), approve),
}


def without_traces(value: Any) -> Any:
    """Stack traces name the paths of the machine that recorded them, and replay does not read them."""
    if isinstance(value, dict):
        return {key: without_traces(entry) for key, entry in value.items() if key != "stackTrace"}
    return [without_traces(entry) for entry in value] if isinstance(value, list) else value


async def keep(bench: BenchStack, id_: str, file: str) -> None:
    try:
        history = await bench.desk.client.get_workflow_handle(id_).fetch_history()
    except RPCError:
        # An order that never shipped has no child.
        return
    text = json.dumps(without_traces(json.loads(history.to_json())), indent=1)
    (FOLDER / f"{file}.json").write_text(text + "\n", "utf-8")


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    async with bench_stack(config.load({}, None)) as bench:
        for name, (plan, policy, act) in CASES.items():
            await bench.set_faults(FaultPlan.parse(plan))
            order = sample_order(name.replace("_", "-"))
            await bench.desk.start(order, policy)
            await act(bench, order.order_id)
            await bench.desk.wait(order.order_id, 60)
            await keep(bench, workflow_id(order.order_id), name)
            await keep(bench, shipping_workflow_id(order.order_id, 1), f"{name}.shipping")
            print(name)
        await bench.set_faults(FaultPlan.calm())
        for id_, act in BY_HAND.items():
            order_id = id_.removeprefix("order-")
            start = {"payment_id": order_id, "items": [{"name": "book", "qty": 1, "price": 12.5}]}
            handle = await bench.desk.client.start_workflow(
                ORDER_WORKFLOW, start, id=id_, task_queue=bench.desk.settings.orders_queue
            )
            await act(bench, order_id)
            await handle.result()
            await keep(bench, id_, id_)
            print(id_)


if __name__ == "__main__":
    asyncio.run(main())
