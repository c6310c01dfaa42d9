"""Reading many rows at once, for analysis: SQL in, Arrow record batches out, oldest first, in bounded memory.

Two drivers give the same answer: ADBC where it is installed (COPY in binary form, straight into Arrow), psycopg with a
server-side cursor where it is not. Every column is cast in SQL to a type that both know.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import psycopg
import pyarrow as pa  # type: ignore[import-untyped]
from psycopg import sql

from trellis.db.pool import unavailable
from trellis.errors import BadInput, SchemaMismatch, StackError
from trellis.flights import OUTCOMES
from trellis.model import EventType, State, Step

TEXT, INT, BIG, REAL, TIME, FLAG = (
    pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.timestamp("us", "UTC"), pa.bool_(),
)  # fmt: skip

OneOrMany = str | Sequence[str] | None

WORDS: dict[str, Sequence[str]] = {
    "state": list(State), "step": list(Step), "type": list(EventType),
    "status": ["PENDING", "CHARGED", "REFUNDED", "FAILED"], "outcome": OUTCOMES,
}  # fmt: skip
"""The values that a filter can have. Another value is a mistake and would give an empty frame."""


@dataclass(frozen=True)
class Table:
    """A table as it is read: expression and Arrow type of each column, and what its filters act on."""

    name: LiteralString
    columns: dict[LiteralString, tuple[LiteralString, pa.DataType]]
    sort: LiteralString
    filters: dict[str, LiteralString]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, type_) for name, (_, type_) in self.columns.items()])


_OF_STATE: LiteralString = "order_id IN (SELECT id FROM orders WHERE state = ANY({}))"

EVENTS = Table(
    "events",
    {
        "id": ("id", BIG),
        "order_id": ("order_id", TEXT),
        "type": ("type", TEXT),
        "step": ("step", TEXT),
        "attempt": ("attempt", INT),
        "round": ("round", INT),
        "execution": ("execution", INT),
        "try": ("try", INT),
        "started_at": ("started_at", TIME),
        "duration_ms": ("duration_ms", REAL),
        "worker": ("worker", TEXT),
        "payload_json": ("payload_json::text", TEXT),
        "ts": ("ts", TIME),
    },
    "id",
    {
        "since": "ts >= {}", "until": "ts < {}", "order": "order_id = ANY({})", "state": _OF_STATE,
        "step": "step = ANY({})", "type": "type = ANY({})", "tries": "(attempt IS NOT NULL) = {}",
    },
)  # fmt: skip

ORDERS = Table(
    "orders",
    {
        "order_id": ("id", TEXT),
        "state": ("state", TEXT),
        "policy": ("policy_json ->> 'name'", TEXT),
        "total": ("total::float8", REAL),
        "last_error": ("last_error", TEXT),
        "reconciled": ("reconciled", FLAG),
        "created_at": ("created_at", TIME),
        # The row is written when `receive` succeeds, after its tries.
        "began_at": (
            "(SELECT least(orders.created_at, min(e.started_at)) FROM events e WHERE e.order_id = orders.id)", TIME,
        ),
        "claimed_at": ("claimed_at", TIME),
        "closing_at": ("closing_at", TIME),
        "ended_at": (
            "CASE WHEN state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'APPROVAL_TIMEOUT') THEN updated_at END", TIME,
        ),
        "items_json": ("items_json::text", TEXT),
        "address_json": ("address_json::text", TEXT),
        "policy_json": ("policy_json::text", TEXT),
    },
    "created_at, id",
    {"since": "created_at >= {}", "until": "created_at < {}", "order": "id = ANY({})", "state": "state = ANY({})"},
)  # fmt: skip

PAYMENTS = Table(
    "payments",
    {
        "payment_id": ("payment_id", TEXT),
        "order_id": ("order_id", TEXT),
        "status": ("status", TEXT),
        "amount": ("amount::float8", REAL),
        "created_at": ("created_at", TIME),
        "updated_at": ("updated_at", TIME),
    },
    "created_at, payment_id",
    {
        "since": "created_at >= {}", "until": "created_at < {}", "order": "order_id = ANY({})",
        "state": _OF_STATE, "status": "status = ANY({})",
    },
)  # fmt: skip


def query(table: Table, **filters: OneOrMany | datetime | bool) -> str:
    """The SELECT with its filters, values quoted by the driver. A filter that is None does not filter.

    Text filters take one value or several; `since` is inclusive, `until` is not. Raises BadInput for a time without a
    zone, an unknown filter, and a value that no row can have.
    """
    conditions: list[sql.Composable] = []
    for name, value in filters.items():
        if name not in table.filters:
            raise BadInput(f"{table.name} cannot be filtered by {name}, only by {', '.join(table.filters)}.")
        if value is None:
            continue
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise BadInput(f"{name}={value} has no time zone. Say which: {value.isoformat()}+00:00 is UTC.")
        elif not isinstance(value, bool):
            value = [str(value)] if isinstance(value, str) else [str(one) for one in value]
            if any("\0" in one for one in value):
                raise BadInput(f"{name}= holds a NUL character, which no text of the ledger does.")
            if unknown := [one for one in value if one not in WORDS.get(name, value)]:
                raise BadInput(f"There is no {name} {unknown[0]!r}. Known are {', '.join(WORDS[name])}.")
        conditions.append(sql.SQL(table.filters[name]).format(sql.Literal(value)))
    columns = [sql.SQL("{} AS {}").format(sql.SQL(e), sql.Identifier(n)) for n, (e, _) in table.columns.items()]
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    text = sql.SQL("SELECT {} FROM {}{} ORDER BY {}").format(
        sql.SQL(", ").join(columns), sql.Identifier(*table.name.split(".")), where, sql.SQL(table.sort)
    )
    return text.as_string(None)


def drivers() -> tuple[str, ...]:
    """Which ways of reading this environment has, fastest first."""
    return ("adbc", "psycopg") if importlib.util.find_spec("adbc_driver_postgresql") else ("psycopg",)


def stream(url: str, table: Table, text: str, *, driver: str | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of `text`, a few MB at a time. Raises BadInput, DatabaseUnavailable, SchemaMismatch, StackError."""
    if driver is not None and driver not in drivers():
        raise BadInput(f"There is no driver {driver!r} here. There is {' and '.join(drivers())}.")
    # ADBC's errors hardly say why a server does not answer. Those of psycopg do, and asking it costs milliseconds.
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise unavailable(error) from None
    read = _adbc if (driver or drivers()[0]) == "adbc" else _psycopg
    return read(url, table, text)


def read_only(url: str) -> str:
    """The same address, whose transactions cannot write."""
    given = psycopg.conninfo.conninfo_to_dict(url).get("options")
    options = " ".join(filter(None, [str(given or ""), "-c default_transaction_read_only=on"]))
    return psycopg.conninfo.make_conninfo(url, options=options)


def connection(url: str) -> psycopg.Connection:
    """A plain autocommitting connection, for code with SQL of its own."""
    return psycopg.connect(url, autocommit=True)


def arrow_table(url: str, text: str) -> pa.Table:
    """The rows of `text` as ADBC gives them, unchanged: the lower limit that reading is measured against."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]

    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetch_arrow_table()


def _adbc(url: str, table: Table, text: str) -> Iterator[pa.RecordBatch]:
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi

    try:
        with dbapi.connect(url) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(4 * 2**20)})
            cursor.execute(text)
            for batch in cursor.fetch_record_batch():
                yield batch if batch.schema.equals(table.schema) else batch.cast(table.schema)
    except Error as error:
        raise _explained(str(error)) from None


def _psycopg(url: str, table: Table, text: str, rows_at_once: int = 20_000) -> Iterator[pa.RecordBatch]:
    try:
        with closing(psycopg.connect(url)) as connection, connection.cursor("trellis_reading") as cursor:
            cursor.execute(text.encode())
            while rows := cursor.fetchmany(rows_at_once):
                columns = zip(*rows, strict=True)
                yield pa.record_batch(
                    [pa.array(column, kind) for column, (_, kind) in zip(columns, table.columns.values(), strict=True)],
                    schema=table.schema,
                )
    except psycopg.Error as error:
        raise _explained(str(error)) from None


def _explained(why: str) -> StackError | SchemaMismatch:
    why = " ".join(why.split())[:300]
    if "does not exist" in why:
        return SchemaMismatch(f"The ledger is not there, or older than this code ({why}). Run `trellis migrate`.")
    return StackError(f"Reading the ledger failed ({why}). Look at `trellis status`.")
