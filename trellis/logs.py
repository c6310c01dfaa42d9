"""Logs on stderr, one line a record: JSON for machines, aligned text in a terminal.

At INFO the ledger writes one line for each event it added: an attempt with its outcome, a change of state, or both
(`trellis/db/written.py`). The API writes one line for each request. The SDK's records carry the same keys.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog
from temporalio import activity, workflow
from temporalio.exceptions import ActivityError
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from trellis.config import Settings

_CORE = "temporalio.core"
_KEPT_NUMBERS = 2000


def as_json(settings: Settings) -> bool:
    """Whether to log JSON: if the settings say so, and by default if stderr is a file or a pipe."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's records to one stream in one shape. Call once per process."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Lines(as_json(settings)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # The SDK reports each worker's shutdown; only the SDK's authors need that.
    logging.getLogger("temporalio.worker").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("temporalio.worker._workflow_instance").addFilter(_wanted)
    logging.getLogger(_CORE).addFilter(_news)
    # The record holds the context already. Repeated in the message, it would hide the message.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    _forward()


def configure_process(settings: Settings, *, quiet: bool = False) -> None:
    """`configure` for a process whose stderr belongs to Trellis: warnings and uncaught errors become records, too.

    `quiet`: only warnings and errors, unless LOG_LEVEL asks for more. For commands that show results to a person.
    """
    if quiet and "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "WARNING"})
    configure(settings)
    if not as_json(settings):
        return
    logging.captureWarnings(True)
    log = logging.getLogger("trellis")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("an unexpected error ended the program", exc_info=(kind, error, trace))

    def in_thread(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not None:
            log.critical(
                "an unexpected error ended a thread", exc_info=(given.exc_type, given.exc_value, given.exc_traceback)
            )

    def in_finalizer(given: Any) -> None:
        log.error(
            given.err_msg or "an unexpected error in a finalizer",
            exc_info=(given.exc_type, given.exc_value, given.exc_traceback),
        )

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = in_finalizer


@contextmanager
def into_file(settings: Settings, path: Path) -> Iterator[None]:
    """During the block, write what a worker logs to a file, as JSON. Warnings also go where they went before."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    with path.open("w", encoding="utf-8") as stream:
        configure(settings.model_copy(update={"log_level": "INFO", "log_format": "json"}), stream)
        for handler in before:
            handler.addFilter(_warning)
            root.addHandler(handler)
        try:
            yield
        finally:
            root.handlers[:] = before
            root.setLevel(level)
            for handler in before:
                handler.removeFilter(_warning)


def _warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def say(sentence: str, level: int = logging.INFO) -> None:
    """Log what a command would print for people, where everything on stderr has to be JSON."""
    if not logging.getLogger().handlers:
        # The settings themselves could not be read.
        configure(Settings.model_validate({"LOG_FORMAT": "json"}))
    logging.getLogger("trellis").log(level, sentence)


@functools.cache
def _forward() -> None:
    """Temporal's core writes to stdout by default, between lines of JSON or into a notebook's cell. Make it log
    instead."""
    forwarded = LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
        forwarding=LogForwardingConfig(logger=logging.getLogger(_CORE)),
    )
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=forwarded)), error_if_already_set=False)


def _wanted(record: logging.LogRecord) -> bool:
    """Drops the failure of an activity that its workflow no longer waits for. The workflow knows that it gave up."""
    failure = record.exc_info[1] if record.exc_info else None
    return not (isinstance(failure, ActivityError) and "never retrieved" in record.getMessage())


def _news(record: logging.LogRecord) -> bool:
    """Drops core's warning that an activity ended after its workflow. It comes whenever an order's budget runs out."""
    return "Activity not found on completion" not in record.getMessage()


class _Lines(logging.Formatter):
    """A record as one line. structlog hands over its event as a dict in `record.msg`; others bring a message.

    Not structlog's own ProcessorFormatter, which copies each record: that was a third of a line's cost.
    """

    def __init__(self, json_lines: bool) -> None:
        super().__init__()
        self._json = json.JSONEncoder(default=str, ensure_ascii=False).encode if json_lines else None
        self._console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)
        # (order, step, execution) -> the ledger's number of the execution's last attempt.
        self._numbers: dict[tuple[object, object, object], object] = {}

    def format(self, record: logging.LogRecord) -> str:
        given = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:26] + "Z",
            "level": record.levelname.lower(),
            "event": given.get("event"),
            "logger": record.name,
            **given,
        }
        for kind in ("temporal_activity", "temporal_workflow"):
            if isinstance(context := getattr(record, kind, None), dict):
                self._add_context(line, context)
        self._remember(line)
        error = line.pop("exc_info", None) or record.exc_info
        if error is True:
            error = sys.exc_info()
        elif isinstance(error, BaseException):
            error = (type(error), error, error.__traceback__)
        if error and error[0] is not None:
            line["exception"] = self.formatException(error)
        if record.stack_info:
            line["stack"] = record.stack_info
        if self._json is not None:
            return self._json(line)
        return str(self._console(None, "", {key: value for key, value in line.items() if value is not None}))

    def _add_context(self, line: dict[str, Any], context: dict[str, Any]) -> None:
        """The keys of our own lines, for a record of the SDK. `execution` is Temporal's own attempt number."""
        id_ = str(context.get("workflow_id", ""))
        order_id = order_of(id_)
        line.setdefault("order_id", order_id)
        line.setdefault("workflow_id", id_)
        if "activity_type" in context:
            step, execution = context["activity_type"], context.get("attempt")
            line.setdefault("step", step)
            line.setdefault("execution", execution)
            # The ledger counts attempts across executions and rounds. Without its number, the line has Temporal's
            # number.
            line.setdefault("attempt", self._numbers.get((order_id, step, execution), execution))
        line.setdefault("worker", f"worker-{os.getpid()}")

    def _remember(self, line: dict[str, Any]) -> None:
        if line.get("logger") == "trellis.ledger" and line.get("attempt") is not None:
            self._numbers[line["order_id"], line.get("step"), line.get("execution")] = line["attempt"]
            if len(self._numbers) > _KEPT_NUMBERS:
                del self._numbers[next(iter(self._numbers))]


_SHIPPING = re.compile(r"shipping-(.*)-\d+")


def order_of(workflow_id: str) -> str:
    """The order that a workflow of Trellis works for."""
    shipping = _SHIPPING.fullmatch(workflow_id)
    return shipping[1] if shipping else workflow_id.removeprefix("order-")
