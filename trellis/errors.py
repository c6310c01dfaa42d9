"""Everything Trellis raises on purpose.

    TrellisError                    one sentence that says what to do; the CLI prints it and exits 1
    ├── ConfigError                 a setting, policy or fault plan that cannot be used
    ├── BadInput                    a malformed order, address or request; nothing was changed
    ├── StackError                  a server is missing, cannot be reached, or cannot be started
    │   ├── TemporalUnavailable
    │   └── DatabaseUnavailable
    ├── SchemaMismatch              the ledger is older or newer than this code
    ├── OrderNotFound
    ├── OrderConflict               a known order id with another body, or another order's payment id
    └── RequestRefused              approve, cancel or update_address came too late

An error's docstring is its default message.
"""

from __future__ import annotations

import inspect


class TrellisError(Exception):
    """Trellis could not do that."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or ""))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell. The sentence says what to do, and a traceback would hide it."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(TrellisError):
    """A setting cannot be used as it stands."""


class BadInput(TrellisError):
    """The request is malformed. Nothing was changed."""


class StackError(TrellisError):
    """A server that Trellis needs is not there. Start it with `trellis up`."""


class TemporalUnavailable(StackError):
    """Temporal does not answer. Start it with `trellis up`, or correct TEMPORAL_ADDRESS."""


class DatabaseUnavailable(StackError):
    """Postgres does not answer. Start it with `trellis up`, or correct DATABASE_URL."""


class SchemaMismatch(TrellisError):
    """The ledger's schema does not fit this version of Trellis. Run `trellis migrate`."""


class OrderNotFound(TrellisError):
    """There is no such order. `trellis order list` shows the known ones."""


class OrderConflict(TrellisError):
    """This id already belongs to something else. Choose a new id."""


class RequestRefused(TrellisError):
    """The order can no longer do that."""
