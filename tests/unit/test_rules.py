"""The pure parts: rules and settings."""

from __future__ import annotations

import pytest

from trellis import config
from trellis.errors import ConfigError
from trellis.rules import Budget, root_cause


def test_a_budget_pauses_during_the_review() -> None:
    """Time in review is given back; a claim ends the budget for good."""
    budget = Budget(10)
    budget.start(100)
    budget.pause(104)
    assert budget.left(500) is None
    budget.start(500)
    assert budget.left(501) == 5
    budget.end()
    assert budget.left(9999) is None


def test_the_root_cause_is_what_the_outside_system_said() -> None:
    """Wrappers on the way are skipped."""
    inner, outer = ValueError("inner"), RuntimeError("outer")
    outer.__cause__ = inner
    assert root_cause(outer) == "inner"


def test_an_unknown_setting_is_an_error() -> None:
    """A misspelt TRELLIS_ name is not silently ignored."""
    with pytest.raises(ConfigError, match="TRELLIS_POLCY"):
        config.load({"TRELLIS_POLCY": "swift"}, None)


def test_aliases_and_bad_values_of_settings() -> None:
    """Older names work, the first name wins, and a value that cannot be used names its variable."""
    assert config.load({"ORDERS_TQ": "a", "TEMPORAL_TARGET": "h:1"}, None).orders_queue == "a"
    assert config.load({"ORDERS_TQ": "a", "ORDERS_TASK_QUEUE": "b"}, None).orders_queue == "b"
    with pytest.raises(ConfigError, match="WORKFLOW_RUN_TIMEOUT_SECONDS"):
        config.load({"WORKFLOW_RUN_TIMEOUT_SECONDS": "soon"}, None)
