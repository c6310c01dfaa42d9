"""Typed looks into charts and tables, whose own types allow almost anything."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd


def drawn(chart: Any) -> pd.DataFrame:
    """The rows that a chart, or one layer of it, was made from."""
    assert isinstance(chart.data, pd.DataFrame)
    return chart.data


def value(table: pd.DataFrame, row: str, column: str) -> float:
    """One cell of a table of numbers."""
    return cast("float", table.loc[row, column])
