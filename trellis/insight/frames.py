"""The ledger as DataFrames: times in UTC, few-valued text as categories, integers that may be missing as Int32.

`source` is a Postgres URL, anything with a `database_url` (or a Session or Desk), or None for the stack that runs in
this workspace. Filters (`order`, `since`, `until`, `state`, and others that a function names) are part of the SQL. Text
filters take one value or several. With `batches=n` a function yields frames instead of one frame, and memory does not
grow with the table. Such a frame has n rows. Frames of attempts and steps hold whole orders: n events, and the
remaining events of the last order. `driver`: "adbc" or "psycopg", by default the faster one that is installed. All
raise DatabaseUnavailable, SchemaMismatch (run `trellis migrate`) and BadInput.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypedDict, Unpack, overload

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from trellis import config, stack
from trellis.database_url import normalised
from trellis.db import reading
from trellis.db.reading import OneOrMany, Table
from trellis.errors import BadInput

OUTCOMES = ["succeeded", "failed", "timed out", "abandoned", "lost", "unknown", "open"]
"""How a try ended. The last two occur in histories only: `unknown`, the history does not say; `open`, not ended yet."""

_CATEGORIES = {
    "type", "step", "worker", "state", "policy", "status", "workflow_type", "activity_type", "outcome", "queue",
    "failure_type", "injected", "outage", "namespace",
}  # fmt: skip
_TYPES: dict[pa.DataType, Any] = {
    pa.int32(): pd.Int32Dtype(),
    pa.string(): pd.StringDtype("pyarrow"),
    pa.bool_(): pd.BooleanDtype(),
}

Source = Any


class Filters(TypedDict, total=False):
    """`since` is inclusive, `until` is exclusive. `state` is the order's state now."""

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
        try:
            return normalised(source)
        except ValueError as error:
            raise BadInput(f"This database address cannot be used: {error}.") from None
    for path in (("database_url",), ("stack", "database_url"), ("desk", "stack", "database_url")):
        found = source
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, str):
            return found
    raise BadInput(f"{type(source).__name__} is no source of events: give a postgresql:// URL or a running session.")


def _encoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    # Text is encoded batch by batch, so the plain text of a million rows never exists at once. The other columns are
    # copied, because the driver frees the columns of a batch only together, and some live as long as the frame.
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
    """The same rows in lists of whole orders. Each list ends with the first order that ends after `rows` rows.

    The rows must come order by order.
    """
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
    return read_table(table, database_url(source), batches, {"order": order, **filters}, whole=whole)


def read_table(
    table: Table, url: str, batches: int | None, filters: Mapping[str, Any], *, whole: bool = False
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """A table as a frame, or as frames of `batches` rows. With `whole`, frames hold whole orders. Filters: the table's,
    and `driver`."""
    if batches is not None and batches < 1:
        raise BadInput("batches= is the number of rows of a frame: at least 1.")
    text = reading.query(table, **{name: value for name, value in filters.items() if name != "driver"})
    rows = map(_encoded, reading.stream(url, table, text, driver=filters.get("driver")))
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
    missing where the event was not caused by a try], started_at, ts [UTC], duration_ms [float], payload_json [string of
    JSON]. `tries=True` returns only events that a try caused. An empty ledger gives an empty frame with the same
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
    """One row per order, oldest first. Filters: since and until (both on created_at), state.

    Columns: order_id [string], state, policy [category], total [float, currency units], last_error [string],
    reconciled [boolean], created_at, began_at, claimed_at, closing_at, ended_at [UTC; began_at is the start of the
    first try, which is before `created_at`; ended_at is missing while the order is open], seconds [float, began_at to
    ended_at], items_json, address_json, policy_json [string of JSON].
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
    """One row per payment, oldest first. Filters: since, until, state (of the order), status.

    Columns: payment_id, order_id [string], status [category], amount [float, currency units], created_at, updated_at
    [UTC].
    """
    return _read(reading.PAYMENTS, source, batches, order, filters)


class Words(NamedTuple):
    """What a frame's runs, their parts and the attempts at a part are called."""

    run: str
    part: str
    attempt: str


ORDERS = Words("order", "step", "try")

WORKFLOWS = Words("workflow", "activity", "attempt")


def noun_of(frame: pd.DataFrame) -> str:
    """ "workflow" for a frame made from Temporal's histories, "order" for one made from the ledger."""
    return words_of(frame).run


def words_of(frame: pd.DataFrame) -> Words:
    """The words for a frame. Only frames made from histories have a task queue, a kind or a workflow's type."""
    return WORKFLOWS if {"queue", "kind", "workflow_type"} & set(frame.columns) else ORDERS


def restored(
    frame: pd.DataFrame, *, times: Sequence[str] = (), categories: Sequence[str] = (), strings: Sequence[str] = (),
    flags: Sequence[str] = (), integers: Mapping[str, str] | None = None, numbers: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """The frame with these dtypes in the columns that it has. Concatenation and files change dtypes.

    Also `outcome`, where it has one. Raises BadInput for a value that does not fit.
    """
    integers = integers or {}
    has = [name for name in frame.columns if name in {*times, *categories, *strings, *flags, *integers, *numbers}]
    made: dict[str, Any] = {}
    for name in has:
        column = frame[name]
        try:
            if name in times:
                text = not pd.api.types.is_datetime64_any_dtype(column)
                column = pd.to_datetime(column, utc=True, format="ISO8601") if text else column
                made[name] = (column if column.dt.tz else column.dt.tz_localize("UTC")).astype("datetime64[us, UTC]")
            elif name in categories:
                made[name] = column.astype(object).astype("category") if column.dtype != "category" else column
            elif name in strings:
                made[name] = column.astype(pd.StringDtype("pyarrow"))
            elif name in flags:
                flags_of = {"True": True, "False": False, True: True, False: False}
                # A million flags take longer to map than the rest of the frame takes.
                made[name] = column if column.dtype == bool else column.map(flags_of).astype("boolean")
            else:
                made[name] = column.astype(pd.api.types.pandas_dtype(integers.get(name, "float64")))
        except (ValueError, TypeError):
            raise BadInput(f"The column {name} of this frame holds values that do not belong there.") from None
    if "outcome" in frame and list(getattr(frame["outcome"].dtype, "categories", [])) != OUTCOMES:
        outcome = frame["outcome"].astype(object).where(frame["outcome"].notna(), "unknown")
        if strange := sorted(set(outcome) - set(OUTCOMES)):
            raise BadInput(f"The column outcome holds {strange[0]!r}. Known are {', '.join(OUTCOMES)}.")
        made["outcome"] = pd.Categorical(outcome, categories=OUTCOMES)
    return frame.assign(**made)
