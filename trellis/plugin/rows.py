"""The rows that the plugin notes."""

from __future__ import annotations

from trellis.flights import FlightRow

__all__ = ["FlightRow"]
