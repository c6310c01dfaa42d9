"""What the essays in `notebooks/` show: one order in its three places, and requests that come at every moment."""

from __future__ import annotations

import asyncio
import html
import inspect
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML, Code

from trellis.activities.ledger_only import LedgerActivities
from trellis.activities.steps import OutsideActivities
from trellis.desk import Desk
from trellis.errors import BadInput, RequestRefused
from trellis.insight import download
from trellis.lab.session import Session
from trellis.model import Step, workflow_id
from trellis.parsing import parse_order
from trellis.policies import Policy, preset

ITEMS = [{"sku": "book", "quantity": 2, "price": "12.50"}]


def side_by_side(session: Session, order_id: str) -> pd.DataFrame:
    """The life of one order as our ledger and as Temporal's histories tell it, in the order of time.

    Columns: seconds [s since the order's first entry], ledger, history [string, empty where the other one speaks].
    Raises OrderNotFound.
    """
    frame = _entries(session, order_id)
    at = pd.to_datetime(frame.pop("at"), utc=True)
    frame.insert(0, "seconds", (at - at.min()).dt.total_seconds().round(3))
    return frame.drop(columns="step")


def _entries(session: Session, order_id: str) -> pd.DataFrame:
    """Columns: at [UTC], step [empty where it belongs to none], ledger, history; in the order of time."""
    rows: list[tuple[Any, str, str, str]] = []
    for event in session.do(session.desk.events(order_id)):
        attempt = f", attempt {event['attempt']}" if event["attempt"] is not None else ""
        step = event["step"] or _WITH.get(event["type"], "")
        rows.append((pd.Timestamp(event["ts"]).tz_convert("UTC"), step, f"{event['type']}{attempt}", ""))
    query = f'WorkflowId = "{workflow_id(order_id)}" OR WorkflowId STARTS_WITH "shipping-{order_id}-"'
    found = session.do(download(session.desk.client, query))
    # The runs themselves span all the rest; they have no moment of their own.
    for entry in found[found["kind"] != "workflow"].to_dict("records"):
        attempt = f", attempt {entry['attempt']}" if entry["kind"] == "activity" else ""
        when = next(at for at in (entry["ended_at"], entry["started_at"], entry["scheduled_at"]) if not pd.isna(at))
        step = {"finish": "complete"}.get(entry["name"], entry["name"])
        rows.append((when, step, "", f"{entry['kind']} {entry['name']}{attempt}: {entry['outcome']}"))
    frame = pd.DataFrame(rows, columns=["at", "step", "ledger", "history"])
    return frame.sort_values("at", kind="stable", ignore_index=True)


_WITH = {"AWAITING_APPROVAL": "validate", "SHIPPING_STARTED": "prepare", "APPROVAL_TIMEOUT": "fail"}
"""Events that the record of another step brings about."""


def step_by_step(session: Session, order_id: str) -> HTML:
    """A table with one line for each step of an order: its events, its entries in the histories, and its code.

    Raises OrderNotFound.
    """
    entries = _entries(session, order_id)
    style = "text-align: left; vertical-align: top"
    heads = "".join(f'<th style="{style}">{name}</th>' for name in ("step", "ledger", "history", "code"))
    lines = [f"<tr>{heads}</tr>"]
    for step in dict.fromkeys(entries.loc[entries["ledger"] != "", "step"]):
        if step not in set(Step):
            continue
        found = _activity(step)
        of_step = entries[entries["step"] == step]
        cells = [f"<b>{step}</b>"]
        cells += ["<br>".join(html.escape(line) for line in of_step[book] if line) for book in ("ledger", "history")]
        says = inspect.getdoc(found) or f"{found.__qualname__}, one round trip to Postgres"
        code = f"<pre style='white-space: pre-wrap'>{html.escape(inspect.cleandoc(inspect.getsource(found)))}</pre>"
        cells = [f'<td style="{style}; white-space: nowrap">{cell}</td>' for cell in cells]
        summary = f"<summary>{html.escape(says.splitlines()[0])}</summary>"
        cells.append(f'<td style="{style}"><details>{summary}{code}</details></td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return HTML(f"<table>{''.join(lines)}</table>")  # type: ignore[no-untyped-call]


def code_of(step: str) -> Code:
    """The activity of a step, as it runs. Raises BadInput for a step that nobody knows."""
    source = inspect.cleandoc(inspect.getsource(_activity(step)))
    return Code(source, language="python")  # type: ignore[no-untyped-call]


def _activity(step: str) -> Callable[..., Any]:
    name = "finish" if step in (Step.COMPLETE, Step.CANCEL, Step.FAIL) else step
    for holder in (OutsideActivities, LedgerActivities):
        found: Callable[..., Any] | None = getattr(holder, name, None)
        if found is not None:
            return found
    raise BadInput(f"There is no step {step!r}. Known are {', '.join(Step)}.")


def code_of_class(found: type) -> Code:
    """The source of a class, coloured."""
    return Code(inspect.getsource(found), language="python")  # type: ignore[no-untyped-call]


async def race(
    session: Session,
    request: str,
    delays: Sequence[float],
    *,
    approved: bool = True,
    policy: str | Policy = "swift",
) -> pd.DataFrame:
    """One order for each delay, all at once; `request` is sent to it that long after its start.

    `request`: approve, cancel or update_address. With `approved` each order is approved as it starts.
    Columns: sent_after [s], verdict [accepted, refused; pending: no worker judged it within a second], reason,
    state [as it ended], payment, address [where the parcel went, or would have gone]. Raises BadInput.
    """
    if request not in ("approve", "cancel", "update_address"):
        raise BadInput(f"There is no request {request!r}. Known are approve, cancel and update_address.")
    chosen = preset(policy) if isinstance(policy, str) else policy
    return await session.awaiting(_race(session.desk, request, delays, approved, chosen))


async def _race(desk: Desk, request: str, delays: Sequence[float], approved: bool, policy: Policy) -> pd.DataFrame:
    async def one(delay: float) -> dict[str, Any]:
        id_ = f"race-{request.replace('_', '-')}-{uuid.uuid4().hex[:8]}-{delay:.2f}"
        await desk.start(parse_order(id_, f"pay-{id_}", ITEMS, {"line1": "1 Main Street"}), policy)
        if approved:
            await desk.approve(id_)
        await asyncio.sleep(delay)
        try:
            if request == "approve":
                receipt = await desk.approve(id_)
            elif request == "cancel":
                receipt = await desk.cancel(id_, "a race")
            else:
                receipt = await desk.update_address(id_, {"line1": "2 New Road"})
            verdict, reason = receipt.verdict, receipt.reason
        except RequestRefused as refused:
            verdict, reason = "refused", str(refused).split(": ", 1)[-1]
        end = await desk.wait(id_)
        return {
            "sent_after": delay,
            "verdict": verdict,
            "reason": reason,
            "state": str(end.state),
            "payment": end.payment.status if end.payment else None,
            "address": (end.address or {}).get("line1"),
        }

    return pd.DataFrame(await asyncio.gather(*(one(delay) for delay in delays)))
