"""DATABASE_URL: what is understood, what is refused, and that no message repeats a secret."""

from __future__ import annotations

import psycopg
import pytest

from trellis import config
from trellis.config import Settings
from trellis.database_url import masked, normalised
from trellis.errors import BadInput, ConfigError
from trellis.insight import frames

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgres://u:p@h:6543/d", {"user": "u", "password": "p", "host": "h", "port": "6543", "dbname": "d"}),
        ("postgresql+asyncpg://u:p@h/d?ssl=require", {"password": "p", "host": "h", "sslmode": "require"}),
        ("postgresql+asyncpg://u:p@h/d?ssl=true&prepared_statement_cache_size=0", {"sslmode": "require"}),
        ("postgresql+asyncpg://h/d?timeout=7&database=e", {"connect_timeout": "7", "dbname": "e"}),
        ("postgresql+psycopg://u:p@h/d", {"user": "u", "host": "h"}),
        ("postgresql+psycopg2://u:p@h/d?sslmode=verify-full", {"sslmode": "verify-full"}),
        ("postgresql+psycopg_async://u:p@h/d", {"host": "h"}),
        ("postgresql+pg8000://u:p@/d?unix_sock=/var/run/.s.PGSQL.5432", {"host": "/var/run"}),
        ("postgresql+psycopg2://u@/d?host=a:1&host=b", {"host": "a,b", "port": "1,5432"}),
        ("PostgreSQL://u@[::1]:5433/d", {"host": "::1", "port": "5433"}),
        ("postgresql://u:p@a:1,b:2/d", {"host": "a,b", "port": "1,2"}),
        ("postgresql://u:p%40%2F%3A%25@h/d", {"password": "p@/:%"}),
        ("postgresql://u:p@ss:word@h/d", {"password": "p@ss:word", "host": "h"}),
        ("postgresql://u:p w@h/d", {"password": "p w", "host": "h"}),
        ("postgresql://u:p#w@h/d", {"password": "p#w", "host": "h"}),
        ("postgresql://u@h/d?password=p%26q", {"password": "p&q"}),
        ("host=/tmp dbname=d password='a b'", {"host": "/tmp", "dbname": "d", "password": "a b"}),
        ("  postgresql://u@h/d\n", {"host": "h"}),
    ],
)
def test_spellings_of_postgres_are_understood(given: str, expected: dict[str, str]) -> None:
    """libpq reads each of SQLAlchemy's and its own spellings as what was meant."""
    assert psycopg.conninfo.conninfo_to_dict(normalised(given)).items() >= expected.items()
    assert config.load({"DATABASE_URL": given}, None).database_url == normalised(given)


@pytest.mark.parametrize(
    "url", ["postgresql://postgres@/trellis?host=/tmp/a-b/postgres", "postgresql://u:p@h:5432/d?options=-c%20a%3Db"]
)
def test_a_plain_address_stays_as_it_is(url: str) -> None:
    """An address that libpq reads is handed on letter by letter."""
    assert normalised(url) == url


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d", f"mysql+pymysql://u:{SECRET}@h/d", f"sqlite:///{SECRET}.db", f"oracle://{SECRET}",
        f"postgresql+nonsense://u:{SECRET}@h/d", f"jdbc:postgresql://h/d?password={SECRET}", SECRET,
        f"u:{SECRET}@h/d", f"postgresql://u:{SECRET}@h:port/d", f"postgresql://u:{SECRET}@h:99999/d",
        f"postgresql://u:{SECRET}@h:0/d", f"postgresql://u:{SECRET}%zz@h/d", f"postgresql://u:{SECRET}%@h/d",
        f"postgresql://u:{SECRET}%00@h/d", f"postgresql://u:{SECRET}/x@h/d", f"postgresql://u:12/{SECRET}@h/d",
        f"postgresql://u:12?{SECRET}@h/d", f"postgresql://u:{SECRET}@h/d?nonsense=1",
        f"postgresql://u@h/d?{SECRET}=1", f"postgresql://u:{SECRET}@h h/d", f"host=h password='{SECRET}",
        f"host=h password={SECRET} x", f"pasword={SECRET}", f"postgresql:/u:{SECRET}@h/d",
    ],
)  # fmt: skip
def test_anything_else_is_refused_without_repeating_it(url: str) -> None:
    """Another database, a bad port, a bad escape, an ambiguous password: one sentence, the secret not in it."""
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL cannot be used: it .*\.$|^DATABASE_URL cannot be used: its "
    ) as refused:
        config.load({"DATABASE_URL": url}, None)
    assert SECRET not in str(refused.value)
    assert str(refused.value).count(". ") == 0
    assert SECRET not in masked(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:1/d", "postgresql://u:***@h:1/d"),
        (f"postgresql://u:a@{SECRET}:x@h/d", "postgresql://u:***@h/d"),
        (f"postgresql+asyncpg://u:{SECRET}@h/d?ssl=require", "postgresql://u:***@h/d?sslmode=require"),
        (
            f"postgresql://u@h/d?password={SECRET}&sslpassword={SECRET}",
            "postgresql://u@h/d?password=***&sslpassword=***",
        ),
        (f"host=h user=u password={SECRET}", "host=h user=u password=***"),
        (f"host=h password = 'a \\' {SECRET}' user=u", "host=h password=*** user=u"),
        ("postgresql://u@/d?host=/tmp", "postgresql://u@/d?host=/tmp"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """What is shown tells which server, never how to get in."""
    assert masked(url) == shown


def test_settings_are_printed_without_secrets() -> None:
    """The repr of the settings, as a traceback or a debugger shows it, holds neither password nor token."""
    settings = Settings.model_validate({"DATABASE_URL": f"postgresql://u:{SECRET}@h/d", "TRELLIS_API_TOKEN": SECRET})
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


def test_a_frame_is_read_from_the_same_spellings() -> None:
    """What takes a database address takes what DATABASE_URL takes, and refuses the rest as quietly."""
    assert frames.database_url("postgresql+asyncpg://u@h/d") == "postgresql://u@h/d"
    with pytest.raises(BadInput, match="cannot be used: it names another kind") as refused:
        frames.database_url(f"mysql://u:{SECRET}@h/d")
    assert SECRET not in str(refused.value)


def test_a_plugin_in_somebody_elses_app_reads_folder_and_database_alone() -> None:
    """Other variables mean other things there, and so does DATABASE_URL if the book's address was given in code."""
    theirs = {"LOG_LEVEL": "trace", "TRELLIS_ODD": "1", "DATABASE_URL": f"mysql://u:{SECRET}@h/d", "TRELLIS_HOME": "/t"}
    assert config.of_an_app(theirs, None, database=False).home.name == "t"
    with pytest.raises(ConfigError, match="DATABASE_URL cannot be used") as caught:
        config.of_an_app(theirs, None)
    assert SECRET not in str(caught.value)
