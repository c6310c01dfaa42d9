"""The feed of flights without servers: what it does not lose while a source is away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trellis.errors import DatabaseUnavailable, TemporalUnavailable
from trellis.lab.flights import feed as feeds
from trellis.lab.flights.feed import FlightFeed

RUN = "trip-1 run-1"


class Book:
    """A reader of a book without rows. `away`: Postgres does not answer."""

    away = False

    async def lines(self, runs: Any) -> dict[Any, Any]:
        if self.away:
            raise DatabaseUnavailable("Postgres does not answer.")
        return {}

    async def attempts(self, run: Any, most: int) -> list[Any]:
        return []


class Fed(FlightFeed):
    """A feed whose runs have only a history. `fails`: Temporal does not answer."""

    fails = False

    def __init__(self) -> None:
        self.shown: dict[str, Any] = {}
        self.reader = Book()
        client: Any = SimpleNamespace(namespace="default")
        reader: Any = self.reader
        book: Any = None
        super().__init__(
            client, reader, book, "", None, self.shown.__setitem__, 25, lambda: "", lambda: (), None
        )  # fmt: skip
        self.reads = 0

    async def _read_history(self, run: tuple[str, str]) -> tuple[list[dict[str, Any]], str]:
        if self.fails:
            raise TemporalUnavailable("Temporal does not answer.")
        self.reads += 1
        return [], f"read {self.reads} times"


async def test_the_last_change_of_a_run_is_drawn_although_its_history_was_just_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change that comes while the history is not read again leaves the timeline stale, so the next read shows it."""
    feed = Fed()
    monkeypatch.setattr(feeds, "HISTORY", 1000.0)
    await feed.focus(RUN)
    assert (feed.reads, feed._timeline_stale) == (1, False)
    await feed._send_timeline()
    assert (feed.reads, feed._timeline_stale) == (1, True)
    monkeypatch.setattr(feeds, "HISTORY", 0.0)
    await feed._send_timeline()
    assert (feed.shown["timeline"]["note"], feed._timeline_stale) == ("read 2 times", False)


async def test_a_timeline_that_could_not_be_read_is_read_again() -> None:
    """Otherwise it would stay as it was until the next change."""
    feed = Fed()
    feed.fails = True
    with pytest.raises(TemporalUnavailable):
        await feed.focus(RUN)
    assert feed._timeline_stale


async def test_changes_that_the_book_could_not_tell_are_asked_for_again() -> None:
    """A database that is away for a moment, while the connection for notifications lives, loses no change."""
    feed = Fed()
    feed.reader.away = True
    assert not await feed._read_book({RUN})
    assert feed._changed == {RUN}
    assert feed._wake.is_set()
    assert "is away" in feed.shown["note"]["text"]
    feed.reader.away = False
    assert await feed._read_book({RUN})
    assert feed.shown["note"] == {"text": ""}
