"""The colours of widgets and charts. Colour-blind readers can tell them apart, too.

Source: Okabe and Ito, "Color Universal Design" (2008).

The background of a chart (its "paper") is that of JupyterLab's theme, white or nearly black. Each colour is mixed with
some of the theme's text colour (`SHADE`), so it becomes darker on white paper and lighter on black paper. Its contrast
is then at least 3:1 on both, as WCAG 2.1 requires of graphics (success criterion 1.4.11).
"""

from __future__ import annotations

BLACK, GREY = "#000000", "#999999"
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"

OUTCOMES = {
    "succeeded": GREEN,
    "failed": VERMILION,
    "timed out": ORANGE,
    "abandoned": GREY,
    "lost": BLACK,
    "unknown": PURPLE,
    "open": SKY,
}

PARTS = {
    "success": GREEN,
    "failed attempts": VERMILION,
    "hangs": ORANGE,
    "backoff": SKY,
    "queue": BLUE,
    "review": PURPLE,
}
"""Where the seconds of an order go."""

STATES = {
    "ORDER_RECEIVED": SKY,
    "ORDER_VALIDATED": SKY,
    "AWAITING_APPROVAL": ORANGE,
    "PAYMENT_CHARGED": BLUE,
    "SHIPPING": BLUE,
    "SHIPPED": BLUE,
    "COMPLETED": GREEN,
    "FAILED": VERMILION,
    "CANCELLED": GREY,
    "APPROVAL_TIMEOUT": PURPLE,
}

STATUSES = {
    "RUNNING": SKY,
    "COMPLETED": GREEN,
    "FAILED": VERMILION,
    "CANCELED": GREY,
    "TERMINATED": BLACK,
    "CONTINUED_AS_NEW": BLUE,
    "TIMED_OUT": ORANGE,
}
"""How Temporal says that a workflow is."""

PAPER, INK, AXIS, GRID = "#ffffff", "#000000", "#888888", "#dddddd"
"""The colours of a chart on white paper: paper, text, axis lines, grid lines."""

DARK = {PAPER: "#111111", INK: "#ffffff", AXIS: "#999999", GRID: "#424242"}
"""The same on black paper."""

JUPYTERLAB = {
    PAPER: "var(--jp-layout-color0, #ffffff)",
    INK: "var(--jp-ui-font-color0, #000000)",
    AXIS: "var(--jp-ui-font-color2, #888888)",
    GRID: "var(--jp-border-color2, #dddddd)",
}
"""The same in JupyterLab: CSS variables of its theme, each with a default for pages without them."""

SHADE = 0.2


def on_paper(colour: str, ink: str = INK) -> str:
    """`colour` [#rrggbb] as a chart shows it on the paper whose text is `ink` [#rrggbb]."""
    ours, theirs = _channels(colour), _channels(ink)
    return "#" + "".join(f"{round(c * (1 - SHADE) + i * SHADE):02x}" for c, i in zip(ours, theirs, strict=True))


def dark() -> dict[str, str]:
    """Each colour of a chart on white paper, and its counterpart on black paper [#rrggbb]."""
    return DARK | {on_paper(one): on_paper(one, DARK[INK]) for one in _DRAWN}


def jupyterlab() -> dict[str, str]:
    """Each colour of a chart on white paper, and its counterpart in JupyterLab [CSS], which follows the theme."""
    return JUPYTERLAB | {
        on_paper(one): f"color-mix(in srgb, {one} {1 - SHADE:.0%}, {JUPYTERLAB[INK]})" for one in _DRAWN
    }


# Black is the text colour itself, and the tables above name it already.
_DRAWN = (GREY, BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours [#rrggbb]: from 1 (none) to 21 (black on white), as WCAG 2.1 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of `colour` [#rrggbb], from 0 (black) to 1 (white), as WCAG 2.1 defines it."""
    shares = [channel / 255 for channel in _channels(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def text_on(colour: str) -> str:
    """Black or white, whichever has more contrast on `colour` [#rrggbb]."""
    return "#000000" if contrast(colour, "#000000") > contrast(colour, "#ffffff") else "#ffffff"


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
