"""The ledger as DataFrames."""

from __future__ import annotations

import pandas as pd

from trellis.db import reading

_OUTCOMES = {"ATTEMPT_FAILED": "failed", "ATTEMPT_TIMED_OUT": "timed out", "ATTEMPT_ABANDONED": "abandoned"}


def events(database_url: str, order_id: str | None = None) -> pd.DataFrame:
    """The log, oldest first; of one order if given.

    Columns: id [int64], order_id [string], type, step, worker [category], attempt, round, execution, try [Int32,
    missing where no try brought the event about], started_at, ts [UTC], duration_ms [float], payload_json [object].
    Raises DatabaseUnavailable. An empty ledger gives an empty frame with the same columns and dtypes.
    """
    columns, rows = reading.events(database_url, order_id)
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(
        {
            "id": "int64",
            "order_id": "string",
            "payload_json": "object",
            "type": "category",
            "step": "category",
            "worker": "category",
            "attempt": "Int32",
            "round": "Int32",
            "execution": "Int32",
            "try": "Int32",
            "duration_ms": "float64",
            "started_at": "datetime64[us, UTC]",
            "ts": "datetime64[us, UTC]",
        }
    )


def attempts(events: pd.DataFrame) -> pd.DataFrame:
    """One row per try of an outside step, in order of their start.

    Columns: order_id, step, attempt, round, execution, try, lane, outcome [succeeded, failed, timed out, abandoned],
    started_at, ended_at [UTC], duration_ms, error.
    """
    tries = events[events["attempt"].notna()].copy()
    tries["outcome"] = pd.Categorical(
        [_OUTCOMES.get(str(kind), "succeeded") for kind in tries["type"]],
        categories=["succeeded", "failed", "timed out", "abandoned"],
    )
    tries["lane"] = [int(payload.get("lane", 0)) for payload in tries["payload_json"]]
    tries["error"] = [payload.get("error") for payload in tries["payload_json"]]
    tries["ended_at"] = tries["started_at"] + pd.to_timedelta(tries["duration_ms"], unit="ms")
    columns = ["order_id", "step", "attempt", "round", "execution", "try", "lane", "outcome",
               "started_at", "ended_at", "duration_ms", "error"]  # fmt: skip
    return tries.sort_values(["order_id", "started_at"])[columns].reset_index(drop=True)
