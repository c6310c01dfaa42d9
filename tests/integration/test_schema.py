"""sql/schema.sql, which is for reading, is what the migrations make."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import psycopg
import pytest

from trellis import stack
from trellis.db.migrate import migrate, sql_folder
from trellis.errors import StackError


@pytest.fixture
async def empty(running: stack.Stack) -> AsyncIterator[str]:
    """The address of an empty database."""
    name = f"schema_{uuid.uuid4().hex[:8]}"
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as admin:
        await admin.execute(f"CREATE DATABASE {name}".encode())
        yield psycopg.conninfo.make_conninfo(running.database_url, dbname=name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_the_schema_file_equals_the_migrations(empty: str) -> None:
    """The migrations, applied to an empty database, dump to the file. Write it anew with `make schema`."""
    await migrate(empty)
    assert stack.postgres.dump_schema(empty) == (sql_folder() / "schema.sql").read_text("utf-8")


async def test_the_schema_file_is_the_whole_schema(empty: str) -> None:
    """The file alone, applied to an empty database, dumps to itself: nothing was lost in writing it."""
    text = (sql_folder() / "schema.sql").read_text("utf-8")
    async with await psycopg.AsyncConnection.connect(empty, autocommit=True) as connection:
        await connection.execute(text.encode())
    assert stack.postgres.dump_schema(empty) == text


def test_a_schema_that_cannot_be_dumped_is_a_sentence() -> None:
    """An address where nothing answers gives one sentence, without the password."""
    with pytest.raises(StackError, match="pg_dump cannot write the schema") as refused:
        stack.postgres.dump_schema("postgresql://nobody:s3cret@127.0.0.1:1/none")
    assert "s3cret" not in str(refused.value)
