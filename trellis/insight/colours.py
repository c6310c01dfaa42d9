"""One set of colours for widgets and charts, told apart by the colour-blind too.

From Okabe and Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

OUTCOMES = {
    "succeeded": "#009E73",
    "failed": "#D55E00",
    "timed out": "#E69F00",
    "abandoned": "#999999",
}

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
