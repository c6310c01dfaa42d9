"""Frames, histories and pictures, from real orders on the real servers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from trellis import insight
from trellis.bench.bare import BareChild, BareOrder, nothing
from trellis.bench.events import analysis, fill
from trellis.db.migrate import migrate
from trellis.errors import BadInput, DatabaseUnavailable, TrellisError
from trellis.insight import exporting, frames
from trellis.model import Order, State
from trellis.policies import preset, tuned
from trellis.stack import Stack

from ..conftest import House


@pytest.fixture
async def told(house: House) -> Order:
    """A completed order whose charge failed, hung, and then worked."""
    await house.faults("charge: error, hang, ok")
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    return order


async def test_attempts_tell_what_the_script_did(told: Order, running: Stack) -> None:
    """A charge scripted to fail, hang and work gives exactly these three attempts, in order, with their times."""
    tries = await asyncio.to_thread(insight.attempts, running.database_url, told.order_id)
    charge = tries[tries["step"] == "charge"]
    assert list(charge["outcome"]) == ["failed", "timed out", "succeeded"]
    assert list(charge["attempt"]) == [1, 2, 3]
    assert charge["started_at"].is_monotonic_increasing
    assert charge["duration_ms"].iloc[1] >= 250
    assert not tries["skewed"].any()
    assert str(tries["ended_at"].dtype) == "datetime64[us, UTC]"


async def test_both_drivers_give_the_same_frame(told: Order, running: Stack) -> None:
    """ADBC and psycopg agree on every value and every dtype, also of an empty frame."""
    assert frames.reading.drivers()[0] == "adbc"
    for order in (told.order_id, "nobody"):
        fast, plain = (insight.events(running.database_url, order, driver=d) for d in ("adbc", "psycopg"))
        pd.testing.assert_frame_equal(fast, plain)
    assert plain.empty
    assert str(plain["attempt"].dtype) == "Int32"


async def test_filters_are_part_of_the_sql(told: Order, running: Stack) -> None:
    """Each filter narrows the log as the same condition on the whole frame does."""
    url = running.database_url
    whole = insight.events(url, told.order_id)
    middle = whole["ts"].iloc[4].to_pydatetime()
    assert list(insight.events(url, told.order_id, since=middle)["id"]) == list(whole["id"][4:])
    assert list(insight.events(url, told.order_id, until=middle)["id"]) == list(whole["id"][:4])
    assert set(insight.events(url, told.order_id, step=["charge", "ship"])["step"]) == {"charge", "ship"}
    assert len(insight.events(url, told.order_id, type="ATTEMPT_FAILED")) == 1
    assert insight.events(url, told.order_id, state="FAILED").empty
    assert insight.events(url, "' OR true --").empty
    with pytest.raises(BadInput, match="time zone"):
        insight.events(url, since=datetime(2026, 1, 1))
    assert insight.events(url, told.order_id, since=datetime.now(UTC) + timedelta(days=1)).empty


async def test_batches_are_the_same_rows(told: Order, running: Stack) -> None:
    """Frames of at most three rows, put together, are the whole."""
    whole = insight.events(running.database_url, told.order_id)
    parts = list(insight.events(running.database_url, told.order_id, batches=3))
    assert [len(part) for part in parts[:-1]] == [3] * (len(parts) - 1)
    assert list(pd.concat(parts)["id"]) == list(whole["id"])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
async def test_an_export_holds_every_row(told: Order, running: Stack, tmp_path: Path, ending: str) -> None:
    """What is read back from the file is what the ledger holds, and nothing else is left in the folder."""
    path = tmp_path / f"log.{ending}"
    rows = insight.export(path, running.database_url, order=told.order_id)
    whole = insight.events(running.database_url, told.order_id)
    back = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
    assert rows == len(back) == len(whole)
    assert list(back["payload_json"]) == list(whole["payload_json"])
    if ending == "parquet":
        pd.testing.assert_frame_equal(back, whole, check_categorical=False)
        assert back.dtypes.to_dict() == whole.dtypes.to_dict()
        pd.testing.assert_frame_equal(insight.attempts(back), insight.attempts(whole), check_categorical=False)
    else:
        with pytest.raises(BadInput, match="parquet, which keeps dtypes"):
            insight.attempts(back)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput, match="export writes"):
        insight.export(tmp_path / "log.xlsx", running.database_url)


@pytest.fixture(scope="module")
async def filled(running: Stack) -> AsyncIterator[str]:
    """A database of its own with 3,000 orders of twenty events each, as the benchmark makes them."""
    name = f"filled_{uuid.uuid4().hex[:8]}"
    url = running.database_url.replace("/trellis?", f"/{name}?")
    assert url != running.database_url
    with frames.reading.connection(running.database_url) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    await migrate(url)
    fill(url, 60_000)
    yield url
    with frames.reading.connection(running.database_url) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_what_left_no_trace_is_found_among_many(filled: str) -> None:
    """Of every thirtieth order each of six steps lacks its second execution: 600 holes, found in one pass."""
    began = time.perf_counter()
    tries = insight.attempts(filled)
    # A look at the whole frame for each of 6,000 retried steps would take minutes.
    assert time.perf_counter() - began < 20
    lost = tries[tries["outcome"] == "lost"]
    assert len(lost) == 600
    assert set(lost["execution"]) == {2}
    assert set(lost["error"]) == {"left no trace"}
    assert (lost["order_id"].str.removeprefix("order-").astype(int) % 30 == 0).all()
    assert lost["attempt"].isna().all()


def test_a_filter_loses_nothing(filled: str) -> None:
    """Whatever a filter leaves out, no try is called lost that is not lost in the whole log."""
    key = ["order_id", "step", "execution"]
    whole = insight.attempts(filled)
    lost = whole.loc[whole["outcome"] == "lost", key]
    middle = whole["started_at"].dropna().median().to_pydatetime()
    log = insight.events(filled)
    seen = [
        insight.attempts(filled, since=middle),
        insight.attempts(filled, until=middle),
        insight.attempts(filled, type=["ATTEMPT_FAILED", "PAYMENT_CHARGED"]),
        insight.attempts(filled, step="charge"),
        insight.attempts(log[log["ts"] > middle]),
        insight.attempts(log[log["type"] != "ATTEMPT_FAILED"]),
    ]
    for tries in seen:
        found = tries.loc[tries["outcome"] == "lost", key]
        assert len(found.merge(lost, on=key)) == len(found)
    assert (seen[3]["outcome"] == "lost").sum() == 100, "all tries of a step are there: its losses are known"


def test_batches_hold_whole_orders(filled: str) -> None:
    """Attempts and steps by batches are those of the whole, lost ones included; no order is in two frames."""
    whole = insight.attempts(filled)
    parts = list(insight.attempts(filled, batches=1_001))
    assert len(parts) > 40
    assert sum(part["order_id"].nunique() for part in parts) == whole["order_id"].nunique()
    by = ["order_id", "step", "execution", "try"]
    together = pd.concat(parts).astype({"step": "string", "worker": "string"}).sort_values(by, ignore_index=True)
    expected = whole.astype({"step": "string", "worker": "string"}).sort_values(by, ignore_index=True)
    pd.testing.assert_frame_equal(together, expected)
    few = [f"order-{n}" for n in range(1, 9)]
    assert [len(part) for part in insight.attempts(filled, few, batches=1)] == [16] * 8, "an order to a frame"
    assert sum(len(part) for part in insight.steps(filled, batches=5_000)) == 6 * 3_000
    assert [len(part) for part in insight.orders(filled, batches=1_000)] == [1_000] * 3
    assert next(insight.orders(filled, batches=10))["seconds"].notna().all()
    assert list(insight.payments(filled, batches=10)) == []


def test_what_cannot_be_asked_of_the_log_is_refused(filled: str) -> None:
    """A word that no row can hold, an unknown filter or driver, and a filter beside a frame: one sentence each."""
    log = insight.events(filled, "order-1")
    wrong: list[Callable[[], object]] = [
        lambda: insight.events(filled, step="chrage"),
        lambda: insight.events(filled, type=["ORDER_RECEIVED", "RECEIVED"]),
        lambda: insight.orders(filled, state="DONE"),
        lambda: insight.payments(filled, status="PAID"),
        lambda: insight.events(filled, driver="abdc"),
        lambda: insight.events(filled, colour="red"),  # type: ignore[call-overload]
        lambda: insight.attempts(filled, tries=True),  # type: ignore[call-overload]
        lambda: insight.attempts(log, step="charge"),
        lambda: insight.attempts(log, batches=10),
        lambda: insight.attempts(log.drop(columns="ts")),
        lambda: insight.events(filled, batches=0),
    ]
    for ask in wrong:
        with pytest.raises(BadInput):
            ask()
    with pytest.raises(BadInput, match="Known are receive, validate, approve, charge"):
        insight.events(filled, step="chrage")


def test_the_analysis_works_on_groups_not_rows(filled: str) -> None:
    """What the essay on events computes of the filled ledger works from end to end, and times each of its parts."""
    parts = analysis(filled)
    assert {"events", "attempts", "steps", "attempts_per_step", "state_map as JSON"} <= set(parts)
    # A Python call for each of 18,000 groups takes five times the load, where this takes a tenth of it.
    assert parts["attempts_per_step"] < 2 * parts["events"]


@pytest.mark.parametrize("table", ["events", "orders", "attempts", "steps"])
def test_each_frame_survives_its_file(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Any) -> None:
    """Written in several parts and read back, each table has the same values and dtypes; as .csv the same columns."""
    monkeypatch.setattr(exporting, "_EXPORTED", 700)
    some = [f"order-{n}" for n in range(90)]
    whole = {"events": insight.events, "orders": insight.orders, "attempts": insight.attempts, "steps": insight.steps}
    frame = whole[table](filled, some)
    assert insight.export(tmp_path / "some.parquet", filled, table=table, order=some) == len(frame)
    back = pd.read_parquet(tmp_path / "some.parquet")
    assert back.dtypes.to_dict() == frame.dtypes.to_dict()
    by = [name for name in ("order_id", "step", "execution", "id") if name in frame]
    words = dict.fromkeys(set(by) & {"step"}, "string")
    one, other = (each.astype(words).sort_values(by, ignore_index=True) for each in (back, frame))
    pd.testing.assert_frame_equal(one, other, check_categorical=False)
    insight.export(tmp_path / "some.csv", filled, table=table, order=some)
    plain = pd.read_csv(tmp_path / "some.csv")
    assert (list(plain.columns), len(plain)) == (list(frame.columns), len(frame))


def test_who_has_chosen_a_renderer_keeps_it(filled: str) -> None:
    """A chart leaves a renderer that was chosen; without a choice it is one that JupyterLab knows, with pictures."""
    log = insight.events(filled, "order-1")
    try:
        alt.renderers.enable("png")
        insight.state_map(log)
        assert alt.renderers.active == "png"
        alt.renderers.enable("default")
        shown = insight.state_map(log)._repr_mimebundle_()
        assert set(shown) == {"application/vnd.vegalite.v5+json", "image/svg+xml", "image/png"}
        insight.static()
        assert set(insight.state_map(log)._repr_mimebundle_()) == {"image/svg+xml"}
    finally:
        alt.renderers.enable("default")


async def test_orders_and_payments_have_amounts_and_seconds(told: Order, running: Stack) -> None:
    """A completed order has an end, a duration from its first try, and its total; its payment is charged."""
    orders = insight.orders(running.database_url, told.order_id)
    payments = insight.payments(running.database_url, told.order_id)
    assert (orders["state"].iloc[0], orders["total"].iloc[0], payments["amount"].iloc[0]) == ("COMPLETED", 25.0, 25.0)
    assert payments["status"].iloc[0] == "CHARGED"
    tries = insight.attempts(running.database_url, told.order_id)
    assert orders["began_at"].iloc[0] == tries["started_at"].min()
    assert orders["seconds"].iloc[0] >= 0.25


async def test_steps_add_up(told: Order, running: Stack) -> None:
    """The step's seconds are those in its tries and between them."""
    steps = insight.steps(running.database_url, told.order_id)
    charge = steps[steps["step"] == "charge"].iloc[0]
    assert (charge["attempts"], charge["failed"], charge["timed_out"], charge["succeeded"]) == (3, 1, 1, True)
    parts = charge[["good_s", "failed_s", "hung_s", "wait_s"]].sum()
    assert parts == pytest.approx(charge["seconds"], abs=0.005)


async def test_a_try_without_a_trace_is_marked(told: Order, running: Stack) -> None:
    """An execution that Temporal counted and nobody wrote down stands as `lost`, without times."""
    log = insight.events(running.database_url, told.order_id)
    log.loc[log["step"] == "ship", "execution"] = 2
    tries = insight.attempts(log)
    lost = tries[tries["outcome"] == "lost"]
    assert list(lost["step"]) == ["ship"]
    assert lost["started_at"].isna().all()
    assert lost["execution"].iloc[0] == 1
    assert "lost" in insight.gantt(tries).to_json()


async def test_a_clock_that_is_wrong_is_marked(told: Order, running: Stack) -> None:
    """A try that ended after it was written down, or before it began, keeps its row and is flagged."""
    log = insight.events(running.database_url, told.order_id)
    log.loc[log["step"] == "ship", "started_at"] += pd.Timedelta(minutes=5)
    log.loc[log["step"] == "prepare", "duration_ms"] = -3.0
    tries = insight.attempts(log)
    assert set(tries.loc[tries["skewed"], "step"]) == {"ship", "prepare"}


async def test_every_picture_renders(told: Order, house: House, running: Stack) -> None:
    """Each chart becomes an SVG from real orders, one of them still open, and holds few rows."""
    open_ = await house.start()
    await house.until(open_, "AWAITING_APPROVAL")
    orders = insight.orders(running.database_url, [told.order_id, open_.order_id])
    events = insight.events(running.database_url, [told.order_id, open_.order_id])
    tries = insight.attempts(events)
    steps = insight.steps(tries)
    charts = [
        insight.gantt(tries[tries["order_id"] == told.order_id]),
        insight.timelines(orders, tries),
        insight.attempts_per_step(tries),
        insight.latency(steps),
        insight.where_the_seconds_go(orders, steps, events),
        insight.completion(orders, 15, ([0.0, 1.0, 2.0], [0.0, 0.5, 1.0])),
        insight.completion(orders, log=True),
        insight.state_map(events),
        insight.utilisation(tries),
    ]
    import vl_convert

    for chart in charts:
        spec = chart.to_dict()
        assert sum(len(rows) for rows in spec["datasets"].values()) <= 5000
        assert "<svg" in vl_convert.vegalite_to_svg(spec)
    assert "not ended" in charts[1].to_json()
    await house.desk.cancel(open_.order_id)


async def test_where_the_seconds_go_adds_up(told: Order, running: Stack) -> None:
    """The parts of an order's time are its time."""
    url, id_ = running.database_url, told.order_id
    orders = insight.orders(url, id_)
    parts = insight.shares(orders, insight.steps(url, id_), insight.events(url, id_))
    assert parts.sum(axis=1).iloc[0] == pytest.approx(orders["seconds"].iloc[0])
    assert parts["hangs"].iloc[0] >= 0.25


@pytest.mark.parametrize("ending", [State.APPROVAL_TIMEOUT, State.CANCELLED])
async def test_a_review_without_approval_is_no_queue(house: House, running: Stack, ending: State) -> None:
    """The wait of an order whose window ran out, or that was cancelled while it waited, counts as review."""
    order = await house.start(tuned(preset("swift"), review_window=1.0 if ending is State.APPROVAL_TIMEOUT else 30.0))
    await house.until(order, "AWAITING_APPROVAL")
    if ending is State.CANCELLED:
        await asyncio.sleep(1)
        await house.desk.cancel(order.order_id)
    await house.ends(order, ending)
    url = running.database_url
    orders, log = insight.orders(url, order.order_id), insight.events(url, order.order_id)
    parts = insight.shares(orders, insight.steps(log), log).iloc[0]
    assert parts["review"] >= 0.95
    assert parts["queue"] < parts["review"]
    assert parts.sum() == pytest.approx(orders["seconds"].iloc[0])


async def test_orders_without_an_attempt_still_have_a_timeline(told: Order, running: Stack) -> None:
    """Lines are drawn for orders of whose attempts the frame holds none."""
    orders = insight.orders(running.database_url, told.order_id)
    nothing_known = insight.attempts(insight.events(running.database_url, "nobody"))
    assert (
        "completed"
        in insight.timelines(orders.assign(ended_at=orders["ended_at"].where(orders["ended_at"].isna())), nothing_known)
        .to_json()
        .lower()
    )


async def test_a_step_that_never_worked_has_no_latency(told: Order, running: Stack) -> None:
    """Percentiles are of the steps that succeeded."""
    steps = insight.steps(running.database_url, told.order_id)
    failed = steps.assign(seconds=1e6, succeeded=False)
    shown = insight.latency(pd.concat([steps, failed])).to_dict()
    assert max(row["seconds"] for rows in shown["datasets"].values() for row in rows if "seconds" in row) < 1e5
    with pytest.raises(BadInput, match="no finished steps"):
        insight.latency(failed)


def test_nothing_to_draw_is_one_sentence(running: Stack) -> None:
    """Frames of an order that does not exist are refused by every chart with a sentence."""
    nobody = insight.events(running.database_url, "nobody")
    tries = insight.attempts(nobody)
    for draw in (insight.gantt, insight.attempts_per_step, insight.utilisation):
        with pytest.raises(BadInput, match="no attempts"):
            draw(tries)
    with pytest.raises(BadInput):
        insight.state_map(nobody)
    with pytest.raises(BadInput):
        insight.timelines(insight.orders(running.database_url, "nobody"), tries)
    with pytest.raises(BadInput):
        insight.latency(insight.steps(tries))


def test_a_database_that_is_not_there_is_one_sentence() -> None:
    """Nor is something that is no source at all more than one sentence."""
    with pytest.raises(DatabaseUnavailable, match="trellis up"):
        insight.events("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(BadInput, match="no source"):
        insight.events(42)


@pytest.fixture(scope="module")
async def stranger(running: Stack) -> Client:
    """A namespace of somebody else's, with two workflows that know nothing of orders."""
    home = await Client.connect(running.temporal.address)
    name = f"elsewhere-{uuid.uuid4().hex[:6]}"
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    await home.workflow_service.register_namespace(request)
    client = await Client.connect(running.temporal.address, namespace=name)
    worker = Worker(client, task_queue="bare", workflows=[BareOrder, BareChild], activities=[nothing])
    async with asyncio.timeout(60):
        # A new namespace is known to all parts of the server only after a moment.
        while True:
            try:
                await client.count_workflows()
                break
            except RPCError:
                await asyncio.sleep(0.2)
        async with worker:
            for n in range(2):
                await client.execute_workflow("BareOrder", "bare", id=f"bare-{n}", task_queue="bare")
    return client


async def test_a_strangers_history_becomes_a_frame(stranger: Client, running: Stack) -> None:
    """One row per activity and child, with queues, workers and seconds, from another namespace by its address."""
    found = await asyncio.to_thread(insight.history, "bare-0", running.temporal.address, namespace=stranger.namespace)
    assert found["kind"].value_counts().to_dict() == {"activity": 5, "child": 1, "workflow": 1}
    acts = found[found["kind"] == "activity"]
    assert set(acts["outcome"]) == {"succeeded"}
    assert set(acts["queue"]) == {"bare"}
    assert acts["worker"].notna().all()
    assert (acts["schedule_to_start"] >= 0).all()
    assert (acts["start_to_close"] >= 0).all()


async def test_a_query_finds_many_and_their_attempts_draw(stranger: Client, running: Stack) -> None:
    """A visibility query gives all its workflows, in the ledger's attempts shape, which every chart takes."""
    async with asyncio.timeout(30):
        found = pd.DataFrame()
        while found.empty or found["workflow_id"].nunique() < 2:
            try:
                found = await insight.download(stranger, 'WorkflowType = "BareOrder"')
            except TrellisError:
                await asyncio.sleep(0.1)  # visibility lags behind
    tries = insight.history_attempts(found)
    assert len(tries) == 10
    ledger = insight.attempts(insight.events(running.database_url, "nobody"))
    assert set(tries.columns) == {*ledger.columns, "queue", "scheduled_at"}
    assert "succeeded" in insight.gantt(tries[tries["order_id"] == "bare-0"]).to_json()


async def test_what_cannot_be_read_is_one_sentence(stranger: Client, running: Stack) -> None:
    """No such workflow, no such namespace, a query nobody understands: each says so."""
    with pytest.raises(TrellisError, match="no workflow nobody"):
        await insight.download(stranger, "nobody")
    with pytest.raises(TrellisError, match="does not exist"):
        await asyncio.to_thread(insight.history, "bare-0", running.temporal.address, namespace="nowhere")
    with pytest.raises(TrellisError, match="No workflow"):
        await insight.download(stranger, 'WorkflowType = "Nothing"')
    with pytest.raises(BadInput, match="understand"):
        await insight.download(stranger, "Colour = 'red'")


async def test_servers_retries_leave_a_marked_gap(house: House) -> None:
    """Of an activity that Temporal retried, the attempts that no history holds are rows without times."""
    await house.faults("charge: error, error, ok")
    order = await house.start(preset("compact"), approve=True)
    await house.ends(order, State.COMPLETED)
    found = await insight.download(house.desk.client, f"order-{order.order_id}")
    charge = found[(found["kind"] == "activity") & (found["name"] == "charge")]
    assert list(charge["attempt"]) == [1, 2, 3]
    assert list(charge["outcome"]) == ["unknown", "failed", "succeeded"]
    assert charge["started_at"].isna().tolist() == [True, True, False]
    tries = insight.history_attempts(found)
    tries = tries[tries["step"] == "charge"]
    assert list(tries["outcome"]) == ["unknown", "failed", "succeeded"]
    chart = insight.gantt(tries)
    first, second, last = chart.data.sort_values("from").to_dict("records")
    assert (first["outcome"], second["outcome"], last["outcome"]) == ("unknown", "failed", "succeeded")
    assert (first["times"], second["times"], last["times"]) == ("not known", "not known", "known")
    assert second["from"] - first["from"] == pytest.approx(last["from"] - second["from"], abs=1e-5), "evenly spread"
    assert second["from"] < last["from"] < last["to"]
    assert "lost" not in chart.to_json()
