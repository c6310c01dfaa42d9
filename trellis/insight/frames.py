"""The ledger as DataFrames: times in UTC, few-valued text as categories, integers that may be missing as Int32.

Where a `source` is asked for: a Postgres URL, anything with a `database_url` (or a Session or Desk), or None for the
stack that runs in this workspace. Filters (`order`, `since`, `until`, `state`, and what else a function names) are
part of the SQL; text filters take one value or several. With `batches=n` each of them yields frames instead, and
memory does not grow with the table: frames of n rows or, of attempts and steps, frames of whole orders, made from
n events and those that the last of the orders lacks. `driver`: "adbc" or "psycopg", default the faster that is there.
All raise DatabaseUnavailable, SchemaMismatch (run `trellis migrate`) and BadInput.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from trellis import config, stack
from trellis.db import reading
from trellis.db.reading import OneOrMany, Table
from trellis.errors import BadInput

OUTCOMES = ["succeeded", "failed", "timed out", "abandoned", "lost", "unknown", "open"]
"""How a try went. The last two are for histories: one that the source does not hold, and one that has not ended."""

_OUTCOMES = {"ATTEMPT_FAILED": "failed", "ATTEMPT_TIMED_OUT": "timed out", "ATTEMPT_ABANDONED": "abandoned"}
_CATEGORIES = {"type", "step", "worker", "state", "policy", "status"}
_SKEW = pd.Timedelta(seconds=1)
LOST = "left no trace"
_EXPORTED = 100_000
_TYPES: dict[pa.DataType, Any] = {
    pa.int32(): pd.Int32Dtype(),
    pa.string(): pd.StringDtype("pyarrow"),
    pa.bool_(): pd.BooleanDtype(),
}

Source = Any


class Filters(TypedDict, total=False):
    """`since` is inclusive, `until` is not; `state` is the order's state now."""

    since: datetime | None
    until: datetime | None
    state: OneOrMany
    driver: str | None


class TryFilters(Filters, total=False):
    step: OneOrMany
    type: OneOrMany


class EventFilters(TryFilters, total=False):
    tries: bool | None


class PaymentFilters(Filters, total=False):
    status: OneOrMany


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


def _schema(table: Table) -> pa.Schema:
    few = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([(field.name, few if field.name in _CATEGORIES else field.type) for field in table.schema])


def _frame(table: Table, batches: list[pa.RecordBatch]) -> pd.DataFrame:
    whole = pa.Table.from_batches(batches, _schema(table)).unify_dictionaries()
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


def _whole_orders(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """The same rows, which come order by order, in lists that end with an order: the first end after `rows` rows."""
    held: list[pa.RecordBatch] = []
    size, last = 0, None
    for batch in batches:
        ids = batch.column("order_id").to_numpy(zero_copy_only=False)
        begin = 0
        for start in np.flatnonzero(ids != np.append([last], ids[:-1])) if len(ids) else []:
            if size + start - begin >= rows:
                held.append(batch.slice(begin, start - begin))
                yield held
                held, size, begin = [], 0, int(start)
        held.append(batch.slice(begin))
        size += batch.num_rows - begin
        last = ids[-1] if len(ids) else last
    if size:
        yield held


def _read(
    table: Table, source: Source, batches: int | None, order: OneOrMany, filters: Any, *, whole: bool = False
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    if batches is not None and batches < 1:
        raise BadInput("batches= is the number of rows of a frame: at least 1.")
    driver = filters.get("driver")
    text = reading.query(table, order=order, **{name: value for name, value in filters.items() if name != "driver"})
    rows = map(_encoded, reading.stream(database_url(source), table, text, driver=driver))
    if batches is None:
        return _frame(table, list(rows))
    return (_frame(table, chunk) for chunk in (_whole_orders if whole else _chunks)(rows, batches))


@overload
def events(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[EventFilters]
) -> pd.DataFrame: ...
@overload
def events(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[EventFilters]
) -> Iterator[pd.DataFrame]: ...
def events(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[EventFilters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """The log, oldest first. Filters: since, until, state, step, type, tries.

    Columns: id [int64], order_id [string], type, step, worker [category], attempt, round, execution, try [Int32,
    missing where no try brought the event about], started_at, ts [UTC], duration_ms [float], payload_json [string of
    JSON]. `tries=True` leaves only events that a try brought about. An empty ledger gives an empty frame with the same
    columns and dtypes.
    """
    return _read(reading.EVENTS, source, batches, order, filters)


@overload
def orders(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[Filters]
) -> pd.DataFrame: ...
@overload
def orders(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[Filters]
) -> Iterator[pd.DataFrame]: ...
def orders(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[Filters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """One row per order, oldest first. Filters: since and until, about its creation, and state.

    Columns: order_id [string], state, policy [category], total [float, currency units], last_error [string],
    reconciled [boolean], created_at, began_at, claimed_at, closing_at, ended_at [UTC; began_at: start of the first try,
    which `created_at` comes after; ended_at is missing while it is open], seconds [float, began_at to ended_at],
    items_json, address_json, policy_json [string of JSON].
    """
    found = _read(reading.ORDERS, source, batches, order, filters)
    return _timed(found) if isinstance(found, pd.DataFrame) else map(_timed, found)


def _timed(orders: pd.DataFrame) -> pd.DataFrame:
    return orders.assign(seconds=(orders["ended_at"] - orders["began_at"]).dt.total_seconds())


@overload
def payments(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[PaymentFilters]
) -> pd.DataFrame: ...
@overload
def payments(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[PaymentFilters]
) -> Iterator[pd.DataFrame]: ...
def payments(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[PaymentFilters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """One row per payment, oldest first. Filters: since, until, state (its order's), status.

    Columns: payment_id, order_id [string], status [category], amount [float, currency units], created_at, updated_at
    [UTC].
    """
    return _read(reading.PAYMENTS, source, batches, order, filters)


@overload
def attempts(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame: ...
@overload
def attempts(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[TryFilters]
) -> Iterator[pd.DataFrame]: ...
def attempts(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """One row per try of an outside step, by order and start. Filters: since, until, state, step, type.

    `source` may also be a frame that `events` gave; then nothing else is asked for.

    Columns: order_id [string], step [category], attempt, round, execution, try, lane [Int32], outcome [category: as
    in OUTCOMES], started_at, ended_at [UTC], duration_ms [float], error [string],
    worker [category], skewed [bool].

    A try that left no trace (its worker died, or failed in a way that nobody wrote down) is known by the hole that it
    left, and stands here as `lost` with no times and no attempt number. A hole shows only among the other tries of
    its step: where the frame lacks some of these, as `since`, `until` and `type` may leave it, no loss is inferred.
    `skewed`: the worker's clock cannot be right, for the try took less than no time or ended over a second after the
    database wrote it down.
    """
    if isinstance(source, pd.DataFrame):
        _only_a_frame(order, batches, filters)
        return _attempts(source)
    if "tries" in filters:
        raise BadInput("attempts are tries: leave tries= out.")
    by_order = replace(reading.EVENTS, sort="order_id, id")
    table = reading.EVENTS if batches is None else by_order
    found = _read(table, source, batches, order, {**filters, "tries": True}, whole=True)
    return _attempts(found) if isinstance(found, pd.DataFrame) else map(_attempts, found)


def _only_a_frame(order: OneOrMany, batches: int | None, filters: Any) -> None:
    if order is not None or batches is not None or filters:
        raise BadInput("A frame is taken as it is: filter it with pandas, or give a source to read from.")


def _attempts(log: pd.DataFrame) -> pd.DataFrame:
    if missing := sorted({"attempt", "payload_json", "started_at", "ts"} - set(log.columns)):
        raise BadInput(f"This frame has no {', '.join(missing)}: give one as insight.events gives it.")
    if not all(isinstance(log[name].dtype, pd.DatetimeTZDtype) for name in ("started_at", "ts")):
        raise BadInput("This frame's times are no times (as from a .csv): export to .parquet, which keeps dtypes.")
    tries = log[log["attempt"].notna()]
    types = tries["type"].astype("category")
    outcome = np.array([_OUTCOMES.get(str(kind), "succeeded") for kind in types.cat.categories], dtype=object)
    lane, error = _payloads(tries["payload_json"])
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
            "lane": lane,
            "outcome": pd.Categorical(outcome[types.cat.codes], categories=OUTCOMES) if len(tries) else
                       pd.Categorical([], categories=OUTCOMES),
            "started_at": tries["started_at"],
            "ended_at": ended,
            "duration_ms": duration,
            "error": error,
            "worker": tries["worker"],
            "skewed": (duration < 0) | ((ended - tries["ts"]) > _SKEW).to_numpy(),
        }
    )  # fmt: skip
    lost = _lost(made)
    if len(lost):
        made = pd.concat([made, lost.astype(made.dtypes.to_dict())], ignore_index=True)
    by = ["order_id", "started_at", "execution", "attempt"]
    return made.sort_values(by, kind="stable", ignore_index=True)


def _payloads(column: pd.Series[Any]) -> tuple[Any, Any]:
    """(lane, error) of each payload, as arrays."""
    # Payloads repeat: each kind of them is parsed once.
    codes, kinds = pd.factorize(column, use_na_sentinel=False)
    found = [json.loads(kind) for kind in kinds]
    lane = np.array([one.get("lane", 0) for one in found], dtype="int32")
    error = pd.array([one.get("error") for one in found], dtype=pd.StringDtype("pyarrow"))
    return pd.array(lane[codes], dtype="Int32"), error.take(codes)


def _lost(tries: pd.DataFrame) -> pd.DataFrame:
    """Rows for tries that began and left nothing: executions that Temporal counted and nobody wrote down, and the
    last try of an execution that was cut off in the middle of its loop.
    """
    key = ["order_id", "step", "round"]
    steps = tries.groupby(["order_id", "step"], observed=True)
    # Attempts are numbered as they are written: a number that is missing was filtered away, not lost.
    whole = steps["attempt"].transform("max") == steps["attempt"].transform("size")
    again = tries.groupby(key, observed=True)["execution"].transform("max") > 1
    mine = tries.loc[(whole & again).to_numpy(dtype=bool, na_value=False), [*key, "execution", "try", "outcome"]]
    mine = mine.assign(ended=mine.pop("outcome").isin(["succeeded", "abandoned"]))
    each = (
        mine.groupby([*key, "execution"], observed=True)
        .agg(tries=("try", "size"), last=("try", "max"), ended=("ended", "any"))
        .reset_index()
    )
    same = each.groupby(key, observed=True)["execution"]
    # One try an execution is what Temporal's own retry leaves; a loop of several ends in success or abandoned.
    cut_off = each[(each["tries"] > 1) & ~each["ended"] & (each["execution"] < same.transform("max"))]
    hole = (each["execution"] - same.shift(fill_value=0) - 1).to_numpy(dtype=int)
    missing = each.loc[each.index.repeat(hole), [*key, "execution"]]
    missing["execution"] -= missing.groupby(level=0).cumcount() + 1
    lost = pd.concat([cut_off.assign(**{"try": cut_off["last"] + 1}), missing.assign(**{"try": 1})], ignore_index=True)
    return lost.assign(outcome="lost", error=LOST, skewed=False).reindex(columns=tries.columns)


@overload
def steps(
    source: Source = None, order: OneOrMany = None, *, batches: None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame: ...
@overload
def steps(
    source: Source = None, order: OneOrMany = None, *, batches: int, **filters: Unpack[TryFilters]
) -> Iterator[pd.DataFrame]: ...
def steps(
    source: Source = None, order: OneOrMany = None, *, batches: int | None = None, **filters: Unpack[TryFilters]
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """One row per step of an order and round. Filters as for `attempts`; `source` may also be a frame that it gave.

    Columns: order_id [string], step [category], round [Int32], attempts, failed, timed_out, abandoned, lost, unknown,
    open [int64], succeeded [bool], started_at, ended_at [UTC; the first start counts from when it was scheduled, where
    no more is known], seconds [float, first start to last end], good_s, failed_s, hung_s, wait_s [float: in the try
    that worked, in tries that failed, in tries that hung, and between tries or in such as have no times].
    """
    if isinstance(source, pd.DataFrame) and "outcome" in source:
        _only_a_frame(order, batches, filters)
        return _steps(source)
    if batches is not None:
        return map(_steps, attempts(source, order, batches=batches, **filters))
    return _steps(attempts(source, order, **filters))


def _steps(tries: pd.DataFrame) -> pd.DataFrame:
    seconds = (tries["duration_ms"] / 1000).clip(lower=0).fillna(0.0)
    outcome = tries["outcome"]
    rows = tries[["order_id", "step", "round", "started_at", "ended_at"]].assign(
        attempts=1, unknown=outcome == "unknown", open=outcome == "open",
        failed=outcome == "failed", timed_out=outcome == "timed out", abandoned=outcome == "abandoned",
        lost=outcome == "lost", succeeded=outcome == "succeeded",
        good_s=seconds.where(outcome == "succeeded", 0.0),
        failed_s=seconds.where(outcome == "failed", 0.0), hung_s=seconds.where(outcome == "timed out", 0.0),
    )  # fmt: skip
    if "scheduled_at" in tries:
        rows["started_at"] = rows["started_at"].fillna(tries["scheduled_at"])
    counts = ["attempts", "failed", "timed_out", "abandoned", "lost", "unknown", "open", "good_s", "failed_s", "hung_s"]
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
        ["order_id", "step", "round", "attempts", "failed", "timed_out", "abandoned", "lost", "unknown", "open",
         "succeeded", "started_at", "ended_at", "seconds", "good_s", "failed_s", "hung_s", "wait_s"]
    ]  # fmt: skip


def export(
    path: str | Path,
    source: Source = None,
    *,
    table: Literal["events", "orders", "payments", "attempts", "steps"] = "events",
    order: OneOrMany = None,
    **filters: Any,
) -> int:
    """Write a table to `path`, .parquet or .csv, in bounded memory; returns the number of rows.

    `pd.read_parquet` gives the frame back as it was, dtypes included; a .csv has text, numbers and ISO times, and no
    dtypes. Filters as for the table's own function. The file appears under its name only when it is whole. Raises
    BadInput for another ending or a missing folder.
    """
    import pyarrow.csv  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    target = Path(path)
    known = {"events": events, "orders": orders, "payments": payments, "attempts": attempts, "steps": steps}
    if table not in known:
        raise BadInput(f"There is no table {table!r}: choose {', '.join(known)}.")
    if target.suffix not in (".parquet", ".csv"):
        raise BadInput(f"{target.name}: export writes .parquet or .csv.")
    if not target.parent.is_dir():
        raise BadInput(f"The folder {target.parent} does not exist.")
    read: Any = known[table]
    frames = read(source, order, batches=_EXPORTED, **filters)
    # No order has an empty id: a frame with all dtypes and no rows.
    schema = _stored(pa.Schema.from_pandas(read(source, ""), preserve_index=False), target.suffix == ".csv")
    part = target.with_name(target.name + ".part")
    rows = 0
    try:
        writer = (
            pyarrow.parquet.ParquetWriter(part, schema, compression="zstd")
            if target.suffix == ".parquet"
            else pyarrow.csv.CSVWriter(part, schema)
        )
        with writer:
            for frame in frames:
                writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
                rows += len(frame)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return rows


def _stored(schema: pa.Schema, plain: bool) -> pa.Schema:
    """Categories as text in a dictionary of one type, however many a batch has; `plain`: as text alone."""
    text = pa.string() if plain else pa.dictionary(pa.int32(), pa.string())
    fields = [field.with_type(text) if pa.types.is_dictionary(field.type) else field for field in schema]
    return pa.schema(fields, schema.metadata)
