"""Lines of rows, written to the book: those of this process, and those that ended workers left behind."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from trellis.config import Settings
from trellis.db.flights import FlightBook, migrate_flights
from trellis.db.pool import Pool, open_pool
from trellis.errors import BadInput
from trellis.plugin.saying import Saying
from trellis.plugin.spool import RowFile, left_behind, whole
from trellis.plugin.where import where


async def deliver(book: FlightBook, lines: list[bytes], saying: Saying) -> int:
    """Write lines. Returns how many of them the book cannot hold; those are left out. Raises TrellisError."""
    # The row of an end holds all that the row of its start held, so the last line of a number is enough.
    rows = list({line[: line.index(b",")]: line for line in lines}.values())
    try:
        await book.write_json(one.decode() for one in rows)
        return 0
    except (BadInput, UnicodeDecodeError):
        pass
    refused = 0
    for one in rows:
        try:
            json.loads(one)
            await book.write_json([one.decode()])
        except (BadInput, ValueError) as error:
            refused += 1
            saying.once("row", f"The book cannot hold an attempt's row, which is left out: {error}")
    return refused


async def deliver_left(folder: Path, book: Callable[[], Awaitable[FlightBook]], saying: Saying) -> int:
    """Write what ended workers left in the folder, and remove their files. Returns the number of rows.

    Raises TrellisError; a file that is not written whole stays.
    """
    found = 0
    for file in left_behind(folder):
        found += await _deliver_file(file, book, saying)
    return found


async def _deliver_file(file: RowFile, book: Callable[[], Awaitable[FlightBook]], saying: Saying) -> int:
    found, done = 0, False
    try:
        while True:
            lines, end = file.lines()
            if not lines:
                break
            rows = whole(lines)
            if rows:
                await deliver(await book(), rows, saying)
            found += len(rows)
            if len(rows) < len(lines):
                saying.once("half", f"{file.path} held half a line, which was ignored.")
            file.read = end
        if file.read < file.size:
            saying.once("half", f"{file.path} ended with half a line, which was ignored.")
        done = True
    except OSError as error:
        saying.once("unread", f"{file.path} cannot be read ({error.strerror or error}).")
    finally:
        file.close(remove=done)
    return found


async def deliver_leftovers(settings: Settings, database_url: str | None = None) -> int:
    """Write to the book what ended workers of this workspace left. Returns the number of rows.

    For those who read the book without a worker of their own. Raises DatabaseUnavailable, SchemaMismatch, ConfigError.
    """
    of = where(settings, database_url)
    pool: Pool | None = None

    async def book() -> FlightBook:
        nonlocal pool
        if pool is None:
            url, _ = of.address()
            await migrate_flights(url)
            pool = await open_pool(url, size=1)
        return FlightBook(pool)

    try:
        return await deliver_left(of.folder, book, Saying())
    finally:
        if pool is not None:
            await pool.close()
