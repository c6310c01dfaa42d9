"""One set of colours for widgets and charts, told apart by the colour-blind too.

From Okabe and Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

OUTCOMES = {
    "succeeded": "#009E73",
    "failed": "#D55E00",
    "timed out": "#E69F00",
    "abandoned": "#999999",
    "lost": "#000000",
    "unknown": "#CC79A7",
    "open": "#56B4E9",
}

PARTS = {
    "success": "#009E73",
    "failed attempts": "#D55E00",
    "hangs": "#E69F00",
    "backoff": "#56B4E9",
    "queue": "#0072B2",
    "review": "#CC79A7",
}
"""Where the seconds of an order go."""

STATES = {
    "ORDER_RECEIVED": "#56B4E9",
    "ORDER_VALIDATED": "#56B4E9",
    "AWAITING_APPROVAL": "#E69F00",
    "PAYMENT_CHARGED": "#0072B2",
    "SHIPPING": "#0072B2",
    "SHIPPED": "#0072B2",
    "COMPLETED": "#009E73",
    "FAILED": "#D55E00",
    "CANCELLED": "#999999",
    "APPROVAL_TIMEOUT": "#CC79A7",
}


def text_on(colour: str) -> str:
    """Black or white, whichever reads better on `colour` [#rrggbb] (relative luminance as in WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"
