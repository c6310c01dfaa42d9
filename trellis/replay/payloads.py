"""Payloads as trees of plain values. What nobody can decode becomes a sentence about its size, and stops nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter, PayloadCodec

from trellis.replay.values import Limits, Tree, tree

BIG = 1_000_000
"""A payload of more bytes is not decoded: only its beginning is shown."""

_SHOWN = 1000
_REMEMBERED = 500
_WORTH_REMEMBERING = 50_000
_BATCH = 100


@dataclass
class Payloads:
    """Reads payloads with a data converter. `codec_failure` is the first failure of its codec, in words.

    Equal payloads give the same tree: a history repeats its inputs in many events, and nobody changes a tree.
    """

    converter: DataConverter
    limits: Limits
    codec_failure: str = ""
    _known: dict[tuple[bytes, bytes], Tree] = field(default_factory=dict)

    def tree(self, payload: Payload) -> Tree:
        """One payload that is through the codec."""
        encoding = payload.metadata.get("encoding", b"")
        size = len(payload.data)
        if size > BIG:
            return _beginning(payload.data, encoding)
        if size > _WORTH_REMEMBERING:
            return self._decoded(payload, encoding)
        key = encoding, payload.data
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._decoded(payload, encoding)
        return self._known[key]

    def _decoded(self, payload: Payload, encoding: bytes) -> Tree:
        try:
            (value,) = self.converter.payload_converter.from_payloads([payload])
        except Exception:
            return _unreadable(payload.data, encoding)
        return tree(value, self.limits)

    def trees(self, payloads: Iterable[Payload]) -> Tree:
        """The arguments of a call: a list, or None if there are none."""
        return [self.tree(payload) for payload in payloads] or None

    def named(self, payloads: Any) -> Tree:
        """A map of names to payloads, as memos and search attributes are."""
        return {name: self.tree(payload) for name, payload in sorted(payloads.items())} or None

    async def through_codec(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads decoded by the codec, if there is one. One that it fails on stays as it is."""
        codec = self.converter.payload_codec
        if codec is None:
            return list(payloads)
        found: list[Payload] = []
        for start in range(0, len(payloads), _BATCH):
            found += await self._batch(codec, payloads[start : start + _BATCH])
        return found

    async def _batch(self, codec: PayloadCodec, payloads: Sequence[Payload]) -> list[Payload]:
        try:
            decoded = list(await codec.decode(list(payloads)))
        except Exception as error:
            self.codec_failure = self.codec_failure or " ".join(f"{type(error).__name__}: {error}".split())[:200]
            decoded = []
        if len(decoded) == len(payloads):
            return decoded
        if len(payloads) == 1:
            return list(payloads)
        return [each for payload in payloads for each in await self._batch(codec, [payload])]


def _beginning(data: bytes, encoding: bytes) -> str:
    if encoding != b"json/plain":
        return _unreadable(data, encoding)
    text = data[:_SHOWN].decode("utf-8", "replace")
    return f"{text}… ({len(data):,} bytes)"


def _unreadable(data: bytes, encoding: bytes) -> str:
    said = encoding[:60].decode("utf-8", "replace")
    return f"<{len(data):,} bytes, encoding {said}>" if said else f"<{len(data):,} bytes>"


def failure_words(failure: Failure) -> str:
    """A failure by its root cause: type and message, shortened."""
    # A cause of a cause of an activity failure; more levels than that say nothing new.
    for _ in range(20):
        if not failure.HasField("cause"):
            break
        failure = failure.cause
    info = failure.application_failure_info.type if failure.HasField("application_failure_info") else ""
    if failure.HasField("timeout_failure_info"):
        info = "timeout"
    message = " ".join(failure.message.split())
    text = f"{info}: {message}" if info and message else info or message or "a failure without a message"
    return text if len(text) <= 200 else text[:199] + "…"
