"""The book of flights on real servers: complete although a worker was killed, the same again with the same seed, and
readable as frames."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trellis import insight, runtime
from trellis.bench.book import Flight, fly, judged
from trellis.cli.advice import in_the_book
from trellis.config import Settings
from trellis.db.flights import FlightBook
from trellis.errors import BadInput
from trellis.flights import FlightRow
from trellis.insight.fit import learn
from trellis.insight.flights import PartialBook
from trellis.insight.frames import OUTCOMES
from trellis.insight.history.frames import POLICY

pytestmark = pytest.mark.slow

FLOWN = 40


class Flown:
    """Two flights of the same workflows, and where they are."""

    def __init__(self, names: list[str], both: list[Flight], url: str, address: str) -> None:
        self.names, self.both, self.url, self.address = names, both, url, address


@pytest.fixture(scope="module")
async def flown(opened: runtime.Runtime, settings: Settings) -> Flown:
    prefix = f"trip-{uuid.uuid4().hex[:6]}"
    names = [f"{prefix}-{number}" for number in range(FLOWN)]
    client = opened.desk.client
    both = [
        await fly(settings, client, names, 1, 7, lambda: None),
        await fly(settings, client, names[: FLOWN // 2], 0, 7, lambda: None, workers=1),
    ]
    return Flown(names, both, opened.stack.database_url, client.service_client.config.target_host)


async def test_the_book_equals_what_the_server_counted(flown: Flown) -> None:
    """A worker was killed on the way; no attempt is missing, and none is too much."""
    found = judged(FLOWN, flown.both)
    assert (found["kills"], found["missing"], found["extra"]) == (1, 0, 0)
    assert found["attempts"] == found["server"] >= FLOWN * 3 // 2 * 5
    assert found["tries"] >= FLOWN * 3 // 2


async def test_the_same_seed_and_ids_give_the_same_faults(flown: Flown) -> None:
    """Whichever worker runs an attempt, and whenever: the runs have other ids."""
    found = judged(FLOWN, flown.both)
    assert found["same_outcomes"] == found["compared"] >= FLOWN // 2 * 4
    assert {"error", "reply-lost"} <= set(flown.both[0].injected.values())


async def test_nothing_is_settled_twice(flown: Flown) -> None:
    """The runs have ended and were compared. So Temporal is not asked again: nobody listens at this address."""
    frame = insight.flights(flown.url, workflow=flown.names, client="127.0.0.1:1", namespace="default")
    assert not (frame["outcome"] == "open").any()
    assert frame.attrs["notes"] == []


async def test_the_frame_of_the_book_says_what_it_holds(flown: Flown, tmp_path: Path) -> None:
    """Columns and dtypes, filters, batches, files; an empty frame has the same columns."""
    frame = insight.flights(flown.url, workflow=flown.names, settle=False)
    assert list(frame.columns[:7]) == [
        "workflow_id", "run_id", "workflow_type", "activity_id", "activity_type", "attempt", "outcome",
    ]  # fmt: skip
    assert set(POLICY) <= set(frame.columns)
    assert list(frame["outcome"].cat.categories) == OUTCOMES
    assert str(frame["attempt"].dtype) == "Int32"
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    assert set(frame["workflow_type"]) == {"Trip"}
    assert frame.loc[frame["local"].astype(bool), "activity_type"].unique().tolist() == ["check_card"]
    with_tries = insight.flights(flown.url, workflow=flown.names, settle=False, tries=True)
    assert list(with_tries.columns) == [*frame.columns, "try", "lane"]
    tries = with_tries[with_tries["try"] > 0]
    assert set(tries["activity_type"]) == {"charge"}
    assert set(tries["start_to_close_timeout"]) == {0.5}
    assert (with_tries["try"] == 0).sum() == len(frame)

    other = insight.flights(flown.url, workflow=flown.names, settle=False, driver="psycopg")
    pd.testing.assert_frame_equal(other, frame)
    one = insight.flights(flown.url, workflow=flown.names[0], activity_type=["charge", "send_letter"], settle=False)
    assert set(one["activity_type"]) == {"charge", "send_letter"}
    none = insight.flights(flown.url, workflow="nobody's", settle=False)
    assert none.empty
    assert none.dtypes.astype(str).to_dict() == frame.dtypes.astype(str).to_dict()
    parts = list(insight.flights(flown.url, workflow=flown.names, settle=False, batches=100))
    assert [len(part) for part in parts[:-1]] == [100] * (len(parts) - 1)
    joined = insight.flight_attempts(pd.concat(parts))
    pd.testing.assert_frame_equal(joined, insight.flight_attempts(frame))

    path = tmp_path / "book.parquet"
    assert insight.export(path, flown.url, table="flights", order=flown.names, settle=False) == len(frame)
    pd.testing.assert_frame_equal(insight.flight_attempts(pd.read_parquet(path)), insight.flight_attempts(frame))


async def test_the_book_fills_the_gaps_of_a_history(
    opened: runtime.Runtime, flown: Flown, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined, each attempt is there once, and none is unknown; the rounds are the history's."""
    prefix = flown.names[0].rpartition("-")[0]
    history = await insight.download(opened.desk.client, f'WorkflowId STARTS_WITH "{prefix}-"')
    book = insight.flights(flown.url, workflow=flown.names, settle=False)
    known, filled = insight.history_attempts(history), insight.flight_attempts(book, history)
    key = ["order_id", "step", "round", "execution"]
    assert (known["outcome"] == "unknown").any()
    assert not (filled["outcome"] == "unknown").any()
    begun = filled.duplicated(key)  # a local activity that began anew when its worker was killed
    assert begun.sum() <= sum(one.again for one in flown.both)
    assert set(map(tuple, filled.loc[~begun, key].to_numpy())) == set(map(tuple, known[key].to_numpy()))
    sure = known[known["outcome"].isin(["succeeded", "failed"])].set_index(key)["outcome"].astype(str)
    same = filled[~filled.duplicated(key, keep="last")].set_index(key)["outcome"].astype(str)
    assert (same.loc[sure.index] == sure).all()
    # `trellis recommend --query` finds the same rows by itself.
    monkeypatch.setenv("TRELLIS_HOME", str(settings.home))
    found = await asyncio.to_thread(in_the_book, history)
    assert found is not None
    ended = ~insight.flight_attempts(found, history)["outcome"].isin(["lost", "open"])
    assert learn(history, book=found).tries == ended.sum()
    assert insight.gantt(filled[filled["order_id"] == filled["order_id"].iloc[0]]).to_dict()
    assert insight.attempts_per_step(book).to_dict()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"outcome": "great"}, "no outcome 'great'"),
        ({"batches": 0}, "at least 1"),
        ({"order": "t"}, "cannot be filtered by order"),
    ],
)
async def test_what_cannot_be_asked_is_a_sentence(flown: Flown, asked: dict[str, Any], sentence: str) -> None:
    """Before anything is read or settled."""
    with pytest.raises(BadInput, match=sentence):
        insight.flights(flown.url, settle=False, **asked)


async def test_a_server_that_is_away_is_said_and_the_book_is_read(flown: Flown, opened: runtime.Runtime) -> None:
    """The rows of a run that goes on must be compared, and nobody answers. The frame comes with a note."""
    async with opened.pool.connection() as connection:
        await connection.execute("DELETE FROM flights.settled WHERE workflow_id = %s", (flown.names[0],))
    later = datetime.now(UTC) + timedelta(days=3)
    none = insight.flights(flown.url, workflow=flown.names[0], since=later, client="127.0.0.1:1", namespace="default")
    # Nothing of that time is there to compare.
    assert none.attrs["notes"] == []
    with pytest.warns(PartialBook, match="was not compared with the server"):
        frame = insight.flights(flown.url, workflow=flown.names[0], client="127.0.0.1:1", namespace="default")
    assert len(frame)
    # Another database's book may be that of another server. A desk knows its own.
    with pytest.warns(PartialBook, match="say which server it belongs to"):
        insight.flights(flown.url, workflow=flown.names[0])
    compared = await asyncio.to_thread(insight.flights, opened.desk, workflow=flown.names[0])
    assert compared.attrs["notes"] == []
    assert len(compared) == len(frame)


async def test_a_history_that_is_gone_is_said_once(flown: Flown, opened: runtime.Runtime) -> None:
    """Its open row stays open, and is asked about again only by the workflow's id."""
    name = f"gone-{uuid.uuid4().hex[:6]}"
    now = datetime.now(UTC)
    row = FlightRow(
        namespace="default", workflow_id=name, run_id=str(uuid.uuid4()), workflow_type=name, activity_id="1",
        activity_type="ship", attempt=1, queue="trips", scheduled_at=now, attempt_scheduled_at=now, started_at=now,
    )  # fmt: skip
    await FlightBook(opened.pool).write([row])
    with pytest.warns(PartialBook, match=r"no longer has the history of 1 run\(s\)"):
        frame = insight.flights(flown.url, workflow_type=name, client=flown.address)
    assert frame["outcome"].astype(str).tolist() == ["open"]
    assert insight.flights(flown.url, workflow_type=name, client=flown.address).attrs["notes"] == []
    with pytest.warns(PartialBook, match="no longer has the history"):
        insight.flights(flown.url, workflow=name, client=flown.address)
