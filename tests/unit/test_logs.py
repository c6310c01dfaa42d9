"""The shape of a log line, whoever wrote it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from temporalio.exceptions import ActivityError, RetryState

from trellis import logs
from trellis.config import Settings

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged as JSON meanwhile; the process's own logging comes back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.configure(Settings.model_validate({"LOG_FORMAT": "json"}), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


CONTEXT = {"activity_type": "charge", "attempt": 2, "workflow_id": "order-a-1", "task_queue": "orders-tq"}


def test_the_sdks_records_have_our_keys_at_top_level(lines: Lines) -> None:
    """A record of an activity names order, workflow, step, attempt and worker, as our own lines do."""
    log = logging.getLogger("temporalio.activity")
    log.warning("Completing activity as failed", extra={"temporal_activity": CONTEXT})
    log.warning("x", extra={"temporal_activity": CONTEXT | {"workflow_id": "shipping-a-1-3", "activity_type": "ship"}})
    first, second = lines()
    assert first.items() >= {"order_id": "a-1", "workflow_id": "order-a-1", "step": "charge", "attempt": 2}.items()
    assert first["worker"].startswith("worker-")
    assert first["event"] == "Completing activity as failed"
    assert (second["order_id"], second["workflow_id"], second["step"]) == ("a-1", "shipping-a-1-3", "ship")


def test_the_sdks_records_take_the_ledgers_number(lines: Lines) -> None:
    """Once the ledger has numbered an execution's attempt, the SDK's record of that execution says the same number."""
    logging.getLogger("trellis.ledger").info(
        {"event": "ATTEMPT_FAILED", "order_id": "a-1", "step": "charge", "attempt": 7, "execution": 2}
    )
    logging.getLogger("temporalio.activity").warning("failed", extra={"temporal_activity": CONTEXT})
    assert [(line["attempt"], line["execution"]) for line in lines()] == [(7, 2), (7, 2)]


def test_a_workflows_record_names_its_order(lines: Lines) -> None:
    """A record of a workflow carries order and workflow, and none of the SDK's nested mappings."""
    context = {"workflow_id": "order-b", "attempt": 1, "run_id": "r"}
    logging.getLogger("temporalio.workflow").error("Failed activation", extra={"temporal_workflow": context})
    (line,) = lines()
    assert (line["order_id"], line["workflow_id"]) == ("b", "order-b")
    assert "temporal_workflow" not in line
    assert "attempt" not in line


def test_an_exception_is_part_of_its_line(lines: Lines) -> None:
    """A traceback is a value of the record, for structlog's and the standard library's loggers alike."""
    try:
        raise ValueError("with\nlines")
    except ValueError:
        logging.getLogger("any").exception("plain")
        structlog.get_logger("trellis.any").exception("structured", key=object)
    plain, structured = lines()
    assert "ValueError: with\nlines" in plain["exception"]
    assert "ValueError: with\nlines" in structured["exception"]
    assert (structured["event"], structured["level"]) == ("structured", "error")


def test_an_activity_that_ends_after_its_order_is_no_warning(lines: Lines) -> None:
    """Core's complaint of a completion that nobody waits for is dropped, and only that."""
    core = logging.getLogger("temporalio.core")
    core.warning("[sdk_core::worker] Activity not found on completion. This may happen if it was cancelled. {}")
    late = ActivityError(
        "late", scheduled_event_id=1, started_event_id=2, identity="", activity_type="charge", activity_id="1",
        retry_state=RetryState.TIMEOUT,
    )  # fmt: skip
    instance = logging.getLogger("temporalio.worker._workflow_instance")
    instance.error("Future exception was never retrieved", exc_info=(ActivityError, late, None))
    core.warning("[sdk_core::worker] something else")
    assert [line["event"] for line in lines()] == ["[sdk_core::worker] something else"]


@pytest.mark.parametrize(
    "code",
    [
        "import warnings; warnings.warn('old')",
        "raise SystemError('unexpected')",
        "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
        "import logging; logging.getLogger('uvicorn.error').info('Started server process [%d]', 1)",
        "import asyncio; asyncio.run(main())",
    ],
)
def test_all_of_stderr_is_json(code: str) -> None:
    """Warnings, uncaught errors of the program, of its threads and of its tasks, and foreign loggers: all are lines."""
    begin = (
        "from trellis import config, logs\n"
        "logs.configure_process(config.load({'LOG_FORMAT': 'json'}, None))\n"
        "async def fails(): raise KeyError('x')\n"
        "async def main():\n"
        "    import asyncio, gc; task = asyncio.create_task(fails()); await asyncio.sleep(0); del task; gc.collect()\n"
    )
    ended = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    assert found
    assert all({"timestamp", "level", "event", "logger"} <= line.keys() for line in found)


def test_a_command_for_people_is_quiet_unless_asked(lines: Lines) -> None:
    """Without LOG_LEVEL a command that shows a result logs warnings only; LOG_LEVEL=INFO shows the rest."""
    showwarning = warnings.showwarning
    try:
        for given, level in (({}, logging.WARNING), ({"LOG_LEVEL": "INFO"}, logging.INFO)):
            logs.configure_process(Settings.model_validate({"LOG_FORMAT": "console", **given}), quiet=True)
            assert logging.getLogger().level == level
    finally:
        warnings.showwarning = showwarning


def test_lines_go_into_a_file_for_a_while(lines: Lines, tmp_path: Path) -> None:
    """A benchmark's workers log into a file; its own stream shows warnings only, and everything again afterwards."""
    log = logging.getLogger("trellis.any")
    with logs.into_file(Settings.model_validate({}), tmp_path / "log"):
        log.info("one")
        log.warning("two")
    log.info("three")
    assert [line["event"] for line in lines()] == ["two", "three"]
    written = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert written == ["one", "two"]
