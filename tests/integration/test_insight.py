"""Frames, histories and pictures, from real orders on the real servers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import House
from tests.frames import drawn
from trellis import insight
from trellis.db import reading
from trellis.errors import BadInput, DatabaseUnavailable
from trellis.model import Order, State
from trellis.policies import preset, tuned
from trellis.stack import Stack


@pytest.fixture
async def retried(house: House) -> Order:
    """A completed order whose charge failed, hung, and then worked."""
    await house.faults("charge: error, hang, ok")
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    return order


async def test_attempts_tell_what_the_script_did(retried: Order, running: Stack) -> None:
    """A charge scripted to fail, hang and work gives exactly these three attempts, in order, with their times."""
    tries = await asyncio.to_thread(insight.attempts, running.database_url, retried.order_id)
    charge = tries[tries["step"] == "charge"]
    assert list(charge["outcome"]) == ["failed", "timed out", "succeeded"]
    assert list(charge["attempt"]) == [1, 2, 3]
    assert charge["started_at"].is_monotonic_increasing
    assert charge["duration_ms"].iloc[1] >= 250
    assert not tries["skewed"].any()
    assert str(tries["ended_at"].dtype) == "datetime64[us, UTC]"


async def test_both_drivers_give_the_same_frame(retried: Order, running: Stack) -> None:
    """ADBC and psycopg agree on every value and every dtype, also of an empty frame."""
    assert reading.drivers()[0] == "adbc"
    for order in (retried.order_id, "nobody"):
        fast, plain = (insight.events(running.database_url, order, driver=d) for d in ("adbc", "psycopg"))
        pd.testing.assert_frame_equal(fast, plain)
    assert plain.empty
    assert str(plain["attempt"].dtype) == "Int32"


async def test_filters_are_part_of_the_sql(retried: Order, running: Stack) -> None:
    """Each filter narrows the log as the same condition on the whole frame does."""
    url = running.database_url
    whole = insight.events(url, retried.order_id)
    middle = whole["ts"].iloc[4].to_pydatetime()
    assert list(insight.events(url, retried.order_id, since=middle)["id"]) == list(whole["id"][4:])
    assert list(insight.events(url, retried.order_id, until=middle)["id"]) == list(whole["id"][:4])
    assert set(insight.events(url, retried.order_id, step=["charge", "ship"])["step"]) == {"charge", "ship"}
    assert len(insight.events(url, retried.order_id, type="ATTEMPT_FAILED")) == 1
    assert insight.events(url, retried.order_id, state="FAILED").empty
    assert insight.events(url, "' OR true --").empty
    with pytest.raises(BadInput, match="time zone"):
        insight.events(url, since=datetime(2026, 1, 1))
    assert insight.events(url, retried.order_id, since=datetime.now(UTC) + timedelta(days=1)).empty


async def test_batches_are_the_same_rows(retried: Order, running: Stack) -> None:
    """Frames of at most three rows, put together, are the whole."""
    whole = insight.events(running.database_url, retried.order_id)
    parts = list(insight.events(running.database_url, retried.order_id, batches=3))
    assert [len(part) for part in parts[:-1]] == [3] * (len(parts) - 1)
    assert list(pd.concat(parts)["id"]) == list(whole["id"])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
async def test_an_export_holds_every_row(retried: Order, running: Stack, tmp_path: Path, ending: str) -> None:
    """What is read back from the file is what the ledger holds, and nothing else is left in the folder."""
    path = tmp_path / f"log.{ending}"
    rows = insight.export(path, running.database_url, order=retried.order_id)
    whole = insight.events(running.database_url, retried.order_id)
    back = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
    assert rows == len(back) == len(whole)
    assert list(back["payload_json"]) == list(whole["payload_json"])
    if ending == "parquet":
        pd.testing.assert_frame_equal(back, whole, check_categorical=False)
        assert back.dtypes.to_dict() == whole.dtypes.to_dict()
        pd.testing.assert_frame_equal(insight.attempts(back), insight.attempts(whole), check_categorical=False)
    else:
        with pytest.raises(BadInput, match="parquet, which keeps them"):
            insight.attempts(back)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput, match="export writes"):
        insight.export(tmp_path / "log.xlsx", running.database_url)


async def test_orders_and_payments_have_amounts_and_seconds(retried: Order, running: Stack) -> None:
    """A completed order has an end, a duration from its first try, and its total; its payment is charged."""
    orders = insight.orders(running.database_url, retried.order_id)
    payments = insight.payments(running.database_url, retried.order_id)
    assert (orders["state"].iloc[0], orders["total"].iloc[0], payments["amount"].iloc[0]) == ("COMPLETED", 25.0, 25.0)
    assert payments["status"].iloc[0] == "CHARGED"
    tries = insight.attempts(running.database_url, retried.order_id)
    assert orders["began_at"].iloc[0] == tries["started_at"].min()
    assert orders["seconds"].iloc[0] >= 0.25


async def test_steps_add_up(retried: Order, running: Stack) -> None:
    """The step's seconds are those in its tries and between them."""
    steps = insight.steps(running.database_url, retried.order_id)
    charge = steps[steps["step"] == "charge"].iloc[0]
    assert (charge["attempts"], charge["failed"], charge["timed_out"], charge["succeeded"]) == (3, 1, 1, True)
    parts = charge[["good_s", "failed_s", "hung_s", "wait_s"]].sum()
    assert parts == pytest.approx(charge["seconds"], abs=0.005)


async def test_a_try_without_a_trace_is_marked(retried: Order, running: Stack) -> None:
    """An execution that Temporal counted and that left no event is a row `lost`, without times."""
    log = insight.events(running.database_url, retried.order_id)
    log.loc[log["step"] == "ship", "execution"] = 2
    tries = insight.attempts(log)
    lost = tries[tries["outcome"] == "lost"]
    assert list(lost["step"]) == ["ship"]
    assert lost["started_at"].isna().all()
    assert lost["execution"].iloc[0] == 1
    assert "lost" in insight.gantt(tries).to_json()


async def test_a_clock_that_is_wrong_is_marked(retried: Order, running: Stack) -> None:
    """A try that ended after it was written down, or before it began, keeps its row and is flagged."""
    log = insight.events(running.database_url, retried.order_id)
    log.loc[log["step"] == "ship", "started_at"] += pd.Timedelta(minutes=5)
    log.loc[log["step"] == "prepare", "duration_ms"] = -3.0
    tries = insight.attempts(log)
    assert set(tries.loc[tries["skewed"], "step"]) == {"ship", "prepare"}


async def test_every_picture_renders(retried: Order, house: House, running: Stack) -> None:
    """Each chart becomes an SVG from real orders, one of them still open, and holds few rows."""
    open_ = await house.start()
    await house.until(open_, "AWAITING_APPROVAL")
    orders = insight.orders(running.database_url, [retried.order_id, open_.order_id])
    events = insight.events(running.database_url, [retried.order_id, open_.order_id])
    tries = insight.attempts(events)
    steps = insight.steps(tries)
    charts = [
        insight.gantt(tries[tries["order_id"] == retried.order_id]),
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


async def test_where_the_seconds_go_adds_up(retried: Order, running: Stack) -> None:
    """The parts of an order's time are its time."""
    url, id_ = running.database_url, retried.order_id
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


async def test_orders_without_an_attempt_still_have_a_timeline(retried: Order, running: Stack) -> None:
    """Orders without an attempt in the frame are drawn too."""
    orders = insight.orders(running.database_url, retried.order_id)
    nothing_known = insight.attempts(insight.events(running.database_url, "nobody"))
    assert (
        "completed"
        in insight.timelines(orders.assign(ended_at=orders["ended_at"].where(orders["ended_at"].isna())), nothing_known)
        .to_json()
        .lower()
    )


async def test_a_step_that_never_worked_has_no_latency(retried: Order, running: Stack) -> None:
    """Percentiles are taken over the steps that succeeded."""
    steps = insight.steps(running.database_url, retried.order_id)
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
    """A value that is no source at all is refused with one sentence."""
    with pytest.raises(DatabaseUnavailable, match="trellis up"):
        insight.events("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(BadInput, match="no source"):
        insight.events(42)


async def test_servers_retries_leave_a_marked_gap(house: House) -> None:
    """If Temporal retried an activity, the attempts that its history does not hold are rows without times."""
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
    first, second, last = drawn(chart).sort_values("from").to_dict("records")
    assert (first["outcome"], second["outcome"], last["outcome"]) == ("unknown", "failed", "succeeded")
    assert (first["times"], second["times"], last["times"]) == ("not known", "not known", "known")
    assert second["from"] - first["from"] == pytest.approx(last["from"] - second["from"], abs=1e-5), "evenly spread"
    assert second["from"] < last["from"] < last["to"]
    assert "lost" not in chart.to_json()
