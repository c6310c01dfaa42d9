"""Structured logs on stderr: JSON lines for machines, aligned text in a terminal."""

from __future__ import annotations

import functools
import logging
import sys

import structlog
from temporalio.exceptions import ActivityError
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from trellis.config import Settings


def configure(settings: Settings) -> None:
    """Send structlog's and the standard library's records to stderr in one shape. Call once per process."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _temporal_context,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=["temporal_activity", "temporal_workflow"])],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # The SDK narrates each worker's shutdown; that is news to its authors alone.
    logging.getLogger("temporalio.worker").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("temporalio.worker._workflow_instance").addFilter(_wanted)
    _forward()


@functools.cache
def _forward() -> None:
    """Temporal's core writes to the process's own stdout, among JSON and in a cell; have it log instead."""
    forwarded = LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
        forwarding=LogForwardingConfig(logger=logging.getLogger("temporalio.core")),
    )
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=forwarded)), error_if_already_set=False)


def _wanted(record: logging.LogRecord) -> bool:
    """Not the failure of an activity whose workflow had stopped waiting for it: the SDK's own future, nobody's loss."""
    failure = record.exc_info[1] if record.exc_info else None
    return not (isinstance(failure, ActivityError) and "never retrieved" in record.getMessage())


def _temporal_context(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The SDK's records carry their context in a nested mapping; lift out what people search for."""
    for kind in ("temporal_activity", "temporal_workflow"):
        context = event.pop(kind, None)
        if isinstance(context, dict):
            event.setdefault("order_id", str(context.get("workflow_id", "")).removeprefix("order-"))
            event.setdefault("step", context.get("activity_type"))
            event.setdefault("attempt", context.get("attempt"))
    return event
