"""Notes each attempt: the outermost of the worker's interceptors, so that it sees what Temporal will see."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from trellis.plugin.app import App
from trellis.plugin.current import CURRENT
from trellis.plugin.endings import ending
from trellis.plugin.rows import Attempt, now

_ELSEWHERE: Any = getattr(activity, "_CompleteAsyncError", ())
"""What `activity.raise_complete_async` raises. The SDK has no public name for it."""

PAYLOAD = 10_000
"""How many characters of a payload are kept."""


class Noting(Interceptor):
    def __init__(self, app: App) -> None:
        self.app = app

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self.app)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, app: App) -> None:
        super().__init__(next)
        self.app = app
        self.attempt: Attempt | None = None

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self.next.init(_Outbound(outbound, self))

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        self._begin(input)
        try:
            result = await self.next.execute_activity(input)
        except BaseException as error:
            self._end(error)
            raise
        self._end(None, result)
        return result

    def _begin(self, input: ExecuteActivityInput) -> None:
        try:
            self.attempt = self.app.attempt(activity.info())
            CURRENT.set(self.attempt)
            if self.app.payloads:
                self.attempt.row["input"] = [_json(one) for one in input.args]
            self.attempt.note()
        except Exception as error:
            self.app.trouble(error)

    def _end(self, error: BaseException | None, result: Any = None) -> None:
        try:
            attempt = self.attempt
            if attempt is None or (isinstance(error, _ELSEWHERE) and not attempt.hung):
                # Somebody else completes it, and only the server knows when.
                return
            how = ending(attempt, activity.info(), error, activity.cancellation_details())
            if self.app.payloads and error is None:
                attempt.row["result"] = _json(result)
            attempt.note(outcome=how.outcome, ended_at=now(), failure_type=how.failure_type, error=how.error)
        except Exception as own:
            self.app.trouble(own)


class _Outbound(ActivityOutboundInterceptor):
    def __init__(self, next: ActivityOutboundInterceptor, inbound: _Inbound) -> None:
        super().__init__(next)
        self._inbound = inbound

    def heartbeat(self, *details: Any) -> None:
        if self._inbound.attempt is not None:
            self._inbound.attempt.beat()
        self.next.heartbeat(*details)


def _json(value: object) -> Any:
    """The value as the worker's converter writes it. What is no JSON is named by its encoding and its size."""
    try:
        payload = activity.payload_converter().to_payload(value)
        encoding = payload.metadata.get("encoding", b"").decode()
        if encoding == "binary/null":
            return None
        if not encoding.startswith("json/"):
            return {"encoding": encoding, "bytes": len(payload.data)}
        if len(payload.data) > PAYLOAD:
            return {"cut": payload.data[:PAYLOAD].decode("utf-8", "replace"), "bytes": len(payload.data)}
        return json.loads(payload.data, parse_constant=str)
    except Exception as error:
        return {"unreadable": type(error).__name__}


def apps(interceptors: Iterable[object]) -> list[App]:
    """The apps that these interceptors note."""
    return [one.app for one in interceptors if isinstance(one, Noting)]
