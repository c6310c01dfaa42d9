"""Where the book of a worker is, and the folder for rows that are not in it yet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from trellis.config import Settings
from trellis.database_url import masked, normalised
from trellis.errors import ConfigError, DatabaseUnavailable


@dataclass(frozen=True)
class Where:
    """`url`: None for the workspace's own database, whose address is known when it runs."""

    home: Path
    url: str | None

    @property
    def folder(self) -> Path:
        """Of its own for each book: rows for one database must not be delivered to another one."""
        if self.url is None:
            return self.home / "flights" / "workspace"
        return self.home / "flights" / hashlib.blake2b(masked(self.url).encode(), digest_size=6).hexdigest()

    @property
    def in_words(self) -> str:
        return f"the workspace {self.home}" if self.url is None else masked(self.url)

    def address(self) -> tuple[str, bool]:
        """The owner's address, and whether the application's role can log in there. Raises DatabaseUnavailable."""
        if self.url is not None:
            return self.url, False
        from trellis.stack import postgres

        found = postgres.running(self.home)
        if found is None:
            raise DatabaseUnavailable(
                f"No database of the workspace {self.home} runs, and DATABASE_URL is not set. Start it with "
                f"`trellis up`, or name another one: TrellisPlugin(database_url=...)."
            )
        return found, True


def where(settings: Settings, database_url: str | None = None) -> Where:
    """The book that `database_url` names, else DATABASE_URL, else the workspace's. Raises ConfigError."""
    return Where(settings.home, checked(database_url) or settings.database_url)


def checked(database_url: str | None) -> str | None:
    """The address as libpq reads it. Raises ConfigError without repeating it."""
    try:
        return None if database_url is None else normalised(database_url)
    except ValueError as error:
        raise ConfigError(f"database_url cannot be used: {error}.") from None
