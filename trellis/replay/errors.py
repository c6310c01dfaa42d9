"""What goes wrong with a replay, as one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis.errors import TrellisError

if TYPE_CHECKING:
    from trellis.replay.recording import Recording


class ReplayError(TrellisError):
    """The history cannot be replayed.

    `recording`: what can be shown all the same (the events, without steps), where a history was read.
    """

    def __init__(self, message: str | None = None, recording: Recording | None = None) -> None:
        super().__init__(message)
        self.recording = recording


def in_one_line(error: BaseException, most: int = 300) -> str:
    """An error as text without line breaks, at most `most` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= most else text[: most - 1] + "…"
