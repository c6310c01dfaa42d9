"""Frames and files of a ledger with 60,000 events, as the benchmark makes them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest

from trellis import insight
from trellis.bench.events import analysis
from trellis.bench.filling import fill
from trellis.db import reading
from trellis.db.migrate import migrate
from trellis.errors import BadInput
from trellis.insight import exporting
from trellis.stack import Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def filled(running: Stack) -> AsyncIterator[str]:
    """A database of its own with 3,000 orders of twenty events each, as the benchmark makes them."""
    name = f"filled_{uuid.uuid4().hex[:8]}"
    url = running.database_url.replace("/trellis?", f"/{name}?")
    assert url != running.database_url
    with reading.connection(running.database_url) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    await migrate(url)
    fill(url, 60_000)
    yield url
    with reading.connection(running.database_url) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_what_left_no_trace_is_found_among_many(filled: str) -> None:
    """In every thirtieth order, each of six steps lacks its second execution: 600 lost ones, found in one pass."""
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
    """Whatever a filter leaves out, only tries that are lost in the whole log are called lost."""
    key = ["order_id", "step", "execution"]
    whole = insight.attempts(filled)
    lost = whole.loc[whole["outcome"] == "lost", key]
    middle = pd.to_datetime(whole["started_at"].dropna().median()).to_pydatetime()
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
    runs = [analysis(filled), analysis(filled)]
    assert {"events", "attempts", "steps", "attempts_per_step", "state_map as JSON"} <= set(runs[0])
    # A Python call for each of 18,000 groups takes five times the load. A pause of the machine hits one of the runs.
    groups, load = (min(parts[name] for parts in runs) for name in ("attempts_per_step", "events"))
    assert groups < 2 * load


@pytest.mark.parametrize("table", ["events", "orders", "attempts", "steps"])
def test_each_frame_survives_its_file(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Any) -> None:
    """Written in several parts and read back, each table has the same values and dtypes; as .csv the same columns."""
    monkeypatch.setattr(exporting, "_EXPORTED", 700)
    some = [f"order-{n}" for n in range(90)]
    frame = getattr(insight, table)(filled, some)
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
        shown: Any = insight.state_map(log)._repr_mimebundle_()
        assert set(shown) == {"application/vnd.vegalite.v5+json", "image/svg+xml", "image/png"}
        insight.static()
        pictures: Any = insight.state_map(log)._repr_mimebundle_()
        assert set(pictures) == {"image/svg+xml"}
    finally:
        alt.renderers.enable("default")
