"""What a recommendation assumes, checked against the data that it was learned from."""

from trellis.insight.checks.check import Check

__all__ = ["Check"]
