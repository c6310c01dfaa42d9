"""Bands behind a time axis: what was broken on purpose, and for how long."""

from __future__ import annotations

from typing import Any

import pandas as pd

from trellis.errors import BadInput
from trellis.insight.colours import VERMILION, on_paper

BAND: dict[str, Any] = {"opacity": 0.18, "color": on_paper(VERMILION)}


def bands_on(bands: pd.DataFrame | None, first: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
    """The bands that overlap the time from `first` to `last`, cut to it. What is not healed lasts to the end.

    Columns: name [string], from, to [s since `first`]. Raises BadInput for a frame without name, began and healed.
    """
    if bands is None:
        return pd.DataFrame({"name": [], "from": [], "to": []})
    if missing := sorted({"name", "began", "healed"} - set(bands.columns)):
        raise BadInput(f"The frame of bands has no {', '.join(missing)}: give one such as session.experiments().")
    span = (last - first).total_seconds()
    found = pd.DataFrame(
        {
            "name": bands["name"].astype(str),
            "from": (bands["began"] - first).dt.total_seconds(),
            "to": (bands["healed"].fillna(last) - first).dt.total_seconds(),
        }
    )
    found = found[(found["from"] <= span) & (found["to"] >= 0)].reset_index(drop=True)
    return found.assign(**{name: found[name].clip(0, span) for name in ("from", "to")})


def band_layers(alt: Any, bands: pd.DataFrame, title: str) -> list[Any]:
    """A rectangle over the whole height for each band, with its name above it. `title`: that of the time axis."""
    # Layers share an axis. If one of them gave it no title, the name of its column would be added to the others' title.
    base = alt.Chart(bands).encode(x=alt.X("from:Q", title=title))
    seconds = [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("from", "to")]
    tooltip = [alt.Tooltip("name:N", title="broken"), *seconds]
    return [
        base.mark_rect(stroke=on_paper(VERMILION), strokeDash=[4, 3], **BAND).encode(x2="to:Q", tooltip=tooltip),
        base.mark_text(align="left", baseline="bottom", fontSize=10).encode(y=alt.value(-2), text="name:N"),
    ]
