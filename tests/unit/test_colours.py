"""What a chart looks like: colours that can be read on either paper, and labels that say what a bar holds."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.frames import drawn
from trellis import insight
from trellis.insight import colours
from trellis.insight.charts import theme


@pytest.mark.parametrize("paper", ["white", "black"])
def test_each_colour_can_be_seen_on_either_paper(paper: str) -> None:
    """Text has a contrast of 4.5:1 at least, every other colour of a chart 3:1, but for the lines of the grid."""
    on_black = colours.dark()
    for white in (*on_black,):
        ground = colours.PAPER if paper == "white" else on_black[colours.PAPER]
        shown = white if paper == "white" else on_black[white]
        least = {colours.PAPER: 1.0, colours.GRID: 1.0, colours.INK: 4.5}.get(white, 3.0)
        assert colours.contrast(shown, ground) >= least, (white, shown)


def test_every_colour_of_a_chart_follows_the_theme() -> None:
    """Outcomes, parts and states have a colour for JupyterLab's theme, and no two of an outcome's are the same."""
    drawn = {*colours.OUTCOMES.values(), *colours.PARTS.values(), *colours.STATES.values()}
    assert {colours.on_paper(one) for one in drawn} <= set(colours.jupyterlab())
    assert set(colours.jupyterlab()) == set(colours.dark())
    assert len({colours.dark()[colours.on_paper(one)] for one in colours.OUTCOMES.values()}) == len(colours.OUTCOMES)


def _taken(most: int) -> pd.DataFrame:
    """Attempts of steps that took from one to `most` attempts."""
    return pd.DataFrame(
        [
            {"order_id": f"o-{most}", "step": f"s-{taken}", "round": 0, "outcome": outcome}
            for taken in range(1, most + 1)
            for outcome in ["failed"] * (taken - 1) + ["succeeded"]
        ]
    )


def test_a_live_chart_names_no_colour_of_white_paper() -> None:
    """Each colour of the chart that JupyterLab draws is one of its theme's; the picture beside it has both papers."""
    shown = theme._live(insight.attempts_per_step(_taken(20)).to_dict())
    live = json.dumps({key: part for key, part in shown[theme._LIVE].items() if key != "datasets"})
    assert [one for one in colours.dark() if f'"{one}"' in live] == []
    assert "var(--jp-layout-color0, #ffffff)" in live
    assert "prefers-color-scheme:dark" in shown["image/svg+xml"]


def test_a_config_of_the_users_own_is_kept() -> None:
    """Who gives a chart a background keeps it, live and stored, with text for white paper on it."""
    chart = insight.attempts_per_step(_taken(3)).configure(background="lightyellow")
    shown = theme._live(chart.to_dict())
    assert shown[theme._LIVE]["config"]["background"] == "lightyellow"
    assert "var(" not in json.dumps(shown[theme._LIVE])
    assert 'fill="lightyellow"' in shown["image/svg+xml"]


def test_a_last_bin_that_holds_more_says_so() -> None:
    """Steps that took over fifteen attempts stand in the last bar, whose label is "15 and more"."""
    assert list(drawn(insight.attempts_per_step(_taken(20)))["attempts"])[-2:] == ["14", "15 and more"]
    assert list(drawn(insight.attempts_per_step(_taken(15)))["attempts"])[-1] == "15"
    assert ">and more<" in theme._static(insight.attempts_per_step(_taken(20)).to_dict())["image/svg+xml"]


@pytest.mark.parametrize("colour", [*colours.STATES.values(), *colours.OUTCOMES.values()])
def test_text_reads_well_on_every_colour(colour: str) -> None:
    """Black on the light ones, white on the dark ones: never white on yellow."""
    assert colours.text_on("#000000") == "#ffffff"
    assert colours.text_on("#ffffff") == "#000000"
    assert colours.text_on(colour) == ("#ffffff" if colour in ("#0072B2", "#000000") else "#000000")
