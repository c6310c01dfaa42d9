"""Tables written to files, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pyarrow as pa  # type: ignore[import-untyped]

from trellis.db.reading import OneOrMany
from trellis.errors import BadInput
from trellis.insight.attempt_frames import attempts, steps
from trellis.insight.flights import flights
from trellis.insight.frames import Source, events, orders, payments

_EXPORTED = 100_000


def export(
    path: str | Path,
    source: Source = None,
    *,
    table: Literal["events", "orders", "payments", "attempts", "steps", "flights"] = "events",
    order: OneOrMany = None,
    **filters: Any,
) -> int:
    """Write a table to `path`, .parquet or .csv, in bounded memory; returns the number of rows.

    `pd.read_parquet` returns the same frame, dtypes included. A .csv holds text, numbers and ISO times, but no dtypes.
    Filters as for the table's own function; for flights, `order` is the workflow's id. The file gets its name only when
    it is complete. Raises BadInput for another ending or a missing folder.
    """
    import pyarrow.csv  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    target = Path(path)
    known = {"events": events, "orders": orders, "payments": payments, "attempts": attempts, "steps": steps,
             "flights": _flights}  # fmt: skip
    if table not in known:
        raise BadInput(f"There is no table {table!r}: choose {', '.join(known)}.")
    if target.suffix not in (".parquet", ".csv"):
        raise BadInput(f"{target.name}: export writes .parquet or .csv.")
    if not target.parent.is_dir():
        raise BadInput(f"The folder {target.parent} does not exist.")
    read: Any = known[table]
    frames = read(source, order, batches=_EXPORTED, **filters)
    # No order has an empty id, so this frame has all dtypes and no rows.
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


def _flights(source: Source, order: OneOrMany = None, **filters: Any) -> Any:
    if order == "":
        filters["settle"] = False  # only the dtypes are wanted
    return flights(source, workflow=order, **filters)


def _stored(schema: pa.Schema, plain: bool) -> pa.Schema:
    """Categories as dictionary-encoded text, with one index type for every batch. `plain`: as plain text."""
    text = pa.string() if plain else pa.dictionary(pa.int32(), pa.string())
    fields = [field.with_type(text) if pa.types.is_dictionary(field.type) else field for field in schema]
    return pa.schema(fields, schema.metadata)
