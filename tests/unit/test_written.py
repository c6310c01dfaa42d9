"""One log line for each event that a call added to the ledger."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from trellis.db.written import log_written


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """The records as they were handed to the logger: mappings."""
    return [record.msg for record in caplog.records]


def test_nothing_written_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """An event that existed before is not written again, and not logged again."""
    with caplog.at_level(logging.INFO, "trellis.ledger"):
        log_written("o", None, None, None, "")
        log_written("o", "", None, None, "")
    assert not caplog.records


def test_several_events_of_one_transaction_are_several_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Each line names the order, its workflow, the worker and the state that the event leads to."""
    with caplog.at_level(logging.INFO, "trellis.ledger"):
        log_written("o", "PAYMENT_FAILED:: ORDER_CANCELLED:cancel:", None, "w1", "changed my mind")
    failed, cancelled = lines(caplog)
    assert (failed["event"], cancelled["event"]) == ("PAYMENT_FAILED", "ORDER_CANCELLED")
    assert (cancelled["step"], cancelled["attempt"], cancelled["state"]) == ("cancel", None, "CANCELLED")
    assert "state" not in failed, "this event changes no state"
    for line in (failed, cancelled):
        assert (line["order_id"], line["workflow_id"], line["worker"]) == ("o", "order-o", "w1")
        assert line["reason"] == "changed my mind"
