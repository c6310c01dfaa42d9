"""Which of the database's functions write. Nearly every statement of Trellis is a SELECT from one of its functions."""

from __future__ import annotations

import re

from trellis.db.pool import Pool, borrowed

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = re.compile(r"\b(insert\s+into|update\s+[\w.]+\s+(\w+\s+)?set|delete\s+from|merge\s+into)\b", re.IGNORECASE)


async def writing_functions(pool: Pool) -> frozenset[str]:
    """The names of all functions that write, or that call one that does, as statements spell them.

    Those of the provider's schema begin with `provider.`. Raises DatabaseUnavailable.
    """
    async with borrowed(pool) as connection:
        cursor = await connection.execute(
            "SELECT CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END || proname, prosrc FROM pg_proc "
            "JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname IN ('public', 'provider')"
        )
        sources = {str(name): _COMMENT.sub("", source) for name, source in await cursor.fetchall()}
    return writers_among(sources)


def writers_among(sources: dict[str, str]) -> frozenset[str]:
    """Of functions (name -> body), those that write themselves or through another one."""
    found = {name for name, body in sources.items() if _WRITES.search(body)}
    while True:
        calls = re.compile("|".join(rf"\b{re.escape(name)}\s*\(" for name in sorted(found)) or r"(?!)")
        more = {name for name, body in sources.items() if name not in found and calls.search(body)}
        if not more:
            return frozenset(found)
        found |= more
