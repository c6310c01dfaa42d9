"""The ledger as DataFrames: times in UTC, few-valued text as categories, integers that may be missing as Int32.

Where a `source` is asked for: a Postgres URL, anything with a `database_url` (or a Session or Desk), or None for the
stack that runs in this workspace. Filters (`since`, `until`, `order`, `state`, `step`, `type`) are part of the SQL;
text filters take one value or several. With `batches=n` a function yields frames of at most n rows instead, and memory
does not grow with the table. All raise DatabaseUnavailable, SchemaMismatch (run `trellis migrate`) and BadInput.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from trellis import config, stack
from trellis.db import reading
from trellis.db.reading import OneOrMany, Table
from trellis.errors import BadInput

OUTCOMES = ["succeeded", "failed", "timed out", "abandoned", "lost"]
_OUTCOMES = {"ATTEMPT_FAILED": "failed", "ATTEMPT_TIMED_OUT": "timed out", "ATTEMPT_ABANDONED": "abandoned"}
_CATEGORIES = {"type", "step", "worker", "state", "policy", "status"}
_SKEW = pd.Timedelta(seconds=1)
_TYPES: dict[pa.DataType, Any] = {
    pa.int32(): pd.Int32Dtype(),
    pa.string(): pd.StringDtype("pyarrow"),
    pa.bool_(): pd.BooleanDtype(),
}

Source = Any


def database_url(source: Source = None) -> str:
    """The Postgres URL behind `source`. Raises StackError when nothing runs here, BadInput for anything else."""
    if source is None:
        return stack.require(config.load()).database_url
    if isinstance(source, str):
        return source
    for path in (("database_url",), ("stack", "database_url"), ("desk", "stack", "database_url")):
        found = source
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, str):
            return found
    raise BadInput(f"{type(source).__name__} is no source of events: give a postgresql:// URL or a running session.")


def _encoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    # While it is small: the plain text of a million rows never exists at once. The rest is copied, because the
    # columns of a batch from the driver are freed only together, and the last of them lives as long as the frame.
    columns = [
        column.dictionary_encode() if name in _CATEGORIES else pa.concat_arrays([column, column.slice(0, 0)])
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.record_batch(columns, names=batch.schema.names)


def _frame(table: Table, batches: list[pa.RecordBatch]) -> pd.DataFrame:
    schema = pa.schema(
        [
            (field.name, pa.dictionary(pa.int32(), pa.string()) if field.name in _CATEGORIES else field.type)
            for field in table.schema
        ]
    )
    whole = pa.Table.from_batches(batches, schema).unify_dictionaries()
    batches.clear()
    frame: pd.DataFrame = whole.to_pandas(
        types_mapper=_TYPES.get, split_blocks=True, self_destruct=True, date_as_object=False
    )
    return frame


def _chunks(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """The same rows in lists of exactly `rows`, the last one shorter."""
    held: list[pa.RecordBatch] = []
    missing = rows
    for batch in batches:
        while batch.num_rows >= missing:
            held.append(batch.slice(0, missing))
            batch = batch.slice(missing)
            yield held
            held, missing = [], rows
        if batch.num_rows:
            held.append(batch)
            missing -= batch.num_rows
    if held:
        yield held


def _read(
    table: Table, source: Source, batches: int | None, driver: str | None, **filters: Any
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    if batches is not None and batches < 1:
        raise BadInput("batches= is the number of rows of a frame: at least 1.")
    text = reading.query(table, **filters)
    rows = map(_encoded, reading.stream(database_url(source), table, text, driver=driver))
    if batches is None:
        return _frame(table, list(rows))
    return (_frame(table, chunk) for chunk in _chunks(rows, batches))


@overload
def events(
    source: Source = None, order: OneOrMany = None, *, since: datetime | None = None, until: datetime | None = None,
    state: OneOrMany = None, step: OneOrMany = None, type: OneOrMany = None, tries: bool | None = None,
    batches: None = None, driver: str | None = None,
) -> pd.DataFrame: ...  # fmt: skip
@overload
def events(
    source: Source = None, order: OneOrMany = None, *, since: datetime | None = None, until: datetime | None = None,
    state: OneOrMany = None, step: OneOrMany = None, type: OneOrMany = None, tries: bool | None = None,
    batches: int, driver: str | None = None,
) -> Iterator[pd.DataFrame]: ...  # fmt: skip
def events(
    source: Source = None,
    order: OneOrMany = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    state: OneOrMany = None,
    step: OneOrMany = None,
    type: OneOrMany = None,
    tries: bool | None = None,
    batches: int | None = None,
    driver: str | None = None,
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """The log, oldest first.

    Columns: id [int64], order_id [string], type, step, worker [category], attempt, round, execution, try [Int32,
    missing where no try brought the event about], started_at, ts [UTC], duration_ms [float], payload_json [string of
    JSON]. `state` is the order's state now; `tries=True` leaves only events that a try brought about. An empty
    ledger gives an empty frame with the same columns and dtypes. `driver`: "adbc" or "psycopg", default the faster.
    """
    return _read(
        reading.EVENTS, source, batches, driver,
        since=since, until=until, order=order, state=state, step=step, type=type, tries=tries,
    )  # fmt: skip


def orders(
    source: Source = None,
    order: OneOrMany = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    state: OneOrMany = None,
) -> pd.DataFrame:
    """One row per order, oldest first; `since` and `until` are about its creation.

    Columns: order_id [string], state, policy [category], total [float, currency units], last_error [string],
    reconciled [boolean], created_at, began_at, claimed_at, closing_at, ended_at [UTC; began_at: start of the first try,
    which `created_at` comes after; ended_at is missing while it is open], seconds [float, began_at to ended_at],
    items_json, address_json, policy_json [string of JSON].
    """
    frame = _read(
        reading.ORDERS, source, None, None, since=since, until=until, order=order, state=state
    )  # fmt: skip
    assert isinstance(frame, pd.DataFrame)
    frame["seconds"] = (frame["ended_at"] - frame["began_at"]).dt.total_seconds()
    return frame


def payments(
    source: Source = None,
    order: OneOrMany = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    state: OneOrMany = None,
    status: OneOrMany = None,
) -> pd.DataFrame:
    """One row per payment, oldest first; `state` is its order's.

    Columns: payment_id, order_id [string], status [category], amount [float, currency units], created_at, updated_at
    [UTC].
    """
    frame = _read(
        reading.PAYMENTS, source, None, None, since=since, until=until, order=order, state=state, status=status
    )
    assert isinstance(frame, pd.DataFrame)
    return frame


def attempts(source: Source = None, order: OneOrMany = None, **filters: Any) -> pd.DataFrame:
    """One row per try of an outside step, by order and start. `source` may also be a frame that `events` gave.

    Columns: order_id [string], step [category], attempt, round, execution, try, lane [Int32], outcome [category:
    succeeded, failed, timed out, abandoned, lost], started_at, ended_at [UTC], duration_ms [float], error [string],
    worker [category], skewed [bool].

    A try that died with its worker wrote nothing. It is known by the hole that it left, and stands here as `lost`
    with no times and no attempt number. `skewed`: the worker's clock cannot be right, for the try took less than no
    time or ended over a second after the database wrote it down.
    """
    log = source if isinstance(source, pd.DataFrame) else events(source, order, tries=True, **filters)
    tries = log[log["attempt"].notna()]
    types = tries["type"].astype("category")
    outcome = np.array([_OUTCOMES.get(str(kind), "succeeded") for kind in types.cat.categories], dtype=object)
    payload = _payloads(tries["payload_json"])
    duration = tries["duration_ms"].to_numpy(dtype=float, na_value=np.nan)
    ended = tries["started_at"] + pd.to_timedelta(tries["duration_ms"], unit="ms")
    ended = ended.astype("datetime64[us, UTC]")
    made = pd.DataFrame(
        {
            "order_id": tries["order_id"],
            "step": tries["step"],
            "attempt": tries["attempt"],
            "round": tries["round"],
            "execution": tries["execution"],
            "try": tries["try"],
            "lane": pd.array([one.get("lane", 0) for one in payload], dtype="Int32"),
            "outcome": pd.Categorical(outcome[types.cat.codes], categories=OUTCOMES) if len(tries) else
                       pd.Categorical([], categories=OUTCOMES),
            "started_at": tries["started_at"],
            "ended_at": ended,
            "duration_ms": duration,
            "error": pd.array([one.get("error") for one in payload], dtype=pd.StringDtype("pyarrow")),
            "worker": tries["worker"],
            "skewed": (duration < 0) | ((ended - tries["ts"]) > _SKEW).to_numpy(),
        }
    )  # fmt: skip
    lost = _lost(made)
    if len(lost):
        made = pd.concat([made, lost.astype(made.dtypes.to_dict())], ignore_index=True)
    by = ["order_id", "started_at", "execution", "attempt"]
    return made.sort_values(by, kind="stable", ignore_index=True)


def _payloads(column: pd.Series[Any]) -> list[dict[str, Any]]:
    # Most tries carry neither lane nor error: looking for the word is cheaper than parsing.
    empty: dict[str, Any] = {}
    return [
        one if isinstance(one, dict) else json.loads(one) if '"error"' in one or '"lane"' in one else empty
        for one in column
    ]


def _lost(tries: pd.DataFrame) -> pd.DataFrame:
    """Rows for tries that began and left nothing: executions that Temporal counted and nobody wrote down, and the
    last try of an execution that was cut off in the middle of its loop.
    """
    key = ["order_id", "step", "round"]
    last = tries.groupby(key, observed=True)["execution"].max()
    rows: list[tuple[Any, ...]] = []
    again = last[last > 1].reset_index()
    for order, step, round_, highest in again.itertuples(index=False, name=None):
        mine = tries[(tries["order_id"] == order) & (tries["step"] == step) & (tries["round"] == round_)]
        for execution in range(1, int(highest)):
            those = mine[mine["execution"] == execution]
            # One try an execution is what Temporal's own retry leaves; a loop of several ends in one of these.
            cut_off = len(those) > 1 and not those["outcome"].isin(["succeeded", "abandoned"]).any()
            if those.empty or cut_off:
                number = 1 if those.empty else int(those["try"].max()) + 1
                rows.append((order, step, round_, execution, number, "lost", "the worker died with it", False))
    return pd.DataFrame(
        rows, columns=["order_id", "step", "round", "execution", "try", "outcome", "error", "skewed"]
    ).reindex(columns=tries.columns)


def steps(source: Source = None, order: OneOrMany = None, **filters: Any) -> pd.DataFrame:
    """One row per step of an order and round. `source` may also be a frame that `attempts` gave.

    Columns: order_id [string], step [category], round [Int32], attempts, failed, timed_out, abandoned, lost [int64],
    succeeded [bool], started_at, ended_at [UTC], seconds [float, first start to last end], good_s, failed_s, hung_s,
    wait_s [float: in the try that worked, in tries that failed, in tries that hung, and between tries].
    """
    tries = source if isinstance(source, pd.DataFrame) and "outcome" in source else attempts(source, order, **filters)
    seconds = (tries["duration_ms"] / 1000).clip(lower=0).fillna(0.0)
    outcome = tries["outcome"]
    rows = tries[["order_id", "step", "round", "started_at", "ended_at"]].assign(
        attempts=1,
        failed=outcome == "failed", timed_out=outcome == "timed out", abandoned=outcome == "abandoned",
        lost=outcome == "lost", succeeded=outcome == "succeeded",
        good_s=seconds.where(outcome == "succeeded", 0.0),
        failed_s=seconds.where(outcome == "failed", 0.0), hung_s=seconds.where(outcome == "timed out", 0.0),
    )  # fmt: skip
    counts = dict.fromkeys(["attempts", "failed", "timed_out", "abandoned", "lost", "good_s", "failed_s", "hung_s"])
    frame = (
        rows.groupby(["order_id", "step", "round"], observed=True, sort=False)
        .agg(
            succeeded=("succeeded", "any"),
            started_at=("started_at", "min"),
            ended_at=("ended_at", "max"),
            **{name: (name, "sum") for name in counts},
        )
        .reset_index()
    )
    frame["seconds"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds()
    # Hedge lanes overlap: their sum can exceed the time that passed.
    spent = frame["good_s"] + frame["failed_s"] + frame["hung_s"]
    frame["wait_s"] = (frame["seconds"] - spent).clip(lower=0)
    return frame[
        ["order_id", "step", "round", "attempts", "failed", "timed_out", "abandoned", "lost", "succeeded",
         "started_at", "ended_at", "seconds", "good_s", "failed_s", "hung_s", "wait_s"]
    ]  # fmt: skip


def export(
    path: str | Path,
    source: Source = None,
    *,
    table: Literal["events", "orders", "payments"] = "events",
    driver: str | None = None,
    **filters: Any,
) -> int:
    """Write a table to `path`, .parquet or .csv, in bounded memory; returns the number of rows.

    The file appears under its name only when it is whole. Raises BadInput for another ending or a missing folder.
    """
    import pyarrow.csv  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    target = Path(path)
    chosen = {"events": reading.EVENTS, "orders": reading.ORDERS, "payments": reading.PAYMENTS}.get(table)
    if chosen is None:
        raise BadInput(f"There is no table {table!r}: choose events, orders or payments.")
    if target.suffix not in (".parquet", ".csv"):
        raise BadInput(f"{target.name}: export writes .parquet or .csv.")
    if not target.parent.is_dir():
        raise BadInput(f"The folder {target.parent} does not exist.")
    unknown = sorted(set(filters) - set(chosen.filters))
    if unknown:
        raise BadInput(f"{table} cannot be filtered by {', '.join(unknown)}; by {', '.join(chosen.filters)} they can.")
    batches = reading.stream(database_url(source), chosen, reading.query(chosen, **filters), driver=driver)
    part = target.with_name(target.name + ".part")
    rows = 0
    try:
        writer = (
            pyarrow.parquet.ParquetWriter(part, chosen.schema, compression="zstd")
            if target.suffix == ".parquet"
            else pyarrow.csv.CSVWriter(part, chosen.schema)
        )
        with writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return rows
