"""The command line. Exit code 0: done; 1: it failed, with a sentence on stderr; 2: wrong usage."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from trellis import config, stack
from trellis.errors import BadInput, StackError, TemporalUnavailable, TrellisError
from trellis.faults import FaultPlan
from trellis.parsing import parse_order
from trellis.policies import preset, tuned

if TYPE_CHECKING:
    from trellis.audit import Report
    from trellis.desk import Desk
    from trellis.reconcile import Repair

T = TypeVar("T")

POLLED_SECONDS = 90
"""A poll of an idle worker lasts a minute; who has begun none for longer than this does not poll."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A flight simulator for durable workflows.")
order_app = typer.Typer(no_args_is_help=True, help="Start, steer and inspect single orders.")
faults_app = typer.Typer(no_args_is_help=True, help="Choose which calls fail; running orders follow within a second.")
bench_app = typer.Typer(no_args_is_help=True, help="Measure; each benchmark brings up a stack of its own.")
app.add_typer(order_app, name="order")
app.add_typer(faults_app, name="faults")
app.add_typer(bench_app, name="bench")

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OrderId = Annotated[str, typer.Argument(help="The order's id.")]


def main() -> None:
    """Entry point: every expected failure becomes one sentence and exit code 1."""
    # `kill` ends a command as Ctrl-C does, servers of its own with it: also where a script's `&` had Ctrl-C ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code: str | int | None = 0
    try:
        app()
    except TrellisError as error:
        err.print(f"trellis: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    # Temporal's threads may call into an interpreter that is being taken down, which aborts the process and loses
    # the exit code (temporalio/sdk-python#300). An unexpected error still ends the usual way, with its traceback.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _settings() -> config.Settings:
    from trellis import logs

    settings = config.load()
    logs.configure(settings)
    return settings


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _show(value: dict[str, Any] | list[Any], as_json: bool, human: Callable[[], None] | None = None) -> None:
    if as_json:
        print(json.dumps(value, default=str))
    elif human is not None:
        human()
    elif isinstance(value, dict):
        table = Table(show_header=False, box=None)
        for key, entry in value.items():
            table.add_row(key, json.dumps(entry, default=str) if isinstance(entry, dict | list) else str(entry))
        out.print(table)


@contextmanager
def _progress(what: str, total: int, as_json: bool) -> Iterator[Callable[..., None]]:
    """A progress bar, and what moves it on by one or by so many."""
    with Progress(console=err, disable=as_json) as bar:
        task = bar.add_task(what, total=total)

        def tick(number: int = 1) -> None:
            bar.advance(task, number)

        yield tick


@asynccontextmanager
async def _desk(settings: config.Settings) -> AsyncIterator[Desk]:
    from trellis.desk import opened

    async with opened(stack.require(settings), settings) as desk:
        yield desk


# --- the stack -----------------------------------------------------------------------------------------------


@app.command()
def up(as_json: Json = False) -> None:
    """Start both servers, or find them; returns when both answer."""
    from trellis.db.migrate import migrate as apply

    settings = _settings()

    async def work() -> stack.Stack:
        running = await stack.up(settings)
        await apply(running.database_url)
        return running

    running = _run(work())
    _show(
        {"temporal": {"address": running.temporal.address, "ui": running.temporal.ui,
                      "namespace": running.temporal.namespace},
         "database": {"url": _masked(running.database_url)}}, as_json,
        lambda: out.print(
            f"Temporal  {running.temporal.address}   UI {running.temporal.ui or '(external)'}\n"
            f"Postgres  {_masked(running.database_url)}", highlight=False, soft_wrap=True),
    )  # fmt: skip


@app.command()
def down(as_json: Json = False) -> None:
    """End this workspace's servers; their data stays."""
    ended = stack.down(_settings())
    _show(
        {"ended": ended},
        as_json,
        lambda: out.print(f"Ended {' and '.join(ended)}." if ended else "Nothing was running."),
    )


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: Json = False) -> None:
    """End this workspace's servers and delete all their data."""
    settings = _settings()
    if not yes and not typer.confirm(f"Delete all orders and histories under {settings.home}?"):
        raise typer.Exit(1)
    stack.reset(settings)
    _show({"reset": True}, as_json, lambda: out.print("The workspace is empty."))


@app.command()
def status(as_json: Json = False) -> None:
    """What runs here: servers, workers, and how many orders are in each state."""
    settings = _settings()

    async def work() -> dict[str, Any]:
        running = stack.require(settings)
        async with _desk(settings) as desk:
            return {
                "temporal": {"address": running.temporal.address, "ui": running.temporal.ui,
                             "namespace": running.temporal.namespace},
                "database": {"url": _masked(running.database_url)},
                "workers": await desk.workers(),
                "orders": await desk.ledger.counts(),
            }  # fmt: skip

    _show(_run(work()), as_json)


def _masked(url: str) -> str:
    return re.sub(r"(://[^:/@]+):[^@]+@", r"\1:***@", url)


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the ledger's schema up to date."""
    from trellis.db.migrate import migrate as apply

    settings = _settings()
    applied = _run(apply(stack.require(settings).database_url))
    _show({"applied": applied}, as_json, lambda: out.print("\n".join(applied) if applied else "Up to date."))


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="Which queues, with commas.")] = "orders,shipping",
    check: Annotated[
        bool, typer.Option("--check", help="Run none; do workers on this machine poll? Exit code 0 or 1.")
    ] = False,
) -> None:
    """Run workers until Ctrl-C; they finish what they can first."""
    from trellis import workers
    from trellis.db.migrate import check_schema
    from trellis.db.pool import open_pool
    from trellis.desk import default_policy

    settings = _settings()
    names = tuple(filter(None, queues.split(",")))
    if check:
        _run(_check_workers(settings, workers.task_queues(settings, names)))
        return
    default_policy(settings)

    async def work() -> None:
        found = stack.require(settings)
        await check_schema(found.database_url)
        client = await stack.connect(found.temporal)
        pool = await open_pool(found.database_url)
        stop = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        try:
            async with workers.running(client, pool, settings, names) as watch:
                err.print(f"Working on {queues}. Ctrl-C ends.")
                waits = [asyncio.ensure_future(event.wait()) for event in (stop, watch.worker_failed)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
            if watch.worker_failed.is_set():
                raise TemporalUnavailable("A worker failed; the log says why. Run `trellis worker` again.")
        finally:
            await pool.close()

    _run(work())


async def _check_workers(settings: config.Settings, queues: list[str]) -> None:
    """Say that a worker on this machine polls each of the queues, or raise StackError."""
    async with _desk(settings) as desk:
        since = datetime.now(UTC) - timedelta(seconds=POLLED_SECONDS)
        here = f"@{socket.gethostname()}"
        polled = {
            worker["queue"]
            for worker in await desk.workers()
            if worker["identity"].endswith(here) and worker["polled_at"] > since
        }
    left = [queue for queue in queues if queue not in polled]
    if left:
        raise StackError(
            f"No worker on this machine has polled {' or '.join(left)} in the last {POLLED_SECONDS} s. "
            f"Start one with `trellis worker`."
        )
    out.print(f"Workers on this machine poll {' and '.join(queues)}.", soft_wrap=True)


@app.command()
def api(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond loopback it needs TRELLIS_API_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve orders over HTTP until Ctrl-C. Runs no workers."""
    from trellis.api.serve import serve

    _run(serve(_settings(), host, port, lambda address: print(f"API at {address}, docs at {address}/docs", flush=True)))


@app.command()
def lab() -> None:
    """Start the servers and open JupyterLab on the notebooks."""
    settings = _settings()
    mine = stack.find(settings) is None
    _run(stack.up(settings))
    notebooks = Path(__file__).resolve().parents[1] / "notebooks"
    # JupyterLab would ask about its news feed, which is on the open internet.
    ours = str(Path(__file__).parent / "lab" / "jupyter")
    paths = os.pathsep.join(filter(None, [ours, os.environ.get("JUPYTER_CONFIG_PATH")]))
    environment = {**os.environ, "TRELLIS_HOME": str(settings.home), "JUPYTER_CONFIG_PATH": paths}
    command = [sys.executable, "-m", "jupyter", "lab", "--LabApp.news_url=None", str(notebooks / "00_start_here.ipynb")]
    try:
        jupyter = subprocess.Popen(command, cwd=notebooks.parent, env=environment)
        # Ctrl-C reaches JupyterLab as well, which asks before it ends; `kill` reaches this process alone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: jupyter.terminate())
        code = jupyter.wait()
    finally:
        if mine:
            stack.down(settings)
    raise typer.Exit(code)


# --- orders --------------------------------------------------------------------------------------------------


@app.command()
def demo(
    policy: Annotated[str | None, typer.Option(help="One of the presets.")] = None,
    faults: Annotated[str, typer.Option(help="canonical, calm, a script, or JSON.")] = "canonical",
    as_json: Json = False,
) -> None:
    """One order from start to end, live in the terminal, on servers that come up by themselves."""
    from trellis import workers
    from trellis.bench.floor import sample_order
    from trellis.db.migrate import migrate as apply
    from trellis.db.pool import open_pool
    from trellis.desk import opened

    settings = _settings().model_copy(update={"faults": faults})
    plan = FaultPlan.parse(faults)
    chosen = preset(policy or settings.policy)

    async def work() -> dict[str, Any]:
        mine = stack.find(settings) is None
        running = await stack.up(settings)
        try:
            await apply(running.database_url)
            pool = await open_pool(running.database_url)
            try:
                async with (
                    opened(running, settings, pool=pool) as desk,
                    workers.running(desk.client, pool, settings) as watch,
                ):
                    await desk.ledger.set_fault_plan(plan)
                    await watch.refresh()
                    return await _watch_one(desk, sample_order("demo"), chosen, quiet=as_json)
            finally:
                await pool.close()
        finally:
            if mine:
                stack.down(settings)

    result = _run(work())
    _show(result, as_json, lambda: None)
    if result["state"] != "COMPLETED":
        raise typer.Exit(1)


async def _watch_one(desk: Desk, order: Any, policy: Any, *, quiet: bool) -> dict[str, Any]:

    began, since = time.perf_counter(), datetime.now(UTC)
    await desk.start(order, policy)
    if not quiet:
        out.print(f"[bold]order {order.order_id}[/]  2 x book, 25.00, policy {policy.name}")
    receipt = asyncio.create_task(desk.approve(order.order_id))
    shown = 0
    while True:
        events = await desk.ledger.events(order.order_id)
        for event in events[shown:]:
            if not quiet:
                _print_event(event.to_json(), since)
        shown = len(events)
        row = await desk.ledger.order(order.order_id)
        if row is not None and row.state.terminal:
            break
        await asyncio.sleep(0.05)
    await asyncio.gather(receipt, return_exceptions=True)
    status = await desk.wait(order.order_id)
    seconds = time.perf_counter() - began
    attempts = sum(1 for event in await desk.ledger.events(order.order_id) if event.attempt is not None)
    if not quiet:
        charges = await desk.ledger.charges(order.order_id)
        out.print(
            f"[bold]{status.state}[/] after {seconds:.2f} s and {attempts} attempts at 6 steps; "
            f"the payment provider's own book shows {charges} charge{'' if charges == 1 else 's'}.",
            soft_wrap=True,
        )
    return {"order_id": order.order_id, "state": status.state, "seconds": round(seconds, 3), "attempts": attempts}


_MARKS = {
    "ATTEMPT_FAILED": "red",
    "ATTEMPT_TIMED_OUT": "yellow",
    "ATTEMPT_ABANDONED": "dim",
    "ORDER_COMPLETED": "bold green",
}


def _print_event(event: dict[str, Any], since: datetime) -> None:
    after = (_when(event["ts"]) - since).total_seconds()
    attempt = f"attempt {event['attempt']}" if event["attempt"] else ""
    note = event["payload_json"].get("error") or event["payload_json"].get("tracking") or ""
    out.print(
        f"  {after:6.2f} s  [{_MARKS.get(event['type'], 'default')}]{event['type']:<20}[/]  "
        f"{event['step'] or '':<9} {attempt:<11} {note}",
        highlight=False,
        soft_wrap=True,
    )


def _when(ts: datetime | str) -> datetime:
    return datetime.fromisoformat(ts) if isinstance(ts, str) else ts


def _json_argument(text: str | None, what: str) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise BadInput(f"The {what} must be JSON, such as " + _EXAMPLES[what]) from None


_EXAMPLES = {
    "items": """'[{"sku": "book", "quantity": 2, "price": "12.50"}]'.""",
    "address": """'{"line1": "1 Main Street", "city": "Springfield"}'.""",
    "change": """'{"try_timeout": 1.0}'.""",
}


@order_app.command("start")
def order_start(
    order_id: OrderId,
    payment_id: Annotated[str, typer.Option(help="The payment's id; it belongs to one order for ever.")],
    items: Annotated[str, typer.Option(help="JSON list of {sku, quantity, price}.")] = "[]",
    address: Annotated[str | None, typer.Option(help="JSON object with line1, city, ...")] = None,
    policy: Annotated[str | None, typer.Option(help="One of the presets.")] = None,
    change: Annotated[str, typer.Option("--set", help="JSON object of policy fields to change.")] = "{}",
    as_json: Json = False,
) -> None:
    """Start an order; the same order again returns the same run."""
    settings = _settings()
    order = parse_order(order_id, payment_id, _json_argument(items, "items"), _json_argument(address, "address"))
    changes = _json_argument(change, "change")
    if not isinstance(changes, dict):
        raise BadInput("The change must be JSON, such as " + _EXAMPLES["change"])
    chosen = preset(policy) if policy else None
    if changes:
        chosen = tuned(chosen or preset(settings.policy), **changes)

    async def work() -> dict[str, Any]:
        async with _desk(settings) as desk:
            return asdict(await desk.start(order, chosen))

    result = _run(work())
    text = "Started" if result["created"] else "Was started before:"
    _show(result, as_json, lambda: out.print(f"{text} {result['workflow_id']}, run {result['run_id']}."))


def _request(order_id: str, ask: Callable[[Desk], Coroutine[Any, Any, Any]], as_json: bool) -> None:
    settings = _settings()

    async def work() -> dict[str, Any]:
        async with _desk(settings) as desk:
            return asdict(await ask(desk))

    result = _run(work())
    note = f" ({result['reason']})" if result["reason"] else ""
    _show(result, as_json, lambda: out.print(f"{order_id}: {result['verdict']}{note}."))


@order_app.command("approve")
def order_approve(order_id: OrderId, as_json: Json = False) -> None:
    """End the review."""
    _request(order_id, lambda desk: desk.approve(order_id), as_json)


@order_app.command("cancel")
def order_cancel(
    order_id: OrderId, reason: Annotated[str, typer.Option(help="Why.")] = "", as_json: Json = False
) -> None:
    """Cancel, and refund what was charged."""
    _request(order_id, lambda desk: desk.cancel(order_id, reason), as_json)


@order_app.command("update-address")
def order_update_address(
    order_id: OrderId,
    address: Annotated[str, typer.Argument(help="JSON object with line1, city, ...")],
    as_json: Json = False,
) -> None:
    """Send the parcel elsewhere."""
    parsed = _json_argument(address, "address")
    _request(order_id, lambda desk: desk.update_address(order_id, parsed), as_json)


@order_app.command("status")
def order_status(order_id: OrderId, as_json: Json = False) -> None:
    """Where an order stands."""
    settings = _settings()

    async def work() -> dict[str, Any]:
        async with _desk(settings) as desk:
            found = await desk.status(order_id)
        return found.to_json()

    result = _run(work())
    brief = {key: value for key, value in result.items() if key not in ("events", "workflow") and value is not None}
    _show(result if as_json else brief, as_json)


@order_app.command("list")
def order_list(
    state: Annotated[str | None, typer.Option(help="Only orders in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many.")] = 50,
    as_json: Json = False,
) -> None:
    """Orders, newest first."""
    settings = _settings()

    async def work() -> list[dict[str, Any]]:
        async with _desk(settings) as desk:
            return [row.to_json() for row in await desk.orders(state=state, limit=limit)]

    rows = _run(work())

    def human() -> None:
        table = Table("order", "state", "total", "created", "last error", box=None)
        for row in rows:
            table.add_row(row["id"], row["state"], row["total"], row["created_at"][:19], row["last_error"] or "")
        out.print(table if rows else "No orders yet. `trellis demo` runs one.")

    _show(rows, as_json, human)


@order_app.command("events")
def order_events(order_id: OrderId, as_json: Json = False) -> None:
    """All that happened to an order, oldest first."""
    settings = _settings()

    async def work() -> list[dict[str, Any]]:
        async with _desk(settings) as desk:
            return [row.to_json() for row in await desk.events(order_id)]

    rows = _run(work())

    def human() -> None:
        for row in rows:
            _print_event(row, _when(rows[0]["ts"]))

    _show(rows, as_json, human)


# --- faults --------------------------------------------------------------------------------------------------


def _plan(change: Callable[[FaultPlan], FaultPlan] | None, as_json: bool) -> None:
    settings = _settings()

    async def work() -> dict[str, Any]:
        async with _desk(settings) as desk:
            force = await desk.ledger.fault_plan()
            plan, version = (
                (force.plan, force.version) if force else (FaultPlan.parse(settings.faults or "canonical"), 0)
            )
            if change is not None:
                plan = change(plan)
                version = await desk.ledger.set_fault_plan(plan)
            return {"version": version, "plan": plan.to_json()}

    _show(_run(work()), as_json)


@faults_app.command("show")
def faults_show(as_json: Json = False) -> None:
    """The plan in force."""
    _plan(None, as_json)


@faults_app.command("canonical")
def faults_canonical(
    seed: Annotated[int, typer.Option(help="Another seed, other luck.")] = 0, as_json: Json = False
) -> None:
    """A third of the calls raise, a third hang, a third return."""
    _plan(lambda _: FaultPlan.canonical(seed), as_json)


@faults_app.command("calm")
def faults_calm(as_json: Json = False) -> None:
    """Nothing fails."""
    _plan(lambda _: FaultPlan.calm(), as_json)


@faults_app.command("set")
def faults_set(
    error: Annotated[float | None, typer.Option(help="Probability that a call raises at once.")] = None,
    hang: Annotated[float | None, typer.Option(help="Probability that a call hangs.")] = None,
    reply_lost: Annotated[float | None, typer.Option(help="Probability that a done call looks failed.")] = None,
    latency: Annotated[float | None, typer.Option(help="Seconds that a good call takes.")] = None,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all outcomes.")] = None,
    script: Annotated[str | None, typer.Option(help='Fixed outcomes: "dispatch: error, hang, ok".')] = None,
    as_json: Json = False,
) -> None:
    """Change the plan in force."""
    from dataclasses import replace

    given = {"error": error, "hang": hang, "reply_lost": reply_lost, "latency": latency}
    mix = {name: value for name, value in given.items() if value is not None}
    if not mix and seed is None and script is None:
        raise typer.BadParameter("say what to change: --error, --hang, --reply-lost, --latency, --seed or --script")

    def change(plan: FaultPlan) -> FaultPlan:
        if seed is not None:
            plan = replace(plan, seed=seed)
        if script is not None:
            plan = replace(plan, script=script)
        return plan.with_step(step, **mix) if mix else plan.check()

    _plan(change, as_json)


# --- measuring -----------------------------------------------------------------------------------------------


@app.command()
def audit(
    histories: Annotated[bool, typer.Option(help="Look at Temporal's histories as well as at the books.")] = True,
    query: Annotated[str, typer.Option(help="Only histories that this visibility query finds.")] = "",
    as_json: Json = False,
) -> None:
    """Check the books: ten invariants, from the ledger, the provider and Temporal's histories."""
    from trellis.audit import audit as check
    from trellis.db.migrate import check_schema
    from trellis.db.pool import open_pool

    settings = _settings()

    async def work() -> Report:
        found = stack.require(settings)
        await check_schema(found.database_url)
        client = await stack.connect(found.temporal)
        pool = await open_pool(found.database_url)
        try:
            with Progress(console=err, disable=as_json, transient=True) as bar:
                task = bar.add_task("orders and histories", total=None)
                return await check(client, pool, histories=histories, query=query, tick=lambda n: bar.advance(task, n))
        finally:
            await pool.close()

    report = _run(work())
    _show(_report(report), as_json, lambda: _print_report(report))
    if not report.clean:
        raise typer.Exit(1)


@app.command()
def load(
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 100,
    at_once: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 10,
    policy: Annotated[str | None, typer.Option(help="One of the presets.")] = None,
    faults: Annotated[str | None, typer.Option(help="canonical, calm or a script; else what is in force.")] = None,
    as_json: Json = False,
) -> None:
    """Run many orders through the workers of this workspace, each approved at once."""
    from trellis.chaos import drive
    from trellis.desk import opened

    settings = _settings()
    plan = None if faults is None else FaultPlan.parse(faults)
    chosen = preset(policy or settings.policy)

    async def work() -> dict[str, Any]:
        async with opened(stack.require(settings), settings) as desk:
            if not await desk.workers():
                raise TemporalUnavailable("No worker is running. Start one with `trellis worker`.")
            if plan is not None:
                await desk.ledger.set_fault_plan(plan)
            with _progress("orders", orders, as_json) as tick:
                driven = await drive(desk, orders, at_once, chosen, tick)
        return {"orders": orders, "states": dict(driven.states), **_spread(driven.seconds)}

    _show(_run(work()), as_json)


@app.command()
def chaos(
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 1000,
    at_once: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 20,
    policy: Annotated[str, typer.Option(help="One of the presets.")] = "swift",
    kill_every: Annotated[float, typer.Option(min=1, help="Seconds between two kills of the worker.")] = 20,
    as_json: Json = False,
) -> None:
    """Run orders under canonical faults, kill their worker again and again, then audit. Has a stack of its own."""
    from trellis.chaos import chaos as unleash

    settings = _settings()
    chosen = preset(policy)
    with _progress("orders", orders, as_json) as tick:
        driven, kills, report = _run(unleash(settings, orders, at_once, chosen, kill_every, tick))
    told = _report(report)
    if not kills and report.clean:
        told["verdict"] = "VOID"
    result = {"kills": kills, "states": dict(driven.states), **_spread(driven.seconds), "audit": told}

    def human() -> None:
        _show({key: value for key, value in result.items() if key != "audit"}, as_json=False)
        _print_report(report)

    _show(result, as_json, human)
    if not kills:
        raise TrellisError(
            "VOID: all orders had ended before the first kill. Give more --orders, or a shorter --kill-every."
        )
    if not report.clean:
        raise typer.Exit(1)


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "max": round(ordered[-1], 3),
    }


@app.command()
def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="End them; without it they are only shown.")] = False,
    as_json: Json = False,
) -> None:
    """Find orders whose workflow Temporal closed behind our back, and end them by the fence."""
    from trellis.db.pool import open_pool
    from trellis.desk import opened
    from trellis.reconcile import reconcile as repairs

    settings = _settings()

    done: list[Repair] = []

    async def work() -> None:
        found = stack.require(settings)
        pool = await open_pool(found.database_url)
        try:
            async with opened(found, settings, pool=pool) as desk:
                try:
                    async for repair in repairs(desk, pool, apply=apply):
                        done.append(repair)
                        if not as_json:
                            _print_repair(repair)
                finally:
                    # What was done is told even when a server goes away in the middle.
                    if as_json:
                        print(json.dumps([asdict(repair) for repair in done]), flush=True)
        finally:
            await pool.close()

    _run(work())
    planned = sum(repair.outcome == "planned" for repair in done)
    if not as_json and not done:
        out.print("No order is stranded.")
    elif not as_json and planned:
        out.print(f"Nothing was changed. `trellis reconcile --apply` ends {planned} of them.")
    if any(repair.outcome == "failed" for repair in done):
        raise typer.Exit(1)


def _print_repair(repair: Repair) -> None:
    ended = f"; {repair.ended}" if repair.ended else ""
    out.print(
        f"{repair.order_id}  {repair.state}: its workflow {repair.workflow}; {repair.action}{ended}.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _report(report: Report) -> dict[str, Any]:
    return {
        "verdict": "VIOLATED" if report.found else "VOID" if report.void else "CLEAN",
        "orders": report.orders,
        "charges": report.charges,
        "faults": report.faults,
        "histories": report.histories,
        "orders_without_history": report.without_history,
        "violations": [asdict(violation) for violation in report.violations],
        "violations_by_invariant": {str(number): count for number, count in sorted(report.found.items())},
    }


def _print_report(report: Report) -> None:
    seen = (
        f"{report.orders} orders, {report.charges} charges, {report.faults} tries that failed, "
        f"{report.histories} histories"
    )
    if report.asked_for_histories and report.without_history:
        seen += f"; no history of {report.without_history} orders was looked at"
    if report.void and not report.found:
        missing, what_to_do = ("order", "Run some with `trellis load`.")
        if report.orders:
            missing, what_to_do = ("history", "Correct --query or the Temporal it asked, or give --no-histories.")
        out.print(f"VOID: there was no {missing} to look at, so this says nothing. {what_to_do} ({seen})")
        return
    if report.violations:
        table = Table("order", "invariant", "what is wrong", "evidence")
        for violation in report.violations[:50]:
            table.add_row(violation.order_id, str(violation.invariant), violation.sentence, str(violation.evidence))
        out.print(table)
    total = sum(report.found.values())
    out.print(f"{'CLEAN' if not total else 'VIOLATED'}: {total} violations in {seen}.")


@app.command()
def recommend(
    deadline: Annotated[float, typer.Option(help="Seconds within which an order should complete.")] = 15,
    epsilon: Annotated[float, typer.Option(help="The share of orders that may miss it.")] = 1e-5,
    max_calls: Annotated[float | None, typer.Option(help="At most so many calls a step.")] = None,
    from_events: Annotated[bool, typer.Option("--from-events", help="Learn the faults from this ledger.")] = False,
    query: Annotated[str | None, typer.Option(help="Learn them from the histories this query finds.")] = None,
    namespace: Annotated[str | None, typer.Option(help="The namespace of these histories.")] = None,
    as_json: Json = False,
) -> None:
    """Which retry policy meets a deadline, and what it costs; under canonical faults unless told where to learn."""
    from trellis import insight
    from trellis.insight.fit import learn
    from trellis.insight.recommend import recommend as choose
    from trellis.messages import ORDER_WORKFLOW, SHIPPING_WORKFLOW

    _settings()
    if from_events and query is not None:
        raise typer.BadParameter("give --from-events or --query, not both")
    learned = None
    if query is not None:
        histories = insight.history(query=query, namespace=namespace)
        if histories["workflow_type"].isin([ORDER_WORKFLOW, SHIPPING_WORKFLOW]).any():
            raise BadInput("An order's tries are in the ledger, not in its history: use --from-events for them.")
        learned = learn(insight.history_attempts(histories))
    elif from_events:
        learned = learn(insight.attempts())
    found = choose(deadline, epsilon, learned, max_calls=max_calls)
    result = {
        "policy": asdict(found.policy),
        "p_miss": found.p_miss,
        "p_miss_at_worst": found.p_miss_at_worst,
        "p50": round(found.p50, 3),
        "p99": round(found.p99, 3),
        "calls_per_step": round(found.calls_per_step, 3),
        "words": found.words(),
        "learned": learned
        and {
            step: {"tries": fit.tries, "shares": fit.shares, "intervals": fit.intervals}
            for step, fit in learned.steps.items()
        },
    }

    def human() -> None:
        if learned:
            out.print(learned.words(), highlight=False, soft_wrap=True)
        out.print(found.words(), highlight=False, soft_wrap=True)
        out.print(
            f"Half of the orders complete within {found.p50:.2f} s, 99 % within {found.p99:.2f} s.", highlight=False
        )

    _show(result, as_json, human)


@bench_app.command("deadline")
def bench_deadline(
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 100,
    policy: Annotated[str, typer.Option(help="One of the presets.")] = "swift",
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 10,
    hedge: Annotated[int, typer.Option(min=1, max=8, help="Lanes per step (placement activity).")] = 1,
    budget: Annotated[
        float | None, typer.Option(help="Another budget [s]; a long one shows the whole distribution.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
    as_json: Json = False,
) -> None:
    """Orders under the canonical faults: how many miss 15 s."""
    from trellis.bench import deadline

    settings = _settings()
    chosen = preset(policy) if hedge == 1 else tuned(preset(policy), name=policy, hedge=hedge)
    if budget is not None:
        # A child's own limit would end what the budget no longer does.
        chosen = tuned(chosen, name=policy, budget=budget, child_run_timeout=None)
    with _progress(f"{policy}, {orders} orders", orders, as_json) as tick:
        result = _run(deadline.run(settings, chosen, orders, concurrency, seed, tick))
    _show(result, as_json)


@bench_app.command("throughput")
def bench_throughput(
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds of each kind.")] = 9,
    per_round: Annotated[int, typer.Option(min=1, help="Orders a round.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 20,
    sandboxes: Annotated[bool, typer.Option("--sandboxes", help="Compare ways to run workflow code instead.")] = False,
    as_json: Json = False,
) -> None:
    """Calm orders per second against a twin that does nothing and a bare workflow."""
    from trellis.bench import throughput

    settings = _settings()
    measure = throughput.run_sandboxes if sandboxes else throughput.run
    with _progress("rounds", rounds * 3, as_json) as tick:
        result = _run(measure(settings, rounds, per_round, concurrency, tick))
    _show(result, as_json)


@bench_app.command("api")
def bench_api(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 50,
    seconds: Annotated[float, typer.Option(min=1, help="For how long.")] = 30,
    flood: Annotated[float, typer.Option(min=1, help="Requests a second of the flood that follows.")] = 500,
    as_json: Json = False,
) -> None:
    """How long `status` takes over HTTP while orders run, and what becomes of a flood."""
    from trellis.bench import api as bench

    settings = _settings()
    with _progress("requests", int(rate * seconds) + int(flood * seconds / 5), as_json) as tick:
        result = _run(bench.run(settings, rate, seconds, flood, tick))
    _show(result, as_json)


@bench_app.command("board")
def bench_board(
    orders: Annotated[int, typer.Option(min=1, max=500, help="Orders in flight while the delay is measured.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating pairs of rounds, board open and closed.")] = 9,
    per_round: Annotated[int, typer.Option(min=2, help="Orders a round.")] = 60,
    events: Annotated[int, typer.Option(min=0, help="Events in the ledger before it begins.")] = 0,
    as_json: Json = False,
) -> None:
    """From an event's commit to the board's new value, and orders per second with the board open and closed."""
    from trellis.bench import board

    settings = _settings()
    with _progress("delay, then rounds", rounds + 1, as_json) as tick:
        result = board.run(settings, orders, rounds, per_round, events, tick)
    _show(result, as_json)


@bench_app.command("coldstart")
def bench_coldstart(
    rounds: Annotated[int, typer.Option(min=1, help="How many of each kind.")] = 5, as_json: Json = False
) -> None:
    """From `lab.start()` in a fresh process to the first COMPLETED calm order, workspace never used and used before."""
    from trellis.bench import coldstart

    settings = _settings()
    with _progress("starts", rounds * 2, as_json) as tick:
        result = coldstart.run(settings, rounds, tick)
    _show(result, as_json)


@bench_app.command("audit")
def bench_audit(
    orders: Annotated[int, typer.Option(min=10, help="How many orders to make and audit.")] = 100_000,
    as_json: Json = False,
) -> None:
    """The audit of the books over many orders: its rate, and how much memory it takes."""
    from trellis.bench import audit as bench

    settings = _settings()
    with _progress("orders", orders + orders // 10, as_json) as tick:
        result = _run(bench.run(settings, orders, tick))
    _show(result, as_json)


@bench_app.command("events")
def bench_events(
    rows: Annotated[int, typer.Option(min=1, max=100_000_000, help="How many events.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating pairs of load and floor.")] = 9,
    slow_rounds: Annotated[int, typer.Option(min=1, help="In how many of them read_sql runs too.")] = 3,
    batches: Annotated[int | None, typer.Option(min=1, help="Only one pass, in frames of this many rows.")] = None,
    as_json: Json = False,
) -> None:
    """The events table into a DataFrame: against a bare Arrow fetch and pandas.read_sql, and its peak of memory."""
    from trellis.bench import events

    settings = _settings()
    ticks = -(-rows // 1_000_000) + (rounds if batches is None else 0)
    with _progress(f"{rows:,} events", ticks, as_json) as tick:
        result = events.run(settings, rows, rounds, slow_rounds, batches, tick)
    _show(result, as_json)


@app.command()
def notebooks(
    write: Annotated[bool, typer.Option("--write", help="Store the outputs in the notebooks.")] = False,
    as_json: Json = False,
) -> None:
    """Execute all notebooks, each in a kernel and a workspace of its own."""
    from trellis.lab.notebooks import execute_all

    _settings()
    done = execute_all(write=write)
    _show(dict(done), as_json)


if __name__ == "__main__":
    main()
