"""`trellis order`: start, steer and inspect single orders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from trellis.cli.arguments import Changes, OrderId, Preset, read_json, read_policy
from trellis.cli.common import Json, open_desk, out, read_settings, show
from trellis.cli.printing import print_event, when
from trellis.parsing import parse_order

if TYPE_CHECKING:
    from trellis.desk import Desk

commands = typer.Typer(no_args_is_help=True, help="Start, steer and inspect single orders.")


@commands.command("start")
def order_start(
    order_id: OrderId,
    payment_id: Annotated[str, typer.Option(help="The payment's id; it belongs to one order for ever.")],
    items: Annotated[str, typer.Option(help="JSON list of {sku, quantity, price}.")] = "[]",
    address: Annotated[str | None, typer.Option(help="JSON object with line1, city, ...")] = None,
    policy: Preset = None,
    change: Changes = "{}",
    as_json: Json = False,
) -> None:
    """Start an order; the same order again returns the same run."""
    settings = read_settings()
    order = parse_order(order_id, payment_id, read_json(items, "items"), read_json(address, "address"))
    chosen = read_policy(policy, change, settings.policy)

    async def work() -> dict[str, Any]:
        async with open_desk(settings) as desk:
            return asdict(await desk.start(order, chosen))

    result = asyncio.run(work())
    text = "Started" if result["created"] else "It was started before:"
    show(result, as_json, lambda: out.print(f"{text} {result['workflow_id']}, run {result['run_id']}."))


def _request(order_id: str, ask: Callable[[Desk], Coroutine[Any, Any, Any]], as_json: bool) -> None:
    settings = read_settings()

    async def work() -> dict[str, Any]:
        async with open_desk(settings) as desk:
            return asdict(await ask(desk))

    result = asyncio.run(work())
    note = f" ({result['reason']})" if result["reason"] else ""
    show(result, as_json, lambda: out.print(f"{order_id}: {result['verdict']}{note}."))


@commands.command("approve")
def order_approve(order_id: OrderId, as_json: Json = False) -> None:
    """End the review."""
    _request(order_id, lambda desk: desk.approve(order_id), as_json)


@commands.command("cancel")
def order_cancel(
    order_id: OrderId, reason: Annotated[str, typer.Option(help="Why.")] = "", as_json: Json = False
) -> None:
    """Cancel, and refund what was charged."""
    _request(order_id, lambda desk: desk.cancel(order_id, reason), as_json)


@commands.command("update-address")
def order_update_address(
    order_id: OrderId,
    address: Annotated[str, typer.Argument(help="JSON object with line1, city, ...; it replaces the whole address.")],
    as_json: Json = False,
) -> None:
    """Change the address of an order that has not shipped."""
    parsed = read_json(address, "address")
    _request(order_id, lambda desk: desk.update_address(order_id, parsed), as_json)


@commands.command("status")
def order_status(order_id: OrderId, as_json: Json = False) -> None:
    """Show an order's state, its last events and what it does now."""
    settings = read_settings()

    async def work() -> dict[str, Any]:
        async with open_desk(settings) as desk:
            found = await desk.status(order_id)
        return found.to_json()

    result = asyncio.run(work())
    brief = {key: value for key, value in result.items() if key not in ("events", "workflow") and value is not None}
    if result["policy"]:
        brief["policy"] = result["policy"]["name"]
    show(result if as_json else brief, as_json)


@commands.command("list")
def order_list(
    state: Annotated[str | None, typer.Option(help="Only orders in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many.")] = 50,
    as_json: Json = False,
) -> None:
    """Orders, newest first."""
    settings = read_settings()

    async def work() -> list[dict[str, Any]]:
        async with open_desk(settings) as desk:
            return [row.to_json() for row in await desk.orders(state=state, limit=limit)]

    rows = asyncio.run(work())

    def human() -> None:
        # An id that is cut off could not be copied.
        longest = max((len(row["id"]) for row in rows), default=0)
        order = Column("order", min_width=min(longest, 36), overflow="fold")
        table = Table(order, "state", "total", "created", "last error", box=None)
        for row in rows:
            table.add_row(row["id"], row["state"], row["total"], row["created_at"][:19], row["last_error"] or "")
        out.print(table if rows else "No orders yet. `trellis demo` runs one.")

    show(rows, as_json, human)


@commands.command("events")
def order_events(order_id: OrderId, as_json: Json = False) -> None:
    """All events of an order, oldest first."""
    settings = read_settings()

    async def work() -> list[dict[str, Any]]:
        async with open_desk(settings) as desk:
            return [row.to_json() for row in await desk.events(order_id)]

    rows = asyncio.run(work())

    def human() -> None:
        for row in rows:
            print_event(row, when(rows[0]["ts"]))

    show(rows, as_json, human)
